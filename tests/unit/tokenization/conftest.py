from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import new_tokenizer

from sage.libs.finetune.agent.tokenization.template import TOOL_FORMATS, prepare_template
from sage.libs.finetune.agent.types import Message, ToolCall, ToolSpec


def call(name: str, **arguments: Any) -> ToolCall:
    return {"id": "call00001", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture
def tools() -> list[ToolSpec]:
    properties = {
        "query": {"type": "string"},
        "limit": {"type": ["integer", "null"]},
        "unit": {"enum": ["kg", "g"]},
        "deep": {"type": "boolean"},
        "where": {"type": "object"},
        "tags": {"type": "array"},
        "price": {"type": "number"},
        "other": {},
    }
    find = {
        "name": "find",
        "description": "Find an\n item.",
        "parameters": {"type": "object", "properties": properties, "required": ["query", "unit"]},
    }
    return [{"type": "function", "function": find}, {"type": "function", "function": {"name": "noop"}}]


@pytest.fixture
def messages() -> list[Message]:
    """Thought and call, an observation, parallel calls, two observations, an answer, a second question, an answer."""
    return [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "Price of thé?"},
        {"role": "assistant", "content": "Look it up.", "tool_calls": [call("find", query='thé "{x}"', unit="g")]},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "content": "", "tool_calls": [call("noop"), call("find", query="a\nb", unit="kg")]},
        {"role": "tool", "content": "ok"},
        {"role": "tool", "content": "none"},
        {"role": "assistant", "content": "It is 12."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye."},
    ]


@pytest.fixture(params=TOOL_FORMATS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """A tiny tokenizer with our template, once in each tool format."""
    tiny = new_tokenizer()
    prepare_template(tiny, request.param, small_model=True)
    return tiny
