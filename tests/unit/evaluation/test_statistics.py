from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.statistics import (
    bootstrap_interval,
    cohens_h,
    detectable_difference,
    hierarchical_bootstrap,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_share_interval,
    required_n,
    standardised_difference,
    wilson_interval,
)
from sage.libs.finetune.agent.evaluation.statistics.paired import sign_flip_p
from sage.libs.finetune.agent.types import Interval

scores = st.floats(0, 1, allow_nan=False)


def answers(only_a: int, only_b: int, both: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * neither
    return a, [0] * only_a + [1] * only_b + [1] * both + [0] * neither


def coverage(draw: Callable[[], Interval], truth: float, trials: int = 400) -> float:
    return float(np.mean([found.low <= truth <= found.high for found in (draw() for _ in range(trials))]))


@pytest.mark.parametrize(("successes", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)])
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    found = wilson_interval(successes, n)  # Newcombe, 1998, table I
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@pytest.mark.parametrize(("method", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
def test_bootstrap_agrees_with_scipy(method: str, theirs: str) -> None:
    values = np.random.default_rng(3).beta(5, 1, 60)
    ours = bootstrap_interval(values.tolist(), resamples=20_000, method=method)  # type: ignore[arg-type]
    scipys = bootstrap((values,), np.mean, method=theirs, n_resamples=20_000, rng=4).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), abs=1.5e-3)


def test_bootstrap_of_next_to_nothing() -> None:
    for few in ([], [0.5]):
        assert math.isnan(bootstrap_interval(few).low) and math.isnan(bootstrap_interval(few).high)
    assert bootstrap_interval([0.25] * 9, method="bca") == Interval(0.25, 0.25)
    with pytest.raises(DataError, match="score 2 is nan; leave out what was not scored"):
        bootstrap_interval([0.5, math.nan])


@given(st.lists(scores, min_size=2, max_size=30), st.sampled_from(["percentile", "bca"]))
@settings(max_examples=40, deadline=None)
def test_bootstrap_stays_among_the_values(values: list[float], method: str) -> None:
    found = bootstrap_interval(values, resamples=200, method=method)  # type: ignore[arg-type]
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == bootstrap_interval(values, resamples=200, method=method)  # type: ignore[arg-type]


def test_bootstrap_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50).tolist()
    whole = bootstrap_interval(values, resamples=400)
    monkeypatch.setattr("sage.libs.finetune.agent.evaluation.statistics.intervals._DRAWS_AT_ONCE", 3000)
    parts = bootstrap_interval(values, resamples=400)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02)


def test_mcnemar_as_published() -> None:
    found = mcnemar(*answers(1, 7, 1, 12))  # Fagerland, Lydersen & Laake, 2013: exact .070, mid-p .039
    assert (round(found.p, 4), round(found.mid_p, 4)) == (0.0703, 0.0391)
    assert (found.only_a, found.only_b, found.n) == (1, 7, 21)


def test_mcnemar_where_nothing_or_as_much_differs() -> None:
    assert mcnemar(*answers(0, 0, 5, 5)).p == mcnemar(*answers(3, 3, 5, 5)).p == 1.0
    assert mcnemar(*answers(3, 3, 0, 0)).mid_p == pytest.approx(1 - math.comb(6, 3) / 2**7)


def test_mcnemar_is_of_right_and_wrong() -> None:
    with pytest.raises(DataError, match=r"found 0\.5; use paired_bootstrap"):
        mcnemar([1, 0.5], [0, 1])
    with pytest.raises(DataError, match="found 1 and 2 of them"):
        mcnemar([1], [0, 1])


@given(*[st.integers(0, 30)] * 4)
@settings(max_examples=60, deadline=None)
def test_mcnemar_and_its_interval_are_symmetric(only_a: int, only_b: int, both: int, neither: int) -> None:
    a, b = answers(only_a, only_b, both, neither)
    there, back = mcnemar(a, b), mcnemar(b, a)
    assert there.p == pytest.approx(back.p) and 0 < there.mid_p <= there.p <= 1
    low, high = vars(paired_share_interval(only_a, only_b, len(a))).values()
    assert paired_share_interval(only_b, only_a, len(a)).low == pytest.approx(-high, abs=1e-7)
    if a:
        assert -1 <= low <= (only_a - only_b) / len(a) <= high <= 1 and high - low > 0


