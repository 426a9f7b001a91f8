import pytest

from sage.libs.finetune.agent.evaluation.instructions.casing import CHECKS, count_capital_words


@pytest.mark.parametrize(
    ("kind", "arguments", "reply", "follows"),
    [
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at least"},
            "I SAY so",
            True,
        ),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at least"},
            "I say",
            False,
        ),
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "A B", False),
        ("change_case:english_capital", {}, "THE SEA IS WIDE.", True),
        ("change_case:english_capital", {}, "THE SEA IS wide.", False),
        ("change_case:english_capital", {}, "DAS MEER IST NICHT WEIT.", False),
        ("change_case:english_capital", {}, "42", False),
        ("change_case:english_lowercase", {}, "the sea is wide.", True),
        ("change_case:english_lowercase", {}, "The sea is wide.", False),
        ("change_case:english_lowercase", {}, "la mer est dans la ville.", False),
        ("language:response_language", {"language": "fr"}, "La mer est dans la ville.", True),
        ("language:response_language", {"language": "fr"}, "The sea is in the town.", False),
        ("language:response_language", {"language": "HI"}, "समुद्र में पानी है।", True),
        ("language:response_language", {"language": "fr"}, "1, 2, 3", True),  # published: no letter, no fault
        ("language:response_language", {"language": "tlh"}, "nuqneH", None),  # not known here: skipped
    ],
)
def test_casing(kind, arguments, reply, follows):
    check = CHECKS[kind]
    assert check.follows(reply, check.read(arguments)) is follows


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I don't, I'm, I'll", 3),
        ("DON'T CANNOT", 4),
        ("WELL-KNOWN U.S. A/B", 3),
        ("name='DEFAULT' (NASA's)", 2),
        ("DON’T", 2),
        ("3D 42 !", 1),
        ("", 0),
    ],
)
def test_capital_words_are_counted_as_in_the_penn_treebank(text, found):
    assert count_capital_words(text) == found
