import pytest

from sage.libs.finetune.agent.evaluation.instructions.check import BadArgument
from sage.libs.finetune.agent.evaluation.instructions.known import INSTRUCTIONS


def test_all_published_instructions_are_known():
    assert len(list(INSTRUCTIONS)) == 25


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("keywords:existence", {}, "argument 'keywords' is missing"),
        ("keywords:existence", {"keywords": "tea"}, "argument 'keywords' is 'tea'; expected a list of texts"),
        ("keywords:existence", {"keywords": []}, "expected a list of texts"),
        ("keywords:existence", {"keywords": ["a"], "colour": 1}, "argument 'colour' is not known; known: keywords"),
        ("punctuation:no_comma", {"colour": 1}, "argument 'colour' is not known; known: none"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}, "one letter"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "expected a whole number"),
        ("length_constraints:number_words", {"num_words": 2.5, "relation": "at least"}, "expected a whole number"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "expected a whole number"),
        ("length_constraints:number_words", {"num_words": float("inf"), "relation": "at least"}, "a whole number"),
        ("length_constraints:number_words", {"num_words": 2, "relation": "about"}, "'less than' or 'at least'"),
        ("startend:end_checker", {"end_phrase": " "}, "expected text that is not blank"),
    ],
)
def test_a_bad_argument_is_named(kind, given, message):
    with pytest.raises(BadArgument, match=message):
        INSTRUCTIONS[kind].read(given)


def test_whole_floats_and_nulls_are_read_as_tables_store_them():
    given = {"num_words": 3.0, "relation": "at least", "keywords": None}
    assert INSTRUCTIONS["length_constraints:number_words"].read(given) == {"num_words": 3, "relation": "at least"}
