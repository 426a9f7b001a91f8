import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent import DataError, ScoringError
from sage.libs.finetune.agent.evaluation.instruction_items import instruction_items
from sage.libs.finetune.agent.evaluation.instructions.known import INSTRUCTIONS
from sage.libs.finetune.agent.evaluation.scorers.instruction_following import CAPABILITY
from sage.libs.finetune.agent.evaluation.scorers.instruction_following import score_instruction_following as score

ITEMS = instruction_items("train", 100)


def item(*instructions):
    return {"id": "a", "gold": {"instructions": list(instructions)}, "metadata": {}}


NO_COMMA, QUOTED = {"type": "punctuation:no_comma"}, {"type": "startend:quotation"}
UNKNOWN = {"type": "copy:repeat_phrase", "phrase": "x"}
KLINGON = {"type": "language:response_language", "language": "tlh"}

BREAKS = {
    "keywords:existence": lambda reply, a: re.sub(a["keywords"][0], "", reply, flags=re.IGNORECASE),
    "keywords:frequency": lambda reply, a: (
        reply + f" {a['keyword']}" * a["frequency"]
        if a["relation"] == "less than"
        else re.sub(a["keyword"], "", reply, flags=re.IGNORECASE)
    ),
    "keywords:forbidden_words": lambda reply, a: f"{reply} {a['forbidden_words'][-1]}",
    "keywords:letter_frequency": lambda reply, a: (
        reply + a["letter"] * a["let_frequency"]
        if a["let_relation"] == "less than"
        else re.sub(a["letter"], "", reply, flags=re.IGNORECASE)
    ),
    "length_constraints:number_words": lambda reply, a: (
        reply + " more" * a["num_words"] if a["relation"] == "less than" else reply[:10]
    ),
    "length_constraints:number_sentences": lambda reply, a: (
        reply + " Yes! No!" * a["num_sentences"] if a["relation"] == "less than" else reply[:10]
    ),
    "length_constraints:number_paragraphs": lambda reply, a: f"{reply}\n***\nmore",
    "length_constraints:nth_paragraph_first_word": lambda reply, a: f"more\n\n{reply}",
    "detectable_content:number_placeholders": lambda reply, a: reply.replace("[", "", 1),
    "detectable_content:postscript": lambda reply, a: re.sub(r"P\.", "P", reply, flags=re.IGNORECASE),
    "detectable_format:number_bullet_lists": lambda reply, a: f"* more\n{reply}",
    "detectable_format:constrained_response": lambda reply, a: reply[:-1],
    "detectable_format:number_highlighted_sections": lambda reply, a: reply.replace("*", ""),
    "detectable_format:multiple_sections": lambda reply, a: reply.replace("2", "two"),
    "detectable_format:json_format": lambda reply, a: reply[:-1],
    "detectable_format:title": lambda reply, a: reply.replace(">>", ">"),
    "combination:two_responses": lambda reply, a: reply.replace("******", "*****"),
    "combination:repeat_prompt": lambda reply, a: f"Sure. {reply}",
    "startend:end_checker": lambda reply, a: f"{reply} more",
    "startend:quotation": lambda reply, a: reply[:-1],
    "change_case:capital_word_frequency": lambda reply, a: (
        reply + " AB" * a["capital_frequency"] if a["capital_relation"] == "less than" else reply.lower()
    ),
    "change_case:english_capital": lambda reply, a: reply.lower(),
    "change_case:english_lowercase": lambda reply, a: reply.upper(),
    "punctuation:no_comma": lambda reply, a: reply.replace(" ", ", ", 1) + ",",
    "language:response_language": lambda reply, a: "The cat is on the mat and it is good.",
}


@pytest.mark.parametrize("kind", sorted(INSTRUCTIONS))
def test_gold_scores_one_and_gold_with_the_instruction_broken_scores_less(kind):
    having = [one for one in ITEMS if kind in one["metadata"]["types"]]
    assert len(having) >= 4
    for one in having:
        reply = CAPABILITY.gold_reply(one)
        assert score(reply, one).value == 1.0
        for ending in ("<|im_end|>", "<|endoftext|>\n"):
            assert score(reply + ending, one).value == 1.0
        place = one["metadata"]["types"].index(kind)
        broken = score(BREAKS[kind](reply, one["gold"]["instructions"][place]), one)
        assert broken.value == 0.0 and kind in broken.reason
        assert broken.details["instructions"][place]["strict"] is False


@pytest.mark.parametrize(
    ("reply", "instruction", "strict", "loose"),
    [
        ('Sure:\n"tea"', QUOTED, False, True),  # without the first line
        ('"tea"\nBye', QUOTED, False, True),  # without the last
        ('Sure:\n"tea"\nBye', QUOTED, False, True),  # without both
        ('*"tea"*', QUOTED, False, True),  # without asterisks
        ('Sure:\n**"tea"**\nBye', QUOTED, False, True),
        ('Sure, "tea"', QUOTED, False, False),
        ("a, b", NO_COMMA, False, False),  # dropping the only line leaves a blank reply, which follows nothing
        ("", NO_COMMA, False, False),
        ("tea", NO_COMMA, True, True),
    ],
)
def test_loose_takes_off_lines_and_asterisks(reply, instruction, strict, loose):
    found = score(reply, item(instruction))
    assert found.details["instructions"][0] == {
        "type": instruction["type"], "strict": strict, "loose": loose, "skipped": False
    }  # fmt: skip
    assert (found.value, found.details["prompt_loose"]) == (float(strict), loose)


