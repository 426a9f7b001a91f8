"""Plain functions as an environment: what is shown, what is refused, what fails, who judges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal

import pytest

from sage.libs.finetune.agent.environments.arguments import whole
from sage.libs.finetune.agent.environments.functions import FunctionEnvironment, tools_of
from sage.libs.finetune.agent.errors import ConfigError, DataError, TrajectoryError
from sage.libs.finetune.agent.schemas.tools import tool_schema
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.types import Environment, StepResult, check_tools


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def paint(colour: Colour, coats: int = 1, mode: Literal["brush", "spray"] = "brush", note: str | None = None) -> str:
    """Paint the door.

    Args:
        colour: What colour.
        coats: How often.
        mode: How.
        note: Anything to say.
    """
    return f"{colour} x{coats} {mode} {note}"


def price(item: str) -> dict[str, float]:
    """Look a price up.

    Args:
        item: Its name.
    """
    return {"price": {"desk": 84.5}[item]}


async def wait(seconds: float) -> str:
    """Wait a while.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(seconds)
    return f"loop {id(asyncio.get_running_loop())}"


class Counter:
    """Holds one number."""

    def __init__(self) -> None:
        self.n = 0

    def add(self, by: int = 1) -> int:
        """Add to the number.

        Args:
            by: How much.
        """
        self.n += by
        return self.n

    @property
    def broken(self) -> int:
        raise AssertionError("properties are not tools, and not asked for")

    @staticmethod
    def twice(x: int) -> int:
        """Double a number.

        Args:
            x: The number.
        """
        return 2 * x

    def judge(self, task: dict[str, Any], answer: object) -> bool:
        """Whether the number was counted right."""
        return str(answer) == str(self.n)

    def _hidden(self) -> None: ...


def ready(functions: object, task: dict[str, Any] | None = None, **settings: Any) -> FunctionEnvironment:
    environment = FunctionEnvironment(functions, **settings)
    environment.reset({"task_id": "t", "instruction": "Go.", "tools": environment.tools, **(task or {})})
    return environment


def test_the_schema_is_that_of_the_hints_and_the_docstring() -> None:
    [tool] = tools_of([paint])
    check_tools([tool], "here")
    assert tool["function"]["description"] == "Paint the door."
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "colour": {"type": "string", "enum": ["red", "blue"], "description": "What colour."},
            "coats": {"type": "integer", "description": "How often."},
            "mode": {"type": "string", "enum": ["brush", "spray"], "description": "How."},
            "note": {"type": ["string", "null"], "description": "Anything to say."},
        },
        "required": ["colour"],
        "additionalProperties": False,
    }


def test_null_fits_where_the_hint_says_none() -> None:
    def sort(values: list[int | None] | None, how: Literal["up", "down"] | None, by: list[int] | str | None) -> str:
        """Sort.

        Args:
            values: What.
            how: How.
            by: By what.
        """
        return "sorted"

    schema = tools_of([sort])[0]["function"]["parameters"]
    assert tool_schema(schema).misfit({"values": [1, None], "how": None, "by": None}) is None
    assert tool_schema(schema).misfit({"values": None, "how": "up", "by": [1]}) is None
    assert tool_schema(schema).misfit({"values": ["x"], "how": None, "by": "x"}) is not None
    assert repr(whole({"values": [2.0, None], "how": None, "by": "x"}, schema)) == repr(
        {"values": [2, None], "how": None, "by": "x"}
    )


