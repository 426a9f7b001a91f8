"""What an importer is: a foreign row in, a conversation in canonical form out; and what several importers share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.chatml import KEPT
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.strict import parse
from sage.libs.finetune.agent.types import call_id


def never(row: Mapping[str, Any]) -> bool:
    """No row at all."""
    return False


@dataclass(frozen=True)
class Importer:
    """How one foreign form is recognised and read.

    Attributes:
        name: What `--from` calls it.
        matches: Whether a row (a parsed JSON object) is plainly of this form; never raises.
        read: The row as `{"messages", "tools", "metadata"}`, given file and line for the error. It may leave to
            `sources.rows.read_sample`, which every result goes through, whatever that checks (roles, texts, calls).
            Raises DataError naming where, field, what was expected and found.
        needs: One line: what a row of this form looks like.
        accepts: Whether a row that `matches` does not tell apart may stand among rows that it does, as a turn of mere
            text among Anthropic's blocks.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], str], Mapping[str, Any]]
    needs: str
    accepts: Callable[[Mapping[str, Any]], bool] = never


def read_metadata(row: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """`metadata` of a row and, beside it, every field not in `used`; a name taken already becomes `row.NAME`.

    Taken is also the name that `chatml` keeps fields of a trajectory under.

    Example:
        >>> read_metadata({"messages": [], "id": 7, "metadata": {"id": 1, "split": "dev"}}, ["messages"])
        {'id': 1, 'split': 'dev', 'row.id': 7}
    """
    own = row.get("metadata")
    metadata = dict(own) if isinstance(own, Mapping) else {}
    for name, value in row.items():
        if name in used or (name == "metadata" and (own is None or isinstance(own, Mapping))):
            continue
        while name in metadata or name == KEPT:
            name = f"row.{name}"
        metadata[name] = value
    return metadata


def as_json(value: Any, field: str) -> Any:
    """The value, or what it says if it is text: lists and objects often come as JSON in a string.

    Raises:
        DataError: naming `field`, when the text is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise DataError(f"{field}: is not valid JSON: {error}") from None


def read_tools(value: Any, field: str) -> list[Any]:
    """Tools as function schemas: a list or JSON text, each with the wrapper `{"type", "function"}` or bare.

    Raises:
        DataError: naming `field`, when it is no list of objects, or a tool that others run has no schema to show.

    Example:
        >>> read_tools('[{"name": "search", "input_schema": {"type": "object"}}]', "a.jsonl:1: tools")
        [{'type': 'function', 'function': {'name': 'search', 'parameters': {'type': 'object'}}}]
    """
    tools = as_json(value or [], field)
    tools = [] if tools is None else tools  # the text `null`
    if isinstance(tools, dict):  # one schema alone
        tools = [tools] if "name" in tools or "function" in tools else tools
    if not isinstance(tools, list):
        raise DataError(f"{field}: expected a list of function schemas, found {type(tools).__name__}")
    return [_tool(tool, field, index) for index, tool in enumerate(tools)]


def _tool(tool: Any, field: str, index: int) -> Any:
    if not isinstance(tool, dict) or "function" in tool or "name" not in tool:
        return tool
    kind = tool.get("type")
    if kind not in (None, "function", "custom") and "input_schema" not in tool and "parameters" not in tool:
        raise DataError(f"{field}[{index}]: a tool of type {kind!r:.40} without a schema; add its 'input_schema'")
    function = {name: item for name, item in tool.items() if name not in ("type", "cache_control")}
    if "parameters" not in tool and "input_schema" in tool:
        function["parameters"] = function.pop("input_schema")
    return {"type": "function", "function": function}


_ARGUMENTS = ("args", "input", "kwargs", "arguments", "parameters")
"""Where a call of another form has its arguments; to pass them over would teach calls without any."""


def read_calls(value: Any, field: str) -> list[dict[str, Any]]:
    """Tool calls in canonical form: one or a list, as objects or JSON text, with the wrapper `function` or bare.

    Arguments come out as a dict; null and empty text mean none. A number as id becomes text.

    Raises:
        DataError: naming `field` and the call, when there is no name, or the arguments are no object or elsewhere.

    Example:
        >>> read_calls('{"name": "search", "arguments": "{}"}', "a.jsonl:1: messages[2]")
        [{'type': 'function', 'function': {'name': 'search', 'arguments': {}}}]
    """
    calls = as_json(value, field)
    return [_call(call, field, index) for index, call in enumerate(calls if isinstance(calls, list) else [calls])]


def _call(call: Any, field: str, index: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{field}[{index}]: expected a call with 'name' and 'arguments', found {call!r:.80}")
    arguments = function.get("arguments", function.get("parameters"))
    if arguments is None and (other := next((n for n in _ARGUMENTS if function.get(n) or call.get(n)), None)):
        raise DataError(f"{field}[{index}]: the call has '{other}'; put its arguments into 'arguments' beside 'name'")
    if function is not call and isinstance(function.get("arguments"), dict) and isinstance(call.get("id"), str):
        return {**call, "type": "function"}  # most calls
    if isinstance(arguments, str):
        arguments = as_json(arguments, f"{field}[{index}].arguments") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise DataError(f"{field}[{index}].arguments: expected an object, found {type(arguments).__name__}")
    if function is call:
        outer = {name: item for name, item in call.items() if name not in ("name", "arguments", "parameters")}
        function = {"name": call["name"]}
    else:
        outer = {name: item for name, item in call.items() if name != "function"}
    inner = {**function, "arguments": arguments}
    if "arguments" not in function:
        inner.pop("parameters", None)
    return with_id({**outer, "type": "function", "function": inner}, "id")


def with_id(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields with the id called `name` as text; a null one is left out."""
    value = fields.get(name, "")
    if value is None:
        del fields[name]
    elif isinstance(value, int) and not isinstance(value, bool):
        fields[name] = str(value)
    return fields


def pair_calls(messages: list[dict[str, Any]]) -> None:
    """Give the calls and answers of a conversation that came without ids the same ones, in place.

    After each assistant turn its answers stand until the next one. An answer with the id of a call is that call's;
    the others are taken in order, each for the first call left, of the same name if the answer has one. Ids are made
    as `call_1`, `call_2` and so on, leaving out those that the row has already.
    """
    if all(
        all(call.get("id") for call in message["tool_calls"])
        if "tool_calls" in message
        else message.get("role") != "tool" or message.get("tool_call_id")
        for message in messages
    ):
        return
    known = {str(message.get("tool_call_id")) for message in messages}
    known |= {str(call.get("id")) for message in messages for call in message.get("tool_calls", ())}
    fresh = (name for name in map(call_id, itertools.count(1)) if name not in known)
    starts = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    for start, end in itertools.pairwise([*starts, len(messages)]):
        answers = [message for message in messages[start:end] if message.get("role") == "tool"]
        _pair(messages[start].get("tool_calls", []), answers, fresh)


def _pair(calls: list[dict[str, Any]], answers: list[dict[str, Any]], fresh: Any) -> None:
    named = {call["id"] for call in calls if isinstance(call.get("id"), str)}
    given = [answer.get("tool_call_id") for answer in answers]
    left = [call for call in calls if not call.get("id") or call["id"] not in given]
    for answer, own in zip(answers, given, strict=True):
        if own is not None and not isinstance(own, str):
            continue  # `read_sample` refuses it
        # An answer whose id no call has belongs to a call without one, if to any.
        fitting = left if not own else [] if own in named else [call for call in left if not call.get("id")]
        same = [call for call in fitting if call["function"]["name"] == answer.get("name")]
        if call := next(iter(same or fitting), None):
            left = [other for other in left if other is not call]
            answer["tool_call_id"] = call["id"] = call.get("id") or own or next(fresh)
    for call in left:
        call["id"] = call.get("id") or next(fresh)
