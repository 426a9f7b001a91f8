from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.trajectories.io import load_trajectories, save_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
TOOL = st.builds(lambda rest: {**rest, "function": {"name": "look"}}, OBJECT)
STEP = st.builds(TrajectoryStep, TEXT, TEXT, OBJECT, TEXT, NUMBER, error=st.none() | TEXT, reply=st.none() | TEXT)
TRAJECTORY = st.builds(
    AgentTrajectory, TEXT, TEXT, st.lists(STEP, max_size=3), st.booleans(), NUMBER,
    tools=st.lists(TOOL, max_size=2), system_prompt=st.none() | TEXT, error=st.none() | TEXT, metadata=OBJECT,
)  # fmt: skip


@settings(deadline=None, max_examples=40)  # each example is synced to disk
@given(trajectories=st.lists(TRAJECTORY, min_size=1, max_size=3))
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, trajectories: list[AgentTrajectory]) -> None:
    path = tmp_path_factory.mktemp("io") / "t.jsonl"
    save_trajectories(path, trajectories)
    assert load_trajectories(path) == trajectories


GOOD: dict[str, Any] = {"task_id": "a", "instruction": "Do it.", "steps": [{"action": "look"}]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "sucess": True}, "unknown field 'sucess'"),
        ({**GOOD, "success": "yes"}, "field 'success': expected bool, found str"),
        ({"task_id": "a", "steps": []}, "field 'instruction' is missing"),
        ({**GOOD, "steps": [{"thought": "hm"}]}, r"steps\[0\]: field 'action' is missing"),
        ({**GOOD, "steps": [{"action": "a"}, 3]}, r"steps\[1\]: expected a JSON object, found int"),
    ],
)
def test_file_line_and_field_are_named(tmp_path: Path, row: Any, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        load_trajectories(str(path))
    assert str(caught.value).startswith(f"{path}:3")
    assert "\n" not in str(caught.value)


def test_a_file_without_trajectories_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n")
    with pytest.raises(DataError, match="the file is empty"):
        load_trajectories(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_trajectories(tmp_path / "none.jsonl")
