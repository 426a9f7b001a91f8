"""Prompts and replies as text that a page can show: short enough, valid Unicode, calls as they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def valid(value: object) -> str:
    """Text that can be written as UTF-8: half characters become question marks.

    Example:
        >>> valid("a" + chr(0xD83D))
        'a?'
    """
    return str(value).encode("utf-8", "replace").decode("utf-8")


def conversation_text(messages: Any) -> str:
    r"""A conversation, its turns apart and each begun by its role; what is no list of messages as it is.

    Example:
        >>> conversation_text([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}])
        'user: 2 + 2?\n\nassistant: 4'
    """
    if not isinstance(messages, list):
        return "" if messages is None else str(messages)
    return "\n\n".join(map(_turn, messages))


def value_text(value: Any) -> str:
    """A text as it is, None as nothing, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def without_middle(text: str, length: int) -> str:
    """The text, without its middle where it is longer: how a prompt ends says more than how it goes on.

    Args:
        text: Any.
        length: Characters of it to keep; how many are missing is written in between.

    Example:
        >>> without_middle("abcdefghij", 6)
        'ab [... 4 characters ...] ghij'
    """
    if len(text) <= length:
        return text
    head = length // 3
    return f"{text[:head]} [... {len(text) - length} characters ...] {text[len(text) - (length - head) :]}"


def _turn(message: Mapping[str, Any]) -> str:
    calls = [value_text(call.get("function", call)) for call in message.get("tool_calls") or ()]
    return f"{message.get('role')}: " + "\n".join(filter(None, [str(message.get("content") or ""), *calls]))
