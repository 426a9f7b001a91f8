"""ShareGPT, Alpaca and our own trajectories."""

from __future__ import annotations

import pytest
from tests.unit.sources.foreign import TRAJECTORY_ROW as TRAJECTORY

from sage.libs.finetune.agent import AgentTrajectory, DataError
from sage.libs.finetune.agent.chatml import from_chatml
from sage.libs.finetune.agent.sources.importers.known import IMPORTERS, ORDER
from sage.libs.finetune.agent.sources.rows import read_sample

WHERE = "f.jsonl:3"


def read(name, row):
    return read_sample(IMPORTERS[name].read(row, WHERE), WHERE)


def test_all_forms_are_registered_each_once():
    assert sorted(importer.name for importer in ORDER) == list(IMPORTERS)
    assert set(IMPORTERS) == {"trajectory", "atif", "fireact", "react", "anthropic", "sharegpt", "chat", "alpaca"}


def test_sharegpt_with_calls_as_llama_factory_has_it():
    row = {
        "conversations": [
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "I look."},
            {"from": "function_call", "value": '{"name": "search", "arguments": {"q": 1}}'},
            {"from": "function_call", "value": '{"name": "open", "arguments": "{}"}'},
            {"from": "observation", "value": "a"},
            {"from": "observation", "value": "b"},
            {"from": "function_call", "value": '[{"name": "open"}, {"name": "search"}]'},
            {"from": "function_response", "value": "c"},
            {"from": "tool", "value": "d"},
            {"from": "chatgpt", "value": None, "markdown": None},
        ],
        "system": "You are.",
        "tools": '[{"name": "search", "parameters": {}}, {"name": "open", "parameters": {}}]',
        "id": "x",
    }
    sample = read("sharegpt", row)
    assert [message["role"] for message in sample["messages"]] == [
        "system", "user", "assistant", "tool", "tool", "assistant", "tool", "tool", "assistant"
    ]  # fmt: skip
    first = sample["messages"][2]
    assert first["content"] == "I look."
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in first["tool_calls"]] == [
        ("call00001", "search", {"q": 1}), ("call00002", "open", {})
    ]  # fmt: skip
    ids = [message["tool_call_id"] for message in sample["messages"] if message["role"] == "tool"]
    assert ids == ["call00001", "call00002", "call00003", "call00004"]
    assert sample["messages"][8] == {"role": "assistant", "content": "", "markdown": None}
    assert sample["metadata"] == {"id": "x"} and len(sample["tools"]) == 2


def test_a_system_text_beside_a_conversation_that_has_one_is_kept_as_metadata():
    row = {
        "conversations": [{"from": "system", "value": "a"}, {"from": "gpt", "value": "b"}],
        "system": "c",
        "tools": "null",
    }
    sample = read("sharegpt", row)
    assert [message["content"] for message in sample["messages"]] == ["a", "b"]
    assert sample["metadata"] == {"system": "c"} and sample["tools"] == []


def test_agent_instruct_says_per_turn_what_is_trained_on():
    row = {
        "conversations": [
            {"from": "human", "loss": None, "value": "Rules"},
            {"from": "gpt", "loss": False, "value": "OK"},
            {"from": "human", "loss": None, "value": "Task"},
            {"from": "gpt", "loss": True, "value": "Act"},
        ],
        "id": "os_0",
    }
    assert [message.get("weight") for message in read("sharegpt", row)["messages"]] == [None, 0.0, None, 1.0]


def said(*messages):
    return {"conversations": [{"from": name, "value": value} for name, value in messages]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "field 'conversations': expected a non-empty list of {'from', 'value'}, found None"),
        ({"conversations": ["x"]}, "conversations[0]: expected {'from', 'value'}, found str"),
        (said(("alien", "x")), "conversations[0].from: expected one of human, user, gpt"),
        (said(("gpt", 5)), "conversations[0].value: expected text or null, found int"),
        (
            said(("function_call", "search(1)")),
            "conversations[0].value: is not valid JSON: Expecting value at character 1",
        ),
        (said(("function_call", '{"arguments": {}}')), "conversations[0].value[0]: expected a call with 'name'"),
        (said(("human", "x")), "messages: no assistant turn"),
        ({"conversations": [{"from": "gpt", "value": "a", "content": "b"}]}, "conversations[0]: fields of two forms"),
        ({**said(("human", "x")), "chosen": 1, "rejected": 2}, "fields 'chosen' and 'rejected': a preference row"),
    ],
)
def test_a_sharegpt_row_that_cannot_be_read_names_file_line_and_field(row, message):
    with pytest.raises(DataError) as caught:
        read("sharegpt", row)
    assert str(caught.value).startswith(f"{WHERE}: {message}")


def test_alpaca_with_history_and_system():
    row = {
        "instruction": "Add",
        "input": "1 2",
        "output": "3",
        "history": [["Hi", "Hello"]],
        "system": "You are.",
        "n": 1,
    }
    sample = read("alpaca", row)
    assert [(message["role"], message["content"]) for message in sample["messages"]] == [
        ("system", "You are."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Add\n1 2"), ("assistant", "3")
    ]  # fmt: skip
    assert sample["metadata"] == {"n": 1} and sample["tools"] == []
    assert read("alpaca", {"instruction": "Add", "input": "", "output": "3"})["messages"][0]["content"] == "Add"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a"}, "field 'output': expected text, found NoneType"),
        ({"instruction": "a", "output": ["b"]}, "field 'output': expected text, found list"),
        ({"instruction": "a", "output": "b", "input": 5}, "field 'input': expected text, found int"),
        ({"instruction": "a", "output": "b", "history": "x"}, "field 'history': expected a list of [asked, answered]"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "history[0]: expected [asked, answered], two texts"),
    ],
)
def test_an_alpaca_row_that_cannot_be_read_names_file_line_and_field(row, message):
    with pytest.raises(DataError) as caught:
        read("alpaca", row)
    assert str(caught.value).startswith(f"{WHERE}: {message}")


def test_a_trajectory_loses_nothing_on_the_way_in():
    sample = read("trajectory", TRAJECTORY)
    assert [message.get("weight") for message in sample["messages"] if message["role"] == "assistant"] == [
        None,
        0.0,
        None,
    ]
    assert from_chatml(sample) == AgentTrajectory.from_dict(TRAJECTORY)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**TRAJECTORY, "steps": []}, ": steps: expected at least one step, found none"),
        ({**TRAJECTORY, "colour": 1}, ": unknown field 'colour'"),
        ({**TRAJECTORY, "steps": [{"thought": "x"}]}, ", steps[0]: field 'action' is missing"),
        ({**TRAJECTORY, "steps": TRAJECTORY["steps"][2:] * 2}, ": task 't', step 1: 'finish' ends an episode"),
    ],
)
def test_a_trajectory_that_cannot_be_read_names_file_line_and_field(row, message):
    with pytest.raises(DataError) as caught:
        read("trajectory", row)
    assert str(caught.value).startswith(f"{WHERE}{message}")
