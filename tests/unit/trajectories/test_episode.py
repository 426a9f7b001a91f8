from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.episode import Episode
from sage.libs.finetune.agent.trajectories.io import load_trajectories
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


FINISH = {"action": "finish", "action_input": {"answer": "a"}}
AT_ONCE = pytest.mark.parametrize("concurrency", [1, 2])


def raising(error: BaseException) -> Any:
    def agent(task: Any, history: Any) -> Any:
        raise error

    return agent


def raising_later(error: BaseException) -> Any:
    async def agent(task: Any, history: Any) -> Any:
        raise error

    return agent


def nested(levels: int) -> Any:
    return {"x": nested(levels - 1)} if levels else {}


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@AT_ONCE
@pytest.mark.parametrize(
    ("agent", "error"),
    [
        (
            raising(OSError("no file b\udc80d")),
            "OSError: no file b\\udc80d (agent, step 1)",
        ),  # UTF-8 has no form for it
        (raising(Unspeakable()), "Unspeakable: its message cannot be shown, RuntimeError (agent, step 1)"),
        (raising(SystemExit(3)), "SystemExit: 3 (agent, step 1)"),
        (raising_later(SystemExit(3)), "SystemExit: 3 (agent, step 1)"),  # it would end the loop all others wait for
        (
            lambda task, history: {"action": "look", "action_input": nested(400), "observation": ""},
            "TrajectoryError: 'action_input' has more than 64 lists and objects inside each other (agent, step 1)",
        ),
    ],
)
def test_what_an_agent_does_ends_its_episode_only_and_can_be_written(
    tmp_path: Path, concurrency: int, agent: Any, error: str
) -> None:
    config = CollectorConfig(require_success=False, concurrency=concurrency, output_path=tmp_path / "t.jsonl")
    trajectories = TrajectoryCollector(agent, config).collect(["a", "b"])
    assert [t.error for t in trajectories] == [error] * 2
    assert sorted(map(str, load_trajectories(tmp_path / "t.jsonl"))) == sorted(map(str, trajectories))


@AT_ONCE
def test_an_environment_that_leaves_the_program_while_closing_takes_no_success_away(concurrency: int) -> None:
    class Leaves(Scripted):
        def close(self) -> None:
            raise SystemExit(1)

    config = CollectorConfig(concurrency=concurrency)
    [trajectory] = TrajectoryCollector(lambda *_: FINISH, config, lambda: Leaves(("", 1.0, True, True))).collect(["a"])
    assert trajectory.success and trajectory.error is None


def test_what_an_earlier_episode_was_is_not_said_of_this_one() -> None:
    task = {"instruction": "a", "answer": "a", "metadata": {"judged": False, "opening": "Old.", "kind": "k"}}
    trajectory = TrajectoryCollector(lambda *_: FINISH).collect_single(task)
    assert trajectory.success and trajectory.metadata == {"kind": "k", "ended": "finish"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tools", [{"type": "function"}], r"tools\[0\]: expected {'type': 'function'"),
        ("metadata", nested(400), "field 'metadata': more than 64 lists and objects inside each other"),
    ],
)
def test_a_task_that_the_file_could_not_give_back_is_refused_before_the_work(
    field: str, value: Any, message: str
) -> None:
    with pytest.raises(DataError, match=rf"^tasks\[0\]: {message}"):
        TrajectoryCollector(lambda *_: FINISH).collect([{"instruction": "a", field: value}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
DECISIONS = st.none() | st.fixed_dictionaries(
    {"action": st.just("finish") | st.text(max_size=4)},
    optional={
        "thought": JSON, "action_input": JSON, "observation": st.text(max_size=4), "reward": JSON,
        "done": st.booleans(), "error": st.text(max_size=4), "reply": st.text(st.characters(), max_size=4),
        "success": st.booleans(),
    },
)  # fmt: skip
TASKS = st.fixed_dictionaries(
    {"instruction": st.text(max_size=4)},
    optional={"tools": JSON, "metadata": JSON, "system_prompt": JSON, "answer": JSON, "task_id": st.text(max_size=2)},
)


@settings(max_examples=60, deadline=None)
@given(st.lists(TASKS, min_size=1, max_size=3), st.lists(DECISIONS, min_size=1, max_size=3))
def test_whatever_was_collected_is_what_the_file_gives_back(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[Any], decisions: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "t.jsonl"
    config = CollectorConfig(require_success=False, max_steps=3, output_path=path, stop_after_failures=None)
    collector = TrajectoryCollector(lambda task, history: decisions[len(history) % len(decisions)], config)
    try:
        trajectories = collector.collect(tasks)
    except DataError:
        assert not path.exists()
        return
    assert load_trajectories(path) == trajectories == collector.collect(tasks)


@AT_ONCE
def test_what_agent_and_environment_do_to_what_they_are_given_is_not_recorded(concurrency: int) -> None:
    """A step, a task and arguments that are changed in place would change the record, and the next sample's task."""
    finish = {"action": "finish", "action_input": {"answer": "a"}}

    class Fills(Scripted):
        def step(self, action: str, action_input: dict[str, Any]) -> Any:
            action_input["filled"] = True
            return StepResult("a long observation")

    def agent(task: Any, history: Any) -> Any:
        for step in history:
            step.observation, step.action_input["answer"] = "shortened", "b"
        assert len(task["tools"]) == 1 or history
        task["tools"].append(task["tools"][0])
        task["metadata"]["seen"] = True
        return finish if history else {"action": "look"}

    tools = [{"type": "function", "function": {"name": "look"}}]
    config = CollectorConfig(require_success=False, samples_per_task=3, concurrency=concurrency)
    work = [{"instruction": "a", "answer": "a", "tools": tools, "metadata": {}}]
    for number, t in enumerate(TrajectoryCollector(agent, config, Fills).collect(work)):
        assert [(s.action, s.action_input, s.observation) for s in t.steps] == [
            ("look", {}, "a long observation"), ("finish", {"answer": "a"}, "a long observation"),
        ]  # fmt: skip
        assert t.success and t.tools == tools and t.metadata == {"sample": number, "ended": "finish"}
    assert finish == {"action": "finish", "action_input": {"answer": "a"}}
