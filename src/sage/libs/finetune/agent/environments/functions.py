"""Plain Python functions as an environment: each is a tool, its schema read from type hints and docstring.

The functions come as a list; as an object, whose public methods they are; or as a class, which is made anew for every
episode (with the task, if its constructor takes one argument), so that an episode's state is its own.

A call is checked against the schema before it is made. A call that does not fit, and a function that raises, are
answers the agent gets to see (`error: ...`), with the reason in `StepResult.error`; they end nothing. Arguments are
passed as the JSON values they are: an `Enum` hint is shown as its values, and the function gets a value.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any

from sage.libs.finetune.agent.answers import same_answer
from sage.libs.finetune.agent.environments.arguments import check_schemas, whole
from sage.libs.finetune.agent.errors import ConfigError, DataError, TrajectoryError
from sage.libs.finetune.agent.jsonl import encode
from sage.libs.finetune.agent.schemas.tools import tool_schema
from sage.libs.finetune.agent.types import FINISH, INVALID, RESPOND, StepResult, ToolSpec

Judge = Callable[[Mapping[str, Any], Any], object]
"""`(task, answer)` -> whether it is right, a reward (1 or more is success), a StepResult, or None for no verdict."""

_JUDGE = "judge"


def tools_of(functions: object) -> list[ToolSpec]:
    '''The JSON schemas of functions, to be shown to an agent (`task["tools"]`).

    Args:
        functions: A list of functions, or an object or class whose public methods are meant (`judge` is none of them).
            Each needs a docstring in Google's style and a type hint for every argument.

    Raises:
        ConfigError: naming the function, when it has no docstring, or an argument without type hint or description;
            when a name comes twice or is one that episodes use themselves; when there is no function at all.

    Example:
        >>> def add(a: int, b: int = 1) -> int:
        ...     """Add two numbers.
        ...
        ...     Args:
        ...         a: The first.
        ...         b: The second.
        ...     """
        ...     return a + b
        >>> tools_of([add])[0]["function"]["parameters"]["required"]
        ['a']
    '''
    tools = [_spec(name, function) for name, function in _named(functions).items()]
    check_schemas(tools)
    return tools


class FunctionEnvironment:
    '''Functions as tools, and a judge of the final answer.

    Args:
        functions: A list of functions, an object, or a class that is made anew for every episode (see `tools_of`).
            `async` functions are waited for, all on one event loop of this environment's own.
        judge: Says how good the final answer is; None asks a method `judge(task, answer)` of the object, if it has one,
            else the task's `answer`. Without any of them the episode stays unjudged.
        max_observation_chars: Longest observation; the rest is cut off and the observation says so. None for no limit.

    Raises:
        ConfigError: when the functions cannot be tools, or a setting is out of range.

    Attributes:
        tools: The schemas, for `task["tools"]`; a task may show fewer, and then only those can be called.

    Example:
        >>> class Till:
        ...     def __init__(self):
        ...         self.total = 0
        ...     def add(self, amount: int) -> str:
        ...         """Add an amount to the bill.
        ...
        ...         Args:
        ...             amount: In cents.
        ...         """
        ...         self.total += amount
        ...         return f"total={self.total}"
        >>> till = FunctionEnvironment(Till)
        >>> till.reset({"instruction": "Add 5 and 7.", "tools": till.tools, "answer": 12})
        >>> till.step("add", {"amount": 5}).observation, till.step("add", {"amount": "7"}).error
        ('total=5', 'bad_arguments')
        >>> till.step("finish", {"answer": "12"}).success
        True
    '''

    def __init__(
        self, functions: object, *, judge: Judge | None = None, max_observation_chars: int | None = None
    ) -> None:
        if max_observation_chars is not None and (
            not isinstance(max_observation_chars, int)
            or isinstance(max_observation_chars, bool)
            or max_observation_chars < 1
        ):
            raise ConfigError(
                f"max_observation_chars={max_observation_chars!r}: expected None or a whole number above 0"
            )
        self.tools = tools_of(functions)
        self._takes_task = _takes_task(functions) if isinstance(functions, type) else False
        self._source = functions if isinstance(functions, type) or not isinstance(functions, Iterable) else [*functions]
        self._judge = judge
        self._limit = max_observation_chars
        self._task: Mapping[str, Any] = {}
        self._own: object = None
        self._functions: dict[str, Callable[..., Any]] = {}
        self._schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in self.tools}
        self._runner: asyncio.Runner | None = None

    def reset(self, task: Mapping[str, Any]) -> None:
        """Make the episode's own object, where a class was given; the instruction says it all.

        Raises:
            DataError: when the task shows no tools (its trajectory would be a training row without them), or one that
                is no function here.
        """
        where = f"task '{task.get('task_id', '')}'"
        if not task.get("tools"):
            raise DataError(f"{where}: shows the agent no tools; add 'tools': tools_of(functions), or some of them")
        shown = [tool["function"]["name"] for tool in task["tools"]]
        if unknown := [name for name in shown if name not in self._schemas and name != FINISH]:
            raise DataError(f"{where}: tools: '{unknown[0]}' is no function here; there are {', '.join(self._schemas)}")
        self._own = self._made(task)
        everything = _named(self._own)
        self._functions = {name: everything[name] for name in shown if name != FINISH}
        self._task = task

    def step(self, action: str, action_input: dict[str, Any]) -> StepResult:
        """Make one call, or judge the answer when `action` is `finish`.

        Raises:
            TrajectoryError: when a function or the judge gives what cannot be used.
        """
        if action == FINISH:
            return self._verdict(action_input.get("answer", ""))
        if action not in self._functions:
            known = ", ".join(self._functions)
            return StepResult(f"error: no tool {action}; there are {known}", error="unknown_tool")
        schema = self._schemas[action]
        if fault := tool_schema(schema).misfit(action_input):
            return StepResult(self._cut(f"error: {fault}"), error="bad_arguments")
        try:
            result = self._called(self._functions[action], whole(action_input, schema))
        except Exception as error:
            # The function is the caller's code and may fail in any way: what went wrong is the answer to this call.
            fault = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
            return StepResult(self._cut(f"error: {fault}"), error=fault)
        return StepResult(self._cut(_text(action, result)))

    def close(self) -> None:
        """Close the event loop that async functions ran on, if there was one; the next call makes another."""
        if self._runner is not None:
            _outside_a_loop(self._runner.close)
            self._runner = None

    def _made(self, task: Mapping[str, Any]) -> object:
        if not isinstance(self._source, type):
            return self._source
        return self._source(task) if self._takes_task else self._source()

    def _called(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        result = function(**arguments)
        if not inspect.iscoroutine(result):
            return result
        if self._runner is None:  # one loop for all calls: clients and sessions belong to the loop they were made on
            self._runner = asyncio.Runner()
            weakref.finalize(self, _outside_a_loop, self._runner.close)
        return _outside_a_loop(self._runner.run, result)

    def _verdict(self, answer: object) -> StepResult:
        judge = self._judge or getattr(self._own, _JUDGE, None)
        if judge is None:
            expected = self._task.get("answer")
            verdict: object = None if expected is None else same_answer(answer, expected)
        else:
            verdict = judge(self._task, answer)
        if isinstance(verdict, StepResult):
            return verdict._replace(done=True)
        if verdict is None:
            return StepResult("", done=True)
        if not isinstance(verdict, bool | Real):
            found = type(verdict).__name__
            raise TrajectoryError(f"judge must give True, False, a reward, a StepResult or None; found {found}")
        reward = float(verdict)
        return StepResult("", reward, done=True, success=reward >= 1.0)

    def _cut(self, text: str) -> str:
        if self._limit is None or len(text) <= self._limit:
            return text
        return f"{text[: self._limit]} ... ({len(text) - self._limit} more characters)"


def _named(functions: object) -> dict[str, Callable[..., Any]]:
    """The functions by name, in the order they were written."""
    if isinstance(functions, type) or not isinstance(functions, Iterable):
        found = _methods(functions)
    else:
        found = {}
        for function in functions:
            name = getattr(function, "__name__", None)
            if not callable(function) or name is None:
                raise ConfigError(f"functions: expected functions, found {type(function).__name__}")
            if name in found:
                raise ConfigError(f"functions: '{name}' comes twice; each tool needs a name of its own")
            found[name] = function
    if not found:
        raise ConfigError("functions: there is none; give a list of functions, or an object with public methods")
    for name in (FINISH, INVALID, RESPOND):
        if name in found:
            raise ConfigError(
                f"functions: '{name}' is an action that episodes use themselves; name the function otherwise "
                f"(the final answer goes to judge)"
            )
    return found


def _methods(owner: object) -> dict[str, Callable[..., Any]]:
    """The public methods of an object or a class; properties are not asked for their values."""
    kind = owner if isinstance(owner, type) else type(owner)
    if kind.__module__ == "builtins":
        raise ConfigError(
            f"functions: expected a list of functions, an object or a class with public methods, found {kind.__name__}"
        )
    names = [name for base in reversed(kind.__mro__[:-1]) for name in vars(base)]
    methods = {}
    for name in dict.fromkeys(names):
        plain = inspect.isfunction(static := inspect.getattr_static(kind, name))
        if not name.startswith("_") and name != _JUDGE and (plain or isinstance(static, staticmethod | classmethod)):
            methods[name] = getattr(owner, name)
    return methods


def _spec(name: str, function: Callable[..., Any]) -> ToolSpec:
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    if kinds - {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
        raise ConfigError(f"tool '{name}': takes *arguments or positional-only ones; a model calls by name")
    try:
        schema = get_json_schema(function)["function"]
    except (
        DocstringParsingException,
        TypeHintParsingException,
        NameError,  # a type hint in quotes that means nothing here
        ValueError,  # choices in the docstring that are not JSON
    ) as error:
        reason = " ".join(" ".join(map(str, error.args)).split())
        raise ConfigError(
            f"tool '{name}': {reason}; a tool needs a docstring, and each argument a type hint and a line under 'Args:'"
        ) from None
    parameters = {**_standard(schema["parameters"]), "additionalProperties": False}
    return {
        "type": "function",
        "function": {"name": name, "description": schema["description"], "parameters": parameters},
    }


def _standard(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with OpenAPI's `nullable` said in JSON schema, which would refuse null otherwise."""
    read = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(read.get(key), dict):
            read[key] = _standard(read[key])
    for key in ("anyOf", "prefixItems"):
        if key in read:
            read[key] = [_standard(item) for item in read[key]]
    if "properties" in read:
        read["properties"] = {name: _standard(item) for name, item in read["properties"].items()}
    if not read.pop("nullable", False):
        return read
    if "anyOf" in read:
        read["anyOf"] = [*read["anyOf"], {"type": "null"}]
    if "type" in read:
        types = read["type"] if isinstance(read["type"], list) else [read["type"]]
        read["type"] = [*types, "null"]
    if "enum" in read:
        read["enum"] = [*read["enum"], None]
    return read


def _takes_task(kind: type) -> bool:
    needed = [
        parameter
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if len(needed) > 1 or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in needed):
        names = ", ".join(parameter.name for parameter in needed)
        raise ConfigError(
            f"{kind.__name__}: its constructor needs {names}; let it take the task alone or nothing, or give an object"
        )
    return bool(needed)


def _outside_a_loop(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it here, or in another thread where this one runs an event loop: loops do not run inside one another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function(*arguments)
    with ThreadPoolExecutor(1) as other:
        return other.submit(function, *arguments).result()


def _text(action: str, result: object) -> str:
    if isinstance(result, str):
        return result
    try:
        return encode(result).decode()
    except (TypeError, ValueError) as error:
        raise TrajectoryError(
            f"tool '{action}' gave what cannot be shown ({error}); let it return text, or something JSON has a form for"
        ) from None
