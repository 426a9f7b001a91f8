import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent import ScoringError
from sage.libs.finetune.agent.evaluation.scorers.tool_gold import gold_reply
from sage.libs.finetune.agent.evaluation.scorers.tool_use import CAPABILITY, score_tool_use, summarise


def tool(name, required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT, INTEGER = {"type": "string"}, {"type": "integer"}
AREA = tool("area", ["base"], base=INTEGER, unit={"type": "string", "default": "m"}, note=TEXT)
FIND = tool("geo.find", ["city"], city=TEXT)


def item(*calls, tools=(AREA, FIND), category=None, **gold):
    calls = [{"name": name, "arguments": arguments} for name, arguments in calls]
    metadata = {"category": category} if category else {}
    return {
        "id": "row-1", "messages": [], "tools": list(tools), "gold": {"calls": calls, **gold}, "metadata": metadata
    }  # fmt: skip


def reply(*calls):
    return "\n".join(json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls)


ONE = item(("area", {"base": [10], "unit": ["cm", "centimetres"], "note": ["", "roof"]}))
TWO = item(("area", {"base": [10]}), ("geo.find", {"city": ["New York", "NYC"]}))
NONE = item()


@pytest.mark.parametrize(
    ("text", "value", "reason", "faults"),
    [
        ('{"name": "area", "arguments": {"base": 10, "unit": "CM"}}', 1, "the calls are right", []),
        ("[area(base=10, unit='cm', note='Roof')]", 1, "the calls are right", []),
        ("[area(base=10)]", 0, "argument 'unit' is missing", ["missing"]),
        ("[area(unit='cm')]", 0, "required argument 'base' is missing", ["required"]),
        ("[area(base=10, unit='cm', colour=1)]", 0, "argument 'colour' is unexpected", ["unexpected"]),
        ("[area(base='10', unit='cm')]", 0, "argument 'base' is of another type: '10'", ["type"]),
        ("[area(base=11, unit='cm')]", 0, "argument 'base': 11 is none of [10]", ["value"]),
        ("[Area(base=10, unit='cm')]", 0, "called 'Area' where 'area' was due", ["name"]),
        ("[area(base=10, unit='cm'), area(base=10, unit='cm')]", 0, "2 calls where 1 call was due", ["count"]),
        ("[area(base=ten)]", 0, "unreadable call: the argument 'base' of 'area' is no literal", ["unreadable"]),
        ("25 square metres.", 0, "no call where one was due", ["no call"]),
    ],
)
def test_one_call(text, value, reason, faults):
    score = score_tool_use(text, ONE)
    assert (score.value, score.reason, score.details["faults"]) == (value, reason, faults)


def test_what_is_kept_is_plain_json():
    score = score_tool_use("[area(base=(10, [1]), unit='cm')]", ONE)
    assert score.extracted == [{"name": "area", "arguments": {"base": [10, [1]], "unit": "cm"}}]
    assert json.loads(json.dumps([score.extracted, score.details])) == [score.extracted, score.details]


def test_parallel_calls_come_in_any_order_unless_the_item_says():
    right = [("geo.find", {"city": "nyc"}), ("area", {"base": 10})]
    assert score_tool_use(reply(*right), TWO).value == 1
    in_order = item(*[(c["name"], c["arguments"]) for c in TWO["gold"]["calls"]], ordered=True)
    score = score_tool_use(reply(*right), in_order)
    assert (score.value, score.reason) == (0, "the right calls in another order")
    assert score_tool_use(reply(*right[::-1]), in_order).value == 1


def test_the_best_assignment_is_found_where_the_published_first_fit_misses_it():
    choices = item(("area", {"base": [1, 2]}), ("area", {"base": [1]}))
    text = reply(("area", {"base": 1}), ("area", {"base": 2}))
    assert score_tool_use(text, choices).value == 1
    assert score_tool_use(text, choices, strict=True).value == 0


def test_a_chain_of_reassignments():
    wanted = [("area", {"base": [n, n + 1]}) for n in range(6)] + [("area", {"base": [0]})]
    calls = [("area", {"base": n}) for n in range(7)]
    assert score_tool_use(reply(*calls), item(*wanted)).value == 1
    assert score_tool_use(reply(*calls), item(*wanted), strict=True).value == 0
    assert score_tool_use(reply(*calls[:-1], ("area", {"base": 9})), item(*wanted)).details["calls_right"] == 6


@pytest.mark.parametrize(
    ("text", "strict", "value"),
    [
        ("I have no tool for this.", False, 1),
        ("[area(base=1)]", False, 0),
        ("[area(base=1)]", True, 0),
        ("[area(base=", False, 0),
        ("[area(base=", True, 1),  # the published checker takes it for no call
    ],
)
def test_irrelevance(text, strict, value):
    assert score_tool_use(text, NONE, strict=strict).value == value


def test_relevance_asks_for_any_call():
    relevant = {**NONE, "gold": {"any_call": True}}
    assert score_tool_use("[area(base=1)]", relevant).value == 1
    assert score_tool_use("Which one?", relevant).value == 0
    assert score_tool_use("[area(base=", relevant).reason.startswith("unreadable call")


def test_a_left_out_argument_says_its_default():
    plain, spelt = item(("area", {"base": [10]})), item(("area", {"base": [10], "unit": ["m"]}))
    for wanted in (plain, spelt):
        for text in ("[area(base=10)]", "[area(base=10, unit='m')]"):
            assert score_tool_use(text, wanted).value == 1
        assert score_tool_use("[area(base=10, unit='cm')]", wanted).value == 0
    published = item(("area", {"base": [10], "unit": ["m"]}), defaults=False)
    assert score_tool_use("[area(base=10)]", published).value == 0
    assert score_tool_use("[area(base=10, unit='m')]", item(("area", {"base": [10]}), defaults=False)).value == 0


def test_types_may_be_said_better_by_the_gold_than_by_the_tools():
    shown = tool("move", to={"type": "array", "items": {"type": "integer"}})
    said = {"name": "move", "parameters": {"properties": {"to": {"type": "tuple", "items": {"type": "integer"}}}}}
    wanted = item(("move", {"to": [[1, 2]]}), tools=[shown])
    assert score_tool_use("[move(to=(1, 2))]", wanted).value == 0
    assert score_tool_use("[move(to=(1, 2))]", item(("move", {"to": [[1, 2]]}), functions=[said])).value == 1


def test_without_tools_the_gold_decides():
    bare = item(("anything", {"x": [1], "y": [{"a": ["B"]}]}), tools=[])
    assert score_tool_use("[anything(x=1, y={'a': 'b'})]", bare).value == 1
    assert score_tool_use("[anything(x=1, y={'a': 'b'}, z=1)]", bare).value == 0
    assert score_tool_use("[anything(x=1)]", bare).value == 0


@pytest.mark.parametrize(
    ("text", "right", "total"),
    [
        ("[area(base=10, unit='cm')]", 2, 2),
        ("[area(base=10, unit='km')]", 1, 2),
        ("[area(base=10, unit='km', note='roof', colour=1)]", 2, 4),
        ("[area(base=10)]", 1, 2),
        ("[geo.find(city='Bonn')]", 0, 3),
        ("No.", 0, 2),
        ("[area(base=10, unit='cm'), area(base=10, unit='km')]", 2, 4),
    ],
)
def test_partial_credit_for_arguments(text, right, total):
    details = score_tool_use(text, ONE).details
    assert (details["arguments_right"], details["arguments"]) == (right, total)


def test_a_wrong_call_is_held_against_the_nearest_right_one():
    wanted = item(("area", {"base": [1], "note": ["a"]}), ("area", {"base": [2], "note": ["b"]}))
    details = score_tool_use("[area(base=2, note='x'), area(base=1, note='y')]", wanted).details
    assert (details["calls_right"], details["arguments_right"], details["arguments"]) == (0, 2, 4)


def test_summary_by_hand():
    scores = [
        score_tool_use("[area(base=10, unit='cm')]", {**ONE, "metadata": {"category": "simple"}}),
        score_tool_use("[area(base=10, unit='km')]", {**ONE, "metadata": {"category": "simple"}}),
        score_tool_use("[area(base=", {**ONE, "metadata": {"category": "simple"}}),
        score_tool_use("[area(base=10)]", TWO),
        score_tool_use("No.", {**NONE, "metadata": {"category": "irrelevance"}}),
        score_tool_use("[area(base=10)]", NONE),
    ]
    figures = summarise(scores)
    # calls: right 1 + 0 + 0 + 1, extra 0 + 1 + 0 + 0 + 0 + 1, missing 0 + 1 + 1 + 1
    assert figures == {
        "accuracy": pytest.approx(2 / 6),
        "parse_rate": pytest.approx(4 / 5),
        "call_precision": pytest.approx(2 / 4),
        "call_recall": pytest.approx(2 / 5),
        "call_f1": pytest.approx(4 / 9),
        "name_accuracy": pytest.approx(2 / 4),
        "argument_accuracy": pytest.approx((2 + 1 + 0 + 1) / (2 + 2 + 2 + 2)),
        "irrelevance_accuracy": pytest.approx(1 / 2),
        "faults": {"value": 1, "unreadable": 1, "count": 1, "call not due": 1},
        "categories": {"irrelevance": {"accuracy": 1.0, "n": 1}, "simple": {"accuracy": pytest.approx(1 / 3), "n": 3}},
    }


def test_a_summary_of_nothing_claims_nothing():
    assert all(not value for value in summarise([]).values())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"id": "row-7"}, "item 'row-7', gold: expected {'calls': [...]}, found None"),
        ({**ONE, "gold": {}}, "item 'row-1', gold.calls: expected a list of calls, found None"),
        ({**ONE, "gold": {"calls": [1]}}, "item 'row-1', gold.calls[0]: expected 'name' and 'arguments', found 1"),
        (item(("area", {"base": 10})), "item 'row-1', gold.calls[0].arguments.base: expected the list of allowed"),
        (item(("volume", {})), "item 'row-1', gold.calls[0].name: 'volume' is none of the tools shown"),
        ({**ONE, "tools": [1]}, "item 'row-1', tools: no function schemas"),
        ({**ONE, "tools": [{"type": "function"}]}, "item 'row-1', tools: no function schemas"),
    ],
)
def test_an_item_that_cannot_be_scored_against(broken, message):
    with pytest.raises(ScoringError) as error:
        score_tool_use("[area(base=10)]", broken)
    assert str(error.value).startswith(message)