def test_interval_of_paired_shares_as_published() -> None:
    found = paired_share_interval(1, 7, 21)  # Fagerland, Lydersen & Laake, 2014: -0.517 to -0.026
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)


def test_interval_of_paired_shares_has_closed_forms_at_its_limits() -> None:
    z2, n = 1.959963984540054**2, 10
    assert paired_share_interval(0, 0, n).high == pytest.approx(z2 / (n + z2))
    everything = paired_share_interval(n, 0, n)
    assert (everything.low, everything.high) == (pytest.approx((n - z2) / (n + z2)), 1.0)
    assert paired_share_interval(0, 0, 0) == Interval(-1.0, 1.0)
    with pytest.raises(DataError, match="do not fit into 3 items"):
        paired_share_interval(2, 2, 3)


def test_interval_of_paired_shares_leaves_out_zero_as_the_score_test_does() -> None:
    for only_a, only_b in ((6, 1), (5, 1), (12, 4), (10, 4)):
        rejects = (only_a - only_b) ** 2 / (only_a + only_b) > 1.959963984540054**2
        assert (paired_share_interval(only_a, only_b, 50).low > 0) == rejects


def test_sign_flips_agree_with_scipy_and_count_exactly() -> None:
    differences = np.random.default_rng(5).normal(0.2, 0.5, 12)
    exact = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences, 40_000) == pytest.approx(exact.pvalue, abs=0.01)
    assert sign_flip_p(np.full(5, 0.1), 40_000) == pytest.approx(2 / 32, abs=0.006)
    assert sign_flip_p(np.zeros(9)) == 1.0


@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=25))
@settings(max_examples=30, deadline=None)
def test_a_paired_difference_turns_round_with_its_arms(pairs: list[tuple[float, float]]) -> None:
    a, b = [first for first, _ in pairs], [second for _, second in pairs]
    there, back = paired_bootstrap(a, b, resamples=300), paired_bootstrap(b, a, resamples=300)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == back.p and there.interval.low == pytest.approx(-back.interval.high, abs=1e-9)


def test_intervals_cover_what_they_say() -> None:
    generator = np.random.default_rng(11)

    def seed() -> int:
        return int(generator.integers(2**31))

    def shares() -> Interval:
        only_a, only_b, _ = generator.multinomial(40, [0.2, 0.1, 0.7]).tolist()
        return paired_share_interval(only_a, only_b, 40)

    def graded() -> Interval:
        return bootstrap_interval(generator.beta(4, 1, 60).tolist(), resamples=500, seed=seed(), method="bca")

    def difference() -> Interval:
        easy = generator.normal(0.5, 0.3, 60)
        a, b = easy + generator.normal(0.1, 0.1, 60), easy + generator.normal(0, 0.1, 60)
        return paired_bootstrap(a.tolist(), b.tolist(), resamples=500, seed=seed()).interval

    assert 0.92 <= coverage(shares, 0.1) <= 0.98
    assert 0.92 <= coverage(graded, 0.8) <= 0.98
    assert 0.92 <= coverage(difference, 0.1) <= 0.98


@pytest.mark.parametrize(("seeds", "luck"), [(3, 0.05), (10, 0.3)])
def test_hierarchical_intervals_cover_the_luck_of_seeds_and_items(seeds: int, luck: float) -> None:
    generator = np.random.default_rng(13)

    def arm(easy: np.ndarray) -> list[list[float]]:
        table = easy + generator.normal(0, luck, (seeds, 1)) + generator.normal(0, 0.2, (seeds, 60))
        return [[float(value) for value in row] for row in table]

    def mean() -> Interval:
        return hierarchical_bootstrap(arm(generator.normal(0.5, 0.3, 60)), resamples=300).interval

    def difference() -> Interval:
        easy = generator.normal(0.5, 0.3, 60)
        return hierarchical_bootstrap(arm(easy), arm(easy), resamples=300).interval

    assert 0.90 <= coverage(mean, 0.5, 200) <= 0.99
    assert 0.90 <= coverage(difference, 0, 200) <= 0.995


