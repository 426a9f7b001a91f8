"""Rows to be checked: a right one, and its parts to make wrong ones of."""

from __future__ import annotations

from typing import Any

USER = {"role": "user", "content": "Find tea."}


def tool(name: str = "find", **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties or {"q": {"type": "string"}}, "required": ["q"]}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


def turn(content: str = "", *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content, **more}
    return {**message, "tool_calls": list(calls)} if calls else message


def call(id: str | None = "c1", name: str = "find", **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments or {"q": "tea"}}
    return {**({} if id is None else {"id": id}), "type": "function", "function": function}


def answer(id: str | None = "c1", content: str = "12") -> dict[str, Any]:
    return {"role": "tool", **({} if id is None else {"tool_call_id": id}), "content": content}


def row(*messages: dict[str, Any], tools: list[Any] | None = None, **more: Any) -> Any:
    return {"messages": list(messages), "tools": [tool()] if tools is None else tools, **more}


def right() -> Any:
    return row(USER, turn("Look.", call()), answer(), turn("12"))
