"""ShareGPT's form, as LLaMA-Factory, AgentInstruct and AgentGym have it: `{"conversations": [{"from", "value"}]}`.

A message from `function_call` holds the call as JSON, one or a list; consecutive ones, and words of the assistant
right before, become one assistant turn. The form has no ids, so calls and answers are paired in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.importers.base import Importer, pair_calls, read_metadata, read_tools
from sage.libs.finetune.agent.sources.importers.chat import add_calls, call_turn, messages_key, system_turn
from sage.libs.finetune.agent.sources.importers.weights import read_weight, refuse_row_switches

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response", "tool_response"), "tool"),
    "system": "system",
}
_CALLS = ("function_call", "tool_call")


def _matches(row: Mapping[str, Any]) -> bool:
    messages = row.get(messages_key(row) or "")
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, Mapping) and "from" in message and "role" not in message for message in messages)
        and not ("chosen" in row and "rejected" in row)
    )


def _read(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "chosen" in row and "rejected" in row:
        raise DataError(f"{where}: fields 'chosen' and 'rejected': a preference row, not a conversation")
    refuse_row_switches(row, where)
    key = messages_key(row)
    messages = row.get(key or "")
    if key is None or not isinstance(messages, list) or not messages:
        raise DataError(
            f"{where}: field '{key or 'conversations'}': expected a non-empty list of {{'from', 'value'}}, "
            f"found {messages!r:.80}"
        )
    turns: list[dict[str, Any]] = []
    used = {"tools", key}
    if not (isinstance(messages[0], Mapping) and messages[0].get("from") == "system"):
        turns = system_turn(row, where)
        used.add("system")
    for index, message in enumerate(messages):
        _add(turns, message, f"{where}: {key}[{index}]")
    pair_calls(turns)
    tools = read_tools(row.get("tools"), f"{where}: tools")
    return {"messages": turns, "tools": tools, "metadata": read_metadata(row, used)}


def _add(turns: list[dict[str, Any]], message: Any, at: str) -> None:
    if not isinstance(message, Mapping):
        raise DataError(f"{at}: expected {{'from', 'value'}}, found {type(message).__name__}")
    name, value = message.get("from"), message.get("value")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise DataError(f"{at}.from: expected one of {', '.join(_ROLES)}, found {name!r:.40}")
    read = read_weight({**message, "role": role}, at)
    others = {field: item for field, item in read.items() if field not in ("from", "value", "role")}
    if name in _CALLS:
        add_calls(turns, call_turn(value, others, f"{at}.value"), at)
        return
    if value is not None and not isinstance(value, str):
        raise DataError(f"{at}.value: expected text or null, found {type(value).__name__}")
    if "content" in others or "tool_calls" in others:
        raise DataError(f"{at}: fields of two forms; expected 'from' and 'value', found {', '.join(message)}")
    turns.append({"role": role, "content": value or "", **others})


SHAREGPT = Importer(
    name="sharegpt",
    matches=_matches,
    read=_read,
    needs="{'conversations': [{'from': 'human', 'value': ...}, {'from': 'gpt', 'value': ...}], 'tools': [...]}",
)
