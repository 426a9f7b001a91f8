import pytest
from tests.parity.ifeval_replies import LANGUAGES

from sage.libs.finetune.agent.evaluation.instructions.language import LANGUAGES as KNOWN
from sage.libs.finetune.agent.evaluation.instructions.language import language_of


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_sentences_tell_the_language_in_any_case(language):
    assert language in KNOWN
    for text in (*LANGUAGES[language], " ".join(LANGUAGES[language])):
        assert language_of(text) == language_of(text.upper()) == language_of(f"* {text} (1)\n") == language


def test_a_neighbour_is_not_taken_for_a_known_language():
    assert language_of("Het weer is vandaag heel mooi en we willen met onze vrienden naar het park gaan.") == "nl"
    assert language_of("Vädret är mycket fint i dag och vi vill gå till parken med våra vänner.") == "sv"


@pytest.mark.parametrize("text", ["", "42 %", "...", "🙂", "Xyzzy"])
def test_nothing_told_is_none(text):
    assert language_of(text) is None
