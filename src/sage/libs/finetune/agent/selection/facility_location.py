"""Facility location: choose rows so that every row has a chosen one like it.

The objective is f(S) = sum over rows i of weight_i x max over j in S of max(0, cos(i, j)). It is monotone and
submodular, so greedy choice reaches at least 1 - 1/e of the best (Nemhauser, Wolsey & Fisher, 1978), and a gain
computed earlier is an upper bound of the gain now, so that few need computing again (lazy greedy; Minoux, 1978).

What makes it fast here: row i is covered to the extent `covered_i`; a pair (i, j) whose similarity does not exceed it
can never gain again. After t choices about one pair in t + 1 is left, so greedy runs over a shrinking list of pairs.

- Up to `EXACT_ROWS` rows the list begins with all pairs and the result is that of plain greedy, ties to the lowest
  index. Similarities are whole numbers in float64 there (unit vectors in fixed point), so that without weights every
  sum is exact whatever its order, and a tie is a tie on every machine.
- Above it the first choices, which are about the broad lie of the data, are greedy's on a random sample. Given these
  the pairs of all rows that can still gain are found, block by block, and greedy goes on with them. When they would be
  too many for memory, pairs are looked for within k-means cells only. Similarities are float32 here, and which rows
  are chosen may depend on how many threads multiply matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection.farthest_first import checked_choice, checked_features
from sage.libs.finetune.agent.selection.partition import cell_rows

Floats = NDArray[Any]
Rows = NDArray[np.int64]
EXACT_ROWS = 4096
SAMPLE_SHARE, MOST_SAMPLE_PICKS = 1 / 16, 256
"""How many choices are made on a sample: this share of `k`, or as many as bring the pairs down to `MOST_PAIRS`."""
LEAST_SAMPLE, SAMPLE_ROWS_PER_PICK = 2048, 16
CELLS_FROM_PICKS = 64
"""Cells are formed rather than more choices than this made for that."""
MOST_PAIRS = 16_000_000
"""Pairs held at a time, about; 8 bytes each."""
BLOCK_SIMILARITIES = 2**22
FIRST_LOOK = 16
FIRST_THINNING = 16
POOL = 1024
CANDIDATE_BLOCK = 256


def facility_location(
    features: ArrayLike, k: int, chosen: Sequence[int] = (), weights: ArrayLike | None = None, seed: int = 0
) -> list[int]:
    """`k` rows that represent the others best, by greedy choice; ties go to the lowest index.

    Args:
        features: [n, d]; only directions matter. A row of zeros is like no other.
        k: How many rows to choose, at most those not in `chosen`.
        chosen: Rows that are in the set already; they are not returned, and what they cover is covered.
        weights: [n] how much each row counts as one to be represented, at least 0; None counts all alike.
        seed: Of the sample and the cells above `EXACT_ROWS` rows; below it has no effect.

    Returns:
        The rows in order of choice.

    Raises:
        ConfigError: when `k`, `chosen` or `weights` do not fit the rows.
        DataError: when `features` is not a finite matrix.

    Example:
        >>> facility_location([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1]], k=2)
        [1, 3]
    """
    units = unit_rows(features)
    n = len(units)
    taken = checked_choice(n, k, chosen)
    asks = _checked_weights(weights, n)
    if k == 0:
        return []
    if n <= EXACT_ROWS:
        fixed = np.rint(units.astype(np.float64) * 2.0 ** ((53 - n.bit_length()) // 2))
        return _greedy(_Matrix(fixed @ fixed.T, _covered(fixed, taken)), asks, k, taken)
    covered = _covered(units, taken)
    picks = max(int(SAMPLE_SHARE * k), min(n * n // MOST_PAIRS, CELLS_FROM_PICKS), 1)
    first = _picks_of_a_sample(units, covered, asks, min(k, picks, MOST_SAMPLE_PICKS), taken, seed)
    if len(first) == k:
        return first
    _cover(units, covered, first)
    pairs = _pairs_that_gain(units, covered, _groups(units, len(first), seed), MOST_PAIRS)
    return first + _greedy(pairs, asks, k - len(first), [*taken, *first])


def coverage(features: ArrayLike, chosen: Sequence[int], weights: ArrayLike | None = None) -> float:
    """The value of the objective for a set of rows: the sum of how well each row is represented, 0 to 1 a row.

    Example:
        >>> round(coverage([[1, 0], [0, 1], [3, 4]], chosen=[0, 1]), 6)
        2.8
    """
    units = unit_rows(features)
    asks = _checked_weights(weights, len(units))
    return float(asks @ _covered(units, checked_choice(len(units), 0, chosen)).astype(np.float64))


def unit_rows(features: ArrayLike) -> NDArray[np.float32]:
    """A copy of features [n, d] with rows of length 1; rows of zeros stay."""
    rows = checked_features(features)
    largest = np.maximum(rows.max(axis=1, keepdims=True), -rows.min(axis=1, keepdims=True))
    scales = np.where(largest > 0, largest, 1)  # first, so that no square over- or underflows
    units: NDArray[np.float32] = np.divide(rows, scales, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", units, units))
    units /= np.where(lengths > 0, lengths, 1)[:, None]
    return units


def _checked_weights(weights: ArrayLike | None, n: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(n)
    asks = np.asarray(weights, dtype=np.float64)
    if asks.shape != (n,) or not np.isfinite(asks).all() or (asks < 0).any():
        raise ConfigError(f"weights: expected {n} finite numbers of at least 0, one a row")
    return asks


class _Pairs(NamedTuple):
    """Pairs of a candidate and a row it is like, candidate by candidate, and the state of the rows.

    Attributes:
        starts: [n] where the pairs of each candidate begin.
        ends: [n] where they end.
        rows: [pairs] the row of each pair.
        similarities: [pairs] how like it the candidate is.
        covered: [n] how well each row is represented so far; grows in place.
    """

    starts: Rows
    ends: Rows
    rows: NDArray[np.int32]
    similarities: Floats
    covered: Floats

    def gains(self, candidates: Rows, asks: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each candidate would add to the objective."""
        lengths = self.ends[candidates] - self.starts[candidates]
        begins = np.cumsum(lengths) - lengths
        at = np.repeat(self.starts[candidates] - begins, lengths) + np.arange(lengths.sum())
        rows = self.rows[at]
        surplus = np.maximum(self.similarities[at] - self.covered[rows], 0) * asks[rows]
        owner = np.repeat(np.arange(len(candidates)), lengths)
        return np.asarray(np.bincount(owner, weights=surplus, minlength=len(candidates)), dtype=np.float64)

    def choose(self, candidate: int) -> None:
        """Cover what it covers."""
        span = slice(self.starts[candidate], self.ends[candidate])
        rows = self.rows[span]
        self.covered[rows] = np.maximum(self.covered[rows], self.similarities[span])

    def still_open(self) -> _Pairs:
        """The pairs that can gain."""
        keep = self.similarities > self.covered[self.rows]
        place = np.concatenate([[0], np.cumsum(keep)])
        return _Pairs(place[self.starts], place[self.ends], self.rows[keep], self.similarities[keep], self.covered)


