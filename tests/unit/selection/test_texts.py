from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer

from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.pipeline import collect_and_convert
from sage.libs.finetune.agent.selection.texts import SampleText, conversation, sample_key, sample_text, task_of
from sage.libs.finetune.agent.tokenization.render import render
from sage.libs.finetune.agent.types import TaskSample


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "call00001", "type": "function", "function": {"name": name, "arguments": arguments}}


CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Find tea."},
        {"role": "assistant", "content": "I look.", "tool_calls": [call("find", {"query": "tea", "limit": 3})]},
        {"role": "tool", "tool_call_id": "call00001", "name": "find", "content": "tea=12"},
        {"role": "assistant", "content": "12"},
    ],
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}],
    "metadata": {"family": "shop", "kind": "price", "flaw": "corrupted"},
}
UNTRAINED = {
    "messages": [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "Wrong.", "weight": 0},
        {"role": "user", "content": "No."},
        {"role": "assistant", "reasoning_content": "Hm.", "content": "Right."},
    ]
}

FORMS = [
    (CHAT, SampleText("Be brief.\nFind tea.\ntea=12", 'I look.\nfind {"limit": 3, "query": "tea"}\n12', "shop")),
    (UNTRAINED, SampleText("Go.\nWrong.\nNo.", "Hm.\nRight.", "")),
    ({"instruction": "Add.", "input": "2 and 3", "output": "5"}, SampleText("Add.\n2 and 3", "5", "")),
    (
        {"instruction": "B", "output": "b", "input": None, "system": "S", "history": [["A", "a"]]},
        SampleText("S\nA\nB", "a\nb", ""),
    ),
    ({"prompt": "Q", "completion": "A", "metadata": {"task": "qa"}}, SampleText("Q", "A", "qa")),
    (
        {
            "prompt": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "no"}],
            "completion": [{"role": "assistant", "content": "A"}],
        },
        SampleText("Q\nno", "A", ""),
    ),
    ({"text": "words"}, SampleText("", "words", "")),
    ("words", SampleText("", "words", "")),
    (TaskSample("planning", {"text": "words"}), SampleText("", "words", "planning")),
    (TaskSample("planning", CHAT), SampleText(*sample_text(CHAT, "x")[:2], "planning")),
]


@pytest.mark.parametrize(("sample", "expected"), FORMS, ids=range(len(FORMS)))
def test_every_form_has_its_text_and_stays_as_it_is(sample: Any, expected: SampleText) -> None:
    before = copy.deepcopy(sample)
    assert sample_text(sample, "sample 0") == expected
    assert sample == before
    assert expected.text == f"{expected.prompt}\n{expected.response}"


@pytest.mark.parametrize("sample", [sample for sample, _ in FORMS], ids=range(len(FORMS)))
def test_conversations_can_be_rendered_and_belong_to_nobody_else(sample: Any) -> None:
    before = copy.deepcopy(sample)
    found = conversation(sample, "sample 0")
    if found is None:
        assert sample_text(sample, "sample 0").prompt == ""
        return
    assert any(label >= 0 for label in render(found, tiny_tokenizer()).labels)
    assert conversation(found, "sample 0") == found
    found["messages"][0]["content"] = "changed"
    assert sample == before


def test_the_prompt_of_a_completion_is_context() -> None:
    found = conversation(FORMS[5][0], "sample 0")
    assert found is not None and [message.get("weight") for message in found["messages"]] == [None, 0.0, None]


