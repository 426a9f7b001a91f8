"""Shares of tasks, and the whole numbers of rows they come to. Exact: fractions until the last step.

A weight is read as the decimal it is written as (0.35 is 35/100), so 0.35, 0.30, 0.20 and 0.15 of 1000 rows are 350,
300, 200 and 150. Quotas that are no whole numbers are rounded by largest remainder (Hamilton's method): every task has
its quota rounded down or up, so it is within one row of its share, and ties go to the task named first. Parts of a mix
(AgentTuning's agent and general data) are rounded before their tasks, so that both are within one row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

Shares = list[Fraction]


def exact(number: float) -> Fraction:
    """The decimal that a number is written as.

    Example:
        >>> exact(0.35)
        Fraction(7, 20)
    """
    return Fraction(repr(float(number)))


def normalised(weights: Sequence[float | Fraction]) -> Shares:
    """Weights as shares of 1; at least one of them is above 0.

    Example:
        >>> normalised([2, 1, 1])
        [Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)]
    """
    parts = [weight if isinstance(weight, Fraction) else exact(weight) for weight in weights]
    whole = sum(parts, Fraction(0))
    return [part / whole for part in parts]


def apportion(shares: Sequence[Fraction], total: int) -> list[int]:
    """`total` rows by shares that sum to 1, by largest remainder.

    Example:
        >>> apportion(normalised([0.35, 0.30, 0.20, 0.15]), 10)
        [4, 3, 2, 1]
    """
    return rounded([share * total for share in shares], total)


def apportion_in_parts(shares: Sequence[Fraction], parts: Sequence[int], total: int) -> list[int]:
    """The same with the sum of each part of the tasks within one row of its share as well.

    Args:
        shares: Of all rows, per task.
        parts: The number of each task's part, from 0.
        total: Rows.

    Example:
        >>> shares, parts = normalised([2] * 10 + [5] * 4), [0] * 10 + [1] * 4  # each part is to have a half
        >>> sum(apportion_in_parts(shares, parts, 6)[:10]), sum(apportion(shares, 6)[:10])
        (3, 2)
    """
    members = [[task for task, other in enumerate(parts) if other == part] for part in range(max(parts) + 1)]
    sums = apportion([sum((shares[task] for task in tasks), Fraction(0)) for tasks in members], total)
    counts = [0] * len(shares)
    for tasks, size in zip(members, sums, strict=True):
        for task, count in zip(tasks, rounded([shares[task] * total for task in tasks], size), strict=True):
            counts[task] = count
    return counts


def rounded(quotas: Sequence[Fraction], total: int) -> list[int]:
    """Each quota rounded down, or up where its remainder is among the largest, so that they sum to `total`.

    Args:
        quotas: Their floors sum to at most `total`, their ceilings to at least that.
        total: Rows.
    """
    counts = [math.floor(quota) for quota in quotas]
    up = sorted(range(len(quotas)), key=lambda task: counts[task] - quotas[task])[: total - sum(counts)]
    for task in up:
        counts[task] += 1
    return counts


def covering_size(counts: Sequence[int], shares: Sequence[Fraction]) -> int:
    """Rows of a mix that has every row of every task at least once; tasks without a share do not count.

    Example:
        >>> covering_size([1000, 50], normalised([0.5, 0.5]))
        2000
    """
    return max(math.ceil(count / share) for count, share in zip(counts, shares, strict=True) if share)


def capped_size(counts: Sequence[int], shares: Sequence[Fraction], max_repeats: float) -> int:
    """Rows of the largest mix in which no row comes more than `max_repeats` times.

    Example:
        >>> capped_size([1000, 50], normalised([0.5, 0.5]), max_repeats=4)
        400
    """
    return min(
        math.floor(cap(count, max_repeats) / share) for count, share in zip(counts, shares, strict=True) if share
    )


def cap(count: int, max_repeats: float) -> int:
    """Rows that a task of `count` rows may give; a part of a pass counts too.

    Example:
        >>> cap(5, 2.5)
        12
    """
    return math.floor(count * exact(max_repeats))
