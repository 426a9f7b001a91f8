"""Which rows to take, as pure functions of arrays: each gives `k` row numbers in the order of choice.

All take the same two arguments. `rows` are the numbers that may be chosen (ascending; None: all), `chosen` what was
chosen before: never chosen again, and a strategy goes on from there. So `within_quota` can hold any of them to a share
per task. Ties go to the lowest row number; the same arguments give the same rows.

- `random_choice`: the baseline. More rows of one seed begin with the fewer.
- `highest`: by a score. By the loss it takes what is hard and what is broken alike: in a pool with noise it is worse
  than random (Li et al. 2024, arXiv:2402.00530), so cut the ends (`within_band`), or weigh coverage by the loss.
- `strata`: coverage-centric selection (CCS, Zheng et al. 2023, arXiv:2210.15809, algorithm 1): 50 strata of the score
  with an equal budget each, the smallest first; what a small one cannot use goes to the others. The hardest rows are
  to be cut before.
- `diverse`: coverage of features, by facility location or k-center (farthest first).
- `hybrid`: the hardest first, then coverage given those.
- `round_robin`: targeted (RDS+, Ivison et al. 2025, arXiv:2503.01807): each wanted example in turn takes the row most
  like it.

`ifd_scores` is the instruction-following difficulty (Li et al. 2024, arXiv:2308.12032): how much of a response's
perplexity is left once the model has read the prompt. From 1 on the prompt does not help at all: prompt and response do
not belong together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.selection.facility_location import facility_location
from sage.libs.finetune.agent.selection.farthest_first import farthest_first
from sage.libs.finetune.agent.selection.partition import partitioned

Method = Literal["facility_location", "kcenter"]
Rows = np.ndarray | Sequence[int] | None
Choose = Callable[[int, np.ndarray, Sequence[int]], list[int]]
"""A strategy with its arrays in hand: (k, rows, chosen) -> k of the rows."""

PARTITIONED = 1_000_000
"""Rows above which coverage goes cell by cell."""
STRATA = 50
CLIPPED = 0.05
"""The share of losses at each end that weighs no more than the one next to it."""


def random_choice(n: int, k: int, rows: Rows = None, chosen: Sequence[int] = (), *, seed: int = 0) -> list[int]:
    """`k` of `n` rows at random.

    Example:
        >>> random_choice(5, 3), random_choice(5, 2)
        ([2, 4, 3], [2, 4])
    """
    free = _free(n, k, rows, chosen)
    order = np.random.default_rng(seed).permutation(n)
    return _ints(order[np.isin(order, free)][:k])


def highest(scores: np.ndarray, k: int, rows: Rows = None, chosen: Sequence[int] = ()) -> list[int]:
    """The `k` rows of the highest score.

    Raises:
        DataError: naming the row, when a score is not finite.

    Example:
        >>> highest([0.5, 2.0, 2.0, 1.0], 3)
        [1, 2, 3]
    """
    scores = finite(scores, "score")
    free = _free(len(scores), k, rows, chosen)
    return _ints(free[np.argsort(-scores[free], kind="stable")[:k]])


def strata(
    scores: np.ndarray, k: int, rows: Rows = None, chosen: Sequence[int] = (), *, count: int = STRATA, seed: int = 0
) -> list[int]:
    """`k` rows spread evenly over `count` equally wide strata of the score, at random within each, smallest first.

    Raises:
        DataError: naming the row, when a score is not finite.

    Example:
        >>> strata([0.0, 0.1, 0.2, 0.1, 5.0, 9.0], 3, count=3)[:2]
        [4, 5]
    """
    scores = finite(scores, "score")
    free = _free(len(scores), k, rows, chosen)
    values = scores[free]
    width = (values.max() - values.min()) / count if len(free) else 0.0
    stratum = np.minimum((values - values.min()) // width, count - 1) if width else np.zeros(len(free))
    places = [np.flatnonzero(stratum == number) for number in np.unique(stratum)]
    luck = np.random.default_rng(seed).permutation(len(scores))
    picked: list[int] = []
    for left, members in zip(range(len(places), 0, -1), sorted(places, key=len), strict=True):
        budget = (k - len(picked)) // left  # at the last stratum all that is left, which it has: it is the largest
        by_luck = members[np.argsort(luck[free[members]], kind="stable")]
        picked += _ints(free[by_luck[:budget]])
    return picked


def diverse(
    features: np.ndarray,
    k: int,
    rows: Rows = None,
    chosen: Sequence[int] = (),
    *,
    method: Method = "facility_location",
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> list[int]:
    """The `k` rows that, with those chosen before, cover the rows best; above a million rows cell by cell.

    Args:
        features: [n, d].
        k: How many.
        rows: What may be chosen, and what is to be covered.
        chosen: What was chosen before.
        method: `facility_location` (each row has a chosen one like it, on average) or `kcenter` (no row is far from
            all chosen ones, which goes for outliers first).
        weights: [n], how much each row asks to be covered; facility location only.
        seed: For what is drawn when there are many rows.

    Raises:
        ConfigError: when k-center is given weights.
    """
    free = _free(len(features), k, rows, chosen)
    if len(free) + len(chosen) == len(features):
        pool, vectors, before = np.arange(len(features)), features, [int(row) for row in chosen]
    else:
        pool = np.concatenate([free, np.asarray(chosen, dtype=np.int64)])
        vectors, before = features[pool], list(range(len(free), len(pool)))
    known: dict[str, Any] = {"chosen": before, "seed": seed}
    if weights is not None:
        if method == "kcenter":
            raise ConfigError("k-center has no weights; use facility_location")
        known["weights"] = weights[pool]
    select = farthest_first if method == "kcenter" else facility_location
    picks = partitioned(vectors, k, select, **known) if len(pool) > PARTITIONED else select(vectors, k, **known)
    return _ints(pool[picks])


def hybrid(
    losses: np.ndarray,
    features: np.ndarray,
    k: int,
    rows: Rows = None,
    chosen: Sequence[int] = (),
    *,
    loss_ratio: float = 0.6,
    method: Method = "facility_location",
    seed: int = 0,
) -> list[int]:
    """`round(loss_ratio * size)` rows of the highest loss, then coverage given those; `size` counts `chosen` too.

    Raises:
        DataError: naming the row, when a loss is not finite.
    """
    hardest = max(0, round(loss_ratio * (k + len(chosen))) - len(chosen))
    first = highest(losses, hardest, rows, chosen)
    return first + diverse(features, k - len(first), rows, [*chosen, *first], method=method, seed=seed)


def round_robin(
    features: np.ndarray, wanted: np.ndarray, k: int, rows: Rows = None, chosen: Sequence[int] = ()
) -> list[int]:
    """The wanted examples take turns; each takes the row of the highest cosine that is still there.

    Args:
        features: [n, d] of the rows.
        wanted: [m, d] of the examples.
        k: How many.
        rows: What may be chosen.
        chosen: What was chosen before; the turn goes on behind it.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]])
        >>> round_robin(rows, wanted=np.array([[1.0, 0.0], [0.0, 1.0]]), k=3)
        [0, 2, 1]
    """
    free = _free(len(features), k, rows, chosen)
    known = features if len(free) == len(features) else features[free]
    norms = np.maximum(np.linalg.norm(known, axis=1), np.finfo(np.float32).tiny)
    best = [iter(np.argsort(-(known @ example) / norms, kind="stable")[:k]) for example in wanted]
    picked: dict[int, None] = {}
    while len(picked) < k:
        turn = best[(len(chosen) + len(picked)) % len(best)]
        picked[int(next(place for place in turn if int(place) not in picked))] = None
    return _ints(free[list(picked)])


def ifd_scores(losses: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """[n]: perplexity of each response given its prompt, divided by its perplexity alone.

    Args:
        losses: [n], mean negative log-likelihood of the response in nats.
        alone: [n], the same without the prompt.

    Example:
        >>> ifd_scores([1.0, 2.0], [1.0, 3.0]).round(3).tolist()
        [1.0, 0.368]
    """
    difference = finite(losses, "loss") - finite(alone, "loss without the prompt")
    return np.asarray(np.exp(np.minimum(difference, 700.0)))  # as far as exp goes; from 0 on they are dropped anyhow


def difficulty_weights(losses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[n]: losses of `rows`, clipped at their 5% and 95% quantiles, over the highest; 0 for all others.

    The clip keeps one broken row from asking for as much as ten sound ones.

    Example:
        >>> difficulty_weights(np.array([0.0, 1.0, 4.0, 9.0]), np.array([1, 2])).round(2).tolist()
        [0.0, 0.3, 1.0, 0.0]
    """
    known = finite(losses, "loss")[rows]
    clipped = np.clip(known, *np.quantile(known, [CLIPPED, 1 - CLIPPED]))
    weights = np.zeros(len(losses))
    weights[rows] = clipped / clipped.max() if clipped.max() > 0 else 1.0
    return weights


