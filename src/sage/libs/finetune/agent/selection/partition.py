"""Selection among a million rows and more: k-means cells, each with its part of the budget, and selection within each.

The first round of distributed greedy (Mirzasoleiman et al., 2013), except that rows are divided by likeness rather than
at random: rows that could stand for each other are then in the same cell, where the selection sees them together, and
the second round, over everything the first one chose, is not needed for an exact size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection.farthest_first import checked_choice, checked_features

Rows = NDArray[np.int64]
FIT_ROWS_PER_CELL, FIT_ROWS = 64, 65_536
"""How many rows a cell's centre is learned from, and how many at least in all."""
FIT_ROUNDS = 10
BLOCK_DISTANCES = 2**23


def partitioned(
    features: ArrayLike,
    k: int,
    select: Callable[..., Sequence[int]],
    cells: int | None = None,
    seed: int = 0,
    *,
    chosen: Sequence[int] = (),
    weights: ArrayLike | None = None,
) -> list[int]:
    """`k` rows, selected cell by cell; each cell's part is that of its rows (of their weights) among all.

    The order goes through the cells in turn, so that a beginning of it is spread over the data too.

    Args:
        features: [n, d].
        k: How many rows to select, exactly.
        select: Called for each cell as `select(features_of_cell, size)`, with `chosen=` the rows of the cell that are
            chosen already where there are such, and `weights=` where there are weights; gives row numbers in the cell.
            `farthest_first` and `facility_location` are such functions.
        cells: How many cells; None takes the square root of n.
        seed: Of the cells.
        chosen: Rows that are in the set already; they are not returned.
        weights: [n] at least 0: how much each row counts.

    Raises:
        ConfigError: when `k`, `cells`, `chosen` or `weights` do not fit the rows, or `select` gives too few.
        DataError: when `features` is not a finite matrix.

    Example:
        >>> from sage.libs.finetune.agent.selection.farthest_first import farthest_first
        >>> partitioned([[0.0], [1.0], [2.0], [50.0], [51.0], [52.0]], k=2, select=farthest_first, cells=2)
        [1, 4]
    """
    rows = checked_features(features)
    taken = checked_choice(len(rows), k, chosen)
    if k == 0:
        return []
    count = math.isqrt(len(rows)) if cells is None else cells
    if not 1 <= count <= len(rows):
        raise ConfigError(f"cells is {count}: expected 1 to {len(rows)}, the number of rows")
    asks = None if weights is None else np.asarray(weights, dtype=np.float64)
    if asks is not None and (asks.shape != (len(rows),) or not np.isfinite(asks).all() or (asks < 0).any()):
        raise ConfigError(f"weights: expected {len(rows)} finite numbers of at least 0, one a row")
    is_taken = np.zeros(len(rows), dtype=bool)
    is_taken[taken] = True
    members = cell_rows(rows, count, seed)
    free = np.array([np.count_nonzero(~is_taken[cell]) for cell in members])
    shares = free if asks is None else np.array([asks[cell][~is_taken[cell]].sum() for cell in members])
    turns: list[tuple[float, int]] = []
    for cell, size in zip(members, shared_budget(shares, free, k), strict=True):
        if size == 0:
            continue
        known: dict[str, Any] = {"chosen": np.flatnonzero(is_taken[cell]).tolist()} if is_taken[cell].any() else {}
        known |= {} if asks is None else {"weights": asks[cell]}
        picks = list(select(rows[cell], int(size), **known))
        if len(set(picks)) != size:
            raise ConfigError(f"select gave {len(set(picks))} different rows of a cell where {size} were asked for")
        turns += [((place + 0.5) / size, int(cell[pick])) for place, pick in enumerate(picks)]
    return [row for _, row in sorted(turns)]


def shared_budget(shares: ArrayLike, limits: ArrayLike, k: int) -> NDArray[np.int64]:
    """`k` divided in proportion to `shares` by largest remainder, no part above its limit; ties to the lowest index.

    What a part cannot take goes to the others in proportion; when all shares are 0 the limits serve as shares.

    Example:
        >>> shared_budget([6, 3, 1], limits=[4, 9, 9], k=7).tolist()
        [4, 2, 1]
    """
    limit = np.asarray(limits, dtype=np.int64)
    share = np.asarray(shares, dtype=np.float64)
    if k > limit.sum():
        raise ConfigError(f"k is {k}: the limits of the parts add up to {limit.sum()}")
    parts, wanted = np.zeros(len(limit), dtype=np.int64), np.zeros(len(limit))
    below = limit > 0
    while below.any():
        asked = np.where(below, share, 0.0)
        asked = asked if asked.any() else np.where(below, limit, 0).astype(np.float64)
        wanted = (k - parts.sum()) * (asked / asked.sum())
        full = below & (wanted > limit)
        if not full.any():
            break
        parts[full] = limit[full]
        below &= ~full
    whole = np.where(below, np.floor(wanted), 0.0)
    parts += whole.astype(np.int64)
    remainders = np.where(below, wanted - whole, -1.0)
    parts[np.argsort(-remainders, kind="stable")[: k - parts.sum()]] += 1
    return parts


def cell_rows(features: NDArray[np.float32], count: int, seed: int) -> list[Rows]:
    """Row numbers of each k-means cell (Lloyd's rounds on a sample), ascending; cells without rows are left out."""
    draw = np.random.default_rng(seed)
    n = len(features)
    sample = features[np.sort(draw.choice(n, min(n, max(FIT_ROWS_PER_CELL * count, FIT_ROWS)), replace=False))]
    centres = sample[np.sort(draw.choice(len(sample), min(count, len(sample)), replace=False))]
    for _ in range(FIT_ROUNDS):
        nearest = _nearest(sample, centres)
        order = np.argsort(nearest, kind="stable")
        used, begins = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(sample[order], begins, axis=0, dtype=np.float64)
        centres = centres.copy()
        centres[used] = sums / np.diff(np.append(begins, len(order)))[:, None]
    nearest = _nearest(features, centres)
    order = np.argsort(nearest, kind="stable")
    return [np.asarray(cell) for cell in np.split(order, np.flatnonzero(np.diff(nearest[order])) + 1)]


def _nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int32]:
    """[n] number of the nearest centre of each point; ties to the lowest."""
    squares = np.einsum("ij,ij->i", centres, centres)
    found = np.empty(len(points), dtype=np.int32)
    step = max(1, BLOCK_DISTANCES // len(centres))
    for start in range(0, len(points), step):
        found[start : start + step] = (squares - 2 * (points[start : start + step] @ centres.T)).argmin(axis=1)
    return found
