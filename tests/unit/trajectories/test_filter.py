from __future__ import annotations

import math
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.trajectories.filter import REASONS, TrajectoryFilter
from sage.libs.finetune.agent.types import AgentTrajectory, TrajectoryStep


def episode(steps: int = 1, **fields: Any) -> AgentTrajectory:
    values: dict[str, Any] = {"success": True, "total_reward": 1.0, **fields}
    return AgentTrajectory("t", "Do it.", [TrajectoryStep("", "a")] * steps, **values)


CASES = [
    (episode(), None),
    (episode(total_reward=0.5, steps=3), None),
    (episode(error="KeyError: 'x' (agent, step 1)", success=False, total_reward=0.0), "error"),
    (episode(success=False, total_reward=0.0, steps=9), "failed"),
    (episode(total_reward=0.499, steps=9), "low_reward"),
    (episode(total_reward=math.nan), "low_reward"),
    (episode(steps=4), "too_long"),
    (episode(steps=0), "empty"),
]


@pytest.mark.parametrize(("trajectory", "reason"), CASES)
def test_each_is_dropped_for_its_first_reason(trajectory: AgentTrajectory, reason: str | None) -> None:
    chosen = TrajectoryFilter(max_steps=3)
    stats = chosen.get_stats([trajectory])
    assert chosen.filter([trajectory]) == ([] if reason else [trajectory])
    assert [name for name in ("kept", *REASONS) if stats[name]] == [reason or "kept"]


def test_the_counts_add_up() -> None:
    everything = [trajectory for trajectory, _ in CASES]
    chosen = TrajectoryFilter(max_steps=3)
    assert chosen.get_stats(everything) == {
        "total": 8, "kept": 2, "kept_share": 0.25,
        "error": 1, "failed": 1, "low_reward": 2, "too_long": 1, "empty": 1,
    }  # fmt: skip
    assert chosen.filter(everything) == everything[:2]


def test_nothing_in_nothing_out() -> None:
    assert TrajectoryFilter().filter([]) == []
    assert TrajectoryFilter().get_stats([]) == {"total": 0, "kept": 0, "kept_share": 0.0, **dict.fromkeys(REASONS, 0)}


def test_limits_can_be_lifted_but_not_for_broken_ones() -> None:
    everything = [trajectory for trajectory, _ in CASES]
    kept = TrajectoryFilter(min_reward=-math.inf, require_success=False).filter(everything)
    assert [t for t in everything if t not in kept] == [everything[2], everything[5], everything[7]]


@pytest.mark.parametrize(
    "setting",
    [{"min_reward": math.nan}, {"min_reward": "1"}, {"require_success": 1}, {"max_steps": 0}, {"max_steps": 1.5}],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(ConfigError, match=f"TrajectoryFilter: {name}={value!r}: expected"):
        TrajectoryFilter(**setting)
