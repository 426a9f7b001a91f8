from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.selection.farthest_first import farthest_first


def plain(features: NDArray[np.float32], k: int, chosen: Sequence[int] = ()) -> list[int]:
    """Gonzalez's algorithm, one pick at a time, in float64."""
    rows = features.astype(np.float64)

    def distances_to(point: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((rows - point) ** 2).sum(axis=1))

    picks = list(chosen) or [int(np.argmin(distances_to(features.mean(axis=0, dtype=np.float64))))]
    nearest = np.min([distances_to(rows[pick]) for pick in picks], axis=0)
    while len(picks) < len(chosen) + k:
        nearest[picks] = -1
        picks.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances_to(rows[picks[-1]]))
    return picks[len(chosen) :]


KINDS = {
    "spread": lambda draw, n, d: draw.standard_normal((n, d)),
    "repeated": lambda draw, n, d: np.tile(draw.standard_normal((-(-n // 3), d)), (3, 1))[:n],
    "signs": lambda draw, n, d: np.sign(draw.standard_normal((n, d))),
    "whole numbers": lambda draw, n, d: draw.integers(0, 3, (n, d)),
    "far from 0, one outlier": lambda draw, n, d: draw.standard_normal((n, d)) + 1e3 + 1e7 * np.eye(n, d),
    "one of each": lambda draw, n, d: np.eye(d)[draw.integers(0, d, n)],
    "equal": lambda draw, n, d: np.ones((n, d)),
    "zero": lambda draw, n, d: np.zeros((n, d)),
    "tiny": lambda draw, n, d: 1e-25 * draw.standard_normal((n, d)),
    "large": lambda draw, n, d: 1e25 * draw.standard_normal((n, d)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_that_of_the_plain_algorithm(kind: str) -> None:
    for seed in range(12):
        draw = np.random.default_rng(seed)
        n, d = int(draw.integers(1, 250)), int(draw.choice([1, 2, 5, 40]))
        rows = np.asarray(KINDS[kind](draw, n, d), dtype=np.float32)
        k = n if seed == 0 else 1 if seed == 1 else int(draw.integers(1, n + 1))
        given = [int(row) for row in draw.permutation(n)[: int(draw.integers(0, n - k + 1))]] if seed % 3 == 2 else []
        assert farthest_first(rows, k, given) == plain(rows, k, given), (seed, n, d, k)


def test_the_order_holds_over_many_pools_and_sleeping_rows() -> None:
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((40, 32))
    rows = (centres[draw.integers(0, 40, 6000)] + 0.3 * draw.standard_normal((6000, 32))).astype(np.float32)
    assert farthest_first(rows, 400) == plain(rows, 400)


def test_a_beginning_does_not_depend_on_how_many_are_asked_for() -> None:
    rows = np.random.default_rng(1).standard_normal((300, 8))
    assert farthest_first(rows, 40) == farthest_first(rows, 300)[:40]
    assert sorted(farthest_first(rows, 300)) == list(range(300))


def test_picks_go_on_from_what_is_chosen() -> None:
    rows = np.random.default_rng(2).standard_normal((300, 8))
    whole = farthest_first(rows, 60)
    assert farthest_first(rows, 40, chosen=whole[:20]) == whole[20:]


def test_twins_are_taken_by_index_and_come_last() -> None:
    assert farthest_first([[0.0], [5.0], [5.0], [0.0], [2.0]], k=5) == [4, 1, 0, 2, 3]


def test_features_stay_as_they_are() -> None:
    rows = np.random.default_rng(3).standard_normal((50, 4)).astype(np.float32)
    before = rows.copy()
    farthest_first(rows, 10)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize(
    ("k", "chosen", "says"),
    [
        (4, [], "k is 4: expected 0 to 3"),
        (3, [0], "expected 0 to 2"),
        (-1, [], "k is -1"),
        (1, [0, 0], "different"),
    ],
)
def test_what_does_not_fit_is_refused(k: int, chosen: list[int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        farthest_first([[0.0], [1.0], [2.0]], k, chosen)


@pytest.mark.parametrize(
    ("rows", "says"), [([[0.0], [np.nan]], "row 1: holds"), ([[np.inf], [0.0]], "row 0: holds"), ([1.0, 2.0], "shape")]
)
def test_unusable_features_are_refused(rows: list[list[float]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        farthest_first(rows, 1)


def test_none_of_none() -> None:
    assert farthest_first(np.zeros((0, 3)), 0) == []