class _Matrix(NamedTuple):
    """The same for all pairs, as a matrix: what greedy begins with while most pairs can still gain.

    Attributes:
        similarities: [n, n].
        covered: [n] how well each row is represented so far; grows in place.
    """

    similarities: Floats
    covered: Floats

    def gains(self, candidates: Rows, asks: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each candidate would add to the objective."""
        surplus = self.similarities[candidates]
        surplus -= self.covered
        np.maximum(surplus, 0, out=surplus)
        gains: NDArray[np.float64] = (surplus * asks).sum(axis=1)
        return gains

    def choose(self, candidate: int) -> None:
        """Cover what it covers."""
        np.maximum(self.covered, self.similarities[candidate], out=self.covered)

    def still_open(self) -> _Pairs:
        """The pairs that can gain."""
        at = np.flatnonzero(self.similarities > self.covered)
        candidates, rows = np.divmod(at, len(self.covered))
        place = np.searchsorted(candidates, np.arange(len(self.covered) + 1))
        return _Pairs(place[:-1], place[1:], rows.astype(np.int32), self.similarities.ravel()[at], self.covered)


def _greedy(pairs: _Matrix | _Pairs, asks: NDArray[np.float64], k: int, taken: Sequence[int]) -> list[int]:
    """Lazy greedy over pairs; where sums are exact the order of plain greedy, ties to the lowest index."""
    n = len(pairs.covered)
    blocks = np.array_split(np.arange(n), -(-n // CANDIDATE_BLOCK))
    bounds = np.concatenate([pairs.gains(block, asks) for block in blocks])
    bounds[list(taken)] = -1.0
    order: list[int] = []
    while len(order) < k:
        # The next choices come from the candidates with the largest bounds, until these have sunk below the others'.
        least = max(float(np.partition(bounds, -POOL)[-POOL]), 0.0) if n > POOL else 0.0
        pool = np.flatnonzero(bounds >= least)
        gains, fresh, look = bounds[pool], np.full(len(pool), not order), FIRST_LOOK
        while len(order) < k:
            best = int(np.argmax(gains))
            if gains[best] < least:
                break
            if gains[best] == 0:  # nobody can gain: the lowest indices come first
                return [*order, *pool[gains == 0][: k - len(order)].tolist()]
            if not fresh[best]:
                late = np.argpartition(gains, -look)[-look:] if look < len(pool) else np.arange(len(pool))
                late = np.append(late[~fresh[late] & (gains[late] >= 0)], best)
                gains[late] = pairs.gains(pool[late], asks)
                fresh[late] = True
                look *= 2
                continue
            order.append(int(pool[best]))
            pairs.choose(int(pool[best]))
            gains[best] = -1.0
            fresh[:], look = False, FIRST_LOOK
            if len(order) >= FIRST_THINNING and len(order).bit_count() == 1:  # powers of two: about half are closed
                pairs = pairs.still_open()
        bounds[pool] = gains
    return order


def _covered(units: Floats, chosen: Sequence[int]) -> Floats:
    """[n] each row's largest similarity to a chosen row, at least 0."""
    covered = np.zeros(len(units), dtype=units.dtype)
    _cover(units, covered, chosen)
    return covered


def _cover(units: Floats, covered: Floats, chosen: Sequence[int]) -> None:
    """Raise `covered` by what more chosen rows cover."""
    centres = units[list(chosen)]
    for span in _spans(len(units), len(centres)) if len(centres) else ():
        np.maximum(covered[span], (units[span] @ centres.T).max(axis=1), out=covered[span])


def _spans(n: int, width: int) -> Iterator[slice]:
    """Blocks of n rows such that a block by `width` similarities is small."""
    rows = max(1, BLOCK_SIMILARITIES // width)
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _pairs_that_gain(units: Floats, covered: Floats, groups: Sequence[Rows], most: int) -> _Pairs:
    """Pairs within groups whose similarity exceeds what covers the row; of too many those that gain most."""
    n = len(units)
    candidates: list[NDArray[np.int32]] = []
    rows: list[NDArray[np.int32]] = []
    similarities: list[Floats] = []
    for group in groups:
        members, so_far, names = units[group], covered[group], group.astype(np.int32)
        for span in _spans(len(group), len(group)):
            # Similarity is symmetric: a block and what lies right of it serve as candidates for each other.
            found = members[span] @ members[span.start :].T
            room = max(len(found), most * len(found) // n)
            row, column = np.divmod(_gaining(found, so_far[None, span.start :], room), found.shape[1])
            candidates.append(names[span.start + row])
            rows.append(names[span.start + column])
            similarities.append(found[row, column])
            right = found[:, len(found) :]
            row, column = np.divmod(_gaining(right, so_far[span, None], room), max(right.shape[1], 1))
            candidates.append(names[span.stop + column])
            rows.append(names[span.start + row])
            similarities.append(right[row, column])
    pairs = coo_array((np.concatenate(similarities), (np.concatenate(candidates), np.concatenate(rows))), shape=(n, n))
    listed = pairs.tocsr()
    return _Pairs(listed.indptr[:-1], listed.indptr[1:], listed.indices, listed.data, covered)


def _gaining(found: Floats, so_far: Floats, room: int) -> Rows:
    """Flat positions of the similarities above `so_far`; of more than `room` those that are most above it."""
    at = np.flatnonzero(found > so_far)
    if len(at) > room:
        surplus = (found - so_far).ravel()[at]
        at = at[np.sort(np.argpartition(surplus, -room)[-room:])]
    return at


def _picks_of_a_sample(
    units: Floats, covered: Floats, asks: NDArray[np.float64], k: int, taken: Sequence[int], seed: int
) -> list[int]:
    """Greedy's first choices among a random sample, to represent that sample."""
    free = np.ones(len(units), dtype=bool)
    free[list(taken)] = False
    pool = np.flatnonzero(free & (asks > 0) if (free & (asks > 0)).any() else free)
    size = min(max(k * SAMPLE_ROWS_PER_PICK, LEAST_SAMPLE), len(pool))
    sample = np.sort(np.random.default_rng(seed).choice(pool, size, replace=False))
    matrix = _Matrix(units[sample] @ units[sample].T, covered[sample])
    picks: list[int] = sample[_greedy(matrix, asks[sample], min(k, len(sample)), [])].tolist()
    return picks


def _groups(units: Floats, picks: int, seed: int) -> list[Rows]:
    """Rows in groups small enough that the pairs within them that can still gain are about `MOST_PAIRS`."""
    n = len(units)
    size = MOST_PAIRS * (picks + 1) // n
    if size >= n:
        return [np.arange(n)]
    cells = cell_rows(units, -(-n // size), seed)
    return [part for cell in cells for part in np.array_split(cell, -(-len(cell) // (2 * size)))]
