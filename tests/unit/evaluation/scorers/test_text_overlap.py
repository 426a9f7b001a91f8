import json

import pytest

from sage.libs.finetune.agent.evaluation.scorers.text_overlap import (
    answer_metrics,
    exact_match,
    f1_score,
    normalize_answer,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Rhine", "rhine"),
        ("  an  APPLE, a day! ", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre and anthem", "theatre and anthem"),
        ("1,969", "1969"),
        ("the", ""),
        ("Café “Ä”", "café “ä”"),
    ],
)
def test_answers_are_normalised_as_in_squad(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("the Rhine.", "Rhine", True, 1.0),
        ("Rhine river", "Rhine", False, 2 / 3),
        ("a b c d", "c d e", False, 2 * (2 / 3) * (2 / 3) / (4 / 3)),  # `a` is an article: 2 of 3 and 2 of 3
        ("Elbe", "Rhine", False, 0.0),
        ("new new york", "new york", False, 0.8),
        ("yes", "Yes.", True, 1.0),
        ("yes it is", "yes", False, 0.0),  # HotpotQA: yes and no are all or nothing
        ("yes", "yes it is", False, 0.0),
        ("no", "noanswer", False, 0.0),
        ("no one", "one", False, 2 / 3),
        ("", "Rhine", False, 0.0),
        ("", "", True, 1.0),
        (None, "", False, 0.0),
        (1969, "1969", True, 1.0),
        (["Rhine"], "Rhine", True, 1.0),
        ({"a": 1}, "Rhine", False, 0.0),
    ],
)
def test_exact_match_and_f1(prediction, gold, em, f1):
    assert exact_match(prediction, gold) is em
    assert f1_score(prediction, gold) == pytest.approx(f1)
    assert f1_score(gold, prediction) == pytest.approx(f1) if prediction is not None else True


def test_a_file_of_episodes_with_missing_ones_is_read_in_three_lines(tmp_path):
    file = tmp_path / "trajs.json"
    episode = {"reward": True, "em": True, "f1": 1.0, "gt": "the Rhine", "pred": "Rhine", "traj": ["..."]}
    wrong = {**episode, "pred": "Rhine river"}
    file.write_text(json.dumps({"0": episode, "1": wrong, "3": {**episode, "pred": None}}))

    episodes = json.loads(file.read_text())
    rows = [episodes.get(str(index), {}) for index in range(5)]
    metrics = answer_metrics([row.get("pred") for row in rows], [row.get("gt") for row in rows])
    assert metrics == {"em": pytest.approx(1 / 5), "f1": pytest.approx((1 + 2 / 3) / 5), "n": 5}


def test_answers_must_pair_up():
    with pytest.raises(ValueError, match="longer"):
        answer_metrics(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        answer_metrics([], [])
