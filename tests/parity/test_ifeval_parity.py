"""Our instruction checks against the published ones, as lm-evaluation-harness carries them.

Runs where lm_eval, nltk, langdetect and immutabledict can be imported, or where the environment variable
IFEVAL_CHECKER_FOLDER names a folder that holds these packages. Sentences and words are split by NLTK's punkt_tab data,
found by NLTK_DATA; without it the two instructions that need it are skipped. The checker is loaded without the rest of
lm_eval, which would want many more packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import sys
import types
from pathlib import Path

import pytest
from tests.parity.ifeval_replies import (
    FORMATS,
    LANGUAGES,
    MISTAKEN_ENGLISH,
    MISTAKEN_FOREIGN,
    NATURAL,
    ODD,
    PROSE,
    sampled,
)

from sage.libs.finetune.agent.evaluation.instruction_items import instruction_items
from sage.libs.finetune.agent.evaluation.instructions.known import INSTRUCTIONS
from sage.libs.finetune.agent.evaluation.instructions.sentences import count_sentences
from sage.libs.finetune.agent.evaluation.scorers.instruction_following import gold_reply, score_instruction_following

PACKAGES = ("lm_eval", "nltk", "langdetect", "immutabledict")
NEEDS_PUNKT = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
COUNTED = {
    "length_constraints:number_paragraphs": "num_paragraphs",
    "detectable_content:number_placeholders": "num_placeholders",
    "detectable_format:number_bullet_lists": "num_bullets",
    "detectable_format:number_highlighted_sections": "num_highlights",
}
RELATIONS = ("less than", "at least")


@pytest.fixture(scope="module")
def checker():
    if folder := os.environ.get("IFEVAL_CHECKER_FOLDER"):
        sys.path.insert(0, folder)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; IFEVAL_CHECKER_FOLDER may name a folder that holds them")
    root = Path(importlib.util.find_spec("lm_eval").origin).parent
    for name, path in (("lm_eval", root), ("lm_eval.tasks", root / "tasks")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    with pytest.MonkeyPatch.context() as patch:
        nltk = importlib.import_module("nltk")
        patch.setattr(nltk, "download", lambda *_, **__: False)  # the checker would fetch punkt when it is imported
        module = importlib.import_module("lm_eval.tasks.ifeval.utils")
    importlib.import_module("langdetect").DetectorFactory.seed = 0
    return module


def has_punkt() -> bool:
    try:
        importlib.import_module("nltk").data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def argument_sets(kind: str) -> list[dict]:
    """Arguments that make a check sometimes true and sometimes false."""
    if kind in COUNTED:
        return [{COUNTED[kind]: n} for n in (1, 2, 3, 4)]
    return {
        "keywords:existence": [{"keywords": ["tea"]}, {"keywords": ["the", "art"]}, {"keywords": ["keyword"]}],
        "keywords:frequency": [
            {"keyword": word, "frequency": n, "relation": r}
            for word in ("the", "art")
            for n in (1, 3)
            for r in RELATIONS
        ],
        "keywords:forbidden_words": [{"forbidden_words": ["art"]}, {"forbidden_words": ["the", "tea"]}],
        "keywords:letter_frequency": [
            {"letter": c, "let_frequency": n, "let_relation": r} for c in "eQ" for n in (1, 6) for r in RELATIONS
        ],
        "length_constraints:number_words": [{"num_words": n, "relation": r} for n in (3, 12, 20) for r in RELATIONS],
        "length_constraints:number_sentences": [
            {"num_sentences": n, "relation": r} for n in range(1, 8) for r in RELATIONS
        ],
        "length_constraints:nth_paragraph_first_word": [
            {"num_paragraphs": n, "nth_paragraph": k, "first_word": w}
            for n, k in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3))
            for w in ("one", "Two")
        ],
        "detectable_content:postscript": [{"postscript_marker": m} for m in ("P.S.", "P.P.S", "PS:")],
        "detectable_format:multiple_sections": [
            {"section_spliter": w, "num_sections": n} for w in ("Section", "SECTION") for n in (1, 2, 3)
        ],
        "combination:repeat_prompt": [{"prompt_to_repeat": "Write about tea."}],
        "startend:end_checker": [{"end_phrase": p} for p in ("Any other questions?", "end.", " good day! ")],
        "change_case:capital_word_frequency": [
            {"capital_frequency": n, "capital_relation": r} for n in (1, 2, 3, 5) for r in RELATIONS
        ],
        "language:response_language": [{"language": code} for code in ("en", "de", "es", "hi", "ru", "sw", "vi", "fa")],
    }.get(kind, [{}])


def replies_for(kind: str) -> list[str]:
    """Replies that follow, that do not, and that nearly do."""
    spoken = [text for texts in LANGUAGES.values() for text in texts]
    if kind == "language:response_language":
        return [*spoken, *PROSE[:7], *(f"{one} {two}" for one, two in ((t[0], t[-1]) for t in LANGUAGES.values()))]
    if kind in ("change_case:english_capital", "change_case:english_lowercase"):
        plain = [*PROSE, *NATURAL, *spoken]
        cased = [*plain, *(text.upper() for text in plain), *(text.lower() for text in plain)]
        return [text for text in cased if text not in (*MISTAKEN_ENGLISH, *MISTAKEN_FOREIGN)]
    golds = [gold_reply(item) for item in instruction_items("train", 250) if item["metadata"]["types"][0] == kind]
    rng = random.Random(kind)
    broken = [gold[: rng.randrange(len(gold))] + gold[rng.randrange(len(gold)) :] for gold in golds]
    salad = [] if kind == "length_constraints:number_sentences" else sampled(5, 60)
    return [*PROSE, *NATURAL, *FORMATS, *ODD, *golds, *broken, *salad]


def published(checker, kind: str, arguments: dict):
    instruction = checker.instructions_registry.INSTRUCTION_DICT[kind](kind)
    instruction.build_description(**arguments)
    return instruction.check_following


@pytest.mark.parametrize("kind", sorted(INSTRUCTIONS))
def test_each_check_agrees_with_the_published_one(checker, kind):
    if kind in NEEDS_PUNKT and not has_punkt():
        pytest.skip("no punkt_tab data; NLTK_DATA may name a folder that holds it")
    replies = [reply for reply in replies_for(kind) if reply.strip()]
    assert len(replies) >= 50
    verdicts, different = [], []
    for arguments in argument_sets(kind):
        theirs = published(checker, kind, arguments)
        ours = INSTRUCTIONS[kind]
        for reply in replies:
            verdicts.append(bool(theirs(reply)))
            if ours.follows(reply, ours.read(arguments)) is not verdicts[-1]:
                different.append((arguments, verdicts[-1], reply))
    share = 1 - len(different) / len(verdicts)
    print(f"\n{kind}: {len(verdicts)} verdicts ({sum(verdicts)} followed), agreement {share:.2%}")
    assert True in verdicts and False in verdicts
    assert not different, different[:3]


def test_sentences_of_word_salad_agree_but_for_names(checker):
    """After `Dr.` or `...` punkt asks 20,000 newspaper words whether a capital opens a sentence; ours asks few."""
    if not has_punkt():
        pytest.skip("no punkt_tab data; NLTK_DATA may name a folder that holds it")
    count = checker.instructions_registry.instructions.instructions_util.count_sentences
    replies = sampled(11, 1000)
    same = sum(count(reply) == count_sentences(reply) for reply in replies)
    print(f"\nsentences of word salad: {same} of {len(replies)} agree")
    assert same >= 930


@pytest.mark.parametrize("reply", [*MISTAKEN_ENGLISH, *MISTAKEN_FOREIGN])
def test_where_langdetect_mistakes_the_language_of_a_cased_reply_ours_does_not(checker, reply):
    kind = "change_case:english_capital" if reply.isupper() else "change_case:english_lowercase"
    assert INSTRUCTIONS[kind].follows(reply, {}) is (reply in MISTAKEN_ENGLISH)
    assert published(checker, kind, {})(reply) is (reply in MISTAKEN_FOREIGN)


def test_strict_and_loose_agree_over_whole_items(checker):
    types_left_out = () if has_punkt() else NEEDS_PUNKT
    replies = [*PROSE, *FORMATS, *sampled(7, 20)]
    compared = 0
    for number, item in enumerate(instruction_items("dev", 100)):
        instructions = item["gold"]["instructions"]
        kinds = [one["type"] for one in instructions]
        spoken = {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}
        if {*types_left_out, *spoken} & set(kinds):  # on scraps of text both detectors guess
            continue
        arguments = [{key: value for key, value in one.items() if key != "type"} for one in instructions]
        asked = checker.InputExample(number, kinds, item["messages"][0]["content"], arguments)
        gold = gold_reply(item)
        for reply in (gold, f"Sure!\n{gold}", f"*{gold}*\nBye", gold[:-3], *replies[number % 7 :: 7]):
            score = score_instruction_following(reply, item)
            ours = [[one[form] for one in score.details["instructions"]] for form in ("strict", "loose")]
            strict = checker.test_instruction_following_strict(asked, reply)
            loose = checker.test_instruction_following_loose(asked, reply)
            assert ours == [strict.follow_instruction_list, loose.follow_instruction_list], json.dumps([reply, kinds])
            assert score.value == strict.follow_all_instructions
            assert score.details["prompt_loose"] == loose.follow_all_instructions
            compared += 1
    assert compared > 1000
