from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        "error": 1, "failed": 1, "low_reward": 2, "too_long": 1, "empty": 1, "duplicate": 0, "over_cap": 0,
        "tasks": 1, "tasks_kept": 1,
    }  # fmt: skip
    assert chosen.filter(everything) == everything[:2]


def test_nothing_in_nothing_out() -> None:
    assert TrajectoryFilter().filter([]) == []
    assert TrajectoryFilter().get_stats([]) == {
        "total": 0, "kept": 0, "kept_share": 0.0, **dict.fromkeys(REASONS, 0), "tasks": 0, "tasks_kept": 0,
    }  # fmt: skip


def test_limits_can_be_lifted_but_not_for_broken_ones() -> None:
    everything = [trajectory for trajectory, _ in CASES]
    kept = TrajectoryFilter(min_reward=-math.inf, require_success=False).filter(everything)
    assert [t for t in everything if t not in kept] == [everything[2], everything[5], everything[7]]


@pytest.mark.parametrize(
    "setting",
    [
        {"min_reward": math.nan},
        {"min_reward": "1"},
        {"require_success": 1},
        {"max_steps": 0},
        {"max_steps": 1.5},
        {"drop_duplicates": "yes"},
        {"max_per_task": 0},
        {"max_per_task": True},
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(ConfigError, match=f"TrajectoryFilter: {name}={value!r}: expected"):
        TrajectoryFilter(**setting)


def went(*path: str, task_id: str = "t", **fields: Any) -> AgentTrajectory:
    """An episode of so many calls, each `thought/query/observation`."""
    steps = []
    for word in path:
        thought, query, observation = word.split("/")
        steps.append(TrajectoryStep(thought, "find", {"q": query}, observation))
    values: dict[str, Any] = {"success": True, "total_reward": 1.0, **fields}
    return AgentTrajectory(task_id, "Do it.", steps, **values)


FIRST = went("a/b/c", "d/e/f")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (went("a/b/c", "d/e/f"), True),
        (went("a/b/c", "d/e/f", task_id="u", total_reward=0.75), True),
        (went("a/b/c", "d/e/f", metadata={"seed": 4}), True),
        (went("a/b/c"), False),
        (went("x/b/c", "d/e/f"), False),
        (went("a/x/c", "d/e/f"), False),
        (went("a/b/x", "d/e/f"), False),
        (went("a/b/c", "d/e/f", system_prompt="Be brief."), False),
        (went("a/b/c", "d/e/f", metadata={"opening": "Another room."}), False),
        (went("a/b/c", "d/e/f", tools=[{"type": "function", "function": {"name": "find"}}]), False),
        (replace(FIRST, instruction="Do that."), False),
    ],
)
def test_what_a_duplicate_is(other: AgentTrajectory, same: bool) -> None:
    chosen = TrajectoryFilter(drop_duplicates=True)
    assert chosen.reasons([FIRST, other]) == [None, "duplicate" if same else None]
    assert TrajectoryFilter().reasons([FIRST, other]) == [None, None]


def test_a_duplicate_of_one_that_was_dropped_is_kept() -> None:
    assert TrajectoryFilter(drop_duplicates=True).reasons([replace(FIRST, success=False), FIRST, FIRST]) == [
        "failed", None, "duplicate",
    ]  # fmt: skip


def test_the_cap_keeps_the_best_then_the_shortest_then_the_first() -> None:
    long, short = went("1/1/1", "2/2/2"), went("3/3/3")
    everything = [long, replace(short, total_reward=0.75), short, went("4/4/4"), went("5/5/5", task_id="u")]
    for most, kept in ((1, [2, 4]), (2, [2, 3, 4]), (3, [0, 2, 3, 4]), (4, [0, 1, 2, 3, 4])):
        chosen = TrajectoryFilter(max_per_task=most)
        assert chosen.filter(everything) == [everything[index] for index in kept]
        assert chosen.get_stats(everything)["over_cap"] == 5 - len(kept)
    stats = TrajectoryFilter(max_per_task=1, min_reward=1.0).get_stats(
        [*everything, went("6/6/6", task_id="v", success=False)]
    )
    assert (stats["tasks"], stats["tasks_kept"], stats["kept"]) == (3, 2, 2)


def test_duplicates_go_before_the_cap() -> None:
    chosen = TrajectoryFilter(drop_duplicates=True, max_per_task=2)
    assert chosen.reasons([FIRST, FIRST, went("a/b/c")]) == [None, "duplicate", None]


@given(st.integers(0, 2**32), st.booleans(), st.one_of(st.none(), st.integers(1, 3)))
def test_the_counts_add_up_whatever_the_settings(seed: int, duplicates: bool, most: int | None) -> None:
    rng = random.Random(seed)
    everything = [
        went(
            *rng.choices(["a/b/c", "d/e/f"], k=rng.randint(0, 2)),
            task_id=rng.choice("tu"),
            success=rng.random() < 0.8,
            total_reward=rng.choice([0.25, 0.75, 1.0]),
            error=rng.choice([None, None, None, "E: x"]),
        )
        for _ in range(12)
    ]
    chosen = TrajectoryFilter(max_steps=1, drop_duplicates=duplicates, max_per_task=most)
    stats, kept = chosen.get_stats(everything), chosen.filter(everything)
    assert (
        stats["kept"] == len(kept) and stats["kept"] + sum(stats[reason] for reason in REASONS) == stats["total"] == 12
    )
    assert chosen.filter(kept) == kept
    assert [t for t in everything if any(t is k for k in kept)] == kept
