import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.reasoning_items import reasoning_items
from sage.libs.finetune.agent.evaluation.scorers.reasoning import (
    CAPABILITY,
    gold_reply,
    read_gold,
    score_reasoning,
    summarise,
)


def item(answer, kind="auto", choices=None, prompt="Ida has 3 bags of 4 plums. How many?"):
    gold = {"answer": answer, "kind": kind, **({} if choices is None else {"choices": choices})}
    return {"id": "row-7", "messages": [{"role": "user", "content": prompt}], "tools": [], "gold": gold, "metadata": {}}


ITEMS = reasoning_items("dev", 90)


@pytest.mark.parametrize("one", ITEMS, ids=lambda one: one["id"])
def test_gold_is_right_and_a_perturbed_gold_is_not(one):
    assert score_reasoning(gold_reply(one), one).value == 1.0
    assert score_reasoning(gold_reply({**one, "metadata": {}}), one).value == 1.0
    answer = one["gold"]["answer"]
    wrong = answer + 1 if isinstance(answer, int) else "D" if answer != "D" else "A"
    solution = one["metadata"]["solution"]
    assert score_reasoning(f"{solution}\nAnswer: {wrong}", one).value == 0.0
    assert score_reasoning(f"{solution}\nAnswer: {answer} or {wrong}", one).value == 0.0


def test_a_bad_chain_leaves_a_right_answer_right_and_tells():
    score = score_reasoning("3 × 4 = 13, and 99 more.\nAnswer: 12<|im_end|>", item(12))
    assert (score.value, score.extracted, score.reason) == (1.0, "12", "right number")
    assert score.details["equations"] == 0 and score.details["grounded"] == 0
    assert set(score.details) >= {"em", "f1", "kind", "found", "coherence", "no_repetition", "steps"}
    json.dumps(score.details)


def test_a_thought_is_part_of_the_chain_but_holds_no_answer():
    score = score_reasoning("<think>\n3 × 4 = 12.\nAnswer: 99\n</think>\n\nAnswer: 12", item(12))
    assert score.value == 1.0 and score.details["equations"] == 1.0
    open_end = score_reasoning("<think>\n3 × 4 = 12", item(12))
    assert (open_end.value, open_end.extracted, open_end.reason) == (0.0, None, "the thought has no end")


def test_a_call_gives_no_answer_unless_one_is_marked():
    call = '{"name": "multiply", "arguments": {"a": 3, "b": 12}}'
    assert score_reasoning(f"I multiply to get 12\n{call}", item(12)).extracted is None
    assert score_reasoning(call[:-3], item(12)).extracted is None
    assert score_reasoning(f"Answer: 12\n{call}", item(12)).value == 1.0


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"answer": 12}, {"answer": 12, "kind": "auto"}),
        ({"expected": "Rhine"}, {"answer": "Rhine", "kind": "auto"}),
        ({"answer": "3 × 4 = <<3*4=12>>12\n#### 12"}, {"answer": "12", "kind": "auto"}),
        ({"answer": ["Rhine", "the Rhine river"]}, {"answer": ["Rhine", "the Rhine river"], "kind": "auto"}),
        (
            {"choices": {"text": ["Bonn", "Rome"], "label": ["1", "2"]}, "answerKey": "2"},
            {"answer": "2", "kind": "choice", "choices": {"1": "Bonn", "2": "Rome"}},
        ),
        (
            {"choices": ["Bonn", "Rome"], "answer": 1},
            {"answer": "B", "kind": "choice", "choices": {"A": "Bonn", "B": "Rome"}},
        ),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "3 × 4.\nAnswer: 12"}]},
            {"answer": "12", "kind": "auto"},
        ),
        (
            {"messages": [{"role": "assistant", "content": "<think>\nIt is big.\n</think>\n\nRhine"}]},
            {"answer": "Rhine", "kind": "auto"},
        ),
        ({"gold": {"answer": "B", "kind": "choice"}}, {"answer": "B", "kind": "choice"}),
    ],
)
def test_gold_is_read_from_the_usual_rows(row, gold):
    assert read_gold(row, "x.jsonl:3") == gold
    assert score_reasoning(gold_reply({"gold": gold}), {**item(0), "gold": gold}).value == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "expected 'answer' or 'expected', or 'messages'"),
        ({"messages": [{"role": "user", "content": "?"}]}, "that end in an assistant's answer"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "end in an assistant's answer"),
        ({"answer": {"a": 1}}, "gold.answer: expected text"),
        ({"answer": 2, "choices": ["a", "b"]}, "expected a choice's position, 0 to 1, found 2"),
        ({"answer": "Bonn", "choices": ["a", "b"]}, "none of the choices A, B"),
        ({"answer": "a", "choices": 5}, "gold.choices"),
    ],
)
def test_a_row_without_an_answer_says_where_and_what(row, message):
    with pytest.raises(DataError, match=r"x\.jsonl:3: ") as caught:
        read_gold(row, "x.jsonl:3")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        (None, "item 'row-7': gold.answer is missing"),
        ({"answer": None}, "item 'row-7': gold.answer: expected"),
        ({"answer": "x", "kind": "number"}, "item 'row-7': gold.answer: expected a number"),
    ],
)
def test_an_item_that_cannot_be_scored_against_is_an_error(gold, message):
    with pytest.raises(ScoringError, match=message):
        score_reasoning("5", {**item(0), "gold": gold})


