import pytest

from sage.libs.finetune.agent.evaluation.instructions.length import CHECKS

FIRST = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}


@pytest.mark.parametrize(
    ("kind", "arguments", "reply", "follows"),
    [
        ("number_words", {"num_words": 3, "relation": "at least"}, "don't go", True),  # `don't` is two words
        ("number_words", {"num_words": 3, "relation": "at least"}, "Go now.", False),
        ("number_words", {"num_words": 3, "relation": "less than"}, "one two three", False),
        ("number_sentences", {"num_sentences": 2, "relation": "at least"}, "Dr. Lee left. Why?", True),
        ("number_sentences", {"num_sentences": 2, "relation": "at least"}, "Dr. Lee left.", False),
        ("number_sentences", {"num_sentences": 2, "relation": "less than"}, "Dr. Lee left.", True),
        ("number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", True),
        ("number_paragraphs", {"num_paragraphs": 2}, "***\none\n***\ntwo\n***", True),
        ("number_paragraphs", {"num_paragraphs": 2}, "one\n***\n\n***\ntwo", False),
        ("number_paragraphs", {"num_paragraphs": 2}, "one\n\ntwo", False),
        ("number_paragraphs", {"num_paragraphs": 0}, "***", True),
        ("nth_paragraph_first_word", FIRST, "One.\n\nThen, two.", True),
        ("nth_paragraph_first_word", FIRST, 'One.\n\n"then" two.', True),
        ("nth_paragraph_first_word", FIRST, "One.\n\nThens two.", False),
        ("nth_paragraph_first_word", FIRST, "One.\n\nThen two.\n\nThree.", False),
        ("nth_paragraph_first_word", FIRST, "One.\n\n\n\nThen two.", False),  # a blank paragraph takes a place
        ("nth_paragraph_first_word", {**FIRST, "nth_paragraph": 3}, "One.\n\nThen two.", False),
    ],
)
def test_length(kind, arguments, reply, follows):
    check = CHECKS[f"length_constraints:{kind}"]
    assert check.follows(reply, check.read(arguments)) is follows
