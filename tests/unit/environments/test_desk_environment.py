from __future__ import annotations

import copy
from typing import Any

import pytest

from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.environments.desk.environment import gives
from sage.libs.finetune.agent.environments.desk.kinds import KINDS
from sage.libs.finetune.agent.environments.desk.store import Store, same_world
from sage.libs.finetune.agent.environments.desk.tools import TOOLS
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import Environment, StepResult, TrajectoryStep

CHANGES: dict[str, Any] = {
    "orders": lambda world: ("cancel_order", {"order": unnamed(world["orders"], "status", "cancelled")}),
    "files": lambda world: ("move_file", {"file": world["files"][0]["id"], "folder": "elsewhere"}),
    "events": lambda world: ("add_event", {"day": "Friday", "title": "extra", "hour": 8}),
}
"""A change that no task asks for, by the table it is made in."""


def unnamed(rows: list[dict[str, Any]], field: str, value: str) -> int:
    return next(int(row["id"]) for row in rows if row[field] != value)


def ready(task: dict[str, Any]) -> tuple[DeskEnvironment, str]:
    """A desk on which the expert has done all its calls, and the answer it would give."""
    desk = DeskEnvironment()
    history: list[TrajectoryStep] = []
    desk.reset(task)
    while (step := DeskExpert().act(task, history)).action != "finish":
        observation = desk.step(step.action, step.action_input).observation
        history.append(TrajectoryStep(step.thought, step.action, step.action_input, observation))
    return desk, str(step.action_input["answer"])


def finish(desk: DeskEnvironment, answer: str) -> StepResult:
    return desk.step("finish", {"answer": answer})


TASKS = [*desk_tasks("train", 15), *desk_tasks("test_compose", 4)]


def by_kind(tasks: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(task, id=task["metadata"]["kind"]) for task in tasks]


BY_KIND = by_kind(TASKS)
WITH_STATE = by_kind([task for task in TASKS if task["world"]])
WITH_CHANGE = by_kind([task for task in TASKS if task["expected"]])


def test_it_is_an_environment() -> None:
    assert isinstance(DeskEnvironment(), Environment)
    assert DeskEnvironment().reset(TASKS[0]) == ""


@pytest.mark.parametrize("task", WITH_STATE)
def test_a_wrong_extra_change_fails_an_otherwise_right_answer(task: dict[str, Any]) -> None:
    desk, answer = ready(task)
    assert finish(ready(task)[0], answer).success
    world = task["expected"] or task["world"]
    table = next(table for table in CHANGES if table in world)
    tool, arguments = CHANGES[table](world)
    everything = {**task, "tools": [spec.spec for spec in TOOLS.values()]}
    desk, answer = ready(everything)
    assert desk.step(tool, arguments).error is None
    assert finish(desk, answer).success is False


def test_every_kind_is_tried_here() -> None:
    assert sorted(task["metadata"]["kind"] for task in TASKS) == sorted(KINDS)


@pytest.mark.parametrize("task", BY_KIND)
def test_the_answer_is_judged_where_one_is_asked_for(task: dict[str, Any]) -> None:
    desk, _ = ready(task)
    assert finish(desk, "something else").success is (task["answer"] is None)


@pytest.mark.parametrize("task", WITH_CHANGE)
def test_without_the_change_the_right_answer_is_not_enough(task: dict[str, Any]) -> None:
    _, answer = ready(task)
    desk = DeskEnvironment()
    desk.reset(task)
    assert finish(desk, answer) == StepResult("", 0.0, done=True, success=False)


def test_the_first_three_different_calls_earn_a_tenth_each() -> None:
    task = next(t for t in TASKS if t["metadata"]["kind"] == "order_total")
    name = task["metadata"]["slots"]["name"]
    desk = DeskEnvironment()
    desk.reset(task)
    product = {"a": 2, "b": 3}
    rewards = [
        desk.step(tool, arguments).reward
        for tool, arguments in (
            ("find_customer", {"name": name}),
            ("find_customer", {"name": name}),  # the same call again
            ("find_customer", {"name": "Nobody"}),  # refused
            ("multiply", product),
            ("multiply", {"a": 3, "b": 2}),
            ("multiply", {"a": 4, "b": 2}),  # one too many
        )
    ]
    assert rewards == [0.1, 0.0, 0.0, 0.1, 0.1, 0.0]
    assert sum(rewards) + finish(desk, task["answer"]).reward == pytest.approx(1.0)


def test_tools_that_the_task_does_not_show_are_unknown() -> None:
    task = next(t for t in TASKS if t["metadata"]["family"] == "units")
    desk = DeskEnvironment()
    desk.reset(task)
    for name in ("find_customer", "get_weather", "invalid"):
        assert desk.step(name, {}) == StepResult(f"error: no tool {name}", error="unknown_tool")


def test_episodes_leave_the_task_as_it_was_and_do_not_know_each_other() -> None:
    task = next(t for t in TASKS if t["metadata"]["kind"] == "order_cancel")
    before = copy.deepcopy(task)
    desk, answer = ready(task)
    assert finish(desk, answer).success
    assert task == before
    desk.reset(task)
    assert finish(desk, answer).success is False


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("84", "84", True),
        ("The total is 84.", "84", True),
        ("84 or 85", "84", False),
        ("840", "84", False),
        ("eighty-four", "84", False),
        ("", "84", False),
        ("8 4", "84", False),
        ("84.5", "84", False),
        ("shipped", "shipped", True),
        ("Shipped.", "shipped", True),
        ("The order is shipped", "shipped", True),
        ("The status of the order is shipped.", "shipped", True),
        ("not shipped", "shipped", False),
        ("shipped or packed", "shipped", False),
        ("The owner is Mia", "Mia", True),
        ("mia", "Mia", True),
        ("Mia and Leo", "Mia", False),
        ("none", "none", True),
        ("None.", "none", True),
        ("", "none", False),
        ("done", "none", False),
    ],
)
def test_gives(given: str, expected: str, same: bool) -> None:
    assert gives(given, expected) is same


def test_a_store_gives_back_its_world() -> None:
    for task in TASKS:
        assert same_world(Store(task["world"]).dump(), task["world"])


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ([], "world: expected an object of tables, found list"),
        (
            {"files (id) VALUES (1); --": [{"id": 1}]},
            r"unknown table 'files \(id\) VALUES .*; known: customers, orders",
        ),
        ({"files": [{"id": 1}, {"id, name": 1}]}, r"files\[1\]: unknown column 'id, name'; known: id, name, folder"),
        ({"events": [{"PRIMARY": 1}]}, r"events\[0\]: unknown column 'PRIMARY'; known: day, title, hour"),
        ({"files": [{}]}, r"files\[0\]: expected an object of columns"),
        ({"files": [{"id": 1}, {"id": 1}]}, r"files\[1\]: the desk cannot hold this row \(UNIQUE"),
        ({"files": [{"id": 2**64}]}, r"files\[0\]: the desk cannot hold this row"),
        ({"files": [{"id": 1, "name": ["a"]}]}, r"files\[0\]: the desk cannot hold this row"),
    ],
)
def test_a_world_of_other_tables_or_columns_is_refused(world: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Store(world)


def test_same_world_looks_at_rows_not_at_their_order() -> None:
    one, two = {"id": 1, "name": "a"}, {"name": "b", "id": 2}
    assert same_world({"files": [one, two]}, {"files": [two, dict(reversed(one.items()))], "orders": []})
    assert not same_world({"files": [one]}, {"files": [one, one]})
    assert not same_world({"files": [one]}, {"files": [{**one, "name": "c"}]})