def test_figures_over_a_test_set():
    replies = ["3 × 4 = 12.\nAnswer: 12", "3 × 4 = 13.\nAnswer: 13", "12", "no idea"]
    figures = summarise([score_reasoning(reply, item(12)) for reply in replies])
    assert (figures["accuracy"], figures["em"], figures["answers_found"]) == (0.5, 0.5, 0.75)
    assert figures["equations_right"] == 0.5
    assert 0 < figures["coherence"] < 1
    assert summarise([]) == {}
    assert summarise([score_reasoning("12", item(12))])["coherence"] is None
    assert CAPABILITY.name == "reasoning" and CAPABILITY.score is score_reasoning


PIECES = st.sampled_from(
    [
        "12",
        "3 × 4",
        " = ",
        "Answer:",
        "\\boxed{",
        "}",
        "####",
        "(B)",
        " or ",
        "\n",
        "1,000",
        "%",
        "½",
        "<think>",
        "\\frac{1}",
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES | st.text(max_size=4), max_size=20).map("".join))
CHOICES = item("B", choices={"A": "Bonn", "B": "Rome"})


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_no_text_breaks_the_scorer(text):
    for one in (item(12), item("Rhine"), CHOICES, {**item(12), "messages": [{"role": "user", "content": text}]}):
        score = score_reasoning(text, one)
        assert score.value in (0.0, 1.0)
        json.dumps([score.extracted, score.details])


@settings(max_examples=100, deadline=None)
@given(st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_any_usable_answer_scores_itself(answer):
    text = str(answer).strip()
    if (
        any(map(str.isalnum, text))
        and "\n" not in text
        and not any(mark in text for mark in "\\{}[]<>#=|\r")
        and "nswer" not in text
    ):
        assert score_reasoning(gold_reply(item(answer)), item(answer)).value == 1.0


@pytest.mark.parametrize("answer", ["", "  ", [""], float("nan")])
def test_a_row_without_an_answer_is_no_item(answer):
    with pytest.raises(DataError, match=r"row 1: gold\.answer: .* is no answer; leave out rows without one"):
        read_gold({"question": "a", "answer": answer}, "row 1")


@pytest.mark.parametrize("reply", ["Answer: 5-6", "Answer: 5 to 6", "Answer: 5:30", "Answer: 5^3"])
def test_a_range_a_time_and_a_power_are_not_their_first_number(reply):
    assert score_reasoning(reply, {"id": "1", "gold": {"answer": 5}}).value == 0.0
