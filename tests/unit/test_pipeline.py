from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.pipeline import collect_and_convert
from sage.libs.finetune.agent.trajectories.io import load_trajectories

TASKS = [
    {"instruction": "2 + 2?", "answer": 4},
    {"instruction": "2 + 3?", "answer": 5},
    {"instruction": "raise", "answer": 6},
]


def agent(task: dict[str, Any], history: list[Any]) -> dict[str, Any]:
    if task["instruction"] == "raise":
        raise RuntimeError("no idea")
    return {"thought": "Four.", "action": "finish", "action_input": {"answer": "4"}, "reward": task["answer"] / 4}


def test_good_episodes_become_rows_and_all_are_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = collect_and_convert(agent=agent, tasks=TASKS, min_reward=0.5, require_success=True, output_path=path)
    assert [row["messages"] for row in rows] == [
        [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "Four.\nAnswer: 4"}]
    ]
    assert [t.success for t in load_trajectories(path)] == [True, False, False]


def test_the_settings_arrive() -> None:
    rows = collect_and_convert(agent, TASKS, 0.5, False, format="alpaca", system_prompt="Add.")
    assert [row["instruction"] for row in rows] == ["Add.\n\n2 + 2?", "Add.\n\n2 + 3?"]
    assert len(collect_and_convert(agent, TASKS, 1.1, False)) == 1


def test_when_nothing_is_kept_the_reasons_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert collect_and_convert(agent, TASKS, min_reward=1.1) == []
    assert "kept 0 of 3 trajectories (dropped: error 1, failed 1, low_reward 1; min_reward 1.1)" in caplog.text


def test_a_wrong_setting_is_refused_before_anything_runs() -> None:
    def never(task: Any, history: Any) -> None:
        raise AssertionError

    for settings in ({"format": "chatlm"}, {"max_steps": 0}, {"min_reward": float("nan")}):
        with pytest.raises(ConfigError):
            collect_and_convert(never, TASKS, **settings)  # type: ignore[arg-type]
