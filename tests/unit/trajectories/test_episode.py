from __future__ import annotations

from typing import Any

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.episode import Episode
from sage.libs.finetune.agent.trajectories.protocols import Cast
from sage.libs.finetune.agent.types import StepResult


class Scripted:
    """An environment that gives the results it was told to, in order; an exception is raised."""

    def __init__(self, *results: Any) -> None:
        self.results = iter(results)

    def reset(self, task: dict[str, Any]) -> str:
        return ""

    def step(self, action: str, action_input: dict[str, Any]) -> Any:
        result = next(self.results)
        if isinstance(result, Exception):
            raise result
        return result


def play(*results: Any, max_steps: int = 10, decision: Any = None, answer: Any = None) -> Episode:
    episode = Episode({"task_id": "a", "instruction": "Do it.", "answer": answer}, max_steps)
    episode.begin(Cast.of(lambda task, history: decision or {"action": "look"}, lambda: Scripted(*results)))
    for _ in results:
        if episode.ended is None:
            episode.advance()
    return episode


def test_max_steps_is_the_number_of_steps_taken() -> None:
    episode = play(*[("", 0.5, False)] * 5, max_steps=3)
    assert (len(episode.steps), episode.ended) == (3, "max_steps")
    assert episode.trajectory().total_reward == 1.5


def test_the_last_step_allowed_may_still_finish() -> None:
    assert play(("", 1.0, True, True), max_steps=1).ended == "done"


@pytest.mark.parametrize(
    ("results", "success"),
    [
        ([("", 0.0, False, True), ("", 0.0, True, False)], False),
        ([("", 0.0, False, False), ("", 0.0, True, True)], True),
        ([("", 0.0, False, True), StepResult("", done=True)], True),  # no verdict leaves the last one standing
    ],
)
def test_the_last_verdict_counts(results: list[Any], success: bool) -> None:
    assert play(*results).trajectory().success is success


def test_an_episode_that_broke_off_is_no_success_whatever_was_said_before() -> None:
    episode = play(("", 1.0, False, True), ValueError("two\n  lines"))
    trajectory = episode.trajectory()
    assert (trajectory.success, trajectory.total_reward, len(trajectory.steps)) == (False, 1.0, 1)
    assert trajectory.error == "ValueError: two lines (environment, step 2)"


def test_what_the_agent_does_to_the_history_does_not_reach_the_record() -> None:
    def agent(task: Any, history: list[Any]) -> dict[str, str]:
        history.clear()
        return {"action": "look"}

    episode = Episode({"task_id": "a", "instruction": "Do it."}, 10)
    episode.play(Cast.of(agent, lambda: Scripted(("one", 0.0, False), ("two", 0.0, True))))
    assert [step.observation for step in episode.steps] == ["one", "two"]


def test_with_an_environment_the_agent_neither_ends_nor_judges() -> None:
    claims = {"action": "look", "error": "not JSON", "done": True, "success": True}
    episode = play(("", 0.0, False), decision=claims)
    assert episode.ended is None
    claims = {"action": "finish", "error": "not JSON", "success": True}
    episode = play(("", 0.0, False), decision=claims)
    assert episode.ended is None  # a final answer that could not be read is none
    assert not episode.trajectory().success


def test_an_answer_no_one_reached_is_not_unjudged() -> None:
    cut_off = play(("", 0.0, False), max_steps=1).trajectory()
    assert not cut_off.success and "judged" not in cut_off.metadata
    told = play(("", 0.0, True), decision={"action": "finish", "action_input": {"answer": "4."}}, answer=4).trajectory()
    assert told.success


def test_an_agent_that_is_refused_again_and_again_is_stopped_when_asked_to() -> None:
    def wrong(task: Any, history: Any) -> Any:
        return {"action": "look", "observation": "no", "error": None if len(history) == 1 else "refused"}

    task = {"instruction": "Find it."}
    episode = TrajectoryCollector(wrong, CollectorConfig(max_errors=2)).collect_single(task)
    assert (len(episode.steps), episode.metadata["ended"], episode.success) == (4, "errors", False)
    assert len(TrajectoryCollector(wrong, CollectorConfig(max_steps=7)).collect_single(task).steps) == 7
    with pytest.raises(ConfigError, match="max_errors=0"):
        CollectorConfig(max_errors=0)
