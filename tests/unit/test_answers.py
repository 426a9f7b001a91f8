from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent.answers import answer_text, join_answer, same_answer, split_answer


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("4", "4"),
        ("  4\n", "4"),
        ("", ""),
        ("Adding.\nAnswer: 4", "4"),
        ("Adding.\nAnswer:4", "4"),
        ("Adding.\nAnswer:", ""),
        ("Answer: 3\nNo, wait.\nAnswer: 4", "4"),
        ("Adding.\nAnswer: 4\nand 5", "4\nand 5"),
        ("The Answer: is not at the start of a line", "The Answer: is not at the start of a line"),
    ],
)
def test_split_answer(content: str, answer: str) -> None:
    assert split_answer(content) == answer


LINES = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "Answer:" not in text)


@given(thought=LINES, answer=LINES)
def test_split_is_the_inverse_of_join(thought: str, answer: str) -> None:
    assert split_answer(join_answer(thought, answer)) == answer.strip()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("42", 42, True),
        ("42.0", 42, True),
        ("1,234.50", 1234.5, True),
        ("-3", "+3", False),
        ("25", "5", False),
        (".5", "0.5", True),
        ("1e3", 1000, True),
        ("1,2", "12", False),  # no thousands group
        ("Paris.", " paris ", True),
        ("New  York", "new\nyork", True),
        ("Paris", "Paris, France", False),
        (True, "True", True),
        ("", "0", False),
        ([1, "a"], '[1, "a"]', True),
        ("nan", "nan", True),
    ],
)
def test_same_answer(one: object, other: object, same: bool) -> None:
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


def test_answer_text() -> None:
    assert [answer_text(value) for value in ("é", 4, 1.5, None, {"a": "é"})] == ["é", "4", "1.5", "null", '{"a": "é"}']
