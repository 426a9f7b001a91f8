import pytest

from sage.libs.finetune.agent.evaluation.instructions.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Lee paid $3.50 in the U.S. today.", "Really?", "Yes!"],
        ["We met at 6 p.m. on Jan. 3.", "The shop was closed."],
        ["He left at 6 p.m.", "The shop was closed."],
        ['"Why?"', "he asked.", '"Because!"', "(Nobody spoke.)", "They left."],
        ["Wait... what?", "Well...", "The end."],
        ["J. R. Smith came in 1990.", "He stayed."],
        ["One\nTwo\nThree"],
        ["I love it!!!", "Do you???", "I hope so..."],
        [
            "See www.example.com for 2.0 news, etc.",
            "And e.g.",
            "this.",
        ],  # as the published checker: no abbreviations to it
        [],
    ],
)
def test_sentences_are_found_again(sentences):
    assert split_sentences(" ".join(sentences)) == sentences
    assert split_sentences("\n ".join(sentences) + "\n") == sentences