def test_arguments_and_tools_may_be_json_and_content_null() -> None:
    row = copy.deepcopy(CHAT)
    row["messages"][2] |= {"content": None, "name": None, "tool_calls": [call("find", '{"query": "tea"}')]}
    row["tools"] = '[{"type": "function", "function": {"name": "find"}}]'
    found = conversation(row, "sample 0")
    assert found is not None and found["tools"] == [{"type": "function", "function": {"name": "find"}}]
    assert found["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"query": "tea"}
    assert found["messages"][2]["content"] == "" and "name" not in found["messages"][2]


def test_the_metadata_tells_the_task_and_nothing_else() -> None:
    assert sample_text({**CHAT, "metadata": {"family": "shop", "flaw": "none"}}, "x") == sample_text(CHAT, "x")
    assert conversation(CHAT, "x") == conversation({**CHAT, "metadata": {}}, "x")


@pytest.mark.parametrize(
    ("metadata", "task"),
    [
        ({"task_type": "a", "family": "b", "task": "c", "kind": "d"}, "a"),
        ({"family": "b", "task": "c", "kind": "d"}, "b"),
        ({"task": "c", "kind": "d"}, "c"),
        ({"kind": 4, "task": None}, "4"),
        ({}, ""),
        ("no object", ""),
    ],
)
def test_where_the_task_stands(metadata: Any, task: str) -> None:
    assert task_of({"text": "x", "metadata": metadata}) == task
    assert task_of(TaskSample("own", {"text": "x", "metadata": metadata})) == "own"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (7, "sample 4: expected a row with messages, instruction and output, prompt and completion, or text, or a"),
        ({}, "it has nothing"),
        ({"question": "x", "label": 1}, "it has question, label"),
        ({"text": 7}, "it has text"),
        (TaskSample("a", {"instruction": "x"}), "it has instruction"),
        ({"messages": []}, r"sample 4: messages: expected a list of at least one message, found \[\]"),
        ({"messages": "hello"}, "found 'hello'"),
        ({"messages": ["hello"]}, r"messages\[0\]: expected an object with role and content, found 'hello'"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no assistant turn"),
        (
            {"messages": [{"role": "assistant", "content": [{"text": "x"}]}]},
            r"\[0\].content: expected text, found list",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": {}, "name": 3}]}, r"\[0\].name: expected text, found int"),
        ({"messages": [{"role": "assistant", "tool_calls": 3}]}, "tool_calls: expected a list, found int"),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}]}, r"tool_calls\[0\]: expected {'function'"),
        ({"messages": [{"role": "assistant", "tool_calls": [call("f", "{")]}]}, "arguments: is not valid JSON"),
        ({"messages": [{"role": "assistant", "tool_calls": [call("f", [1])]}]}, "expected an object, found list"),
        ({"messages": [{"role": "assistant", "content": "x"}], "tools": {"a": 1}}, "tools: expected a list"),
        ({"instruction": "x", "output": 5}, "output: expected text, found int"),
        ({"instruction": "x", "output": "y", "history": ["ab"]}, "history: expected a list of"),
        ({"prompt": "x", "completion": []}, "expected two texts or two lists of messages, found str and list"),
    ],
)
def test_anything_else_is_refused_by_name(sample: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        sample_text(sample, "sample 4")
    assert str(error.value).startswith("sample 4: ")


def test_keys_are_equal_for_equal_samples_only() -> None:
    samples = [CHAT, UNTRAINED, "words", {"text": "words"}, TaskSample("a", {}), TaskSample("b", {})]
    samples += [TaskSample("a", {}, source="s"), {"text": "\ud83d"}]
    assert len({sample_key(sample) for sample in samples}) == len(samples)
    assert sample_key(dict(reversed(CHAT.items()))) == sample_key(CHAT)
    assert len(sample_key("words")) == 64
    for broken in ({"text": float("nan")}, {"text": object()}, {"text": {1, 2}}):
        with pytest.raises(DataError, match="cannot be written as JSON"):
            sample_key(broken)


def test_desk_rows_are_told_apart_by_their_text() -> None:
    rows = collect_and_convert(DeskExpert(), desk_tasks("train", 12), environment=DeskEnvironment)
    assert len({sample_text(row, "row").text for row in rows}) == 12
    assert [task_of(row) for row in rows] == [row["metadata"]["family"] for row in rows]
