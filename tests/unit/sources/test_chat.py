from __future__ import annotations

import pytest

from sage.libs.finetune.agent import DataError
from sage.libs.finetune.agent.sources.importers.chat import CHAT
from sage.libs.finetune.agent.sources.rows import read_sample

WHERE = "f.jsonl:3"
USER = {"role": "user", "content": "Hi"}
DONE = {"role": "assistant", "content": "Done"}
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


def read(row):
    return read_sample(CHAT.read(row, WHERE), WHERE)


def called(name, arguments, id):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_canonical_row_comes_out_as_it_went_in():
    row = {
        "messages": [
            {"role": "system", "content": "You are."},
            USER,
            {"role": "assistant", "content": "", "tool_calls": [called("search", {"q": 1}, "a")], "weight": 0},
            {"role": "tool", "content": "x", "tool_call_id": "a", "name": "search"},
            {**DONE, "reasoning_content": "hm"},
        ],
        "tools": [TOOL],
        "metadata": {"task_id": "t"},
    }
    assert read(row) == row
    assert read({"messages": [USER, DONE]}) == {"messages": [USER, DONE], "tools": [], "metadata": {}}


@pytest.mark.parametrize(
    ("arguments", "expected"), [({"q": 1}, {"q": 1}), ('{"q": 1}', {"q": 1}), ("", {}), (" ", {}), (None, {})]
)
@pytest.mark.parametrize("bare", [False, True])
def test_arguments_in_every_form_are_a_dict(arguments, expected, bare):
    call = called("search", arguments, "a")
    call = {"id": "a", **call["function"]} if bare else call
    sample = read({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert sample["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [called("search", expected, "a")],
    }


def test_the_deprecated_function_form_becomes_calls_with_ids_that_pair():
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "search", "arguments": '{"q": 1}'}},
            {"role": "function", "name": "search", "content": "x"},
            {"role": "assistant", "content": None, "function_call": {"name": "search", "arguments": "{}"}},
            {"role": "function", "name": "search", "content": "y"},
            {**DONE, "function_call": None},
        ],
        "functions": [{"name": "search", "parameters": {"type": "object"}}],
        "function_call": "auto",
    }
    sample = read(row)
    assert sample["messages"][1]["tool_calls"] == [called("search", {"q": 1}, "call00001")]
    assert sample["messages"][2] == {"role": "tool", "name": "search", "content": "x", "tool_call_id": "call00001"}
    assert sample["messages"][3]["tool_calls"][0]["id"] == sample["messages"][4]["tool_call_id"] == "call00002"
    assert sample["messages"][5] == DONE
    assert sample["tools"] == [TOOL]
    assert sample["metadata"] == {"function_call": "auto"}


def ids(row):
    return [
        [call.get("id") for call in message["tool_calls"]] if "tool_calls" in message else message.get("tool_call_id")
        for message in read(row)["messages"]
        if message["role"] == "tool" or "tool_calls" in message
    ]


def turns(calls, *answers):
    made = [{"function": {"name": name}, **({"id": id} if id else {})} for name, id in calls]
    return [
        {"role": "assistant", "content": "", "tool_calls": made},
        *({"role": "tool", "content": "x", **answer} for answer in answers),
    ]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (turns([("f", 0), ("g", 0)], {}, {}), [["call00001", "call00002"], "call00001", "call00002"]),
        (
            turns([("f", 0), ("g", 0)], {"name": "g"}, {"name": "f"}),
            [["call00002", "call00001"], "call00001", "call00002"],
        ),
        (turns([("f", "a"), ("g", "b")], {}, {}), [["a", "b"], "a", "b"]),
        (turns([("f", 0), ("g", 0)], {"tool_call_id": "x"}, {"tool_call_id": "y"}), [["x", "y"], "x", "y"]),
        (turns([("f", "a"), ("g", 0)], {"tool_call_id": "a"}, {}), [["a", "call00001"], "a", "call00001"]),
        (turns([("f", 7), ("g", 8)], {"tool_call_id": 8}, {"tool_call_id": 7}), [["7", "8"], "8", "7"]),
        (
            turns([("f", 0)], {}) + turns([("f", "call00001")], {}),
            [["call00002"], "call00002", ["call00001"], "call00001"],
        ),
        (turns([("f", 0)]), [["call00001"]]),
        (turns([("f", "a")], {"tool_call_id": "z"}, {}), [["a"], "z", "a"]),  # a stray answer is for preflight to find
    ],
)
def test_ids_that_are_missing_are_made_and_paired_in_order(messages, expected):
    assert ids({"messages": [USER, *messages]}) == expected


