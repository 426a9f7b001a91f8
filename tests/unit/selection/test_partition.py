from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection.facility_location import coverage, facility_location
from sage.libs.finetune.agent.selection.farthest_first import farthest_first
from sage.libs.finetune.agent.selection.partition import cell_rows, partitioned, shared_budget


def clusters(n: int, count: int) -> Any:
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((count, 8))
    return (centres[draw.integers(0, count, n)] + 0.1 * draw.standard_normal((n, 8))).astype(np.float32)


@pytest.mark.parametrize("select", [farthest_first, facility_location])
@pytest.mark.parametrize(("k", "cells"), [(1, None), (37, None), (60, 1), (399, 7), (400, 400)])
def test_the_size_is_exact_and_no_row_comes_twice(select: Any, k: int, cells: int | None) -> None:
    rows = clusters(400, 12)
    found = partitioned(rows, k, select, cells)
    assert len(found) == len(set(found)) == k and set(found) <= set(range(400))
    assert partitioned(rows, k, select, cells) == found


def test_one_cell_is_the_selection_itself() -> None:
    rows = clusters(200, 5)
    assert partitioned(rows, 20, facility_location, cells=1) == facility_location(rows, 20)


def test_the_value_is_near_that_of_one_selection_over_all() -> None:
    rows = clusters(600, 12)
    assert coverage(rows, partitioned(rows, 30, facility_location)) > 0.98 * coverage(rows, facility_location(rows, 30))


def test_what_is_chosen_and_what_counts_is_passed_on() -> None:
    rows = clusters(300, 6)
    given = list(range(0, 300, 7))
    found = partitioned(rows, 100, facility_location, cells=9, chosen=given, weights=np.arange(300) % 2)
    assert len({*found, *given}) == 100 + len(given)
    assert np.mean([row % 2 for row in found]) > 0.7


def test_a_beginning_is_spread_over_the_cells() -> None:
    rows = clusters(400, 10)
    found = partitioned(rows, 100, farthest_first, cells=10)
    for cell in cell_rows(rows, 10, seed=0):
        share = np.isin(found, cell).sum() / 2
        assert abs(np.isin(found[:50], cell).sum() - share) <= 1


def test_cells_hold_every_row_once() -> None:
    rows = clusters(500, 9)
    cells = cell_rows(rows, 20, seed=3)
    assert sorted(int(row) for cell in cells for row in cell) == list(range(500))
    assert all((np.diff(cell) > 0).all() for cell in cells) and len(cells) <= 20
    assert len(cell_rows(np.ones((30, 2), dtype=np.float32), 5, seed=0)) == 1


def test_budgets_add_up_within_limits() -> None:
    for seed in range(300):
        draw = np.random.default_rng(seed)
        limits = draw.integers(0, 20, int(draw.integers(1, 12)))
        k = int(draw.integers(0, limits.sum() + 1))
        shares = draw.integers(0, 9, len(limits)) if seed % 2 else limits
        parts = shared_budget(shares, limits, k)
        assert parts.sum() == k and (parts >= 0).all() and (parts <= limits).all()
        if not seed % 2 and k:
            assert (np.abs(parts - k * limits / limits.sum()) < 1).all()


def test_budgets() -> None:
    assert shared_budget([1, 1, 1], [5, 5, 5], 4).tolist() == [2, 1, 1]
    assert shared_budget([0, 0, 4], [2, 6, 1], 5).tolist() == [1, 3, 1]
    with pytest.raises(ConfigError, match="add up to 3"):
        shared_budget([1], [3], 4)


def test_what_does_not_fit_is_refused() -> None:
    rows = clusters(20, 2)
    with pytest.raises(ConfigError, match="cells is 21: expected 1 to 20"):
        partitioned(rows, 2, farthest_first, cells=21)
    with pytest.raises(ConfigError, match="k is 21"):
        partitioned(rows, 21, farthest_first)
    with pytest.raises(ConfigError, match="weights: expected 20"):
        partitioned(rows, 2, farthest_first, weights=[1.0])
    with pytest.raises(ConfigError, match="select gave 1 different rows of a cell where 5"):
        partitioned(rows, 5, lambda features, k: [0] * k, cells=1)
