"""Rows of a test set as items: the prompt a model is given, and what is right.

A row says its prompt in one of two ways, `messages` or a text (`prompt`, `question`, `instruction`, with `system`), and
what is right either as `gold`, in the capability's own form, or in a foreign form that the capability reads. Where the
messages end in an assistant turn, that turn is what the model is asked for and no part of the prompt. Other fields stay
in the item, so that a scorer of one's own finds them there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.score import Capability, Item
from sage.libs.finetune.agent.types import check_tools

PROMPTS = ("prompt", "question", "instruction")
"""Fields that may hold the prompt where there are no messages."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def read_items(capability: Capability, rows: Iterable[Any], where: str) -> list[Item]:
    """The items of a test set.

    Args:
        capability: Knows the forms of what is right.
        rows: JSON objects; those without an `id` are called `row-1` and so on.
        where: Where they come from, for errors.

    Raises:
        DataError: when there are none, two have the same id, or naming `where`, the row, the field, what was expected
            and what was found.

    Example:
        >>> from sage.libs.finetune.agent.evaluation.score import Score
        >>> sums = Capability("sums", lambda *_: Score(1.0, None, ""), lambda row, where: row["answer"], lambda _: {})
        >>> [item] = read_items(sums, [{"question": "2 + 2?", "answer": 4}], "sums.jsonl")
        >>> item["id"], item["messages"], item["gold"]
        ('row-1', [{'role': 'user', 'content': '2 + 2?'}], 4)
    """
    return read_located(capability, ((f"{where}, row {n}", row) for n, row in enumerate(rows, start=1)), where)


def read_located(capability: Capability, rows: Iterable[tuple[str, Any]], where: str) -> list[Item]:
    """`read_items` for rows that come each with where it stands."""
    items: list[Item] = []
    places: dict[str, str] = {}
    for number, (place, row) in enumerate(rows, start=1):
        item = read_item(capability, row, place, number)
        if item["id"] in places:
            raise DataError(f"{place}: id '{item['id']}' is that of {places[item['id']]} too; give each row its own")
        places[item["id"]] = place
        items.append(item)
    if not items:
        raise DataError(f"{where}: there are no rows to test {capability.name} with; give at least one")
    return items


def read_item(capability: Capability, row: Any, where: str, number: int = 1) -> Item:
    """One row as an item; it is `row-<number>` when it has no id."""
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise DataError(f"{where}: metadata: expected an object, found {type(metadata).__name__}")
    canonical = {**row, "tools": _tools(row.get("tools"), where), "metadata": dict(metadata)}
    messages = _conversation(row, where)
    if "messages" in row:
        canonical["messages"] = messages
    gold = row["gold"] if row.get("gold") is not None else capability.read_gold(canonical, where)
    prompt = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if row.get("messages") is None and row.get("choices") is not None and isinstance(gold, Mapping):
        prompt = _with_choices(prompt, gold.get("choices") or {})
    if not prompt:
        raise DataError(f"{where}: messages: nothing stands before the assistant's turn, so there is no prompt")
    name = str(next((row[key] for key in ("id", "key") if row.get(key) is not None), f"row-{number}"))
    try:
        json.dumps([name, prompt, canonical["tools"]], ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone: JSON can say it, no tokenizer or file can hold it
        raise DataError(f"{where}: holds half a character ({error.object[error.start]!a}), no valid Unicode") from None
    return {**canonical, "id": name, "messages": prompt, "gold": gold}


def _with_choices(prompt: list[dict[str, Any]], choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A question that has its choices in a field of their own shows them, a line each."""
    lines = "".join(f"\n({label}) {words}" for label, words in choices.items())
    return [*prompt[:-1], {**prompt[-1], "content": f"{prompt[-1]['content']}{lines}"}]


def _conversation(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    field = next((name for name in ("messages", *PROMPTS) if row.get(name) is not None), None)
    if field is None:
        raise DataError(
            f"{where}: no prompt; expected 'messages', or one of {', '.join(PROMPTS)} (the row has "
            f"{', '.join(map(str, row))[:200] or 'nothing'})"
        )
    value = row[field]
    if isinstance(value, str) and field != "messages":
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        expected = "a non-empty list of chat messages" if field == "messages" else "text or a list of chat messages"
        raise DataError(f"{where}: field '{field}': expected {expected}, found {value!r:.80}")
    messages = [_message(message, f"{where}: {field}[{index}]") for index, message in enumerate(value)]
    system = row.get("system")
    if system and not isinstance(system, str):
        raise DataError(f"{where}: field 'system': expected text, found {type(system).__name__}")
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _message(message: Any, where: str) -> dict[str, Any]:
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or role not in _ROLES:
        found = type(message).__name__ if role is None else f"role {role!r:.40}"
        raise DataError(f"{where}: expected a message with a role of {', '.join(_ROLES)}, found {found}")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    if content is not None and not isinstance(content, str):
        raise DataError(f"{where}.content: expected text or null, found {type(content).__name__}")
    read = {**message, "role": _ROLES[role], "content": content or ""}
    calls = read.pop("tool_calls", None)
    if calls:
        if not isinstance(calls, list):
            raise DataError(f"{where}.tool_calls: expected a list, found {type(calls).__name__}")
        read["tool_calls"] = [_call(call, f"{where}.tool_calls[{index}]", index) for index, call in enumerate(calls)]
    return read


def _call(call: Any, where: str, index: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: expected {{'function': {{'name': ..., 'arguments': {{...}}}}}}, found {call!r:.80}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{where}.function.arguments")
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}.function.arguments: expected an object, found {type(arguments).__name__}")
    name = {"id": f"call{index + 1:05d}", "type": "function"}
    return {**name, **call, "function": {**function, "arguments": dict(arguments)}}


def _tools(tools: Any, where: str) -> list[Any]:
    """The tools with their wrapper, which many data sets leave out."""
    if isinstance(tools, str):
        tools = _parsed(tools, f"{where}: tools") if tools.strip() else []
    if not isinstance(tools, list | tuple | None):
        raise DataError(f"{where}: tools: expected a list of function schemas, found {type(tools).__name__}")
    wrapped = [
        {"type": "function", "function": dict(tool)}
        if isinstance(tool, Mapping) and "function" not in tool and isinstance(tool.get("name"), str)
        else tool
        for tool in tools or ()
    ]
    check_tools(wrapped, where)
    return wrapped


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: is no valid JSON: {error}") from None
