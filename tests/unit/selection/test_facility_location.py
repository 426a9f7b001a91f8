from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.selection import facility_location as module
from sage.libs.finetune.agent.selection.facility_location import coverage, facility_location, unit_rows


def greedy(features: Any, k: int, chosen: list[int], weights: Any = None) -> list[int]:
    """Every gain of every step, in whole numbers and fractions: nothing is rounded but the features."""
    units = unit_rows(features)
    n = len(units)
    fixed = np.rint(units.astype(np.float64) * 2.0 ** ((53 - n.bit_length()) // 2)).astype(np.int64).tolist()
    like = [[max(0, sum(a * b for a, b in zip(one, two, strict=True))) for two in fixed] for one in fixed]
    asks = [Fraction(1)] * n if weights is None else [Fraction(float(weight)) for weight in weights]
    covered = [max((like[row][pick] for pick in chosen), default=0) for row in range(n)]
    order: list[int] = []
    while len(order) < k:
        free = [row for row in range(n) if row not in chosen and row not in order]
        gains = {j: sum(asks[i] * max(0, like[i][j] - covered[i]) for i in range(n)) for j in free}
        order.append(max(free, key=lambda row: (gains[row], -row)))
        covered = [max(so_far, like[row][order[-1]]) for row, so_far in enumerate(covered)]
    return order


@pytest.mark.parametrize("kind", ["spread", "repeated", "whole numbers", "equal", "zero"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_order_is_that_of_plain_greedy(kind: str, weighted: bool) -> None:
    for seed in range(6):
        draw = np.random.default_rng(seed)
        n, d = int(draw.integers(2, 40)), int(draw.choice([1, 2, 5]))
        rows = draw.standard_normal((n, d))
        if kind == "repeated":
            rows = np.tile(rows, (3, 1))[:n]
        elif kind != "spread":
            rows = {"whole numbers": np.round(rows), "equal": np.ones((n, d)), "zero": np.zeros((n, d))}[kind]
        weights = draw.integers(0, 3, n) / 4 if weighted else None
        k = n if seed == 0 else int(draw.integers(1, n))
        given = draw.permutation(n)[: int(draw.integers(0, n - k + 1))].tolist() if seed % 2 else []
        assert facility_location(rows, k, given, weights) == greedy(rows, k, given, weights), (seed, n, d, k)


def test_greedy_is_near_the_best_set() -> None:
    for seed in range(8):
        rows = np.random.default_rng(seed).standard_normal((11, 3))
        best = max(coverage(rows, subset) for subset in combinations(range(11), 3))
        assert coverage(rows, facility_location(rows, 3)) >= (1 - 1 / np.e) * best


def test_one_row_of_each_group_comes_first() -> None:
    groups = [[1, 0, 0], [1, 0, 0.1], [1, 0, -0.1], [0, 1, 0], [0, 1, 0.1], [0, 1, -0.1]]
    assert facility_location(groups, k=2) == [0, 3]
    assert facility_location(groups, k=1, chosen=[1]) == [3]
    assert facility_location(groups, k=1, weights=[0, 0, 0, 0, 0, 1]) == [5]


def test_rows_that_add_nothing_come_last_by_index() -> None:
    assert facility_location([[0, 0], [1, 0], [2, 0], [0, 0], [0, 3]], k=5) == [1, 4, 0, 2, 3]


def test_length_does_not_matter_and_features_stay() -> None:
    rows = np.random.default_rng(4).standard_normal((60, 5)).astype(np.float32)
    before = rows.copy()
    picks = facility_location(rows, 20)
    np.testing.assert_array_equal(rows, before)
    assert facility_location(rows * 2.0 ** np.arange(-30, 30)[:, None], 20) == picks


def test_coverage_grows_with_the_set_and_is_what_it_says() -> None:
    rows = np.random.default_rng(5).standard_normal((50, 4))
    weights = np.arange(50.0)
    order = facility_location(rows, 50, weights=weights)
    values = [coverage(rows, order[:size], weights) for size in range(51)]
    gains = np.diff(values)
    assert values[0] == 0 and values[-1] == pytest.approx(weights.sum(), rel=1e-6)
    assert (gains >= -1e-5).all() and (np.diff(gains) <= 1e-3).all()
    cosines = unit_rows(rows) @ unit_rows(rows)[order[:7]].T
    assert values[7] == pytest.approx(float(weights @ np.maximum(cosines.max(axis=1), 0)), rel=1e-6)


@pytest.mark.parametrize("most_pairs", [10**9, 3000])
def test_many_rows_are_covered_nearly_as_well_as_by_plain_greedy(
    monkeypatch: pytest.MonkeyPatch, most_pairs: int
) -> None:
    draw = np.random.default_rng(6)
    rows = draw.standard_normal((20, 16))[draw.integers(0, 20, 900)] + 0.5 * draw.standard_normal((900, 16))
    for k, given, weights in (7, [], None), (90, list(range(0, 900, 30)), None), (200, [], draw.random(900)):
        exact = facility_location(rows, k, given, weights)
        with monkeypatch.context() as patch:
            patch.setattr(module, "EXACT_ROWS", 100)
            patch.setattr(module, "MOST_PAIRS", most_pairs)
            found = facility_location(rows, k, given, weights)
            assert found == facility_location(rows, k, given, weights)
            assert len({*found, *given}) == k + len(given)
        ratio = coverage(rows, [*given, *found], weights) / coverage(rows, [*given, *exact], weights)
        assert ratio > 0.98


def test_all_rows_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 10)
    rows = np.concatenate([np.zeros((20, 3)), np.ones((20, 3)), np.random.default_rng(7).standard_normal((60, 3))])
    assert sorted(facility_location(rows, 100)) == list(range(100))
    assert sorted(facility_location(rows, 95, chosen=range(5), weights=np.zeros(100))) == list(range(5, 100))


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, -1], [1, 1, np.nan]])
def test_unusable_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="weights: expected 3 finite numbers"):
        facility_location(np.eye(3), 1, weights=weights)


def test_unusable_features_and_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="row 2"):
        facility_location([[0.0], [1.0], [np.nan]], 1)
    with pytest.raises(ConfigError, match="k is 4: expected 0 to 3"):
        facility_location(np.eye(3), 4)