@pytest.mark.parametrize(
    ("action", "arguments", "observation", "error"),
    [
        ("paint", {"colour": "red", "coats": 2.0}, "red x2 brush None", None),
        ("paint", {"colour": "red", "note": None}, "red x1 brush None", None),
        ("paint", {"colour": "green"}, "error: colour: 'green' is not one of ['red', 'blue']", "bad_arguments"),
        ("paint", {}, "error: 'colour' is a required property", "bad_arguments"),
        ("paint", {"colour": "red", "coats": True}, "error: coats: True is not of type 'integer'", "bad_arguments"),
        (
            "price",
            {"item": "desk", "shop": "x"},
            "error: Additional properties are not allowed ('shop' was unexpected)",
            "bad_arguments",
        ),
        ("price", {"item": "desk"}, '{"price": 84.5}', None),
        ("price", {"item": "sofa"}, "error: KeyError: 'sofa'", "KeyError: 'sofa'"),
        ("order", {}, "error: no tool order; there are paint, price", "unknown_tool"),
    ],
)
def test_a_call_is_an_answer_whatever_comes_of_it(
    action: str, arguments: dict[str, Any], observation: str, error: str | None
) -> None:
    environment = ready([paint, price])
    assert isinstance(environment, Environment)
    assert environment.step(action, arguments) == StepResult(observation, error=error)


def test_only_the_tools_of_the_task_can_be_called() -> None:
    environment = ready([paint, price], {"tools": tools_of([price])})
    assert environment.step("paint", {"colour": "red"}).error == "unknown_tool"


def test_a_class_is_made_anew_for_every_episode() -> None:
    environment = ready(Counter)
    assert [tool["function"]["name"] for tool in environment.tools] == ["add", "twice"]
    assert environment.step("add", {"by": 5}).observation == "5"
    environment.reset({"instruction": "Again.", "tools": environment.tools})
    assert environment.step("add", {}).observation == "1"
    assert environment.step("twice", {"x": 4}).observation == "8"
    assert environment.step("finish", {"answer": "1"}) == StepResult("", 1.0, True, True)
    assert environment.step("finish", {"answer": "2"}) == StepResult("", 0.0, True, False)


def test_an_object_keeps_its_state_and_a_constructor_may_take_the_task() -> None:
    counter = Counter()
    ready(counter).step("add", {"by": 3})
    assert counter.n == 3

    class Echo:
        def __init__(self, task: dict[str, Any]) -> None:
            self.task = task

        def say(self) -> str:
            """Say what the task is."""
            return str(self.task["instruction"])

    assert ready(Echo).step("say", {}).observation == "Go."


@pytest.mark.parametrize(
    ("judge", "task", "answer", "expected"),
    [
        (None, {"answer": 1200}, "1,200.0", StepResult("", 1.0, True, True)),
        (None, {"answer": 1200}, "120", StepResult("", 0.0, True, False)),
        (None, {}, "anything", StepResult("", 0.0, True, None)),
        (lambda task, answer: answer == "yes", {"answer": "no"}, "yes", StepResult("", 1.0, True, True)),
        (lambda task, answer: 0.25, {}, "", StepResult("", 0.25, True, False)),
        (lambda task, answer: 2, {}, "", StepResult("", 2.0, True, True)),
        (lambda task, answer: None, {"answer": "x"}, "x", StepResult("", 0.0, True, None)),
        (lambda task, answer: StepResult("so", 0.5, success=True), {}, "", StepResult("so", 0.5, True, True)),
    ],
)
def test_judges(judge: Callable[..., Any] | None, task: dict[str, Any], answer: str, expected: StepResult) -> None:
    assert ready([price], task, judge=judge).step("finish", {"answer": answer}) == expected


def test_a_judge_that_gives_something_else_is_an_error_of_its_own() -> None:
    with pytest.raises(TrajectoryError, match="judge must give True, False, a reward, a StepResult or None; found str"):
        ready([price], judge=lambda task, answer: "good").step("finish", {})


def test_async_functions_run_on_one_loop_also_inside_another() -> None:
    environment = ready([wait])

    async def inside() -> StepResult:
        return environment.step("wait", {"seconds": 0})

    first, second = environment.step("wait", {"seconds": 0.0}), asyncio.run(inside())
    assert first.error is None and first == second

    async def let_go() -> None:
        nonlocal environment
        environment = ready([wait])

    for end in (
        lambda: asyncio.run(let_go()),
        lambda: environment.close(),
    ):  # closed with its environment, in a loop or not
        environment.step("wait", {"seconds": 0})
        assert environment._runner is not None
        loop = environment._runner.get_loop()
        end()
        assert loop.is_closed()
    environment.close()
    assert environment.step("wait", {"seconds": 0}).error is None