@given(st.text() | st.text("[]()area.base=,'\"{}:10<>`\n\\ "), st.sampled_from([ONE, TWO, NONE]), st.booleans())
def test_any_text_is_scored(text, wanted, strict):
    score = score_tool_use(text, wanted, strict)
    assert score.value in (0.0, 1.0)
    assert summarise([score])["accuracy"] == score.value


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ARGUMENTS = st.dictionaries(
    st.text("abcdef", min_size=1), VALUES | st.lists(VALUES) | st.dictionaries(st.text(), VALUES)
)


@given(st.lists(st.tuples(st.sampled_from(["f", "g.h", "K"]), ARGUMENTS), max_size=4))
def test_a_gold_reply_is_right_and_less_of_it_is_not(calls):
    row = {"expected": [{"name": name, "arguments": arguments} for name, arguments in calls]}
    wanted = {"id": "1", "messages": [], "tools": [], "gold": CAPABILITY.read_gold(row, "row 1")}
    right = gold_reply(wanted)
    assert score_tool_use(right, wanted).value == 1
    if calls:
        assert score_tool_use("\n".join(right.splitlines()[1:]), wanted).value == 0
        assert score_tool_use(f'{right}\n{{"name": "f", "arguments": {{}}}}', wanted).value == 0
        assert score_tool_use(right.replace('{"name": "', '{"name": "un'), wanted).value == 0
