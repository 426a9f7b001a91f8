"""Episodes at once: the same as one after another; coroutines, time limits."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import ConfigError, TrajectoryError
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.execution import event_loop
from sage.libs.finetune.agent.types import AgentTrajectory, StepResult, TrajectoryStep

Task = dict[str, Any]
FINISH = {"action": "finish", "action_input": {"answer": "a"}}


class Counter:
    """A number that can be raised; its SQLite connection refuses every thread but the one that made it."""

    closed: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:")

    def reset(self, task: Task) -> str:
        self.task = task
        self.db.execute("CREATE TABLE t AS SELECT 0 AS n")
        return "0"

    def step(self, action: str, action_input: Task) -> StepResult:
        if action == "finish":
            return StepResult("", 1.0, True, action_input["answer"] == self.task["target"])
        self.db.execute("UPDATE t SET n = n + 1")
        return StepResult(str(self.db.execute("SELECT n FROM t").fetchone()[0]), 0.125)

    def close(self) -> None:
        self.db.close()
        self.closed.append(self.task["task_id"])


def count_up(task: Task, history: list[TrajectoryStep]) -> Any:
    if task.get("breaks_at") == len(history) + 1:
        raise KeyError("x")
    time.sleep(task.get("pause", 0.0) if history else 0.0)
    if len(history) < task["target"]:
        return {"action": "add", "thought": f"sample {task.get('metadata', {}).get('sample')}"}
    return {"action": "finish", "action_input": {"answer": len(history)}}


async def count_up_later(task: Task, history: list[TrajectoryStep]) -> Any:
    await asyncio.sleep(task.get("pause", 0.0) if history else 0.0)
    return count_up({**task, "pause": 0.0}, history)


def tasks(*targets: int, **fields: Any) -> list[Task]:
    return [{"instruction": f"Count to {n}.", "target": n, **fields} for n in targets]


def collected(agent: object, work: list[Any], environment: object = Counter, **kwargs: Any) -> list[AgentTrajectory]:
    return TrajectoryCollector(agent, CollectorConfig(require_success=False, **kwargs), environment).collect(work)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.002]), st.sampled_from([None, 1, 3])), min_size=1),
    st.integers(2, 9),
    st.integers(1, 3),
)
def test_at_once_gives_what_one_after_another_gives(plan: list[Any], concurrency: int, samples: int) -> None:
    work = [{**tasks(n)[0], "pause": pause, "breaks_at": breaks} for n, pause, breaks in plan]
    alone = collected(count_up, work, samples_per_task=samples, stop_after_failures=None)
    for agent in (count_up, count_up_later):
        several = collected(agent, work, samples_per_task=samples, concurrency=concurrency, stop_after_failures=None)
        assert several == alone
    assert [t.task_id for t in alone] == [f"task-{i:04d}" for i in range(1, len(plan) + 1) for _ in range(samples)]
    assert [t.metadata.get("sample", 0) for t in alone] == [*range(samples)] * len(plan)
    assert ("sample" in alone[0].metadata) is (samples > 1)


def test_as_many_as_asked_for_run_at_once_and_no_more() -> None:
    going, most = 0, 0

    async def agent(task: Task, history: Any) -> Any:
        nonlocal going, most
        going, most = going + 1, max(most, going + 1)
        await asyncio.sleep(0.02)
        going -= 1
        return FINISH

    collected(agent, ["a"] * 20, None, concurrency=5)
    assert most == 5


def test_everything_asynchronous_runs_on_one_loop() -> None:
    loops = set()

    class World:
        async def reset(self, task: Task) -> str:
            loops.add(asyncio.get_running_loop())
            return "go"

        async def step(self, action: str, action_input: Task) -> tuple[Any, ...]:
            loops.add(asyncio.get_running_loop())
            return ("", 1.0, True, True)

    class Agent:
        async def reset(self, task: Task) -> None:
            loops.add(asyncio.get_running_loop())

        async def act(self, task: Task, history: Any) -> Any:
            assert task["opening"] == "go"
            loops.add(asyncio.get_running_loop())
            return FINISH

    class Batches:
        async def act_batch(self, batch: list[Task], histories: Any) -> Any:
            loops.add(asyncio.get_running_loop())
            return [FINISH] * len(batch)

    for agent, width in ((Agent, 1), (Agent, 4), (Batches(), 1)):
        assert [t.success for t in collected(agent, ["a"] * 6, World, concurrency=width)] == [True] * 6
    assert len(loops) == 1


def test_what_a_coroutine_raises_is_data() -> None:
    async def agent(task: Task, history: Any) -> Any:
        if task["instruction"] == "cancel":
            raise asyncio.CancelledError
        if task["instruction"] == "collect":
            return TrajectoryCollector(agent).collect_single("a")
        raise ValueError("no\nidea")

    errors = [t.error for t in collected(agent, ["raise", "cancel", "collect"], None)]
    assert errors[0] == "ValueError: no idea (agent, step 1)"
    assert errors[1] == "cancelled: what it was waiting for was cancelled (agent, step 1)"
    assert (
        errors[2] == "TrajectoryError: a decision must be a TrajectoryStep, a mapping with 'action', or None; found "
        "AgentTrajectory (agent, step 1)"
    )


def test_a_loop_does_not_wait_for_itself() -> None:
    async def outer() -> Any:
        return event_loop.settled(asyncio.sleep(0))

    with pytest.raises(TrajectoryError, match="must not collect episodes itself"):
        event_loop.settled(outer())


def test_an_agent_that_leaves_the_program_ends_its_episode_only() -> None:
    def agent(task: Task, history: Any) -> Any:
        return sys.exit(3) if task["instruction"] == "b" else FINISH

    assert [t.error for t in collected(agent, ["a", "b", "c"], None, concurrency=2)] == [
        None,
        "SystemExit: 3 (agent, step 1)",
        None,
    ]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_episode_that_takes_too_long_is_recorded_with_its_steps(concurrency: int) -> None:
    work = tasks(1, 3, 1)
    work[1] |= {"pause": 30.0}
    for agent in (count_up, count_up_later):
        began = time.monotonic()
        first, late, last = collected(agent, work, concurrency=concurrency, episode_timeout=1)
        assert time.monotonic() - began < 20
        assert first.success and last.success and not late.success
        assert late.error == "timeout: it took longer than 1 s (agent, step 2)"
        assert [step.observation for step in late.steps] == ["1"] and late.metadata["ended"] == "error"


def test_in_lockstep_time_is_up_between_two_steps() -> None:
    class Batches:
        def act_batch(self, batch: list[Task], histories: Any) -> Any:
            time.sleep(0.3)
            return [count_up(task, history) for task, history in zip(batch, histories, strict=True)]

    late, done = collected(Batches(), tasks(9, 0), episode_timeout=0.5)
    assert done.success and late.error is not None and late.error.startswith("timeout: it took longer than 0.5 s")
    assert 1 <= len(late.steps) <= 2


def test_a_call_on_the_loop_is_cancelled_when_time_is_up() -> None:
    ended = threading.Event()

    async def agent(task: Task, history: Any) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    [late] = collected(agent, ["a"], None, episode_timeout=0.05)
    assert late.error is not None and late.error.startswith("timeout: ") and ended.wait(5)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_environments_made_for_an_episode_are_closed_whatever_comes(concurrency: int) -> None:
    Counter.closed.clear()
    work = [*tasks(1, 2), *tasks(3, breaks_at=2), *tasks(12)]
    collected(count_up, work, concurrency=concurrency)
    assert sorted(Counter.closed) == ["task-0001", "task-0002", "task-0003", "task-0004"]
    one = Counter()
    collected(count_up, tasks(1), one)
    assert one.db.execute("SELECT n FROM t").fetchone() == (1,)  # the caller's own is left open


def test_an_environment_that_cannot_be_closed_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Counter):
        def close(self) -> None:
            raise OSError("stuck")

    [trajectory] = collected(count_up, tasks(1), Stuck)
    assert (
        trajectory.success and "task 'task-0001': the environment could not be closed (OSError('stuck'))" in caplog.text
    )


def test_an_episode_that_ended_in_time_stands_however_long_its_environment_takes_to_close() -> None:
    class Slow(Counter):
        def close(self) -> None:
            time.sleep(3.0)

    began = time.monotonic()
    [trajectory] = collected(count_up, tasks(1), Slow, episode_timeout=0.5)
    assert trajectory.success and trajectory.error is None and time.monotonic() - began < 2.5


class Remembers:
    """Keeps state from step to step."""

    def __init__(self, by: int = 1) -> None:
        self.by = by

    def reset(self, task: Task) -> None:
        self.taken = 0

    def act(self, task: Task, history: Any) -> Any:
        time.sleep(0.001)
        assert self.taken == len(history), "shared between episodes"
        self.taken += self.by
        return count_up(task, history)


def test_an_agent_given_as_a_class_is_made_for_each_episode() -> None:
    work = tasks(*[3] * 12)
    alone = collected(Remembers(), work)
    assert collected(Remembers, work, concurrency=6) == alone
    assert collected(functools.partial(Remembers, by=1), work, concurrency=6) == alone
    [broken] = collected(functools.partial(Remembers, wrong=1), work[:1])
    assert broken.error is not None and broken.error.endswith("(agent, reset)")


@pytest.mark.parametrize(
    ("agent", "environment", "setting", "message"),
    [
        (count_up, Counter(), {"concurrency": 2}, "concurrency=2 needs an environment for each episode; give the env"),
        (count_up, Counter(), {"episode_timeout": 5}, "episode_timeout=5 needs an environment for each episode"),
        (count_up, Counter(), {"executor": "ray"}, "executor='ray' needs an environment for each episode"),
        (Remembers(), Counter, {"concurrency": 2}, "concurrency=2 needs an agent for each episode, since this one kee"),
    ],
)
def test_one_agent_or_environment_cannot_play_several_episodes(
    agent: object, environment: object, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^CollectorConfig: {message}"):
        TrajectoryCollector(agent, CollectorConfig(**setting), environment)


def test_an_agent_that_decides_in_batches_has_its_own_setting() -> None:
    class Batches:
        def act_batch(self, batch: Any, histories: Any) -> Any:
            return [None] * len(batch)

    with pytest.raises(ConfigError, match=r"concurrency=2: .*\(act_batch\); set batch_size \(now 32\) instead"):
        TrajectoryCollector(Batches(), CollectorConfig(concurrency=2), Counter)
    with pytest.raises(TypeError, match="the class Batches decides in batches; give one agent made of it"):
        TrajectoryCollector(Batches)


def test_a_class_that_cannot_decide_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="the class Counter cannot decide"):
        TrajectoryCollector(Counter)


def test_collecting_works_outside_the_main_thread_and_inside_a_running_loop() -> None:
    async def notebook_cell() -> list[AgentTrajectory]:
        return collected(count_up_later, tasks(1, 2), concurrency=2)

    expected = collected(count_up, tasks(1, 2))
    assert asyncio.run(notebook_cell()) == expected
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(collected(count_up_later, tasks(1, 2), concurrency=2)))
    thread.start()
    thread.join(10)
    assert results == [expected]


@pytest.mark.parametrize(
    "setting",
    [
        {"concurrency": 0},
        {"samples_per_task": 1.5},
        {"executor": "dask"},
        {"resume": "no"},
        {"episode_timeout": 0},
        {"stop_after_failures": 0},
        {"ray_address": 7},
        {"ray_cpus": -1},
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(ConfigError, match=f"CollectorConfig: {name}={value!r}: expected"):
        CollectorConfig(**setting)
