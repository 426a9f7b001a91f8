from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.io import load_trajectories
from sage.libs.finetune.agent.types import INVALID, AgentTrajectory, StepResult, TrajectoryStep

Task = dict[str, Any]
History = list[TrajectoryStep]
EVERYTHING = CollectorConfig(require_success=False)


class Counter:
    """A number that can be raised; `finish` judges whether it is the task's target and was told."""

    def reset(self, task: Task) -> str:
        self.value, self.target = 0, task.get("target", 3)
        return f"The counter shows {self.value}."

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        if action == "finish":
            right = self.value == self.target == action_input.get("answer")
            return StepResult("right" if right else "wrong", float(right), True, right)
        if action != "add":
            return StepResult(f"There is no {action}.", error=f"unknown tool {action}")
        self.value += action_input["by"]
        return StepResult(f"The counter shows {self.value}.", 0.125)


def count_up(task: Task, history: History) -> Any:
    if len(history) < task.get("target", 3):
        return {"thought": "One more.", "action": "add", "action_input": {"by": 1}}
    return TrajectoryStep("Done.", "finish", {"answer": len(history)})


class InBatches:
    """`count_up` for many episodes; remembers how many it was asked for at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def act_batch(self, tasks: list[Task], histories: list[History]) -> list[Any]:
        self.sizes.append(len(tasks))
        return [self.decide(task, history) for task, history in zip(tasks, histories, strict=True)]

    def decide(self, task: Task, history: History) -> Any:
        if task.get("breaks_at") == len(history) + 1:
            raise KeyError("x")
        return count_up(task, history)


def tasks(*targets: int, **fields: Any) -> list[Task]:
    return [{"instruction": f"Count to {n}.", "target": n, **fields} for n in targets]


def test_an_episode_is_recorded_step_by_step() -> None:
    task = {
        **tasks(2)[0],
        "tools": [{"type": "function", "function": {"name": "find"}}],
        "system_prompt": "Count.",
        "metadata": {"split": "train"},
    }
    assert TrajectoryCollector(count_up, environment=Counter()).collect([task]) == [
        AgentTrajectory(
            task_id="task-0001",
            instruction="Count to 2.",
            steps=[
                TrajectoryStep("One more.", "add", {"by": 1}, "The counter shows 1.", 0.125),
                TrajectoryStep("One more.", "add", {"by": 1}, "The counter shows 2.", 0.125),
                TrajectoryStep("Done.", "finish", {"answer": 2}, "right", 1.0),
            ],
            success=True,
            total_reward=1.25,
            tools=[{"type": "function", "function": {"name": "find"}}],
            system_prompt="Count.",
            metadata={"split": "train", "ended": "finish", "opening": "The counter shows 0."},
        )
    ]


def test_lockstep_gives_what_one_after_another_gives() -> None:
    work = tasks(3, 1, 0, 5, 12, 2, 4)
    alone = TrajectoryCollector(count_up, EVERYTHING, Counter).collect(work)
    agent = InBatches()
    config = CollectorConfig(require_success=False, batch_size=3)
    assert TrajectoryCollector(agent, config, Counter).collect(work) == alone
    assert max(agent.sizes) == 3 and sum(agent.sizes) == sum(len(t.steps) for t in alone)
    assert [t.success for t in alone] == [True, True, True, True, False, True, True]
    assert [t.metadata["ended"] for t in alone].count("max_steps") == 1


def test_a_single_environment_is_never_shared_by_two_episodes() -> None:
    agent = InBatches()
    collected = TrajectoryCollector(agent, environment=Counter()).collect(tasks(2, 3, 1))
    assert [len(t.steps) for t in collected] == [3, 4, 2]
    assert set(agent.sizes) == {1}


def test_an_agent_that_raises_at_step_3_costs_its_own_episode_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out" / "trajectories.jsonl"
    work = tasks(4, 4, 4)
    work[1]["breaks_at"] = 3
    seen: list[str] = []
    for agent, environment in ((InBatches().decide, Counter()), (InBatches(), Counter)):
        path.unlink(missing_ok=True)
        caplog.clear()
        config = CollectorConfig(output_path=path)
        collector = TrajectoryCollector(agent, config, environment, on_episode=lambda t: seen.append(t.task_id))
        assert [t.task_id for t in collector.collect(work)] == ["task-0001", "task-0003"]
        [failure] = collector.failures
        assert failure.error == "KeyError: 'x' (agent, step 3)"
        assert [step.observation for step in failure.steps] == ["The counter shows 1.", "The counter shows 2."]
        assert failure.total_reward == 0.25 and not failure.success and failure.metadata["ended"] == "error"
        on_disk = load_trajectories(path)
        assert sorted(t.task_id for t in on_disk) == ["task-0001", "task-0002", "task-0003"]
        assert failure in on_disk
        assert [r.message for r in caplog.records if "task-0002" in r.message and "broke off" in r.message] != []
        assert all("\n" not in record.message for record in caplog.records)
    assert sorted(seen) == sorted(["task-0001", "task-0002", "task-0003"] * 2)


def test_failures_are_those_of_the_last_call() -> None:
    collector = TrajectoryCollector(InBatches().decide, environment=Counter())
    assert collector.collect_single({**tasks(4)[0], "breaks_at": 1}).error == "KeyError: 'x' (agent, step 1)"
    assert len(collector.failures) == 1
    assert collector.collect_single(tasks(4)[0]).success
    assert collector.failures == []


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (7, "TrajectoryError: a decision must be"),
        ({"action": "add", "action_input": [1]}, "TrajectoryError: decision field 'action_input'"),
        ({"action": "add", "action_input": {"by": {1}}}, "TypeError: Object of type set is not JSON"),
        ({"action": "add", "thought": "\ud800"}, "UnicodeEncodeError: "),
    ],
)
def test_a_decision_that_is_none_breaks_the_episode_off(tmp_path: Path, reply: Any, error: str) -> None:
    path = tmp_path / "t.jsonl"
    config = CollectorConfig(output_path=path)
    trajectory = TrajectoryCollector(lambda task, history: reply, config, Counter()).collect_single("Count.")
    assert trajectory.error is not None and trajectory.error.startswith(error)
    assert trajectory.error.endswith("(agent, step 1)")
    assert load_trajectories(path) == [trajectory]


class Broken(Counter):
    def __init__(self, **ways: Any) -> None:
        self.ways = ways

    def reset(self, task: Task) -> Any:
        super().reset(task)
        return self.ways["reset"]() if "reset" in self.ways else ""

    def step(self, action: str, action_input: dict[str, Any]) -> Any:
        return self.ways["step"]() if "step" in self.ways else super().step(action, action_input)


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        (Broken(step=lambda: 1 / 0), "ZeroDivisionError: division by zero (environment, step 1)"),
        (Broken(reset=lambda: 1 / 0), "ZeroDivisionError: division by zero (environment, reset)"),
        (
            Broken(reset=lambda: 3),
            "TrajectoryError: reset must give text or None, found int (environment, reset)",
        ),
        (
            object,
            "TrajectoryError: expected an object with reset and step, found object (environment, reset)",
        ),
        (Broken(step=lambda: ("\ud800", 0.0, False)), "UnicodeEncodeError"),
        (Broken(step=lambda: ("ok", float("nan"), False)), "TrajectoryError: step field 'reward'"),
    ],
)
def test_a_broken_environment_is_told_from_a_broken_agent(environment: object, error: str) -> None:
    trajectory = TrajectoryCollector(count_up, environment=environment).collect_single("Count.")
    assert trajectory.error is not None and trajectory.error.startswith(error)
    assert "(environment" in trajectory.error
    assert trajectory.steps == [] and not trajectory.success


def test_the_agent_sees_the_opening_and_is_reset_for_each_task() -> None:
    class Agent:
        seen: list[Any] = []  # noqa: RUF012

        def reset(self, task: Task) -> None:
            self.seen.append(("reset", task["task_id"]))

        def act(self, task: Task, history: History) -> None:
            self.seen.append(task["opening"])

    [first, second] = TrajectoryCollector(Agent(), EVERYTHING, Counter()).collect(["a", "b"])
    assert Agent.seen == [
        ("reset", "task-0001"),
        "The counter shows 0.",
        ("reset", "task-0002"),
        "The counter shows 0.",
    ]
    assert first.metadata["ended"] == second.metadata["ended"] == "gave_up"


@pytest.mark.parametrize("given", [{}, {"observation": "Say again."}])
def test_a_call_that_could_not_be_read_is_told_to_the_agent_and_not_to_the_environment(given: Task) -> None:
    def agent(task: Task, history: History) -> Any:
        if not history:
            return {"action": INVALID, "reply": '{"name": ', "error": "not JSON", **given}
        observed.append(history[0].observation)
        return {"action": "finish", "action_input": {"answer": 0}}

    observed: list[str] = []
    trajectory = TrajectoryCollector(agent, environment=Counter()).collect_single(tasks(0)[0])
    told = given.get("observation", "not JSON")
    assert trajectory.steps[0] == TrajectoryStep("", INVALID, {}, told, 0.0, "not JSON", '{"name": ')
    assert observed == [told]
    assert trajectory.success


def test_a_refused_call_is_marked() -> None:
    script = [{"action": "subtract"}, None]
    trajectory = TrajectoryCollector(lambda t, h: script[len(h)], environment=Counter()).collect_single("Count.")
    assert (trajectory.steps[0].error, trajectory.steps[0].observation) == (
        "unknown tool subtract",
        "There is no subtract.",
    )
    assert trajectory.error is None


def test_observations_can_be_left_out_of_the_record_but_not_of_what_the_agent_sees(tmp_path: Path) -> None:
    def agent(task: Task, history: History) -> Any:
        seen.extend(step.observation for step in history[-1:])
        return count_up(task, history)

    seen: list[str] = []
    config = CollectorConfig(save_intermediate=False, output_path=tmp_path / "t.jsonl")
    trajectory = TrajectoryCollector(agent, config, Counter()).collect_single(tasks(2)[0])
    assert seen == ["The counter shows 1.", "The counter shows 2."]
    assert [step.observation for step in trajectory.steps] == ["", "", ""]
    assert load_trajectories(tmp_path / "t.jsonl") == [trajectory]


@pytest.mark.parametrize(
    ("script", "answer", "success", "judged"),
    [
        ([{"action": "finish", "action_input": {"answer": "3.0"}}], 3, True, True),
        ([{"action": "finish", "action_input": {"answer": "4"}}], 3, False, True),
        ([{"action": "finish", "action_input": {"answer": "3"}}], None, False, False),
        ([{"action": "finish", "action_input": {"answer": "4"}, "success": True}], 3, True, True),
        ([{"action": "look", "observation": "", "done": True, "success": True}], None, True, True),
        ([{"action": "look", "observation": "", "done": True}], None, False, False),
        ([{"action": "look", "observation": "3"}, None], 3, False, True),
        ([{"action": "look", "observation": "3"}, None], None, False, True),
    ],
)
def test_the_verdict_without_an_environment(
    script: list[Any], answer: Any, success: bool, judged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    task = {"instruction": "Look.", "answer": answer}
    trajectory = TrajectoryCollector(lambda t, h: script[len(h)]).collect_single(task)
    assert trajectory.error is None
    assert trajectory.success is success
    assert trajectory.metadata.get("judged", True) is judged
    assert ("not judged" in caplog.text) is not judged


def test_the_environment_judges_before_the_expected_answer_and_the_agent() -> None:
    def agent(task: Task, history: History) -> Any:
        return {"action": "finish", "action_input": {"answer": 7}, "success": True, "observation": "I won."}

    task = {**tasks(3)[0], "answer": 7}
    trajectory = TrajectoryCollector(agent, environment=Counter()).collect_single(task)
    assert not trajectory.success
    assert trajectory.steps[0].observation == "wrong"
    silent = Broken(step=lambda: ("noted", 0.0, True))
    assert TrajectoryCollector(agent, environment=silent).collect_single(task).success  # by the task's answer
    del task["answer"]
    assert TrajectoryCollector(agent, environment=silent).collect_single(task).metadata["judged"] is False


def test_an_agent_without_environment_must_say_what_it_observed() -> None:
    for decision in ({"action": "look"}, TrajectoryStep("", "look")):
        trajectory = TrajectoryCollector(lambda t, h, d=decision: d).collect_single("Look.")  # type: ignore[misc]
        assert trajectory.error is not None and "no environment and the decision has no observation" in trajectory.error
        assert trajectory.steps == []


def test_not_judged_is_said_once_for_the_lot(caplog: pytest.LogCaptureFixture) -> None:
    finish = {"action": "finish", "action_input": {"answer": "a"}}
    assert TrajectoryCollector(lambda task, history: finish).collect(["a", "b", "c"]) == []
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert caplog.text.count("3 of 3 episodes were not judged") == 1


def test_an_interrupt_leaves_the_finished_episodes_on_disk(tmp_path: Path) -> None:
    def agent(task: Task, history: History) -> Any:
        if task["target"] == 9:
            raise KeyboardInterrupt
        return count_up(task, history)

    path = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        TrajectoryCollector(agent, CollectorConfig(output_path=path), Counter()).collect(tasks(1, 2, 9, 3))
    assert [t.instruction for t in load_trajectories(path)] == ["Count to 1.", "Count to 2."]


def test_in_lockstep_an_interrupt_leaves_those_that_ended_in_the_same_round(tmp_path: Path) -> None:
    class Stops(Counter):
        def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
            if self.target == 9:
                raise KeyboardInterrupt
            return super().step(action, action_input)

    path = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        TrajectoryCollector(InBatches(), CollectorConfig(output_path=path), Stops).collect(tasks(0, 0, 9, 0))
    assert [t.task_id for t in load_trajectories(path)] == ["task-0001", "task-0002"]


def test_a_killed_run_leaves_whole_lines_and_can_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    program = f"""
import os, signal
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
def agent(task, history):
    if task["instruction"] == "c":
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"action": "finish", "action_input": {{"answer": "a"}}, "success": True}}
TrajectoryCollector(agent, CollectorConfig(output_path={str(path)!r})).collect(["a", "b", "c"])
"""
    env = {**os.environ, "PYTHONPATH": str(Path(jsonl.__file__).parents[4])}
    assert subprocess.run([sys.executable, "-c", program], env=env).returncode == -signal.SIGKILL
    assert [t.instruction for t in load_trajectories(path)] == ["a", "b"]
    with path.open("ab") as handle:
        handle.write(b'{"task_id": "half')
    done = {"action": "finish", "action_input": {"answer": "c"}, "success": True}
    collected = TrajectoryCollector(lambda t, h: done, CollectorConfig(output_path=path)).collect(["a", "b", "c"])
    assert [t.answer for t in collected] == ["a", "a", "c"]
    assert [t.instruction for t in load_trajectories(path)] == ["a", "b", "c"]


def test_unusable_tasks_are_refused_before_anything_runs(tmp_path: Path) -> None:
    collector = TrajectoryCollector(count_up, CollectorConfig(output_path=tmp_path / "t.jsonl"), Counter())
    with pytest.raises(DataError, match=r"tasks\[1\]"):
        collector.collect(["a", {}])
    assert list(tmp_path.iterdir()) == []


def test_the_record_does_not_change_when_the_agent_reuses_its_input() -> None:
    reused = {"by": 0}

    def agent(task: Task, history: History) -> Any:
        reused["by"] += 1
        return {"action": "add", "action_input": reused} if len(history) < 2 else None

    trajectory = TrajectoryCollector(agent, environment=Counter()).collect_single("Count.")
    assert [step.action_input for step in trajectory.steps] == [{"by": 1}, {"by": 2}]
    assert json.loads(json.dumps(trajectory.to_dict())) == trajectory.to_dict()


@pytest.mark.parametrize(
    "setting",
    [
        {"max_steps": 0},
        {"max_steps": 2.0},
        {"max_steps": True},
        {"batch_size": -1},
        {"require_success": "yes"},
        {"output_path": 3},
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(ConfigError, match=f"CollectorConfig: {name}={value!r}: expected"):
        CollectorConfig(**setting)


def test_agents_and_environments_that_are_none_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="agent: object cannot decide"):
        TrajectoryCollector(agent=object())
    with pytest.raises(TypeError, match="environment: dict has no reset and step"):
        TrajectoryCollector(count_up, environment={})
