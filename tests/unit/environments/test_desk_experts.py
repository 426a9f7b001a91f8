from __future__ import annotations

import re
from typing import Any

import pytest

from sage.libs.finetune.agent.environments.desk import (
    SPLITS,
    DeskEnvironment,
    DeskExpert,
    NoisyDeskExpert,
    desk_tasks,
)
from sage.libs.finetune.agent.environments.desk.kinds import COMPOSED, KINDS
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import TrajectoryStep

WITHOUT_CALLS = {"tool_missing", "no_tool_needed"}
IDS = {"find_customer", "list_orders", "list_files"}


def play(agent: DeskExpert, task: dict[str, Any]) -> tuple[list[TrajectoryStep], bool]:
    """An episode: its steps with observations and rewards, and whether it was a success."""
    desk = DeskEnvironment()
    desk.reset(task)
    history: list[TrajectoryStep] = []
    while True:
        step = agent.act(task, history)
        result = desk.step(step.action, step.action_input)
        step.observation, step.reward, step.error = result.observation, result.reward, result.error
        history.append(step)
        if result.done:
            assert result.success is not None
            return history, result.success


def calls_of(task: dict[str, Any]) -> list[TrajectoryStep]:
    return play(DeskExpert(), task)[0][:-1]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_every_task(split: str, seed: int) -> None:
    for task in desk_tasks(split, 50, seed):
        steps, success = play(DeskExpert(), task)
        assert success, task["task_id"]
        assert sum(step.reward for step in steps) == pytest.approx(1.0)
        assert not any(step.error for step in steps)


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_take_two_to_four_calls_and_observations_put_the_key_first(split: str) -> None:
    for task in desk_tasks(split, 50, seed=5):
        calls = calls_of(task)
        assert len(calls) in ({0} if task["metadata"]["kind"] in WITHOUT_CALLS else {2, 3, 4})
        for call in calls:
            assert call.thought
            assert re.fullmatch(r"[a-z]+=\w+( [a-z]+=\w+)*", call.observation)
            if call.action in IDS:
                assert all(re.fullmatch(r"\w+=\d{2,3}", pair) for pair in call.observation.split())


def test_tools_of_composed_kinds_are_all_known_from_training() -> None:
    known = {call.action for task in desk_tasks("train", 50) for call in calls_of(task)}
    train_orders = {tuple(call.action for call in calls_of(task)) for task in desk_tasks("train", 50)}
    for task in desk_tasks("test_compose", 20):
        used = tuple(call.action for call in calls_of(task))
        assert set(used) <= known
        assert used not in train_orders


class WatchedSlots(dict[str, Any]):
    """The words of a request, and which of them the expert looked at."""

    def __init__(self, slots: dict[str, Any]) -> None:
        super().__init__(slots)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("split", SPLITS)
def test_whatever_the_expert_looks_at_stands_in_the_instruction(split: str) -> None:
    for task in desk_tasks(split, 2 * len(KINDS), seed=6):
        slots = WatchedSlots(task["metadata"]["slots"])
        watched = {**task, "metadata": {**task["metadata"], "slots": slots}}
        assert play(DeskExpert(), watched)[1]
        words = set(re.findall(r"\w+", task["instruction"]))
        assert {str(dict.__getitem__(slots, name)) for name in slots.read} <= words
        assert slots.read or task["metadata"]["kind"] == "tool_missing"


def test_the_noisy_expert_fails_on_about_its_share_with_low_rewards() -> None:
    tasks = desk_tasks("train", 200, seed=1)
    episodes = [play(NoisyDeskExpert(), task) for task in tasks]
    failed = [sum(step.reward for step in steps) for steps, success in episodes if not success]
    assert 0.2 <= len(failed) / len(tasks) <= 0.4
    assert all(0.0 <= reward < 0.5 for reward in failed)
    assert all(sum(s.reward for s in steps) == pytest.approx(1.0) for steps, success in episodes if success)
    assert len({len(steps) for steps, success in episodes if not success}) > 1  # not all of them fail alike


def test_the_noisy_expert_is_fixed_by_its_seed() -> None:
    tasks = desk_tasks("train", 60)

    def actions(agent: DeskExpert) -> list[list[TrajectoryStep]]:
        return [play(agent, task)[0] for task in tasks]

    assert actions(NoisyDeskExpert(seed=1)) == actions(NoisyDeskExpert(seed=1))
    assert actions(NoisyDeskExpert(seed=1)) != actions(NoisyDeskExpert(seed=2))
    assert actions(NoisyDeskExpert(failure_rate=0.0)) == actions(DeskExpert())


def test_a_noisy_expert_that_always_errs_hardly_ever_succeeds() -> None:
    tasks = [t for t in desk_tasks("train", 120) if t["metadata"]["kind"] not in WITHOUT_CALLS]
    successes = sum(play(NoisyDeskExpert(failure_rate=1.0), task)[1] for task in tasks)
    assert successes / len(tasks) < 0.1


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_failure_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ConfigError, match=f"between 0 and 1, not {rate}"):
        NoisyDeskExpert(failure_rate=rate)


def test_every_kind_has_a_plan_and_wordings_that_use_its_words() -> None:
    for kind in KINDS.values():
        assert kind.wordings
        assert bool(kind.unseen) != (kind.name in COMPOSED)
        assert not set(kind.wordings) & set(kind.unseen)
