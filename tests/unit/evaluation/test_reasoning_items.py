import pytest

from sage.libs.finetune.agent import ConfigError
from sage.libs.finetune.agent.evaluation.reasoning_items import SPLITS, reasoning_items
from sage.libs.finetune.agent.evaluation.reasoning_problems import KINDS
from sage.libs.finetune.agent.evaluation.scorers.reasoning import gold_reply, score_reasoning


def prompts(split, n, seed):
    return [one["messages"][0]["content"] for one in reasoning_items(split, n, seed)]


def test_the_same_arguments_give_the_same_and_a_longer_list_begins_with_a_shorter():
    assert reasoning_items("test", 20, 3)[:9] == reasoning_items("test", 9, 3)
    assert prompts("test", 20, 3) != prompts("test", 20, 4)


def test_no_problem_stands_in_two_splits_whatever_the_seed():
    owners = {}
    for split in SPLITS:
        for seed in range(4):
            asked = prompts(split, 180, seed)
            assert len(set(asked)) == 180
            for prompt in asked:
                assert owners.setdefault(prompt, split) == split


def test_the_same_figures_with_another_name_are_the_same_problem():
    def figures(split):
        problems = reasoning_items(split, 150, kinds=["sharing"])
        return {tuple(w for w in p["messages"][0]["content"].split() if w.isdigit()) for p in problems}

    assert figures("train").isdisjoint(figures("test"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_solution_holds_and_leads_to_the_answer(kind):
    for one in reasoning_items("train", 60, kinds=[kind]):
        score = score_reasoning(gold_reply(one), one)
        assert score.value == 1.0
        assert score.details["grounded"] == 1.0, one
        assert score.details["equations"] in (None, 1.0), one
        assert one["metadata"]["steps"] == len(one["metadata"]["solution"].split("\n")) >= 2
        assert len(one["messages"][0]["content"]) < 420 and len(gold_reply(one)) < 260


def test_kinds_take_turns_and_choices_do_not_favour_a_letter():
    items = reasoning_items("train", 450)
    counts = [sum(one["metadata"]["kind"] == kind for one in items) for kind in KINDS]
    assert counts == [50] * len(KINDS)
    letters = [one["gold"]["answer"] for one in items if one["gold"]["kind"] == "choice"]
    assert all(0.15 < letters.count(letter) / len(letters) < 0.35 for letter in "ABCD")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("valid", 1), "unknown split 'valid'"),
        (("test", -1), "expected n of 0 or more"),
        (("test", 1, 0, ["maths"]), "unknown kind of reasoning problem 'maths'"),
        (("dev", 500, 0, ["weekday"]), "ask for at most"),
    ],
)
def test_what_cannot_be_given_is_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        reasoning_items(*arguments)
