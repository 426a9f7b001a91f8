import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.items import read_items
from sage.libs.finetune.agent.evaluation.known import CAPABILITIES
from sage.libs.finetune.agent.evaluation.score import Capability, Score

SUMS = Capability("sums", lambda *_: Score(1.0, None, ""), lambda row, where: row.get("answer"), lambda _: {})
CALL = {"function": {"name": "find", "arguments": '{"q": "tea"}'}}
TOOL = {"name": "find", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}


@pytest.mark.parametrize("field", ["prompt", "question", "instruction"])
def test_a_text_is_the_prompt(field):
    [item] = read_items(SUMS, [{field: "2 + 2?", "answer": 4, "system": "Be brief."}], "rows")
    assert item["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
    ]
    assert (item["id"], item["gold"], item["tools"], item["metadata"]) == ("row-1", 4, [], {})


def test_the_last_assistant_turn_is_gold_and_no_part_of_the_prompt():
    rows = [
        {
            "messages": [{"role": "user", "content": "Tea?"}, {"role": "assistant", "tool_calls": [CALL]}],
            "tools": [TOOL],
        }
    ]
    [item] = read_items(CAPABILITIES["tool_use"], rows, "rows")
    assert [message["role"] for message in item["messages"]] == ["user"]
    assert item["tools"] == [{"type": "function", "function": TOOL}]  # many data sets leave the wrapper out
    assert item["gold"]["calls"] == [{"name": "find", "arguments": {"q": ["tea"]}}]
    assert CAPABILITIES["tool_use"].score('{"name": "find", "arguments": {"q": "tea"}}', item).value == 1.0


def test_gold_and_the_row_s_own_fields_stay_as_they_are():
    [item] = read_items(SUMS, [{"prompt": "Do it.", "gold": {"any": "thing"}, "answer": 5, "mine": 1}], "rows")
    assert (item["gold"], item["answer"], item["mine"]) == ({"any": "thing"}, 5, 1)


def test_messages_become_canonical():
    content = [{"type": "text", "text": "Te"}, {"type": "text", "text": "a?"}]
    messages = [{"role": "developer", "content": "Help."}, {"role": "user", "content": content}]
    messages += [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    messages += [{"role": "tool", "content": "12", "tool_call_id": "call00001"}]
    [item] = read_items(SUMS, [{"messages": messages, "id": 7, "tools": "[]"}], "rows")
    assert item["id"] == "7" and item["messages"][0]["role"] == "system"
    assert item["messages"][1]["content"] == "Tea?"
    assert item["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"q": "tea"}
    assert item["messages"][2]["tool_calls"][0]["id"] == "call00001"


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([], "rows: there are no rows to test sums with; give at least one"),
        (["2 + 2?"], "rows, row 1: expected a JSON object, found str"),
        ([{"answer": 4}], "rows, row 1: no prompt; expected 'messages', or one of prompt, question, instruction"),
        ([{"messages": []}], "field 'messages': expected a non-empty list of chat messages, found []"),
        ([{"prompt": 5}], "field 'prompt': expected text or a list of chat messages, found 5"),
        ([{"messages": [{"role": "human"}]}], "messages[0]: expected a message with a role of system, developer, user"),
        ([{"messages": [{"role": "user", "content": 5}]}], "messages[0].content: expected text or null, found int"),
        ([{"messages": [{"role": "assistant", "content": "4"}]}], "nothing stands before the assistant's turn"),
        ([{"prompt": "a", "tools": "[{"}], "rows, row 1: tools: is no valid JSON"),
        ([{"prompt": "a", "tools": [{"function": {}}]}], "rows, row 1: tools[0]"),
        ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}], "rows, row 2: id '1' is that of rows, row 1 too"),
        ([{"prompt": "a", "metadata": 5}], "metadata: expected an object, found int"),
        ([{"messages": [{"role": "user", "tool_calls": [5]}]}], "messages[0].tool_calls[0]: expected {'function'"),
    ],
)
def test_a_row_that_is_no_item_is_named(rows, error):
    with pytest.raises(DataError) as caught:
        read_items(SUMS, rows, "rows")
    assert error in str(caught.value) and "\n" not in str(caught.value)


def test_a_question_shows_its_choices() -> None:  # they stand in a field of their own in MMLU, ARC, CommonsenseQA
    row = {"question": "Which is red?", "choices": ["sky", "rose"], "answer": "B"}
    [item] = read_items(CAPABILITIES["reasoning"], [row], "rows")
    assert item["messages"] == [{"role": "user", "content": "Which is red?\n(A) sky\n(B) rose"}]


def test_half_a_character_in_a_row_is_named_with_it():
    with pytest.raises(DataError, match=r"rows, row 1: holds half a character \('\\ud83d'\), no valid Unicode"):
        read_items(SUMS, [{"prompt": "tea \ud83d", "answer": 4}], "rows")


def test_null_fields_are_as_good_as_absent():
    turns = [{"role": "user", "content": "Tea?"}, {"role": "assistant", "tool_calls": [CALL]}]
    row = {"messages": turns, "tools": [TOOL], "gold": None, "expected": None, "call": None}
    assert read_items(CAPABILITIES["tool_use"], [row], "rows")[0]["gold"]["calls"][0]["name"] == "find"
    assert read_items(CAPABILITIES["timing"], [row], "rows")[0]["gold"] == {"call": True}
    row = {"messages": None, "question": "2 + 2?", "choices": ["3", "4"], "answer": 1}
    assert read_items(CAPABILITIES["reasoning"], [row], "rows")[0]["messages"][0]["content"].endswith("(B) 4")
