from __future__ import annotations

import math
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import DataError, TrajectoryError
from sage.libs.finetune.agent.trajectories.protocols import (
    Decision,
    batch_decider,
    decider,
    environment_maker,
    read_decision,
    read_result,
    read_tasks,
)
from sage.libs.finetune.agent.types import StepResult, TrajectoryStep


class Acts:
    def act(self, task: Any, history: Any) -> str:
        return "act"

    def __call__(self, task: Any, history: Any) -> str:
        return "call"


class RunsSteps:
    def run_step(self, task: Any, history: Any) -> str:
        return "run_step"


class ActsInBatches:
    def __init__(self, replies: Any = None) -> None:
        self.replies = replies

    def act_batch(self, tasks: list[Any], histories: list[Any]) -> Any:
        return ["batch"] * len(tasks) if self.replies is None else self.replies


class World:
    def reset(self, task: Any) -> None: ...

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        return StepResult("")


def test_each_form_of_agent_is_called_in_its_way() -> None:
    agents = [Acts(), RunsSteps(), ActsInBatches(), lambda task, history: "call"]
    assert [decider(agent)({}, []) for agent in agents] == ["act", "run_step", "batch", "call"]
    assert batch_decider(Acts()) is None


@pytest.mark.parametrize("agent", [None, 3, "agent", object(), Acts, World()])
def test_what_cannot_decide_is_a_type_error(agent: object) -> None:
    name = agent.__name__ if isinstance(agent, type) else type(agent).__name__
    with pytest.raises(TypeError, match=f"{name} cannot decide; give a callable"):
        decider(agent)


@pytest.mark.parametrize(("replies", "found"), [([1], "1"), ("ab", "str"), ((1, 2, 3), "3")])
def test_a_batch_must_hold_one_decision_per_episode(replies: object, found: str) -> None:
    decide = batch_decider(ActsInBatches(replies))
    assert decide is not None
    with pytest.raises(TrajectoryError, match=f"a list of 2 decisions, it gave {found}"):
        decide([{}, {}], [[], []])


def test_an_environment_is_used_as_it_is_or_made_anew() -> None:
    world = World()
    make, many = environment_maker(world)
    assert make is not None and make() is world and not many
    make, many = environment_maker(World)
    assert make is not None and isinstance(make(), World) and make() is not make() and many
    assert environment_maker(None) == (None, True)
    with pytest.raises(TypeError, match="int has no reset and step"):
        environment_maker(3)


def test_tasks_get_an_id_by_position() -> None:
    tasks = read_tasks(["one", {"instruction": "two", "task_id": "b", "start": 5}, {"instruction": "three"}])
    assert [task["task_id"] for task in tasks] == ["task-0001", "b", "task-0003"]
    assert tasks[1]["start"] == 5


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "the list is empty"),
        ("one", "found a single one; use collect_single"),
        ({"instruction": "one"}, "found a single one"),
        (["a", 3], r"tasks\[1\]: expected a mapping or an instruction, found int"),
        (["a", {"instuction": "b"}], r"tasks\[1\]: field 'instruction' is missing \(found: instuction\)"),
        ([{"instruction": "  "}], r"tasks\[0\]: field 'instruction' is empty"),
        ([{"instruction": 3}], r"tasks\[0\]: field 'instruction': expected str, found int"),
        ([{"instruction": "a", "task_id": 1}], r"tasks\[0\]: field 'task_id': expected str, found int"),
        ([{"instruction": "a", "tools": {}}], r"tasks\[0\]: field 'tools': expected list, found dict"),
        ([{"instruction": "a", "metadata": {"x": {1}}}], r"tasks\[0\]: field 'metadata': cannot be written"),
        ([{"instruction": "a", "answer": math.nan}], r"tasks\[0\]: field 'answer': cannot be written"),
        (["a", {"instruction": "b", "task_id": "task-0001"}], r"tasks\[1\]: .*taken by tasks\[0\]"),
    ],
)
def test_an_unusable_task_is_named(tasks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tasks(tasks)


def test_a_step_is_a_decision_whose_empty_observation_was_left_out() -> None:
    step = TrajectoryStep("hm", "look", {"at": 1}, reward=0.5, reply="raw")
    assert read_decision(step) == Decision("look", "hm", {"at": 1}, reply="raw", reward=0.5)
    assert read_decision(TrajectoryStep("", "look", observation="a door")) == Decision("look", observation="a door")
    assert read_decision({"action": "look", "observation": ""}) == Decision("look", observation="")
    assert read_decision(None) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "found int"),
        ({}, "needs 'action'"),
        ({"action": ""}, "needs 'action'"),
        ({"action": "a", "toughts": "b"}, "no field 'toughts'; did you mean 'thought'"),
        ({"action": "a", "action_input": "b"}, "'action_input': expected dict, found str"),
        ({"action": "a", "reward": True}, "'reward': expected a number, found bool"),
        ({"action": "a", "reward": math.inf}, "'reward': expected a finite number"),
        ({"action": "a", "success": 1}, "'success': expected bool or None, found int"),
    ],
)
def test_what_is_no_decision_is_refused(value: object, message: str) -> None:
    with pytest.raises(TrajectoryError, match=message):
        read_decision(value)


def test_results_are_read() -> None:
    assert read_result(("ok", 1, False)) == StepResult("ok", 1.0)
    assert read_result(("ok", 0, True, True)) == StepResult("ok", 0.0, True, True)
    assert read_result(StepResult("no", error="unknown tool")) == StepResult("no", error="unknown tool")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ok", "found str"),
        (("ok", 0.0, False, False, {}), "found a tuple of 5"),
        ((None, 0.0, False), "'observation': expected str, found NoneType"),
        (("ok", "1", False), "'reward': expected a number, found str"),
        (("ok", math.nan, False), "'reward': expected a finite number, found nan"),
        (("ok", 0.0, 1), "'done': expected bool, found int"),
        (StepResult("ok", error=3), "'error': expected str or None, found int"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_result_is_refused(value: object, message: str) -> None:
    with pytest.raises(TrajectoryError, match=message):
        read_result(value)
