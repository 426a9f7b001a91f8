"""Farthest-first traversal (Gonzalez, 1985), exactly: each pick is the row farthest from everything picked before.

The plain form brings every row's distance to the set up to date after every pick: a matrix-vector product over all the
rows, bound by memory. This one gives the same order from matrix-matrix products over few rows, since distances to the
set only shrink:

- An old distance of a row is an upper bound of its distance now. The `pool` is the rows with the largest bounds. While
  the farthest row of the pool is farther than every bound outside, it is the farthest of all, and may be picked.
- After a run of picks only rows with bounds near the largest are brought up to date. The others sleep with their old
  bound until the largest has come down to it; in clustered data most never wake.

The bounds come from float32 products and hold a margin for everything rounding can do to them. Who is picked is decided
in float64 from sums of squared differences, computed row by row, which depend neither on blocks nor on threads. So the
order is that of the plain algorithm with those distances, ties to the lowest index, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sage.libs.finetune.agent.errors import ConfigError, DataError

Rows = NDArray[np.int64]
Distances = NDArray[np.float64]
LEAST_POOL, FIRST_POOL, LARGEST_POOL = 64, 256, 2048
AWAKE = 0.99
"""Rows whose bound (a squared distance) is at least this share of the largest are kept up to date."""
BLOCK_ROWS = 2048
BLOCK_CENTRES = 256
BLOCK_PAIRS = 8192
FLOAT32_UNIT = 2.0**-24
LEAST_SQUARE = 1e-30
"""What float32 may lose of a square of numbers up to 1 by underflow, with room."""
LARGEST_NUMBER = 1e37


def farthest_first(features: ArrayLike, k: int, chosen: Sequence[int] = (), seed: int = 0) -> list[int]:
    """`k` rows, each the farthest (Euclidean) from those before it and from `chosen`; ties go to the lowest index.

    With nothing chosen the first pick is the row nearest the mean. About the size of `features` is held beside it.

    Args:
        features: [n, d], read as float32; rows need not have unit length.
        k: How many rows to pick, at most those not in `chosen`.
        chosen: Rows that are in the set already; they are not returned.
        seed: Not used: no luck is involved. Every selector is called alike.

    Returns:
        The rows in order of choice.

    Raises:
        ConfigError: when `k` or `chosen` do not fit the rows.
        DataError: when `features` is not a finite matrix.

    Example:
        >>> farthest_first([[0.0], [1.0], [2.0], [3.0], [9.0]], k=3)
        [3, 4, 0]
    """
    rows = checked_features(features)
    taken = checked_choice(len(rows), k, chosen)
    if k == 0:
        return []
    traversal = _Traversal(rows)
    if taken:
        traversal.take(taken)
    else:
        mean = rows.mean(axis=0, dtype=np.float64)
        traversal.take([int(np.argmin(_squared_distances_to_point(rows, mean)))])
    while len(traversal.picks) < len(taken) + k:
        traversal.take(traversal.next_picks(len(taken) + k - len(traversal.picks)))
    return traversal.picks[len(taken) :]


def checked_features(features: ArrayLike) -> NDArray[np.float32]:
    """Features as a finite float32 matrix [n, d]; DataError otherwise."""
    rows = np.ascontiguousarray(features, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise DataError(f"features: expected a matrix [n, d], found the shape {list(rows.shape)}")
    usable = np.maximum(rows.max(axis=1), -rows.min(axis=1)) < LARGEST_NUMBER  # False for nan as well
    if not usable.all():
        raise DataError(f"features, row {int(np.argmin(usable))}: holds a number that is not finite, or huge")
    return rows


def checked_choice(n: int, k: int, chosen: Sequence[int]) -> list[int]:
    """`chosen` as ints, when they and `k` more fit `n` rows; ConfigError otherwise."""
    taken = [int(row) for row in chosen]
    if len(set(taken)) != len(taken) or any(not 0 <= row < n for row in taken):
        raise ConfigError(f"chosen: expected different row numbers from 0 to {n - 1}")
    if not 0 <= k <= n - len(taken):
        raise ConfigError(f"k is {k}: expected 0 to {n - len(taken)}, the rows that are not chosen yet")
    return taken


class _Traversal:
    """The picks so far and what is known of each row's squared distance to them.

    Attributes:
        picks: Rows of the set, in order.
        bounds: [n] a number that the squared distance of each row to the set does not exceed; -1 for its members.
        seen: [n] how many of the picks each bound accounts for.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        n, width = rows.shape
        self._rows = rows
        self.picks: list[int] = []
        self.bounds = np.full(n, np.inf)
        self.seen = np.zeros(n, dtype=np.int64)
        self._pool_size = FIRST_POOL
        # Distances do not change when the mean is taken off, and the products they come from round less. The column of
        # ones adds a centre's own square within the product.
        self._centred = np.empty((n, width + 1), dtype=np.float32)
        points = self._centred[:, :width]
        np.subtract(rows, rows.mean(axis=0, dtype=np.float64).astype(np.float32), out=points)
        # In units of a power of two in which the largest number is about 1, squares can neither over- nor underflow.
        self._unit = 2.0 ** float(np.frexp(max(points.max(), -points.min()))[1])
        points /= np.float32(self._unit)
        self._centred[:, width] = 1
        self._squares = np.einsum("ij,ij->i", points, points).astype(np.float64)
        # A float32 product of x and c is off by at most (d + 1) u |x| |c|, in any order of summation (Higham, 2002,
        # section 3.1); with the centring and the squares, d² by at most s (|x| + |c|)² for s = (2 d + 16) u. Since
        # |c| <= |x| + d that is at most s (8 |x|² + 2 d²), in terms of the row alone.
        self._slack = (2 * width + 16) * FLOAT32_UNIT

    def take(self, new: Sequence[int]) -> None:
        """Add picks, and bring the rows up to date that may be picked soon."""
        self.picks += new
        self.bounds[list(new)] = -1.0
        while True:
            late = self.seen < len(self.picks)
            awake = np.flatnonzero(late & (self.bounds >= AWAKE * self.bounds.max()))
            if not len(awake):
                break
            self._refresh(awake)

    def _refresh(self, rows: Rows) -> None:
        """Lower the bounds of rows by the picks that they do not account for."""
        if self.seen[rows].min() < self.seen[rows].max():
            rows = rows[np.argsort(self.seen[rows], kind="stable")]
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            points = self._centred[block]
            nearest = np.full(len(block), -np.inf, dtype=np.float32)
            unseen = self.picks[self.seen[block[0]] :]
            for first in range(0, len(unseen), BLOCK_CENTRES):
                centres = 2 * self._centred[unseen[first : first + BLOCK_CENTRES]]
                centres[:, -1] = -self._squares[unseen[first : first + BLOCK_CENTRES]]
                np.maximum(nearest, (centres @ points.T).max(axis=0), out=nearest)
            squares = self._squares[block]
            found = np.maximum(squares - nearest, 0.0)
            bound = (found + 8 * self._slack * squares) * (1 + 4 * self._slack) + LEAST_SQUARE
            self.bounds[block] = np.minimum(self.bounds[block], bound * self._unit**2)
        self.seen[rows] = len(self.picks)

    def next_picks(self, most: int) -> list[int]:
        """The next rows of the order: at least one, at most `most`."""
        while True:
            size = min(self._pool_size, len(self.bounds))
            pool = np.sort(np.argpartition(self.bounds, -size)[-size:])
            outside = np.delete(self.bounds, pool).max() if size < len(self.bounds) else -1.0
            distances = self._exact(pool)
            members = self.bounds[pool] < 0
            distances[members] = -1.0
            found = self._picks_inside(pool, distances, float(outside), most)
            if found:
                self._pool_size = self._next_size(len(found), size)
                return found
            self._pool_size = size * 4

    @staticmethod
    def _next_size(found: int, size: int) -> int:
        """A pool of which about a quarter is picked."""
        return int(np.clip(4 * found, LEAST_POOL, min(LARGEST_POOL, 2 * size)))

    def _picks_inside(self, pool: Rows, distances: Distances, outside: float, most: int) -> list[int]:
        """The plain algorithm within the pool, for as long as nothing outside can be as far."""
        points = self._rows[pool].astype(np.float64)
        found: list[int] = []
        while len(found) < most:
            eligible = distances > outside
            if 2 * np.count_nonzero(eligible) < len(pool):  # the others are out until the next pool
                pool, points, distances = pool[eligible], points[eligible], distances[eligible]
            if not eligible.any():
                break
            best = int(np.argmax(distances))
            if distances[best] == 0:  # every row left lies on a row of the set: the lowest come first
                return [*found, *pool[distances == 0][: most - len(found)].tolist()]
            found.append(int(pool[best]))
            np.minimum(distances, _squared_distances_to_point(points, points[best]), out=distances)
            distances[best] = -1.0
        return found

    def _exact(self, pool: Rows) -> Distances:
        """[len(pool)] squared distances to the set in float64, as sums of squared differences."""
        centres = self._rows[self.picks].astype(np.float64)
        squares = np.einsum("ij,ij->i", centres, centres)
        found = np.empty(len(pool))
        for start in range(0, len(pool), BLOCK_ROWS):
            points = self._rows[pool[start : start + BLOCK_ROWS]].astype(np.float64)
            own = np.einsum("ij,ij->i", points, points)
            rough = own[:, None] + squares - 2 * (points @ centres.T)
            # What a float64 product may be off by, with room; every centre this close to the nearest is looked at.
            margin = 1e-10 * (own + squares.max())
            row, centre = np.nonzero(rough <= (rough.min(axis=1) + margin)[:, None])
            close = np.empty(len(row))
            for first in range(0, len(row), BLOCK_PAIRS):
                span = slice(first, first + BLOCK_PAIRS)
                close[span] = _row_sums_of_squares(points[row[span]] - centres[centre[span]])
            found[start : start + BLOCK_ROWS] = np.minimum.reduceat(close, np.searchsorted(row, np.arange(len(points))))
        return found


def _squared_distances_to_point(points: NDArray[Any], point: Distances) -> Distances:
    """[n] squared distances of rows to one point, in blocks, each row's sum in the same order."""
    found = np.empty(len(points))
    for start in range(0, len(points), BLOCK_PAIRS):
        span = slice(start, start + BLOCK_PAIRS)
        found[span] = _row_sums_of_squares(points[span] - point)
    return found


def _row_sums_of_squares(differences: Distances) -> Distances:
    differences *= differences
    sums: Distances = differences.sum(axis=1)
    return sums
