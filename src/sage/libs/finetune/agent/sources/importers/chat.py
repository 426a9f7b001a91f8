"""OpenAI's chat form: `{"messages": [{"role", "content", "tool_calls", ...}], "tools": [...]}`.

It is the canonical form, written more loosely: arguments as JSON text, content as null or a list of text parts, the
deprecated `functions`, `function_call` and role `function`, role `developer`, tools without their wrapper, calls
without ids. ms-swift's roles `tool_call` and `tool_response` (JSON in `content`) are read as well: they come one call
a message, so consecutive ones, and words of the assistant right before, become one assistant turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import (
    Importer,
    as_json,
    pair_calls,
    read_calls,
    read_metadata,
    read_tools,
    with_id,
)
from sage.libs.finetune.agent.sources.importers.weights import SWITCHES, UNSUPPORTED, read_weight, refuse_row_switches

KEYS = ("messages", "conversations", "conversation")
"""Where a row may have its messages."""
_ROLES = {"developer": "system", "function": "tool", "tool_response": "tool"}
_KNOWN = ("system", "user", "assistant", "tool", *_ROLES, "tool_call")
_SWITCHES = frozenset((*SWITCHES, *UNSUPPORTED))
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHTS = ("reasoning", "thinking")
"""Other names of `reasoning_content` (vLLM, OpenRouter; Ollama)."""


def messages_key(row: Mapping[str, Any]) -> str | None:
    """The field that holds the row's messages, None when there is none."""
    return next((key for key in KEYS if row.get(key) is not None), None)


def add_calls(turns: list[dict[str, Any]], turn: dict[str, Any], where: str) -> None:
    """Append a turn of calls that came as a message of its own, or add its calls to the assistant turn before it.

    Raises:
        DataError: when the two are to become one turn and one of them is trained on otherwise than the other.
    """
    last = turns[-1] if turns else {}
    if last.get("role") != "assistant":
        turns.append(turn)
        return
    if last.get("weight", 1) != turn.get("weight", 1):
        raise DataError(
            f"{where}: this call and the turn before it become one assistant turn, but their switches differ "
            f"({last.get('weight', 1)} and {turn.get('weight', 1)}); give both the same"
        )
    if "weight" in turn:
        last["weight"] = turn["weight"]
    last.setdefault("tool_calls", []).extend(turn["tool_calls"])


def call_turn(text: Any, others: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The assistant turn that a message of nothing but calls stands for; its further fields go to the calls.

    Args:
        text: The calls, as JSON text or parsed.
        others: What else the message has, `weight` included.
        where: File, line, message and field.

    Raises:
        DataError: when the text is no call.
    """
    calls = read_calls(text, where)
    if not calls:
        raise DataError(f"{where}: expected a call with 'name' and 'arguments', found an empty list")
    extra = {name: value for name, value in others.items() if name != "weight"}
    turn = {"role": "assistant", "content": "", "tool_calls": [with_id({**extra, **call}, "id") for call in calls]}
    return {**turn, "weight": others["weight"]} if "weight" in others else turn


def text_of(content: Any, where: str) -> Any:
    """Content as text: null is none, a list of text parts is joined without anything between, as templates do.

    Raises:
        DataError: naming the type of a part that is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise DataError(f"{where}.content: expected text, null or a list of text parts, found {type(content).__name__}")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) else part
        if (kind not in _TEXT_PARTS and not isinstance(part, str)) or not isinstance(text, str):
            raise DataError(
                f"{where}.content[{index}]: a part of type {kind!r:.40}; only text can be trained on here, "
                "so give {'type': 'text', 'text': ...}"
            )
        texts.append(text)
    return "".join(texts)


def _matches(row: Mapping[str, Any]) -> bool:
    if "chosen" in row and "rejected" in row:
        return True  # to be refused by its name
    messages = row.get(messages_key(row) or "")
    if isinstance(messages, str):
        try:
            messages = as_json(messages, "messages")
        except DataError:
            return False
    return isinstance(messages, list) and (
        not messages
        or all(isinstance(message, Mapping) and "role" in message and not _has_blocks(message) for message in messages)
    )