def test_items_that_all_seeds_share_are_drawn_for_all_of_them() -> None:
    row = [1.0] * 8 + [0.0] * 8
    alone = hierarchical_bootstrap([row]).interval
    repeated = hierarchical_bootstrap([row] * 20).interval  # twenty seeds that agree say no more about the items
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, abs=0.03)


def test_items_of_a_cluster_are_drawn_together() -> None:
    by_cluster = [float(number % 2) for number in range(8) for _ in range(10)]
    clusters = [f"template {number}" for number in range(8) for _ in range(10)]
    apart, together = hierarchical_bootstrap([by_cluster]), hierarchical_bootstrap([by_cluster], clusters=clusters)
    assert (apart.clusters, together.clusters, together.items) == (80, 8, 80)
    assert together.interval.high - together.interval.low > 2.5 * (apart.interval.high - apart.interval.low)
    assert together.mean == apart.mean == 0.5


def test_hierarchical_arms_are_symmetric_and_may_differ_in_seeds() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.random((4, 30)).tolist(), generator.random((2, 30)).tolist()
    there, back = hierarchical_bootstrap(a, b), hierarchical_bootstrap(b, a)
    assert there.mean == pytest.approx(-back.mean) and there.p == pytest.approx(back.p, abs=0.03)
    assert (there.seeds, back.seeds) == (4, 2)


@pytest.mark.parametrize(
    ("values", "against", "clusters", "message"),
    [
        ([], None, None, "values: expected scores of at least one seed"),
        ([[1, 0], [1]], None, None, r"values: every seed is measured on the same items, found \[2, 1\]"),
        ([[1, 0]], [[1, 0, 1]], None, "both arms are measured on the same items: found 2 and 3"),
        ([[1, 0]], None, ["x"], "expected one for each of the 2 items, found 1"),
        ([[1, 0]], None, ["x", "x"], "leave nothing to draw"),
        ([[1, math.nan]], None, None, "score 2 is nan"),
    ],
)
def test_hierarchical_faults(values: list, against: list | None, clusters: list | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hierarchical_bootstrap(values, against, clusters=clusters)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    with pytest.raises(DataError, match="p-value 2 is nan"):
        holm([0.1, math.nan])


@given(st.lists(scores, max_size=12))
def test_holm_keeps_the_order_and_never_helps(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= after <= min(1, p * len(p_values)) + 1e-12 for p, after in zip(p_values, adjusted, strict=True))
    in_order = [after for _, after in sorted(zip(p_values, adjusted, strict=True))]
    assert in_order == sorted(in_order)


def test_effects() -> None:
    assert cohens_h(1, 0) == pytest.approx(math.pi) and cohens_h(0.3, 0.3) == 0
    assert cohens_h(0.2, 0.7) == -cohens_h(0.7, 0.2)
    assert standardised_difference([0.8, 0.6, 0.9], [0.5, 0.6, 0.7]) == pytest.approx((0.5 / 3) / math.sqrt(0.07 / 3))
    assert standardised_difference([0.5, 0.6], [0.4, 0.5]) is None
    with pytest.raises(DataError, match=r"a share is 0 to 1, found 1\.2"):
        cohens_h(1.2, 0.3)


def test_required_n_is_what_shows_the_difference() -> None:
    n = required_n(0.05, spread=0.4)
    assert n == 503  # ((1.959964 + 0.841621) * 0.4 / 0.05)^2 = 502.3
    assert detectable_difference(n, 0.4) <= 0.05 < detectable_difference(n - 1, 0.4)
    with pytest.raises(DataError, match="no number of items shows a difference of 0"):
        required_n(0, 0.4)


def test_the_promised_power_is_had() -> None:
    generator = np.random.default_rng(7)
    n = required_n(0.1, spread=0.3**0.5)
    draws = generator.multinomial(n, [0.2, 0.1, 0.7], size=400)
    shown = [mcnemar(*answers(a, b, rest, 0)).p < 0.05 for a, b, rest in draws.tolist()]
    assert 0.72 <= np.mean(shown) <= 0.86  # 0.8, less what the exact test is too careful


def test_seeds_may_come_as_an_array():
    assert hierarchical_bootstrap(np.ones((3, 4)), np.zeros((3, 4)), resamples=50).mean == 1.0