def test_in_the_collector() -> None:
    def agent(task: dict[str, Any], history: list[Any]) -> dict[str, Any]:
        if len(history) < 2:
            return {"action": "add", "action_input": {"by": [3, "four"][len(history)]}}
        return {"action": "finish", "action_input": {"answer": history[0].observation}}

    tools = tools_of(Counter)
    collector = TrajectoryCollector(agent, CollectorConfig(), lambda: FunctionEnvironment(Counter))
    [trajectory] = collector.collect([{"instruction": "Count to 3.", "tools": tools}])
    assert trajectory.success and trajectory.total_reward == 1.0 and trajectory.tools == tools
    assert [step.error for step in trajectory.steps] == [None, "bad_arguments", None]
    assert trajectory.steps[1].observation == "error: by: 'four' is not of type 'integer'"


def test_observations_are_cut_and_say_so() -> None:
    def read() -> str:
        """Read the book."""
        return "word " * 100

    assert ready([read], max_observation_chars=9).step("read", {}).observation == "word word ... (491 more characters)"
    assert ready([read]).step("read", {}).observation == "word " * 100


def test_what_json_has_no_form_for_breaks_the_episode() -> None:
    def look() -> object:
        """Look."""
        return object()

    with pytest.raises(TrajectoryError, match="tool 'look' gave what cannot be shown"):
        ready([look]).step("look", {})


def test_a_task_must_show_its_tools() -> None:
    environment = FunctionEnvironment([price])
    with pytest.raises(DataError, match=r"task 'a': shows the agent no tools; add 'tools': tools_of\(functions\)"):
        environment.reset({"task_id": "a", "instruction": "Go."})
    with pytest.raises(DataError, match="task 'a': tools: 'paint' is no function here; there are price"):
        environment.reset({"task_id": "a", "instruction": "Go.", "tools": tools_of([paint])})


def no_docstring(x: int) -> None: ...


def no_hint(x) -> None:  # type: ignore[no-untyped-def]
    """Do it.

    Args:
        x: What.
    """


def no_description(x: int) -> None:
    """Do it."""


def odd_hint(x: Counter) -> None:
    """Do it.

    Args:
        x: What.
    """


def unknown_hint(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Do it.

    Args:
        x: What.
    """


def many(*words: str) -> None:
    """Do it.

    Args:
        words: What.
    """


def finish(answer: str) -> None:
    """End it.

    Args:
        answer: What.
    """


class Needy:
    def __init__(self, host: str, port: int) -> None: ...

    def go(self) -> None:
        """Go."""


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([no_docstring], "tool 'no_docstring': .*has no docstring!; a tool needs a docstring, and each argument"),
        ([no_hint], "tool 'no_hint': Argument x is missing a type hint"),
        ([no_description], "tool 'no_description': .*no description for the argument 'x'"),
        ([odd_hint], "tool 'odd_hint': Couldn't convert the type hint"),
        ([unknown_hint], "tool 'unknown_hint': name 'Nowhere' is not defined"),
        ([many], r"tool 'many': takes \*arguments"),
        ([finish], "functions: 'finish' is an action that episodes use themselves"),
        ([price, price], "functions: 'price' comes twice"),
        ([], "functions: there is none"),
        (["price"], "functions: expected functions, found str"),
        (price, "functions: expected a list of functions, an object or a class with public methods, found function"),
        (3, "found int"),
        (Needy, "Needy: its constructor needs host, port; let it take the task alone or nothing"),
    ],
)
def test_what_cannot_be_a_tool_is_named(functions: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        FunctionEnvironment(functions)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_out_of_range_is_named(limit: Any) -> None:
    with pytest.raises(ConfigError, match=f"max_observation_chars={limit!r}: expected None or a whole number above 0"):
        FunctionEnvironment([price], max_observation_chars=limit)