def test_ms_swift_calls_and_answers_become_turns():
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": "Let me look.", "loss": True},
            {"role": "tool_call", "content": '{"name": "search", "arguments": {"q": 1}}', "loss": True},
            {"role": "tool_call", "content": '{"name": "open", "arguments": {}}', "loss": True, "time": 5},
            {"role": "tool_response", "content": '{"a": 1}'},
            {"role": "tool_response", "content": "b"},
            {"role": "tool_call", "content": '{"name": "open", "arguments": {}}', "loss": False},
            {"role": "tool_response", "content": "c"},
            DONE,
        ],
        "tools": '[{"name": "search"}, {"type": "function", "function": {"name": "open"}}]',
    }
    sample = read(row)
    assert [message["role"] for message in sample["messages"]] == [
        "user", "assistant", "tool", "tool", "assistant", "tool", "assistant"
    ]  # fmt: skip
    first, second = sample["messages"][1], sample["messages"][4]
    assert (first["content"], first["weight"], second["weight"]) == ("Let me look.", 1.0, 0.0)
    assert [call["id"] for call in first["tool_calls"]] == ["call00001", "call00002"]
    assert first["tool_calls"][1]["time"] == 5
    assert [message.get("tool_call_id") for message in sample["messages"]][2:6] == [
        "call00001",
        "call00002",
        None,
        "call00003",
    ]
    assert [tool["function"]["name"] for tool in sample["tools"]] == ["search", "open"]


def test_content_parts_roles_and_thoughts_are_read():
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    sample = read(
        {
            "messages": [
                {"role": "developer", "content": parts},
                {**USER, "refusal": None, "timestamp": 4},
                {**DONE, "reasoning": "hm", "name": None, "tool_calls": None},
            ],
            "tools": None,
        }
    )
    assert sample["messages"] == [
        {"role": "system", "content": "ab"},
        {**USER, "refusal": None, "timestamp": 4},
        {**DONE, "reasoning_content": "hm"},
    ]


@pytest.mark.parametrize("key", ["conversations", "conversation"])
def test_other_names_of_messages_are_known(key):
    assert read({key: [USER, DONE]})["messages"] == [USER, DONE]


def test_further_fields_go_to_metadata_and_overwrite_nothing():
    row = {"messages": [USER, DONE], "tool_choice": "auto", "id": 1, "metadata": {"id": 2, "row.id": 3}}
    assert read(row)["metadata"] == {"id": 2, "row.id": 3, "row.row.id": 1, "tool_choice": "auto"}
    assert read({"messages": [USER, DONE], "metadata": "a note"})["metadata"] == {"metadata": "a note"}


def test_a_system_text_beside_the_messages_is_their_first_turn():
    system = {"role": "system", "content": "You are."}
    assert read({"messages": [USER, DONE], "system": "You are."})["messages"][0] == system
    row = read({"messages": [system, USER, DONE], "system": "Another."})
    assert row["messages"][0] == system and row["metadata"] == {"system": "Another."}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "field 'messages': expected a non-empty list of chat messages (the row has nothing)"),
        ({"text": "x"}, "field 'messages': expected a non-empty list of chat messages (the row has text)"),
        ({"messages": []}, "field 'messages': expected a non-empty list of chat messages, found []"),
        ({"messages": ["Hi"]}, "messages[0]: expected a message (an object), found str"),
        ({"prompt": [USER], "chosen": [DONE], "rejected": [DONE]}, "fields 'chosen' and 'rejected': a preference row"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0]: a part of type 'image_url'"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "conversations[0].role: expected one of system, user,"),
        ({"messages": [{"role": ["user"]}]}, "messages[0].role: expected one of system, user, assistant, tool"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: expected text, null or a list of text"),
        ({"messages": [{**DONE, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
         "messages[0].tool_calls[0].arguments: expected an object, found list"),
        ({"messages": [{**DONE, "tool_calls": [{"function": {"name": "f", "arguments": "{1"}}]}]},
         "messages[0].tool_calls[0].arguments: is not valid JSON: "),
        ({"messages": [{**DONE, "tool_calls": [{"function": {"arguments": {}}}]}]},
         "messages[0].tool_calls[0]: expected a call with 'name' and 'arguments'"),
        ({"messages": [{**DONE, "tool_calls": False}]}, "messages[0].tool_calls[0]: expected a call"),
        ({"messages": [{**DONE, "tool_calls": [called("f", {}, [1])]}]}, "messages[0].tool_calls[0].id: expected text"),
        ({"messages": [{**DONE, "tool_calls": [called("f", {}, "a")], "function_call": {"name": "f"}}]},
         "messages[0]: has both 'function_call' and 'tool_calls'"),
        ({"messages": [{"role": "tool_call", "content": "search"}]}, "messages[0].content: is not valid JSON"),
        ({"messages": [{"role": "tool_call", "content": "[]"}]}, "messages[0].content: expected a call with"),
        ({"messages": [DONE, {"role": "tool_call", "content": '{"name": "f"}', "loss": False}]},
         "messages[1]: this call and the turn before it become one assistant turn, but their switches differ (1 and"),
        ({"messages": [USER, DONE], "tools": "no"}, "tools: is not valid JSON"),
        ({"messages": [USER, DONE], "tools": {"a": 1}}, "tools: expected a list of function schemas, found dict"),
        ({"messages": [USER, DONE], "functions": [5]}, "tools[0]: expected {'type': 'function'"),
        ({"messages": [USER, DONE], "tools": [{"type": "web_search", "name": "w"}]},
         "tools[0]: a tool of type 'web_search' without a schema"),
        ({"messages": [{**DONE, "reasoning_content": 5}]}, "messages[0].reasoning_content: expected text or null"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_names_file_line_and_field(row, message):
    with pytest.raises(DataError) as caught:
        read(row)
    assert str(caught.value).startswith(f"{WHERE}: {message}")
