"""Is this row a conversation that can be rendered? Checked once, where it is read, naming file, line and field."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, cast

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.jsonl import decode
from sage.libs.finetune.agent.types import Sample, check_tools

_HALF = re.compile("[\ud800-\udfff]")
ROLES = ("system", "user", "assistant", "tool")


def read_sample(row: Mapping[str, Any], where: str) -> Sample:
    """The row in canonical form: `messages` and `tools` in the OpenAI form, `arguments` as a dict, content as text.

    Args:
        row: A parsed JSON object; not changed. Other fields than `messages` and `tools` are kept as they are.
        where: File and line, for the error.

    Raises:
        DataError: naming `where`, the message, the field, what was expected and what was found.

    Example:
        >>> row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]}
        >>> read_sample(row, "a.jsonl:1")["messages"][1]["content"]
        ''
        >>> read_sample({"messages": [{"role": "human", "content": "Hi"}]}, "a.jsonl:1")
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.DataError: a.jsonl:1: messages[0].role: expected one of system, user, \
assistant, tool, found 'human'
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with 'messages', found {type(row).__name__}")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: {_no_messages(row)}")
    tools = row.get("tools") or []
    if isinstance(tools, str):
        tools = _parsed(tools, f"{where}: tools")
    if not isinstance(tools, list):
        raise DataError(f"{where}: tools: expected a list of function schemas, found {type(tools).__name__}")
    check_tools(tools, where)
    read = [_message(message, f"{where}: messages[{index}]") for index, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message in read):
        raise DataError(f"{where}: messages: no assistant turn, so there is nothing to train on or to score")
    sample = {**row, "messages": read, "tools": tools}
    _check_text(list(sample), f"{where}: names of the fields")
    for name, value in sample.items():
        _check_text(value, f"{where}: {name}")
    return cast(Sample, sample)


def _no_messages(row: Mapping[str, Any]) -> str:
    if "steps" in row and "instruction" in row:
        return "this is a trajectory, not a training row; run `sage-finetune convert` on the file first"
    found = ", ".join(map(str, row)) or "nothing"
    return f"field 'messages': expected a non-empty list of chat messages (the row has {found})"


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise DataError(f"{where}: expected an object with role and content, found {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise DataError(f"{where}.role: expected one of {', '.join(ROLES)}, found {role!r}")
    if content is not None and not isinstance(content, str):
        raise DataError(f"{where}.content: expected text or null, found {type(content).__name__}")
    weight = message.get("weight", 1)
    if role == "assistant" and not _is_weight(weight):
        raise DataError(f"{where}.weight: expected a finite number from 0 up, found {weight!r:.80}")
    read = {**message, "content": content or ""}
    if message.get("tool_calls"):
        if role != "assistant":
            raise DataError(f"{where}.tool_calls: only the assistant calls tools, not the {role}")
        if not isinstance(message["tool_calls"], list):
            raise DataError(f"{where}.tool_calls: expected a list, found {type(message['tool_calls']).__name__}")
        read["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(message["tool_calls"])
        ]
    return read


def _is_weight(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= sys.float_info.max


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: expected {{'function': {{'name': ..., 'arguments': {{...}}}}}}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{where}.function.arguments")
    if not isinstance(arguments, dict):
        raise DataError(f"{where}.function.arguments: expected an object, found {type(arguments).__name__}")
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _check_text(value: object, field: str) -> None:
    r"""Refuse text with half a character (`\ud83d` alone, of an emoji): neither tokenizers nor files can take it."""
    waiting = [(field, value)]
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, str):
            if half := _HALF.search(value):
                raise DataError(f"{field}: holds half a character ({half[0]!a} at {half.start()}), no valid Unicode")
        elif isinstance(value, Mapping):
            waiting += [(f"{field}.{name}", item) for name, item in value.items()]
            waiting.append((f"{field}, names of its fields", list(value)))
        elif isinstance(value, list):
            waiting += [(f"{field}[{index}]", item) for index, item in enumerate(value)]


def _parsed(text: str, where: str) -> Any:
    try:
        return decode(text.encode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON: {error}") from None
