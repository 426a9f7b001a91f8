"""Intervals of one score: of a share by a formula, of any other mean by resampling.

Wilson, "Probable inference, the law of succession, and statistical inference" (1927); Efron, "Better bootstrap
confidence intervals" (1987). Shares of right and wrong have a formula that is sound near 0 and 1 and for few items,
where the bootstrap is not: all of 20 right resamples to all right. So the bootstrap is for graded scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import Interval

if TYPE_CHECKING:
    import numpy as np

Method = Literal["percentile", "bca"]
_DRAWS_AT_ONCE = 4_000_000  # resampled values held in memory together


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson, 1927): sound near 0 and 1 and for small n.

    Args:
        successes: How many of them.
        n: Of how many; with 0 nothing is known and the interval is 0 to 1.
        confidence: Coverage, 0 to 1.

    Raises:
        ValueError: when successes is not between 0 and n.

    Example:
        >>> interval = wilson_interval(23, 32)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.546, 0.844)
    """
    if n == 0 and successes == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def bootstrap_interval(
    values: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "percentile",
) -> Interval:
    """Bootstrap interval of a mean (Efron, 1979; 1987): what it is over samples of the items, drawn with replacement.

    For scores that are only 0 and 1 take `wilson_interval`. Below some 20 values the interval is too narrow.

    Args:
        values: One score an item. Fewer than two say nothing about their spread: both ends are NaN. Where all are
            equal no spread was seen and both ends are that value, which is not to say that it is certain.
        confidence: Coverage, 0 to 1.
        resamples: How often the mean is drawn; 2000 fix the ends to about a tenth of the interval's width.
        seed: Fixes the draws.
        method: `percentile`: the middle `confidence` of the drawn means; `bca`: corrected for bias and skew, for
            scores of which most are near one end.

    Raises:
        DataError: naming a value that is no number.

    Example:
        >>> interval = bootstrap_interval([0.0, 0.5, 0.5, 1.0] * 10)
        >>> interval.low < 0.5 < interval.high, bootstrap_interval([0.5, 0.5])
        (True, Interval(low=0.5, high=0.5))
    """
    import numpy as np

    scores = score_array(values)
    if len(scores) < 2:
        return Interval(float("nan"), float("nan"))
    if (scores == scores[0]).all():
        return Interval(float(scores[0]), float(scores[0]))
    means = resampled_means(scores, resamples, seed)
    tail = (1 - confidence) / 2
    ends = np.array([tail, 1 - tail]) if method == "percentile" else _bca_ends(scores, means, tail)
    low, high = np.quantile(means, ends)
    return Interval(float(low), float(high))


def score_array(values: Sequence[float]) -> np.ndarray:
    """Scores as float64, shape (items,).

    Raises:
        DataError: naming a value that is no number: what was not scored has to be left out, not counted as 0.
    """
    import numpy as np

    scores = np.asarray(values, dtype=np.float64)
    if odd := np.flatnonzero(~np.isfinite(scores)).tolist():
        raise DataError(f"score {odd[0] + 1} is {scores[odd[0]]}; leave out what was not scored")
    return scores


def resampled_means(scores: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The mean of each of so many samples drawn from the scores with replacement.

    Args:
        scores: Shape (items,).
        resamples: How many.
        seed: Fixes the draws.

    Returns:
        Shape (resamples,).
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _DRAWS_AT_ONCE // len(scores))
    for begin in range(0, resamples, rows):
        some = means[begin : begin + rows]
        some[:] = scores[generator.integers(len(scores), size=(len(some), len(scores)), dtype=np.int32)].mean(axis=1)
    return means


def _bca_ends(scores: np.ndarray, means: np.ndarray, tail: float) -> np.ndarray:
    """Which quantiles of the means to take: shifted by the bias z0 and the acceleration a (Efron, 1987, formula 2.3).

    z0 is where the observed mean stands among the drawn ones; ties count half. For a mean the jackknife that
    gives a is a formula: leaving out x moves the mean by (mean - x) / (n - 1).
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    mean, deviations = scores.mean(), scores - scores.mean()
    below = ((means < mean).sum() + (means == mean).sum() / 2) / len(means)
    bias = ndtri(np.clip(below, 1 / len(means), 1 - 1 / len(means)))
    deviations /= np.abs(deviations).max()  # of any scale the same, and no cube of a tiny one is 0
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    shifted = bias + ndtri([tail, 1 - tail])
    return np.asarray(ndtr(bias + shifted / (1 - acceleration * shifted)))
