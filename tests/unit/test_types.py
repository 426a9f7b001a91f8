from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import AgentTrajectory, StepResult, TrajectoryStep

RECORD: dict[str, Any] = {
    "task_id": "a",
    "instruction": "What is 2 + 2?",
    "steps": [
        {"thought": "Add.", "action": "add", "action_input": {"a": 2}, "observation": "sum=4", "reward": 0.1},
        {"action": "finish", "action_input": {"answer": "4"}, "reward": 1, "error": None, "reply": "4"},
    ],
    "success": True,
    "total_reward": 1.1,
    "tools": [{"type": "function", "function": {"name": "add", "parameters": None}}],
    "system_prompt": None,
    "metadata": {"split": "train"},
}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=3)
REWARDS = st.floats(allow_nan=False, allow_infinity=False)
MAYBE_TEXT = st.none() | st.text()
TOOLS = st.builds(lambda name, rest: {**rest, "function": {"name": name}}, st.text(min_size=1), OBJECTS)
STEPS = st.builds(TrajectoryStep, st.text(), st.text(), OBJECTS, st.text(), REWARDS, MAYBE_TEXT, MAYBE_TEXT)
TRAJECTORIES = st.builds(
    AgentTrajectory, st.text(), st.text(), st.lists(STEPS, max_size=3), st.booleans(), REWARDS,
    st.lists(TOOLS, max_size=2), MAYBE_TEXT, MAYBE_TEXT, OBJECTS,
)  # fmt: skip


@given(TRAJECTORIES)
def test_a_trajectory_survives_json(trajectory: AgentTrajectory) -> None:
    assert AgentTrajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory


def test_what_is_left_out_has_its_default() -> None:
    trajectory = AgentTrajectory.from_dict(RECORD)
    assert trajectory.steps[1] == TrajectoryStep("", "finish", {"answer": "4"}, "", 1, None, "4")
    assert (trajectory.error, trajectory.answer) == (None, "4")
    least = AgentTrajectory.from_dict({"task_id": "a", "instruction": "i", "steps": []})
    assert least == AgentTrajectory("a", "i")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in RECORD.items() if key != name}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "f.jsonl:7: expected a JSON object, found list"),
        (without("steps"), "f.jsonl:7: field 'steps' is missing; AgentTrajectory needs task_id, instruction, steps"),
        ({**RECORD, "task_id": 3}, "f.jsonl:7: field 'task_id': expected str, found int"),
        ({**RECORD, "success": 1}, "f.jsonl:7: field 'success': expected bool, found int"),
        ({**RECORD, "total_reward": True}, "f.jsonl:7: field 'total_reward': expected int or float, found bool"),
        ({**RECORD, "system_prompt": 3}, "f.jsonl:7: field 'system_prompt': expected str or null, found int"),
        ({**RECORD, "steps": [RECORD["steps"][0], "go"]}, "f.jsonl:7, steps[1]: expected a JSON object, found str"),
        (
            {**RECORD, "tools": ["x"]},
            "f.jsonl:7: tools[0]: expected {'type': 'function', 'function': {'name', ...}}, found 'x'",
        ),
        (
            {**RECORD, "tools": [*RECORD["tools"], {"function": {"name": 3}}]},
            "f.jsonl:7: tools[1].function.name: expected the tool's name, found 3",
        ),
        ({**RECORD, "steps": [{}]}, "f.jsonl:7, steps[0]: field 'action' is missing; TrajectoryStep needs action"),
        (
            {**RECORD, "steps": [{"action": "a", "action_input": "b"}]},
            "f.jsonl:7, steps[0]: field 'action_input': expected dict, found str",
        ),
    ],
)
def test_a_faulty_record_is_named(record: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        AgentTrajectory.from_dict(record, where="f.jsonl:7")
    assert str(caught.value) == message


def test_an_unknown_field_is_refused_so_that_nothing_is_lost() -> None:
    with pytest.raises(DataError, match="t: unknown field 'sucess'; known are task_id, instruction, steps, success"):
        AgentTrajectory.from_dict({**RECORD, "sucess": True}, where="t")


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        ([], None),
        ([TrajectoryStep("", "add", {"a": 1})], None),
        ([TrajectoryStep("", "finish", {"answer": 4})], "4"),
        ([TrajectoryStep("", "finish")], ""),
        ([TrajectoryStep("", "finish", {"answer": "x"}), TrajectoryStep("", "add")], None),
    ],
)
def test_the_answer_is_what_the_episode_ended_with(steps: list[TrajectoryStep], answer: str | None) -> None:
    assert AgentTrajectory("a", "i", steps).answer == answer


def test_two_trajectories_share_nothing() -> None:
    one, two = AgentTrajectory("a", "i"), AgentTrajectory("b", "i")
    one.steps.append(TrajectoryStep("", "add"))
    one.metadata["x"] = 1
    assert (two.steps, two.metadata) == ([], {})


def test_a_step_result_is_neither_done_nor_judged_unless_it_says_so() -> None:
    assert StepResult("seen") == ("seen", 0.0, False, None, None)
