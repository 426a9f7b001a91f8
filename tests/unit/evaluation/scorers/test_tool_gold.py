import json

import pytest

from sage.libs.finetune.agent import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.scorers.tool_gold import gold_reply, read_gold
from sage.libs.finetune.agent.evaluation.scorers.tool_use import score_tool_use

CALL = {"name": "area", "arguments": {"base": 10}}
OPENAI = {"id": "1", "type": "function", "function": {"name": "area", "arguments": '{"base": 10}'}}
GOLD = {"calls": [{"name": "area", "arguments": {"base": [10]}}]}
USER = {"role": "user", "content": "How large?"}
FUNCTION = {"name": "area", "parameters": {"type": "dict", "properties": {"base": {"type": "float"}}}}


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"gold": GOLD}, GOLD),
        ({"expected": GOLD}, GOLD),
        ({"expected": [CALL]}, GOLD),
        ({"expected": CALL}, GOLD),
        ({"answer": json.dumps([CALL])}, GOLD),
        ({"answer": [OPENAI]}, GOLD),
        ({"expected": {"role": "assistant", "tool_calls": [OPENAI]}}, GOLD),
        ({"expected": []}, {"calls": []}),
        ({"expected": None}, {"calls": []}),
        ({"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [OPENAI]}]}, GOLD),
        ({"messages": [USER, {"role": "assistant", "content": "[area(base=10)]"}]}, GOLD),
        ({"messages": [USER, {"role": "assistant", "content": "I cannot."}]}, {"calls": []}),
        ({"expected": [CALL], "ordered": True}, {**GOLD, "ordered": True}),
        ({"ground_truth": [{"area": {"base": [10]}}]}, {**GOLD, "defaults": False}),
        (
            {"ground_truth": [{"area": {"base": [10]}}], "function": [FUNCTION]},
            {**GOLD, "defaults": False, "functions": [FUNCTION]},
        ),
        ({"gold": {"any_call": True}}, {"any_call": True}),
    ],
)
def test_what_is_right_by_a_row(row, gold):
    assert read_gold(row, "row 1") == gold


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER]}, "row 1: says no right calls; expected 'ground_truth'"),
        ({"gold": [CALL]}, r"row 1: gold: expected \{'calls'"),
        ({"gold": {}}, "row 1: gold.calls: expected a list of calls, found None"),
        ({"answer": "forty-two"}, "row 1: answer: is not valid JSON"),
        ({"answer": 42}, r"row 1: answer\[0\]: expected a call"),
        ({"ground_truth": [["ls()"]]}, "row 1: ground_truth: expected a list of {name: {parameter"),
        ({"ground_truth": [{"area": {"base": 10}}]}, r"row 1: gold.calls\[0\].arguments.base: expected the list"),
        ({"expected": [CALL], "tools": [{"name": "volume"}]}, "row 1: gold.calls.0..name: 'area' is none of the tools"),
        ({"expected": [CALL], "tools": "{"}, "row 1: tools: expected a list of function schemas"),
        ({"expected": [CALL], "tools": [{"type": "function"}]}, "row 1: tools: expected a list of function schemas"),
    ],
)
def test_a_row_that_does_not_say_it(row, message):
    with pytest.raises(DataError, match=message):
        read_gold(row, "row 1")


def test_objects_of_single_values_are_compared_key_by_key():
    tool = {"name": "book", "parameters": {"properties": {"guest": {"type": "object"}, "days": {"type": "array"}}}}
    call = {"name": "book", "arguments": {"guest": {"name": "Ann Lee", "tags": ["a", "b"]}, "days": [{"on": "Mon"}]}}
    row = {"expected": call, "tools": [tool]}
    item = {"id": "1", "messages": [], "tools": [tool], "gold": read_gold(row, "row 1")}
    assert score_tool_use(gold_reply(item), item).value == 1
    assert score_tool_use(json.dumps(call).replace("Ann Lee", "ann-lee"), item).value == 1
    assert score_tool_use(json.dumps(call).replace('["a", "b"]', '"a"'), item).value == 0
    assert score_tool_use(json.dumps(call).replace("Mon", "Tue"), item).value == 0


def test_a_gold_reply_gives_what_must_be_given():
    parameters = {"properties": {"a": {"type": "integer"}, "b": {}, "c": {}}, "required": ["b"]}
    arguments = {"a": ["one", 1], "b": ["", {"k": ["v"], "m": ["", "n"]}], "c": ["", 3]}
    gold = {"calls": [{"name": "f", "arguments": arguments}]}
    item = {"id": "1", "tools": [{"name": "f", "parameters": parameters}], "gold": gold}
    assert json.loads(gold_reply(item)) == {"name": "f", "arguments": {"a": "one", "b": {"k": "v"}}}
    assert score_tool_use(gold_reply(item), item).value == 1


def test_where_nothing_can_be_right():
    tool = {"name": "f", "parameters": {"properties": {"a": {"type": "array"}}, "required": ["a"]}}
    item = {"id": "row-3", "tools": [tool], "gold": {"calls": [{"name": "f", "arguments": {"a": []}}]}}
    with pytest.raises(ScoringError, match=r"item 'row-3', gold\.calls: no call can be right: argument 'a'"):
        gold_reply(item)
