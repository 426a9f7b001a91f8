from __future__ import annotations

import pytest
from tests.unit.sources.foreign import ANTHROPIC_ROW as ROW

from sage.libs.finetune.agent import DataError
from sage.libs.finetune.agent.sources.importers.anthropic import ANTHROPIC
from sage.libs.finetune.agent.sources.rows import read_sample

WHERE = "f.jsonl:3"


def read(row):
    return read_sample(ANTHROPIC.read(row, WHERE), WHERE)


def test_blocks_become_turns():
    call = {"type": "function", "function": {"name": "search", "arguments": {}}}
    sample = read(ROW)
    assert sample["messages"] == [
        {"role": "system", "content": "You are."},
        {"role": "user", "content": "Where?"},
        {
            "role": "assistant",
            "content": "I look twice.",
            "reasoning_content": "hm",
            "tool_calls": [
                {**call, "id": "t1", "function": {"name": "search", "arguments": {"q": 1}}},
                {**call, "id": "t2"},
            ],
        },
        {"role": "tool", "tool_call_id": "t2", "content": "no", "is_error": True},
        {"role": "tool", "tool_call_id": "t1", "content": "a\nb"},
        {"role": "user", "content": "Go on."},
        {"role": "assistant", "content": "There.", "stop_reason": "end_turn"},
        {"role": "tool", "tool_call_id": "t9", "content": ""},
    ]
    assert sample["tools"] == [
        {
            "type": "function",
            "function": {"name": "search", "description": "d", "parameters": {"type": "object", "properties": {}}},
        }
    ]
    assert sample["metadata"] == {"model": "claude", "blocks": {"messages[1].content[0].signature": "sig"}}


def test_a_row_of_mere_text_is_no_proof_but_fits():
    plain = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert not ANTHROPIC.matches(plain) and ANTHROPIC.accepts(plain)
    assert ANTHROPIC.matches(ROW) and not ANTHROPIC.matches({**plain, "system": "You are."})
    openai = {"messages": [*plain["messages"], {"role": "tool", "content": "", "tool_call_id": "a"}]}
    assert not ANTHROPIC.accepts(openai) and not ANTHROPIC.matches({**openai, "system": "You are."})
    assert [message["content"] for message in read(plain)["messages"]] == ["a", "b"]


def said(role, *blocks):
    return {"messages": [{"role": role, "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (said("user", {"type": "image"}), "messages[0].content[0]: a block of type 'image' in a turn of the user"),
        (said("assistant", {"type": "tool_result"}), "messages[0].content[0]: a block of type 'tool_result' in a"),
        (said("user", "text"), "messages[0].content[0]: a block of type str in a turn of the user"),
        (said("user", {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}),
         "messages[0].content[0].content[0]: a block of type 'image'"),
        (said("assistant", {"type": "tool_use", "id": "a", "name": "f", "input": [1]}),
         "messages[0].content[0].input: expected an object, found list"),
        (said("assistant", {"type": "tool_use", "id": "a", "input": {}}), "messages[0].content[0].name: expected text"),
        (said("assistant", {"type": "tool_use", "id": "a", "name": "f", "input": {}}, {"type": "text", "text": "x"}),
         "messages[0].content[1]: text after a call in the same turn"),
        (said("assistant", {"type": "text", "text": 5}), "messages[0].content[0].text: expected text, found int"),
        (said("tool"), "messages[0].role: expected user or assistant, found 'tool'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: expected text or a list of blocks"),
        ({"messages": ["Hi"]}, "messages[0]: expected a message (an object), found str"),
        ({"messages": {}}, "field 'messages': expected a non-empty list of messages, found {}"),
        ({**ROW, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]: a tool of type 'bash_2025"),
        ({**ROW, "system": 5}, "system.content: expected text or a list of blocks, found int"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_in_a_chat_is_refused_by_its_place(row, message):
    with pytest.raises(DataError) as caught:
        read(row)
    assert str(caught.value).startswith(f"{WHERE}: {message}")


def test_calls_of_the_other_form_are_refused_and_null_ones_left_out():
    """`tool_calls: null` beside blocks ended in a TypeError."""
    assert read({"messages": [{"role": "assistant", "content": "a", "tool_calls": None}]})["messages"] == [
        {"role": "assistant", "content": "a"}
    ]
    with pytest.raises(DataError, match=r"messages\[0\]\.tool_calls: a call of OpenAI's form; read the file with"):
        read({"messages": [{"role": "assistant", "content": "a", "tool_calls": [1]}]})
