import pytest

from sage.libs.finetune.agent.evaluation.instructions.keywords import CHECKS


@pytest.mark.parametrize(
    ("kind", "arguments", "reply", "follows"),
    [
        ("existence", {"keywords": ["tea", "rain"]}, "Rain and TEA.", True),
        ("existence", {"keywords": ["tea", "rain"]}, "Tea only.", False),
        ("existence", {"keywords": ["art"]}, "a party", True),  # published: also inside a longer word
        ("existence", {"keywords": ["c++"]}, "I like C++.", True),  # a keyword is plain text, not a pattern
        ("existence", {"keywords": ["a.c"]}, "abc", False),
        ("frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"}, "Tea, tea.", True),
        ("frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"}, "Tea.", False),
        ("frequency", {"keyword": "tea", "frequency": 2, "relation": "less than"}, "Tea.", True),
        ("frequency", {"keyword": "tea", "frequency": 2, "relation": "less than"}, "Tea, teapot.", False),
        ("forbidden_words", {"forbidden_words": ["art"]}, "a party", True),
        ("forbidden_words", {"forbidden_words": ["art"]}, "Art!", False),
        ("letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "Eel", True),
        ("letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, "Eel", False),
        ("letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, "##", True),
    ],
)
def test_keywords(kind, arguments, reply, follows):
    check = CHECKS[f"keywords:{kind}"]
    assert check.follows(reply, check.read(arguments)) is follows
