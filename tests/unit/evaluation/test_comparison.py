from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.comparison import compare
from sage.libs.finetune.agent.evaluation.statistics import mcnemar, paired_share_interval

HALVES = [0.0, 0.25, 0.5, 0.75, 1.0]


def records(values: list[Any], **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"row-{number}", "value": value, "error": None, **more} for number, value in enumerate(values)]


def test_right_and_wrong_are_compared_by_mcnemar() -> None:
    a, b = [1.0] * 12 + [0.0] * 28, [0.0] * 10 + [1.0] * 3 + [0.0] * 27
    [row] = compare({"timing": records(a)}, {"timing": records(b)}).rows
    assert (row.test, row.wins, row.losses, row.n) == ("exact McNemar", 10, 1, 40)
    assert row.p == row.adjusted_p == mcnemar(a, b).p and row.interval == paired_share_interval(10, 1, 40)
    assert (row.verdict, row.difference) == ("better", pytest.approx(9 / 40))


def test_graded_scores_are_compared_by_their_differences() -> None:
    b = np.random.default_rng(0).choice(HALVES[:4], 50).tolist()
    a = [value + 0.25 * (number % 3 != 0) for number, value in enumerate(b)]
    [row] = compare({"planning": records(a)}, {"planning": records(b)}).rows
    assert (row.test, row.verdict, row.wins, row.losses) == ("sign flips", "better", 33, 0)
    assert row.difference == pytest.approx(0.165) and row.interval.low < 0.165 < row.interval.high


def test_what_has_no_pair_is_left_out_and_counted() -> None:
    a, b = records([1.0, 1.0, None, 1.0, 0.0]), records([0.0, 1.0, 1.0, 1.0])
    b[1] |= {"error": "TimeoutError", "value": None}
    b[3]["id"] = "another"
    [row] = compare({"timing": a}, {"timing": b}).rows
    assert (row.n, row.score_a, row.score_b) == (1, 1.0, 0.0)
    assert row.left_out == {"only the first has": 2, "only the second has": 1, "with an error": 1, "not scored": 1}


def test_capabilities_of_one_side_are_said() -> None:
    found = compare(
        {"timing": records([1.0]), "planning": records([1.0]), "tool_use": records([None])},
        {"timing": records([1.0]), "reasoning": records([1.0]), "tool_use": records([1.0])},
    )
    assert [row.name for row in found.rows] == ["timing"]
    assert (found.only_a, found.only_b) == (["planning"], ["reasoning"])
    assert found.unpaired == ["tool_use"]


def test_holm_is_over_all_rows_and_overall_is_the_plain_mean() -> None:
    a = {"timing": records([1.0] * 8 + [0.0] * 2), "planning": records([0.5] * 40)}
    b = {"timing": records([0.0] * 10), "planning": records([0.5] * 40)}
    timing, planning, overall = compare(a, b).rows
    assert overall.name == "overall" and overall.difference == pytest.approx(0.4) and overall.n == 50
    assert overall.score_a == pytest.approx((0.8 + 0.5) / 2)
    assert timing.adjusted_p == pytest.approx(3 * timing.p) and planning.adjusted_p == 1.0
    assert (timing.verdict, planning.verdict, overall.verdict) == ("better", "no difference shown", "better")
    half = (timing.interval.high - timing.difference) / 2  # planning has no spread: half of what timing has
    assert overall.interval.high - overall.difference == pytest.approx(half)


def test_six_small_wins_by_chance_are_not_shown() -> None:
    """Alone p = 0.031; as one of seven rows it is no more than what one of them does by chance."""
    same = {f"c{number}": records([1.0] * 20) for number in range(5)}
    a, b = {"timing": records([1.0] * 6 + [0.0] * 14)}, {"timing": records([0.0] * 20)}
    assert compare(a, b).rows[0].verdict == "better"
    assert compare(a | same, b | same).rows[0].verdict == "no difference shown"


def test_a_regression_is_beyond_the_tolerance_with_its_whole_interval() -> None:
    found = compare({"timing": records([0.0] * 20 + [1.0] * 80)}, {"timing": records([1.0] * 100)})
    [row] = found.rows
    assert row.verdict == "worse" and row.difference == -0.2 and -0.15 < row.interval.high < -0.12
    assert found.regressions() == found.regressions(0.12) == [row]
    assert found.regressions(0.15) == []
    assert compare({"timing": records([1.0] * 100)}, {"timing": records([0.0] * 100)}).regressions() == []


@given(st.lists(st.tuples(st.sampled_from(HALVES), st.sampled_from(HALVES)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_comparison_turns_round_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    a, b = {"c": records([first for first, _ in pairs])}, {"c": records([second for _, second in pairs])}
    [there], [back] = compare(a, b, resamples=200).rows, compare(b, a, resamples=200).rows
    assert there.difference == pytest.approx(-back.difference) and there.p == pytest.approx(back.p)
    assert (there.wins, there.losses, there.detectable) == (back.losses, back.wins, back.detectable)
    assert {there.verdict, back.verdict} in ({"better", "worse"}, {"no difference shown"})


def test_detectable_is_what_an_exact_test_could_find_at_all() -> None:
    same = {"c": records([1.0] * 64)}
    [row] = compare(same, same).rows
    assert row.detectable == 6 / 64  # 2 / 2^6 < 0.05 < 2 / 2^5
    assert compare({"c": records([1.0] * 3)}, {"c": records([1.0] * 3)}).rows[0].detectable > 1


def test_one_graded_pair_shows_nothing_and_is_json() -> None:
    found = compare({"c": records([0.5])}, {"c": records([0.25])})
    assert found.rows[0].verdict == "no difference shown" and math.isnan(found.rows[0].interval.low)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"][0]["interval"] == {
        "low": None,
        "high": None,
    }


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"x": records([1.0])}, {"y": records([1.0])}, "no capability was measured on both sides: the first has x;"),
        ({"x": records([1.0])}, {"x": records([None])}, r"no item was scored on both sides \(x: 1 not scored\)"),
        ({"x": records([1.0]) * 2}, {"x": records([1.0])}, "x: item 'row-0' stands twice on the first side"),
        (
            {"x": records([1.0], prompt=[{"content": "2 + 2?"}])},
            {"x": records([1.0], prompt=[{"content": "2 + 3?"}])},
            "x: item 'row-0' is not the same on both sides",
        ),
    ],
)
def test_faults(a: dict[str, Any], b: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare(a, b)


def test_items_without_a_kept_prompt_are_paired_by_id_alone() -> None:
    assert compare({"x": records([1.0], prompt="2 + 2?")}, {"x": records([1.0])}).rows[0].n == 1


def test_models_that_are_alike_seldom_differ_in_any_of_many_rows() -> None:
    generator = np.random.default_rng(0)

    def arm(chances: np.ndarray) -> dict[str, Any]:
        right = {
            f"right {row}": records((generator.random(30) < chances[row]).astype(float).tolist()) for row in (0, 1)
        }
        graded = {f"graded {row}": records((generator.binomial(4, chances[row]) / 4).tolist()) for row in (2, 3)}
        return {**right, **graded}

    compared, any_alone, any_shown = 120, 0, 0
    for _ in range(compared):
        chances = generator.random((4, 30))
        rows = compare(arm(chances), arm(chances), resamples=300).rows
        any_alone += any(row.p < 0.05 for row in rows)
        any_shown += any(row.verdict != "no difference shown" for row in rows)
    assert any_shown <= 0.07 * compared < any_alone