def _has_blocks(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, Mapping) and part.get("type") in ("tool_use", "tool_result", "thinking", "redacted_thinking")
        for part in content
    )


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "chosen" in row or "rejected" in row:
        raise DataError(
            f"{where}: fields 'chosen' and 'rejected': a preference row, not a conversation; "
            "expected one with 'messages'"
        )
    refuse_row_switches(row, where)
    key = messages_key(row)
    if key is None:
        found = ", ".join(map(str, row))[:200] or "nothing"
        raise DataError(f"{where}: field 'messages': expected a non-empty list of chat messages (the row has {found})")
    messages = as_json(row[key], f"{where}: {key}")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: field '{key}': expected a non-empty list of chat messages, found {messages!r:.80}")
    turns: list[dict[str, Any]] = []
    used = ["tools", key]
    if not (isinstance(messages[0], dict) and messages[0].get("role") in ("system", "developer")):
        turns = system_turn(row, where)
        used.append("system")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise DataError(f"{where}: {key}[{index}]: expected a message (an object), found {type(message).__name__}")
        role = message.get("role")
        if not isinstance(role, str) or role not in _KNOWN:
            raise DataError(f"{where}: {key}[{index}].role: expected one of {', '.join(_KNOWN)}, found {role!r:.80}")
        if role == "tool_call":
            at = f"{where}: {key}[{index}]"
            read = read_weight({**message, "role": "assistant"}, at)
            others = {name: value for name, value in read.items() if name not in ("role", "content")}
            add_calls(turns, call_turn(message.get("content"), others, f"{at}.content"), at)
        else:
            turns.append(_message(message, role, where, key, index))
    pair_calls(turns)
    name = "tools" if row.get("tools") else "functions"
    tools = read_tools(row.get(name), f"{where}: {name}")
    options = row.get("chat_template_kwargs")
    if not tools and isinstance(options, Mapping) and (hidden := [n for n in options if "tools" in n and options[n]]):
        raise DataError(
            f"{where}: chat_template_kwargs.{hidden[0]}: tools are read from the field 'tools'; put them there"
        )
    return {"messages": turns, "tools": tools, "metadata": read_metadata(row, {*used, name})}


def system_turn(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The system message that stands in a field of the row, as the first turn; none where it has none."""
    content = text_of(row.get("system"), f"{where}: system")
    return [{"role": "system", "content": content}] if content else []


def _message(message: Mapping[str, Any], role: str, where: str, key: str, index: int) -> dict[str, Any]:
    """One message; the path in the row is put together only when it is needed, since most rows are sound."""
    turn = {**message}
    if role in _ROLES:
        turn["role"] = _ROLES[role]
    if not isinstance(turn.get("content"), str):
        turn["content"] = text_of(turn.get("content"), f"{where}: {key}[{index}]")
    if not _SWITCHES.isdisjoint(turn):
        turn = read_weight(turn, f"{where}: {key}[{index}]")
    if turn["role"] == "tool":
        with_id(turn, "tool_call_id")
    if "tool_calls" in turn:
        if turn["tool_calls"] in (None, [], ""):
            del turn["tool_calls"]
        else:
            turn["tool_calls"] = read_calls(turn["tool_calls"], f"{where}: {key}[{index}].tool_calls")
    if "function_call" in turn:
        call = turn.pop("function_call")
        if call and "tool_calls" in turn:
            raise DataError(f"{where}: {key}[{index}]: has both 'function_call' and 'tool_calls'; keep the latter")
        if call:
            turn["tool_calls"] = read_calls(call, f"{where}: {key}[{index}].function_call")
    for name in _THOUGHTS:
        if isinstance(turn.get(name), str) and not turn.get("reasoning_content"):
            turn["reasoning_content"] = turn.pop(name)
    return turn


CHAT = Importer(
    name="chat",
    matches=_matches,
    read=_read,
    needs="{'messages': [{'role': 'user', 'content': ...}, {'role': 'assistant', ...}], 'tools': [...]}",
)
