"""Anthropic's form: turns of content blocks, `{"system", "tools": [{"name", "input_schema"}], "messages": [...]}`.

    text                   content
    thinking               reasoning_content
    tool_use               a call of the assistant turn
    tool_result            a turn of role `tool` each; `is_error` stays on it

What one user turn answers and says besides becomes the answers first and then the user's words. Blocks have fields
that a chat message has no place for (a thought's `signature`, `citations`): they go to `metadata["blocks"]` under
their path. `cache_control` is an option of a request, not of the conversation, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import (
    Importer,
    as_json,
    pair_calls,
    read_metadata,
    read_tools,
    with_id,
)
from sage.libs.finetune.agent.sources.importers.weights import read_weight, refuse_row_switches

_BLOCKS = {
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "user": ("text", "tool_result"),
    "system": ("text",),
}
_OWN = {
    "text": ("text",),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
}
"""What is read of a block of each type, beside its type."""


_OPENAI = ("tool_calls", "function_call")


def _matches(row: Mapping[str, Any]) -> bool:
    if not _accepts(row):
        return False
    tools = row.get("tools")
    schemas = isinstance(tools, list) and any(isinstance(tool, Mapping) and "input_schema" in tool for tool in tools)
    return (
        schemas
        or isinstance(row.get("system"), list)
        or any(
            isinstance(block, Mapping) and block.get("type") in ("tool_use", "tool_result", "thinking")
            for message in row["messages"]
            if isinstance(message.get("content"), list)
            for block in message["content"]
        )
    )


def _accepts(row: Mapping[str, Any]) -> bool:
    """Anthropic's two roles and nothing of OpenAI's; a turn of mere text looks alike in both."""
    messages = row.get("messages")
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(message, Mapping)
            and message.get("role") in ("user", "assistant", "system")
            and not any(message.get(name) for name in _OPENAI)
            for message in messages
        )
        and not row.get("functions")
        and not ("chosen" in row and "rejected" in row)
    )


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    refuse_row_switches(row, where)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: field 'messages': expected a non-empty list of messages, found {messages!r:.80}")
    turns: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    if system := row.get("system"):
        turns += _turns({"role": "system", "content": system}, f"{where}: system", "system", kept)
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise DataError(f"{where}: {path}: expected a message (an object), found {type(message).__name__}")
        for name in _OPENAI:
            if message.get(name):
                raise DataError(f"{where}: {path}.{name}: a call of OpenAI's form; read the file with --from chat")
        own = {"role": None, **{name: value for name, value in message.items() if name not in _OPENAI}}
        turns += _turns(read_weight(own, f"{where}: {path}"), f"{where}: {path}", path, kept)
    pair_calls(turns)
    metadata = read_metadata(row, ("messages", "tools", "system"))
    if kept:
        metadata = {**metadata, **read_metadata({"metadata": metadata, "blocks": kept}, ())}
    return {"messages": turns, "tools": read_tools(row.get("tools"), f"{where}: tools"), "metadata": metadata}


def _turns(message: dict[str, Any], where: str, path: str, kept: dict[str, Any]) -> list[dict[str, Any]]:
    """The message as one turn, or several when a user turn answers calls; what has no place in them goes to `kept`."""
    role, content = message["role"], message.get("content")
    if role not in ("user", "assistant", "system"):
        raise DataError(f"{where}.role: expected user or assistant, found {role!r:.40}")
    if content is None or isinstance(content, str):
        return [{**message, "content": content or ""}]
    if not isinstance(content, list):
        raise DataError(f"{where}.content: expected text or a list of blocks, found {type(content).__name__}")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for index, block in enumerate(content):
        at = f"{where}.content[{index}]"
        kind = _kind(block, role, at)
        for name, value in block.items():
            if name not in (*_OWN[kind], "type", "cache_control") and value is not None:
                kept[f"{path}.content[{index}].{name}"] = value
        if calls and kind != "tool_use":
            raise DataError(f"{at}: {kind} after a call in the same turn; a chat turn has its words before its calls")
        if kind == "thinking" and any(texts):
            raise DataError(f"{at}: thinking after words in the same turn; a chat turn has its thoughts first")
        if kind in ("text", "thinking"):
            (texts if kind == "text" else thoughts).append(_text(block.get(kind), f"{at}.{kind}"))
        elif kind == "tool_use":
            calls.append(_call(block, at))
        elif kind == "tool_result":
            answers.append(_answer(block, at))
    turn = {**message, "content": "".join(texts)}
    if thoughts:
        turn["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    if answers and not texts:
        rest = {name: value for name, value in message.items() if name not in ("role", "content")}
        answers[0] = {**rest, **answers[0]}
        return answers
    return [*answers, turn]


def _kind(block: Any, role: str, at: str) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(kind, str) or kind not in _BLOCKS[role]:
        found = repr(kind)[:40] if isinstance(block, Mapping) else type(block).__name__
        raise DataError(
            f"{at}: a block of type {found} in a turn of the {role}; expected {', '.join(_BLOCKS[role])} "
            "(only text can be trained on here)"
        )
    return kind


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{field}: expected text, found {type(value).__name__}")
    return value


def _call(block: Mapping[str, Any], at: str) -> dict[str, Any]:
    arguments = as_json(block.get("input") or {}, f"{at}.input")
    if not isinstance(arguments, Mapping):
        raise DataError(f"{at}.input: expected an object, found {type(arguments).__name__}")
    function = {"name": _text(block.get("name"), f"{at}.name"), "arguments": arguments}
    return with_id({"id": block.get("id"), "type": "function", "function": function}, "id")


def _answer(block: Mapping[str, Any], at: str) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        parts = []
        for index, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if kind != "text":
                raise DataError(
                    f"{at}.content[{index}]: a block of type {kind!r:.40}; only text can be trained on here"
                )
            parts.append(_text(part.get("text"), f"{at}.content[{index}].text"))
        content = "\n".join(parts)
    turn = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _text(content or "", f"{at}.content")}
    if block.get("is_error") is not None:
        turn["is_error"] = block["is_error"]
    return with_id(turn, "tool_call_id")


ANTHROPIC = Importer(
    name="anthropic",
    matches=_matches,
    read=_read,
    needs="{'system': ..., 'messages': [{'role': ..., 'content': [{'type': 'tool_use', ...}]}], "
    "'tools': [{'name', 'input_schema'}]}",
    accepts=_accepts,
)
