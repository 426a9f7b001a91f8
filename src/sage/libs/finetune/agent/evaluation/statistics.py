"""Intervals, so that no share is read as more than it is."""

from __future__ import annotations

from sage.libs.finetune.agent.types import Interval


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
