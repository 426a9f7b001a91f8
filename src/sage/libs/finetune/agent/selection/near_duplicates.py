"""Rows that repeat an earlier one, by the cosine of their features.

Up to `EXACT_ROWS` rows every pair is looked at. Above it pairs are compared only within buckets of random hyperplane
hashing (Charikar, 2002): vectors at an angle of a get the same bit with probability 1 - a / pi, and a pair has to share
all bits of one of several tables. Nothing is marked then that should not be. Of what should be, a row with one earlier
row exactly at the threshold is missed with a probability of at most `MISS`, one that is closer less often, and one that
is equal never.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection.facility_location import unit_rows

EXACT_ROWS = 50_000
MISS = 0.01
FEWEST_BITS, MOST_BITS = 8, 24
BUCKET_ROWS = 256
"""Bits are added until a row's bucket has no more rows than this, on average."""
BLOCK_SIMILARITIES = 2**22
ROUNDING = 1e-6


def near_duplicates(features: ArrayLike, threshold: float = 0.95, seed: int = 0) -> NDArray[np.bool_]:
    """Which rows have an earlier row (marked or not) with at least this cosine; the first of its kind is never marked.

    Cosines are float32, so `threshold` is lowered by 1e-6: 1.0 finds equal directions. Rows of zeros are never marked.

    Args:
        features: [n, d]; only directions matter.
        threshold: Cosine, above 0 and at most 1.
        seed: Of the hyperplanes above `EXACT_ROWS` rows; below it has no effect.

    Returns:
        [n] True where an earlier row is that near.

    Raises:
        ConfigError: when `threshold` is out of range.
        DataError: when `features` is not a finite matrix.

    Example:
        >>> near_duplicates([[1, 0], [2, 0.1], [0, 1], [1, 0]]).tolist()
        [False, True, False, True]
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold}: expected a cosine above 0 and at most 1")
    units = unit_rows(features)
    least = threshold - ROUNDING
    if len(units) <= EXACT_ROWS:
        return _repeats(units, least)
    # Equal rows would fill a bucket however many bits it has; what is near to one of them is near to the first.
    as_bytes = (units + 0.0).view(np.dtype((np.void, units.itemsize * units.shape[1]))).ravel()
    first = np.sort(np.unique(as_bytes, return_index=True)[1])
    marked: NDArray[np.bool_] = np.asarray(units.any(axis=1), dtype=bool)
    marked[first] = False
    for rows in _buckets(units[first], threshold, seed):
        marked[first[rows]] |= _repeats(units[first[rows]], least)
    return marked


def _repeats(units: NDArray[np.float32], least: float) -> NDArray[np.bool_]:
    """Which rows have an earlier one with at least this cosine, all pairs looked at."""
    n = len(units)
    marked = np.zeros(n, dtype=bool)
    step = max(1, BLOCK_SIMILARITIES // max(n, 1))
    for start in range(0, n, step):
        found = units[start : start + step] @ units[: start + step].T
        later = np.arange(start, start + found.shape[1] - start)
        found[:, start:][later[:, None] <= later] = -1  # a row itself and those after it
        marked[start : start + step] = found.max(axis=1) >= least
    return marked


def _buckets(units: NDArray[np.float32], threshold: float, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of like hash, ascending: of one table after the other, the buckets with two rows and more."""
    draw = np.random.default_rng(seed)
    for bits in range(FEWEST_BITS, MOST_BITS + 1, 2):
        codes = _hashes(units, bits, draw)
        sizes = np.unique(codes, return_counts=True)[1].astype(np.float64)
        if (sizes**2).sum() <= BUCKET_ROWS * len(units):
            break
    share_all = (1 - math.acos(threshold) / math.pi) ** bits
    tables = 1 if share_all == 1 else math.ceil(math.log(MISS) / math.log1p(-share_all))
    for _ in range(tables):
        codes = _hashes(units, bits, draw)
        order = np.argsort(codes, kind="stable")
        edges = np.flatnonzero(np.diff(codes[order])) + 1
        yield from (rows for rows in np.split(order, edges) if len(rows) > 1)


def _hashes(units: NDArray[np.float32], bits: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """[n] on which side of each of `bits` random hyperplanes a row lies, as a number."""
    planes = draw.standard_normal((units.shape[1], bits), dtype=np.float32)
    sides = units @ planes > 0
    codes: NDArray[np.int64] = sides @ (1 << np.arange(bits))
    return codes
