"""A sample in ShareGPT's form, with the roles that LLaMA-Factory and ms-swift gave it for tools.

A turn has no place for words beside a call. The words go into a turn of their own right before it, which this package
and ms-swift read as one; LLaMA-Factory skips such rows with a warning. Call ids, reasoning and names are left out.
"""

from __future__ import annotations

import json
from typing import Any

from sage.libs.finetune.agent.types import Message, Sample, ToolSpec

_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def sample_to_sharegpt(sample: Sample, where: str) -> dict[str, Any]:
    """The sample as `{"conversations": [{"from", "value"}], "system", "tools", "metadata"}`.

    `tools` is JSON text. `weight` stands on the turns that have one. Calls made at once are a JSON list.

    Example:
        >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        >>> sample_to_sharegpt({"messages": messages}, "row 1")["conversations"]
        [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Hello'}]
    """
    messages, row = list(sample["messages"]), dict[str, Any]()
    if messages[0]["role"] == "system":
        row["system"] = messages.pop(0)["content"]
    turns = [turn for message in messages for turn in _turns(message)]
    row = {"conversations": turns, **row}
    if tools := sample.get("tools"):
        row["tools"] = json.dumps([_bare(tool) for tool in tools], ensure_ascii=False)
    if metadata := sample.get("metadata"):
        row["metadata"] = metadata
    return row


def _turns(message: Message) -> list[dict[str, Any]]:
    weight = {"weight": message["weight"]} if "weight" in message and message["role"] == "assistant" else {}
    turns = [{"from": _ROLES[message["role"]], "value": message["content"], **weight}]
    if calls := message.get("tool_calls"):
        made = [{"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in calls]
        value = json.dumps(made[0] if len(made) == 1 else made, ensure_ascii=False)
        turns = [*(turns if message["content"] else []), {"from": "function_call", "value": value, **weight}]
    return turns


def _bare(tool: ToolSpec) -> Any:
    """The function schema without its wrapper, where that says nothing more."""
    return tool["function"] if tool.keys() <= {"type", "function"} and tool.get("type") == "function" else tool
