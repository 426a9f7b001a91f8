"""Is this row a conversation that can be rendered? Checked once, where it is read, naming file, line and field."""

from __future__ import annotations

import marshal
import re
import sys
from collections.abc import Mapping
from typing import Any, cast

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.strict import parse
from sage.libs.finetune.agent.types import Sample, check_tools

_HALF = re.compile("[\ud800-\udfff]")
_HALF_BYTES = re.compile(rb"\xed[\xa0-\xbf]")  # the same, as UTF-8 would write it
ROLES = ("system", "user", "assistant", "tool")
_TEXTS = ("reasoning_content", "tool_call_id", "name")
"""Fields of a message that are text where they are."""


def read_sample(row: Mapping[str, Any], where: str) -> Sample:
    """The row in canonical form: `messages` and `tools` in the OpenAI form, `arguments` as a dict, content as text.

    What it gives it accepts again and gives back the same.

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
        found = ", ".join(map(str, row))[:200] or "nothing"
        raise DataError(f"{where}: field 'messages': expected a non-empty list of chat messages (the row has {found})")
    tools = row.get("tools") or []
    if isinstance(tools, str):
        tools = _parsed(tools, f"{where}: tools")
    if not isinstance(tools, list):
        raise DataError(f"{where}: tools: expected a list of function schemas, found {type(tools).__name__}")
    check_tools(tools, where)
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise DataError(f"{where}: metadata: expected an object, found {type(metadata).__name__}")
    read = [_message(message, where, index) for index, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message in read):
        raise DataError(f"{where}: messages: no assistant turn, so there is nothing to train on or to score")
    sample = {**row, "messages": read, "tools": tools}
    if _may_be_broken(sample):
        _check_text(list(sample), f"{where}: names of the fields")
        for name, value in sample.items():
            _check_text(value, f"{where}: {name}")
    return cast(Sample, sample)


def _message(message: object, where: str, index: int) -> dict[str, Any]:
    """One message; its path is put together only for an error, since most rows are sound."""
    if not isinstance(message, dict):
        raise DataError(
            f"{where}: messages[{index}]: expected an object with role and content, found {type(message).__name__}"
        )
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise DataError(f"{where}: messages[{index}].role: expected one of {', '.join(ROLES)}, found {role!r:.80}")
    if content is not None and not isinstance(content, str):
        raise DataError(f"{where}: messages[{index}].content: expected text or null, found {type(content).__name__}")
    if role == "assistant" and not _is_weight(weight := message.get("weight", 1)):
        raise DataError(f"{where}: messages[{index}].weight: expected a finite number from 0 up, found {weight!r:.80}")
    read = {**message, "content": content or ""}
    for name in _TEXTS:
        if name in read and not isinstance(read[name], str) and read.pop(name) is not None:
            found = type(message[name]).__name__
            raise DataError(f"{where}: messages[{index}].{name}: expected text or null, found {found}")
    calls = message.get("tool_calls")
    if calls is not None and calls != []:
        path = f"{where}: messages[{index}].tool_calls"
        if role != "assistant":
            raise DataError(f"{path}: only the assistant calls tools, not the {role}")
        if not isinstance(calls, list):
            raise DataError(f"{path}: expected a list, found {type(calls).__name__}")
        read["tool_calls"] = [_call(call, path, number) for number, call in enumerate(calls)]
    elif "tool_calls" in read:
        del read["tool_calls"]
    return read


def _is_weight(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= sys.float_info.max


def _call(call: object, path: str, index: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{path}[{index}]: expected {{'function': {{'name': ..., 'arguments': {{...}}}}}}")
    if not isinstance(call.get("id", ""), str):
        raise DataError(f"{path}[{index}].id: expected text, found {type(call['id']).__name__}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{path}[{index}].function.arguments")
    if not isinstance(arguments, dict):
        raise DataError(f"{path}[{index}].function.arguments: expected an object, found {type(arguments).__name__}")
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _may_be_broken(sample: Any) -> bool:
    """Whether half a character may be in some text: one pass in C, which spares most rows the walk below."""
    try:
        return bool(_HALF_BYTES.search(marshal.dumps(sample)))
    except ValueError:  # values that are no plain JSON, from a data set registered as code
        return True


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
        return parse(text)
    except ValueError as error:
        raise DataError(f"{where}: is not valid JSON: {error}") from None
