import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.scorers.timing import (
    CAPABILITY,
    gold_reply,
    read_gold,
    score_timing,
    summarise,
)

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
CALL = '{"name": "find", "arguments": {"q": "tea"}}'


def item(call, **more):
    return {"id": "row-1", "messages": [], "tools": TOOLS, "gold": {"call": call, **more}}


@pytest.mark.parametrize(
    ("reply", "gold", "value", "reason", "when"),
    [
        (CALL, {"call": True}, 1, "a call, as is right", "at once"),
        (f"I look it up.\n{CALL}", {"call": True}, 1, "a call, as is right", "after words"),
        ("[find(q='tea')]", {"call": True, "name": "find"}, 1, "a call, as is right", "at once"),
        (CALL, {"call": True, "name": "buy"}, 0, "a call of another tool than 'buy'", "at once"),
        (CALL[:-2], {"call": True}, 1, "a call, as is right", "at once"),  # it decided to call
        ("[find(q=tea)]", {"call": True, "name": "find"}, 0, "unreadable call: the argument 'q' of", "at once"),
        ("Tea is a drink.", {"call": True}, 0, "no call where one was due", "never"),
        ("Tea is a drink.", {"call": False}, 1, "no call, as is right", "never"),
        (CALL, {"call": False}, 0, "a call where none was due", "at once"),
        (CALL[:-2], {"call": False}, 0, "a call where none was due", "at once"),
        ("", {"call": False}, 1, "no call, as is right", "never"),
    ],
)
def test_the_decision_counts(reply, gold, value, reason, when):
    score = score_timing(reply, {**item(True), "gold": gold})
    assert (score.value, score.details["when"]) == (value, when)
    assert score.reason.startswith(reason)


def test_summary_by_hand():
    pairs = [(CALL, True), (f"Wait.\n{CALL}", True), ("No.", True), (CALL[:-2], False), ("No.", False)]
    assert summarise([score_timing(reply, item(due)) for reply, due in pairs]) == {
        "accuracy": pytest.approx(3 / 5),
        "balanced_accuracy": pytest.approx((2 / 3 + 1 / 2) / 2),
        "call_precision": pytest.approx(2 / 3),
        "call_recall": pytest.approx(2 / 3),
        "call_f1": pytest.approx(2 / 3),
        "false_calls": 1,
        "missed_calls": 1,
        "unreadable_calls": 1,
        "after_words": 1,
    }


def test_a_summary_of_one_side_only():
    figures = summarise([score_timing("No.", item(False))])
    assert (figures["balanced_accuracy"], figures["call_recall"], figures["call_f1"]) == (1.0, None, None)
    assert summarise([])["accuracy"] is None


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"call": True}, {"call": True}),
        ({"expected": False}, {"call": False}),
        ({"expected": {"call": True, "name": "find"}}, {"call": True, "name": "find"}),
        ({"gold": {"call": True, "name": None}}, {"call": True}),
        ({"messages": [{"role": "assistant", "content": CALL}]}, {"call": True}),
        ({"messages": [{"role": "assistant", "content": "Tea."}]}, {"call": False}),
    ],
)
def test_rows(row, gold):
    assert read_gold(row, "row 1") == gold


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"expected": "yes"}, "row 1: expected: expected true, false or"),
        ({"call": {"call": 1}}, "row 1: call: expected true, false or"),
        ({"expected": {"call": True, "name": 3}}, "row 1: expected.name: expected the tool's name, found 3"),
        ({"prompt": "Tea?"}, "row 1: does not say whether a call is due"),
    ],
)
def test_a_row_that_does_not_say_it(row, message):
    with pytest.raises(DataError, match=message):
        read_gold(row, "row 1")


def test_an_item_that_cannot_be_scored_against():
    with pytest.raises(ScoringError, match="item 'row-9', gold: expected true, false"):
        score_timing("Hi", {"id": "row-9", "gold": {"calls": []}})


@pytest.mark.parametrize("gold", [{"call": True}, {"call": True, "name": "find"}, {"call": False}])
def test_a_gold_reply_is_right_and_the_other_decision_is_not(gold):
    wanted = {**item(True), "gold": gold}
    assert score_timing(gold_reply(wanted), wanted).value == 1
    assert score_timing("Well." if gold["call"] else CALL, wanted).value == 0


@given(st.text() | st.text("[]()find.q=,'\"{}:1<>`\n\\ "), st.booleans())
def test_any_text_is_scored(reply, due):
    score = CAPABILITY.score(reply, item(due))
    assert score.value == float(score.details["called"] == due)
