"""Many comparisons at once: p-values that stay honest, how large a difference is, and how many items show it.

Holm, "A simple sequentially rejective multiple test procedure" (1979); Cohen, "Statistical power analysis for the
behavioral sciences" (1988); for paired shares the sample size is Miettinen's (1968), with the spread under no
difference on both sides of the formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.statistics.intervals import score_array


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance that any true null hypothesis has one below alpha is at most alpha (Holm, 1979).

    The i-th smallest of m is multiplied by m - i + 1, is never below the one before it, and 1 at most. It holds
    whatever the tests have to do with each other.

    Args:
        p_values: One a comparison, 0 to 1.

    Returns:
        As many, in the same order.

    Raises:
        DataError: naming a value outside 0 to 1.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    for number, p in enumerate(p_values, start=1):
        if not 0 <= p <= 1:
            raise DataError(f"p-value {number} is {p}; expected 0 to 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def cohens_h(share_a: float, share_b: float) -> float:
    """How far apart two shares are: 2 asin(sqrt(a)) - 2 asin(sqrt(b)) (Cohen, 1988).

    0.2 is small, 0.5 medium, 0.8 large. Two points near 0 or 1 weigh more than two points near a half.

    Raises:
        DataError: for a share outside 0 to 1.

    Example:
        >>> round(cohens_h(0.65, 0.50), 3), round(cohens_h(0.99, 0.84), 3)
        (0.305, 0.623)
    """
    for share in (share_a, share_b):
        if not 0 <= share <= 1:
            raise DataError(f"a share is 0 to 1, found {share}")
    return 2 * math.asin(math.sqrt(share_a)) - 2 * math.asin(math.sqrt(share_b))


def standardised_difference(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Mean paired difference in units of its standard deviation (Cohen's d_z, 1988); None where there is no spread.

    Args:
        a: Score of the first model on each item.
        b: Of the second, in the same order.

    Raises:
        DataError: when their lengths differ, or a value is no number.

    Example:
        >>> round(standardised_difference([0.8, 0.6, 0.9], [0.5, 0.6, 0.7]), 3)
        1.091
    """
    first, second = score_array(a), score_array(b)
    if len(first) != len(second):
        raise DataError(f"paired scores are of the same items: found {len(first)} and {len(second)} of them")
    differences = first - second
    if len(differences) < 2 or (spread := float(differences.std(ddof=1))) < 1e-12:
        return None
    return float(differences.mean()) / spread


def required_n(difference: float, spread: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Items it takes to show a difference: ((z(1 - alpha/2) + z(power)) spread / difference)^2, rounded up.

    Args:
        difference: What shall be shown, as a share: 0.03 is three points.
        spread: Standard deviation of the paired differences; for right and wrong the square root of the share of
            items on which the models differ.
        alpha: Two-sided level of the test.
        power: How often a true difference of this size shall be shown.

    Raises:
        DataError: for a difference of 0.

    Example:
        >>> required_n(0.03, spread=0.115**0.5)  # models that differ on 11.5% of the items
        1003
    """
    if difference == 0:
        raise DataError("no number of items shows a difference of 0; give the smallest one that would matter")
    return math.ceil((_deviates(alpha, power) * spread / difference) ** 2)


def detectable_difference(n: int, spread: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The difference that n paired items show with this power: (z(1 - alpha/2) + z(power)) spread / sqrt(n).

    Args:
        n: Items, at least 1.
        spread: As for `required_n`.
        alpha: Two-sided level of the test.
        power: How often.

    Example:
        >>> round(detectable_difference(1003, spread=0.115**0.5), 3)
        0.03
    """
    return _deviates(alpha, power) * spread / math.sqrt(n)


def _deviates(alpha: float, power: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(1 - alpha / 2) + ndtri(power))
