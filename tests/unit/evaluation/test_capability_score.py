import math

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.report import CapabilityScore, capability_score
from sage.libs.finetune.agent.evaluation.score import Capability, Score
from sage.libs.finetune.agent.evaluation.statistics import bootstrap_interval, wilson_interval

SUMS = Capability("sums", lambda *_: Score(1.0, None, ""), lambda *_: None, lambda scores: {"parse_rate": 1.0, "n": 5})


def record(at, error=None):
    return {"id": f"row-{at}", "prompt": [], "reply": "4", "error": error, "seconds": 0.0, "cut": at == 0}


def scored(values):
    """A score of these values; "error" where the model failed."""
    records = [record(at, "ValueError: no" if value == "error" else None) for at, value in enumerate(values)]
    scores = [None if value == "error" else Score(value, 4, "same") for value in values]
    return capability_score(SUMS, records, scores, resamples=200, seed=3)


def test_errors_and_skipped_replies_are_no_zeros():
    score = scored([1.0, "error", None, 0.0])
    assert (score.score, score.num_samples) == (0.5, 2)
    assert (score.errors, score.details["skipped"], score.details["cut_off"]) == (1, 1, 1)
    assert score.details["parse_rate"] == 1.0  # the capability's own figure
    assert [one["value"] for one in score.replies] == [1.0, None, None, 0.0]
    assert score.replies[1]["error"] == "ValueError: no"


def test_shares_have_wilson_s_interval_and_graded_values_a_bootstrap():
    known = wilson_interval(3, 4)
    assert scored([1.0, 1.0, 0.0, 1.0]).interval == known
    values = [0.2, 0.9, 0.4, 1.0]
    assert scored(values).interval == bootstrap_interval(values, resamples=200, seed=3)


def test_what_was_not_measured_is_nan_and_has_no_interval():
    for values in (["error"], [None], []):
        score = scored(values)
        assert math.isnan(score.score) and score.num_samples == 0 and score.interval is None
    assert scored([0.5]).interval is None  # one graded value says nothing of its spread


def test_json_and_back():
    score = scored([1.0, "error", None, 0.25])
    again = CapabilityScore.from_dict(score.to_dict())
    assert again == score and score.to_dict()["details"]["replies"][1]["value"] is None
    nothing = CapabilityScore.from_dict(scored(["error"]).to_dict())
    assert math.isnan(nothing.score) and scored(["error"]).to_dict()["score"] is None


@pytest.mark.parametrize("field", ["capability", "score", "num_samples", "details"])
def test_a_broken_score_names_the_field(field):
    whole = scored([1.0]).to_dict()
    for broken in ({**whole, field: [5]}, {name: value for name, value in whole.items() if name != field}):
        with pytest.raises(DataError, match=f"^r.json: field '{field}': expected that of a capability's score"):
            CapabilityScore.from_dict(broken, "r.json")


@pytest.mark.parametrize("reply", [{}, 5, {"id": "a"}, {"id": "a", "value": "right"}])
def test_a_saved_reply_that_is_none_is_named(reply):
    record = {"capability": "sums", "score": 1.0, "num_samples": 1, "details": {"replies": [reply]}}
    with pytest.raises(DataError, match="score: reply 1: expected an object with 'id' and 'value'"):
        CapabilityScore.from_dict(record)
