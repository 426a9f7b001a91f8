"""Two models on the same items: is the difference more than chance, and how large may it be?

Items answered alike by both say nothing about which is better, so what counts is the items they differ on. Right or
wrong: McNemar's test (1947) in its exact form, and the score interval of the difference (Tango, 1998), which is to
pairs what Wilson's is to one share. Graded scores: the mean of the paired differences, its bootstrap interval (Efron &
Tibshirani, 1993), and a p-value by random sign flips (Fisher, 1935; Noreen, 1989): if the models were alike, each
difference might as well have had the other sign. The p-value of the bootstrap itself is not used: it takes five equal
differences for certainty, where sign flips say 2 in 32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.statistics.intervals import Method, bootstrap_interval, score_array
from sage.libs.finetune.agent.types import Interval

if TYPE_CHECKING:
    import numpy as np

_SIGNS_AT_ONCE = 4_000_000  # random signs held in memory together


@dataclass(frozen=True)
class McNemar:
    """Two models on items that are right or wrong.

    Attributes:
        p: Exact two-sided p-value: never too small, a little too large for few items.
        mid_p: The same with what was observed counted half: closer to its nominal level (Fagerland et al., 2013).
        only_a: Items that only the first got right.
        only_b: Items that only the second got right.
        n: Items in all.
    """

    p: float
    mid_p: float
    only_a: int
    only_b: int
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """How far the mean score of one model is above that of another on the same items.

    Attributes:
        difference: Mean of first minus second.
        interval: Its interval.
        p: Two-sided p-value of no difference.
        n: Items.
    """

    difference: float
    interval: Interval
    p: float
    n: int


def mcnemar(a_right: Sequence[float], b_right: Sequence[float]) -> McNemar:
    """McNemar's exact test: of the items on which the models differ, does either win more than half?

    With d such items, p is twice the smaller tail of Binomial(d, 1/2), 1 at most (McNemar, 1947; exact form).

    Args:
        a_right: Of each item, whether the first model got it right: 0, 1, or bools.
        b_right: The same of the second, in the same order.

    Raises:
        DataError: when their lengths differ, or a value is neither 0 nor 1.

    Example:
        >>> found = mcnemar([1] * 7 + [0] * 14, [0] * 6 + [1] * 2 + [0] * 13)
        >>> found.only_a, found.only_b, found.p
        (6, 1, 0.125)
    """
    a, b = _paired(a_right, b_right)
    for scores in (a, b):
        if odd := [float(score) for score in scores if score not in (0, 1)]:
            raise DataError(f"McNemar's test is of right (1) and wrong (0), found {odd[0]:g}; use paired_bootstrap")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    differ = only_a + only_b
    if differ == 0:
        return McNemar(1.0, 1.0, 0, 0, len(a))
    from scipy.stats import binom, binomtest

    p = float(binomtest(only_a, differ, 0.5).pvalue)
    likelihood = float(binom.pmf(only_a, differ, 0.5))
    return McNemar(p, p - likelihood / (2 if only_a == only_b else 1), only_a, only_b, len(a))


def paired_share_interval(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of the difference of two shares on the same items (Tango, 1998).

    It holds the differences D that a score test does not reject: |only_a - only_b - n D| is at most z times the
    standard error under D. Sound for few items, and when the models differ on none: then it is +-z^2 / (n + z^2).

    Args:
        only_a: Items that only the first got right.
        only_b: Items that only the second got right.
        n: Items in all; with 0 nothing is known and the interval is -1 to 1.
        confidence: Coverage, 0 to 1.

    Raises:
        DataError: when the counts do not fit into n.

    Example:
        >>> interval = paired_share_interval(1, 7, 21)
        >>> round(interval.low, 3), round(interval.high, 3)
        (-0.517, -0.026)
    """
    if min(only_a, only_b) < 0 or only_a + only_b > n:
        raise DataError(f"{only_a} and {only_b} items that only one model got right do not fit into {n} items")
    if n == 0:
        return Interval(-1.0, 1.0)
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))

    def excess(difference: float, bound: float) -> float:
        """How far the observed difference is above `difference`, in counts, less `bound` standard errors."""
        b = 2 * n * difference - only_a - only_b - (only_a - only_b) * difference
        c = -only_b * difference * (1 - difference)
        share_b = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * max(0.0, 2 * share_b + difference * (1 - difference))
        return only_a - only_b - n * difference - bound * math.sqrt(variance)

    observed, aside = (only_a - only_b) / n, 1e-9  # at +-1 itself the standard error is 0, which is a root as well
    low = -1.0 if observed == -1 else brentq(excess, -1, observed - aside, args=(z,))
    high = 1.0 if observed == 1 else brentq(excess, observed + aside, 1, args=(-z,))
    return Interval(float(low), float(high))


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "percentile",
) -> PairedDifference:
    """Mean difference of graded scores on the same items, with bootstrap interval and p-value by sign flips.

    Args:
        a: Score of the first model on each item.
        b: Of the second, in the same order.
        confidence: Coverage of the interval, 0 to 1.
        resamples: How often the items are drawn, and how often their signs; the smallest p is 1 / (resamples + 1).
        seed: Fixes both.
        method: As for `bootstrap_interval`, whose limits for few items hold here too.

    Raises:
        DataError: when their lengths differ, there is no item, or a value is no number.

    Example:
        >>> found = paired_bootstrap([0.8, 0.6, 0.9, 0.7, 1.0] * 4, [0.5, 0.6, 0.6, 0.7, 0.8] * 4)
        >>> round(found.difference, 2), found.interval.low > 0, found.p < 0.01
        (0.16, True, True)
    """
    first, second = _paired(a, b)
    if not len(first):
        raise DataError("there are no paired items, so there is no difference to speak of")
    differences = first - second
    interval = bootstrap_interval(differences.tolist(), confidence, resamples, seed, method)
    return PairedDifference(
        float(differences.mean()), interval, sign_flip_p(differences, resamples, seed), len(differences)
    )


def sign_flip_p(differences: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0, each difference having either sign with equal chance.

    p = (1 + flips with a mean as far from 0 as the observed one) / (1 + resamples), so it is never 0.

    Args:
        differences: One a pair, shape (items,), or weighted sums of them.
        resamples: Random assignments of signs.
        seed: Fixes them.

    Example:
        >>> import numpy as np
        >>> 0.05 < sign_flip_p(np.full(5, 0.3)) < 0.07
        True
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    total = differences.sum()
    limit = abs(total) - 1e-9 * np.abs(differences).sum()  # sums in another order differ in their last digits
    rows = max(1, _SIGNS_AT_ONCE // len(differences))
    as_far = 0
    for begin in range(0, resamples, rows):
        kept = generator.integers(2, size=(min(rows, resamples - begin), len(differences)), dtype=np.int8)
        as_far += int((np.abs(2 * (kept @ differences) - total) >= limit).sum())
    return (1 + as_far) / (1 + resamples)


def _paired(a: Sequence[float], b: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    first, second = score_array(a), score_array(b)
    if len(first) != len(second):
        raise DataError(f"paired scores are of the same items: found {len(first)} and {len(second)} of them")
    return first, second
