"""Final answers: found in every usual form, compared by kind; each known fault of other harnesses is a row here."""

import pytest

from sage.libs.finetune.agent.evaluation.scorers.final_answers import find_answer, gold_answer, marked_answer
from sage.libs.finetune.agent.evaluation.scorers.number_text import find_numbers, plain_text, read_number


def found(reply, answer, kind="auto", choices=None):
    return find_answer(reply, gold_answer(answer, kind, choices))


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("25", "25", True),
        ("25", "5", False),  # "25" ends with "5" as text
        ("5", "25", False),
        ("So 10 - 3 = 7", 7, True),
        ("10-3", 3, True),  # a difference, not minus three
        ("10-3", -3, False),
        ("Answer: -3", -3, True),
        ("Answer: −3", -3, True),
        ("Answer: 3", -3, False),
        ("1,000", 1000, True),
        ("The total is 12 000.", 12000, True),
        ("It is 12\u202f000 km.", 12000, True),
        ("Answer: 3'000'000", 3e6, True),
        ("Answer: 1e3", 1000, True),
        ("Answer: 1/2", 0.5, True),
        ("Answer: 2 1/2", "2.5", True),
        ("Answer: ½", 0.5, True),
        ("Answer: 0.1", 0.1, True),
        ("Answer: .50", "1/2", True),
        ("Answer: 7.0 km.", 7, True),
        ("Answer: x = 7", 7, True),
        ("The answer is 3 + 4 = 7.", 7, True),
        ("**Final Answer:** **$42**", 42, True),
        ("The answer is:\n\n42", 42, True),
        ("#### 1,234", 1234, True),
        ("#### Step 2: add\nAnswer: 7", 7, True),
        (r"So $\boxed{\frac{1}{2}}$.", 0.5, True),
        (r"\boxed{1{,}000 \text{ m}}", 1000, True),
        (r"\boxed{5", 5, True),
        ("The answer is 25, since 5 × 5 = 25.", 25, True),
        ("The answer is 4. No, the answer is 5.", 5, True),
        ("The answer is 4. No, the answer is 5.", 4, False),
        ("The answer is not 5. It is 6.", 6, True),
        ("Answer: 5 or 6", 5, False),
        ("Answer: 5 or 6", 6, False),
        ("Answer: 5 apples or 6 apples", 5, False),
        ("Answer: 5, 6", 5, False),
        ("Answer: 25 minutes for 2 people", 25, True),
        ("Answer: 25%", "25", True),
        ("Answer: 25%", 0.25, True),
        ("Answer: 25", "25%", True),
        ("Answer: 0.25", "25%", True),
        ("Answer: 0.25", "25", False),
        ("Answer: 0.5%", 0.5, False),
        ("It is 5.\nAnswer: I do not know", 5, False),
        ("Answer: 1/0", 1, False),
        ("five", 5, False),
        ("", 5, False),
        ("7", [6, 7], True),
    ],
)
def test_numbers(reply, answer, right):
    gold = gold_answer(answer, "auto", None)
    assert gold.kind == "number"
    assert find_answer(reply, gold).right is right


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("Paris", "paris", True),
        ("He works at Rivet.\nRivet is in Ghent.\nGhent", "Ghent", True),
        ("Answer: the Rhine.", "Rhine", True),
        ('The answer is "Rhine".', "Rhine", True),
        ("Answer: Paris. It is the capital.", "Paris", True),
        ("Answer: St. Louis", "St. Louis", True),
        ("Answer: Paris or London", "Paris", False),
        ("Paris", ["London", "Paris"], True),
        ("Answer: 12 apples", "12 apples", True),
        ("Yes, because it is.", "yes", True),
        ("Answer: no", True, False),
        ("Answer: true", True, True),
        ("Answer: No.", False, True),
        ("Answer: +", "+", True),
        ("Answer: -", "+", False),
        (r"\boxed{\text{Paris}}", "Paris", True),
    ],
)
def test_texts(reply, answer, right):
    assert found(reply, answer).right is right


def test_a_wrong_text_keeps_its_overlap():
    answer = found("Answer: the river Rhine", "Rhine")
    assert (answer.right, answer.text, answer.f1) == (False, "the river Rhine", pytest.approx(2 / 3))


CITIES = {"A": "Paris", "B": "New York", "C": "York", "D": "Rome"}


@pytest.mark.parametrize(
    ("reply", "chosen"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("Option B.", "B"),
        ("Answer: (B) New York", "B"),
        ("B: New York\nIt is in the US.", "B"),
        ("the answer is New York.", "B"),
        ("Answer: York", "C"),
        ("The correct option is B.", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("B, not A", "B"),
        ("Answer: B because A is wrong", "B"),
        ("A", "A"),
        ("A or B", None),
        ("B and C", None),
        ("Rome or Paris", None),
        ("Bob", None),  # the letter must stand alone
        ("A man", None),
        ("E", None),
        ("I think so", None),
    ],
)
def test_choices(reply, chosen):
    for label in CITIES:
        assert found(reply, label, choices=CITIES).right is (label == chosen)


def test_the_gold_of_a_choice_may_be_its_words_and_choices_a_list():
    assert gold_answer("new york", "auto", list(CITIES.values())).accepted == ("B",)
    assert found("2", "2", "choice", {"1": "x", "2": "y"}).right
    assert found("It's C.", "c", "choice").right


@pytest.mark.parametrize(
    ("answer", "kind", "choices", "message"),
    [
        (None, "auto", None, "gold.answer: expected text"),
        ([], "auto", None, "gold.answer: expected text"),
        ("many", "number", None, "gold.answer: expected a number, found 'many'"),
        ("x", "sum", None, "gold.kind: expected one of number, text"),
        ("Bonn", "choice", CITIES, "is none of the choices A, B, C, D"),
        ("AB", "choice", None, "expected a letter"),
        ("A", "choice", 5, "gold.choices: expected label -> words"),
    ],
)
def test_an_unusable_gold_says_why(answer, kind, choices, message):
    with pytest.raises(ValueError, match=message):
        gold_answer(answer, kind, choices)


def test_numbers_are_read_whole_and_exactly():
    values = [str(number.value) for number in find_numbers(plain_text("x5, 3.10, $-4, 5/6/2024 and 10-3"))]
    assert values[:2] == ["31/10", "-4"] and values[-2:] == ["10", "3"]
    assert read_number("9" * 5000) is None and read_number("1e99999") is None
    assert read_number("0.1").value * 3 == read_number("0.3").value


def test_only_the_last_mark_counts():
    assert marked_answer("Answer: 4\nWait.\nAnswer: 5") == "5"
    assert marked_answer("no mark") is None
    assert marked_answer("Answer:") is None
