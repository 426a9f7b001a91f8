import pytest

from sage.libs.finetune.agent.evaluation.instructions.writer import write_reply

NO_COMMA = ("punctuation:no_comma", {})


def test_contradictions_have_no_reply():
    words = {"relation": "at least", "num_words": 5}
    few = {"relation": "less than", "num_words": 2}
    assert write_reply([("length_constraints:number_words", words)]) is not None
    assert write_reply([("length_constraints:number_words", words), ("length_constraints:number_words", few)]) is None
    assert write_reply([("startend:end_checker", {"end_phrase": "a, b"}), NO_COMMA]) is None


def test_what_nobody_wants_to_read_is_not_written():
    assert write_reply([("detectable_format:number_bullet_lists", {"num_bullets": 10**9})]) is None


@pytest.mark.parametrize("topic", ["tea", "a garden"])
def test_a_reply_is_about_its_topic(topic):
    assert topic in (write_reply([NO_COMMA], topic) or "")
