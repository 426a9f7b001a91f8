"""Models trained several times: the mean over seeds and items, and what of it is luck of either.

A replicate draws seeds, then items, with replacement, and takes the mean of what was drawn. When every seed was
measured on the same items, the items are drawn once a replicate and shared by its seeds (Owen, "The pigeonhole
bootstrap", 2007): an item that is hard is hard for all seeds, and drawing it anew for each would count n seeds x items
as so many independent ones. Items that belong together (one template, one environment) are drawn together.

Each level draws one fewer than it has, because k - 1 drawn out of k give a mean its right variance and k draws one that
is too small by (k - 1) / k, a third for three seeds (McCarthy & Snowden, "The bootstrap and finite population
sampling", 1985). That cures the variance, not the shape: where all luck is of the seeds, no interval from three seeds
holds the truth more than 3 times in 4, and from five 15 times in 16. Say how many seeds there were.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.statistics.intervals import score_array
from sage.libs.finetune.agent.types import Interval

if TYPE_CHECKING:
    import numpy as np

_DRAWS_AT_ONCE = 4_000_000  # counts of drawn units held in memory together


@dataclass(frozen=True)
class SeededMean:
    """A mean over seeds and items, or the difference of two.

    Attributes:
        mean: Mean over all seeds and items; of a difference, first minus second.
        interval: Its interval.
        p: Two-sided p-value of a true difference of 0: the share of replicates as far from the mean as the mean is
            from 0. Too small for few units, as the interval is too narrow.
        seeds: Seeds of the first arm.
        items: Items a seed.
        clusters: Units that were drawn in place of items; as many as items where none were named.
    """

    mean: float
    interval: Interval
    p: float
    seeds: int
    items: int
    clusters: int


def hierarchical_bootstrap(
    values: Sequence[Sequence[float]],
    against: Sequence[Sequence[float]] | None = None,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> SeededMean:
    """Interval of a mean over training seeds and test items, or of the difference of two such means.

    Args:
        values: `values[seed][item]`: each seed's score on the same items, in the same order.
        against: The same of a second arm on the same items, any number of seeds: the items are drawn for both
            together, the seeds for each by itself, because they are other trainings.
        clusters: Of each item what it belongs to (a template, an environment); these are drawn in place of items.
            None: each item by itself.
        confidence: Coverage, 0 to 1.
        resamples: Replicates.
        seed: Fixes the draws.

    Returns:
        With one seed its luck is not in the interval, and with one cluster that of the items is not.

    Raises:
        DataError: for no seed or no item, seeds with unlike numbers of items, a cluster list of another length, or a
            value that is no number.

    Example:
        >>> tuned = [[1, 1, 0, 1] * 8, [1, 1, 1, 1] * 8, [1, 0, 1, 1] * 8]
        >>> base = [[0, 1, 0, 1] * 8]
        >>> found = hierarchical_bootstrap(tuned, base)
        >>> round(found.mean, 3), found.interval.low > 0, found.seeds, found.items
        (0.333, True, 3, 32)
    """
    import numpy as np

    arms = [_table(values, "values"), *([_table(against, "against")] if against is not None else [])]
    items = arms[0].shape[1]
    if arms[-1].shape[1] != items:
        raise DataError(f"both arms are measured on the same items: found {items} and {arms[-1].shape[1]} of them")
    if clusters is not None and len(clusters) != items:
        raise DataError(f"clusters: expected one for each of the {items} items, found {len(clusters)}")
    unit = _numbered(clusters if clusters is not None else range(items))
    units = int(unit.max()) + 1
    if units == 1 and all(len(table) == 1 for table in arms):
        raise DataError("one seed and one item, or one cluster, leave nothing to draw; there is no interval")
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // units)
    means = np.concatenate(
        [_replicates(arms, unit, min(at_once, resamples - at), generator) for at in range(0, resamples, at_once)]
    )
    mean = float(arms[0].mean()) - (float(arms[1].mean()) if len(arms) == 2 else 0.0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    as_far = int((np.abs(means - mean) >= abs(mean) - 1e-12).sum())
    p = (1 + as_far) / (1 + resamples)
    return SeededMean(mean, Interval(float(low), float(high)), p, len(arms[0]), items, units)


def _replicates(arms: Sequence[np.ndarray], unit: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """So many drawn means of the first arm, less those of the second; `unit` is the cluster of each item."""
    import numpy as np

    sizes = np.bincount(unit)
    drawn_units = _draws(generator, len(sizes), count)
    drawn_items = drawn_units @ sizes
    means = np.zeros(count)
    for sign, table in zip((1, -1), arms, strict=False):
        totals = np.stack([np.bincount(unit, weights=row) for row in table], axis=1)
        drawn_seeds = _draws(generator, len(table), count)
        drawn_total = ((drawn_units @ totals) * drawn_seeds).sum(axis=1)
        means += sign * drawn_total / (drawn_items * drawn_seeds.sum(axis=1))
    return means


def _draws(generator: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    """How often each unit is drawn in each replicate, shape (resamples, units); one unit is always drawn once."""
    import numpy as np

    return generator.multinomial(max(1, units - 1), np.full(units, 1 / units), size=resamples)


def _numbered(labels: Sequence[Hashable]) -> np.ndarray:
    import numpy as np

    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])


def _table(rows: Sequence[Sequence[float]], name: str) -> np.ndarray:
    import numpy as np

    if not len(rows) or not len(rows[0]):
        raise DataError(f"{name}: expected scores of at least one seed on at least one item")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise DataError(f"{name}: every seed is measured on the same items, found {lengths} of them")
    return np.stack([score_array(row) for row in rows])