def within_band(scores: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """[n] bool: True where a score lies between the two quantiles of all scores, both included.

    Example:
        >>> within_band([5.0, 1.0, 2.0, 3.0, 4.0], (0.25, 0.9)).tolist()
        [False, False, True, True, True]
    """
    scores = finite(scores, "score")
    low, high = np.quantile(scores, band)
    return np.asarray((scores >= low) & (scores <= high))


def within_quota(choose: Choose, k: int, rows: np.ndarray, tasks: Sequence[str], share: float) -> list[int]:
    """What `choose` takes when no task may have more than `share` of the `k` rows (at least one row).

    The first choice that would break the quota, and all after it, are made once more without the rows of the tasks
    that are full, so that this is what a greedy strategy does that looks only at what it may take. No more than
    1 / `share` tasks can be full before the last choice, so `choose` is asked about as often at most.

    Args:
        choose: The strategy.
        k: How many.
        rows: What may be chosen.
        tasks: [n], the task of each row.
        share: Largest share of `k`, above 0 and up to 1.

    Raises:
        ConfigError: when the quota leaves fewer than `k` rows to choose.

    Example:
        >>> losses = np.array([9.0, 8.0, 7.0, 1.0])
        >>> within_quota(lambda *a: highest(losses, *a), 2, np.arange(4), ["a", "a", "a", "b"], 0.5)
        [0, 3]
    """
    limit = max(1, math.floor(share * k + 1e-9))  # 0.29 * 100 is a little less than 29
    names, task = np.unique(np.asarray(tasks), return_inverse=True)
    there = np.bincount(task[rows], minlength=len(names))
    if (possible := int(np.minimum(there, limit).sum())) < k:
        raise ConfigError(
            f"task_quota={share:g}: at most {limit} of each of {np.count_nonzero(there)} tasks are {possible} rows, "
            f"and {k} are asked for; raise task_quota or lower the target size"
        )
    chosen: list[int] = []
    taken = np.zeros(len(names), dtype=np.int64)
    while len(chosen) < k:
        for row in choose(k - len(chosen), rows, chosen):
            if taken[task[row]] == limit:
                break
            chosen.append(row)
            taken[task[row]] += 1
        rows = rows[(taken[task[rows]] < limit) & ~np.isin(rows, chosen)]
    return chosen


def finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    """The values as float64.

    Raises:
        DataError: naming the first row whose value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not (sound := np.isfinite(array)).all():
        row = int(np.argmin(sound))
        raise DataError(f"row {row}: its {name} is {array[row]}, so it cannot be ranked; mend the row or drop it")
    return array


def _free(n: int, k: int, rows: Rows, chosen: Sequence[int]) -> np.ndarray:
    """The rows that may still be chosen, ascending.

    Raises:
        ConfigError: when they are fewer than `k`.
    """
    free = np.arange(n) if rows is None else np.asarray(rows, dtype=np.int64)
    if len(chosen):
        free = free[~np.isin(free, np.asarray(chosen, dtype=np.int64))]
    if k > len(free):
        raise ConfigError(f"{k} rows are asked for and {len(free)} may be chosen; ask for fewer")
    return free


def _ints(rows: np.ndarray) -> list[int]:
    return [int(row) for row in rows]