def test_what_cannot_be_checked_is_skipped_and_never_failed():
    nothing = score("tea", item(UNKNOWN, KLINGON))
    assert (nothing.value, nothing.reason) == (None, "nothing could be checked: copy:repeat_phrase")
    half = score("tea", item(UNKNOWN, NO_COMMA))
    assert (half.value, half.reason) == (1.0, "followed 1; skipped 1")
    assert score("a, b", item(UNKNOWN, NO_COMMA)).value == 0.0


def test_the_four_figures():
    scores = [score("tea", item(NO_COMMA, QUOTED)), score('*"tea"*', item(QUOTED)), score("tea", item(UNKNOWN))]
    assert CAPABILITY.summarise(scores) == {
        "prompt_strict": 0.0,
        "prompt_loose": 0.5,
        "instruction_strict": 1 / 3,
        "instruction_loose": 2 / 3,
        "by_type": {
            "punctuation:no_comma": {"strict": 1.0, "loose": 1.0, "n": 1},
            "startend:quotation": {"strict": 0.0, "loose": 0.5, "n": 2},
        },
        "skipped_instructions": {"copy:repeat_phrase": 1},
    }
    only_skipped = CAPABILITY.summarise(scores[2:])
    assert only_skipped == {"by_type": {}, "skipped_instructions": {"copy:repeat_phrase": 1}}
    assert CAPABILITY.summarise([]) == {}


def test_a_thought_is_no_part_of_the_reply():
    assert score('<think>\nquotes, then\n</think>\n\n"tea"<|im_end|>', item(NO_COMMA, QUOTED)).value == 1.0


def test_the_published_row_is_read():
    nulls = {"num_highlights": None, "relation": None}
    row = {
        "key": 1000,
        "prompt": "Write about tea.",
        "instruction_id_list": ["detectable_format:number_highlighted_sections", "punctuation:no_comma"],
        "kwargs": [{**nulls, "num_highlights": 3}, nulls],
    }
    expected = [{"type": "detectable_format:number_highlighted_sections", "num_highlights": 3}, NO_COMMA]
    assert CAPABILITY.read_gold(row, "row 1") == {"instructions": expected}
    assert CAPABILITY.read_gold({"instructions": expected}, "row 1") == {"instructions": expected}
    assert CAPABILITY.read_gold({"expected": {"instructions": expected}}, "row 1") == {"instructions": expected}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi"}, "row 7: no instructions"),
        ({"instructions": []}, "row 7: no instructions"),
        ({"instructions": [{"keywords": ["a"]}]}, "row 7: an instruction must be an object with a 'type'"),
        (
            {"instruction_id_list": ["a"], "kwargs": []},
            "row 7: instruction_id_list and kwargs must be lists of the same",
        ),
        ({"instruction_id_list": ["a"], "kwargs": [3]}, "row 7: each entry of kwargs"),
        ({"instruction_id_list": [3]}, "row 7: an instruction must be"),
    ],
)
def test_a_row_without_instructions_is_a_data_error(row, message):
    with pytest.raises(DataError, match=message):
        CAPABILITY.read_gold(row, "row 7")


def test_a_bad_argument_names_the_item_and_the_argument():
    wrong = item(NO_COMMA, {"type": "length_constraints:number_words", "num_words": "ten", "relation": "at least"})
    with pytest.raises(
        ScoringError, match=r"item 'a': instruction 2 \(length_constraints:number_words\): .*'num_words'"
    ):
        score("tea", wrong)
    for gold in (None, {}, {"instructions": []}, {"instructions": ["x"]}):
        with pytest.raises(ScoringError, match="item 'a'"):
            score("tea", {"id": "a", "gold": gold})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
NAMES = sorted({name for kind in INSTRUCTIONS for name in INSTRUCTIONS[kind].arguments})
TEXT = st.text(max_size=80) | st.text(alphabet="*<>[]\"'.?!-{}P.S \n1aA,", max_size=80)


@settings(max_examples=300, deadline=None)
@given(TEXT, st.sampled_from(ITEMS))
def test_any_text_is_scored(reply, one):
    found = score(reply, one)
    assert found.value in (0.0, 1.0)
    json.dumps([found.extracted, found.reason, found.details])
    assert found.details["prompt_loose"] or not found.details["prompt_strict"]


@settings(max_examples=300, deadline=None)
@given(TEXT, st.sampled_from(sorted(INSTRUCTIONS)), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_any_arguments_are_scored_or_named(reply, kind, arguments):
    try:
        assert score(reply, item({"type": kind, **arguments})).value in (0.0, 1.0, None)
    except ScoringError as error:
        assert str(error).startswith(f"item 'a': instruction 1 ({kind}): argument '")


@pytest.mark.parametrize(
    "unit", ["*", "[", "<<a", "\n", " ", "{", "a. ", "...", '"', "'", "P.", "-\n", "**a", "Section "]
)
def test_time_grows_with_the_length_of_the_reply_and_no_faster(unit):
    """A pattern that backtracks would need minutes for 100,000 characters, not seconds."""
    for one in ITEMS[:25]:
        assert score(unit * (100_000 // len(unit)), one).value in (0.0, 1.0)
