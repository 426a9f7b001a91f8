import pytest

from sage.libs.finetune.agent.evaluation.instructions.framing import CHECKS


@pytest.mark.parametrize(
    ("kind", "arguments", "reply", "follows"),
    [
        ("combination:two_responses", {}, "one\n******\ntwo", True),
        ("combination:two_responses", {}, "******one******two", True),
        ("combination:two_responses", {}, "one\n******\none", False),
        ("combination:two_responses", {}, "one******two******three", False),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, " say hi. Hi!", True),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "Hi!", False),
        ("startend:end_checker", {"end_phrase": "The end."}, '"It is THE END." ', True),
        ("startend:end_checker", {"end_phrase": "The end."}, "The end", False),
        ("startend:quotation", {}, ' "a" and "b" ', True),
        ("startend:quotation", {}, '"', False),
        ("startend:quotation", {}, "“a”", False),
        ("punctuation:no_comma", {}, "a; b", True),
        ("punctuation:no_comma", {}, "a, b", False),
        ("punctuation:no_comma", {}, "a، b", True),  # only the Latin comma counts
    ],
)
def test_framing(kind, arguments, reply, follows):
    check = CHECKS[kind]
    assert check.follows(reply, check.read(arguments)) is follows
