"""The methods against the baseline: is a difference one?

Every run is measured on the same items, so methods are compared item by item, on the items that every run of both has
a value of.

- One seed each: exact McNemar and Tango's interval for right and wrong, sign flips and the paired bootstrap for graded
  scores (`evaluation.statistics.paired`). The luck of training is not in these; the report says so.
- More seeds: the bootstrap draws seeds, of either method by itself, and items, for both together
  (`evaluation.statistics.hierarchical_bootstrap`). Its p-value is too small for few items, so the larger of it and that
  of sign flips of the items' differences is taken.
- Overall: the mean over capabilities, each weighing the same. Capabilities are given, not drawn: what differs between
  them is no chance, and is taken out before items are drawn.

Holm's correction is over the methods, within each capability and for the overall score, which is the one that verdicts
go by. Effect size: Cohen's h for right and wrong, else the standardised paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import BASELINE
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord
from sage.libs.finetune.agent.evaluation.statistics import (
    cohens_h,
    detectable_difference,
    hierarchical_bootstrap,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_share_interval,
    standardised_difference,
)
from sage.libs.finetune.agent.evaluation.statistics.paired import sign_flip_p
from sage.libs.finetune.agent.types import Interval

OVERALL = "overall"
LEVEL = 0.05
_HALF_WIDTH = 1.959964  # of a 95% interval, in standard errors
_FEWEST_ITEMS = 2

Table = list[list[float]]
"""Values by seed, then item."""


@dataclass(frozen=True)
class Contrast:
    """A method against the baseline on one capability, or overall.

    Attributes:
        method_id: The method.
        capability: The capability, or `overall`.
        score: Mean of the method over seeds and compared items.
        baseline: The same of the baseline.
        difference: Score minus baseline.
        interval: 95% interval of the difference.
        p: Two-sided, of no difference.
        adjusted_p: By Holm, over the methods.
        effect: Cohen's h, or the standardised paired difference; None where it is not defined.
        seeds: Of the method and of the baseline.
        items: Compared ones.
        left_out: Items that some run has no value of, because the model failed or nothing could be checked.
        detectable: Difference that would have been shown in four cases of five, Holm's correction and, with more than
            one seed, the luck of seeds included. Above 1: none.
    """

    method_id: str
    capability: str
    score: float
    baseline: float
    difference: float
    interval: Interval
    p: float
    adjusted_p: float
    effect: float | None
    seeds: tuple[int, int]
    items: int
    left_out: int
    detectable: float

    @property
    def verdict(self) -> str:
        """better, worse, or no difference shown."""
        if self.adjusted_p >= LEVEL or self.interval.low <= 0 <= self.interval.high:
            return "no difference shown"
        return "better" if self.difference > 0 else "worse"


def contrasts(records: Sequence[RunRecord], baseline: str = BASELINE) -> list[Contrast]:
    """All methods against the baseline, on each capability both were measured on, and overall.

    Runs that failed are left out. Without a finished run of the baseline there is nothing to compare with, and the list
    is empty. A capability of which fewer than two items have a value in every run is not compared.

    Args:
        records: Of any runs, in any order.
        baseline: Id of the method that the others are compared with.
    """
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.status == "ok":
            runs.setdefault(record.method_id, []).append(record)
    if baseline not in runs:
        return []
    families: dict[str, list[Contrast]] = {}
    for method, own in runs.items():
        if method != baseline:
            for contrast in _of_method(method, own, runs[baseline]):
                families.setdefault(contrast.capability, []).append(contrast)
    return [adjusted for family in families.values() for adjusted in _adjusted(family)]


def _of_method(method: str, own: Sequence[RunRecord], base: Sequence[RunRecord]) -> list[Contrast]:
    made: list[Contrast] = []
    tables: list[tuple[Table, Table]] = []
    for name in own[0].metrics:
        if not all(name in record.metrics for record in (*own, *base)):
            continue
        values = [_values(record, name) for record in (*own, *base)]
        items = [item for item in values[0] if all(item in part for part in values)]
        if len(items) < _FEWEST_ITEMS:
            continue
        rows = [[part[item] for item in items] for part in values]
        tables.append((rows[: len(own)], rows[len(own) :]))
        left_out = len({item for record in (*own, *base) for item in record.metrics[name]["items"]}) - len(items)
        made.append(_on_capability(method, name, *tables[-1], left_out))
    return [*made, _overall(method, made, tables)] if len(made) > 1 else made


def _values(record: RunRecord, capability: str) -> dict[str, float]:
    items: Mapping[str, float | None] = record.metrics[capability]["items"]
    return {item: float(value) for item, value in items.items() if value is not None and math.isfinite(value)}


def _on_capability(method: str, name: str, own: Table, base: Table, left_out: int) -> Contrast:
    ours, theirs = _means(own), _means(base)
    score, baseline = fmean(ours), fmean(theirs)
    binary = all(value in (0.0, 1.0) for row in (*own, *base) for value in row)
    if len(own) == len(base) == 1 and binary:
        counted = mcnemar(ours, theirs)
        interval, p = paired_share_interval(counted.only_a, counted.only_b, len(ours)), counted.p
    elif len(own) == len(base) == 1:
        paired = paired_bootstrap(ours, theirs)
        interval, p = paired.interval, paired.p
    else:
        interval, p = _seeded(own, base, [one - other for one, other in zip(ours, theirs, strict=True)])
    effect = cohens_h(score, baseline) if binary else standardised_difference(ours, theirs)
    error = max(_least_error(ours, theirs), _standard_error(interval) if max(len(own), len(base)) > 1 else 0.0)
    return Contrast(
        method, name, score, baseline, score - baseline, interval, p, p, effect, (len(own), len(base)), len(ours),
        left_out, error,
    )  # fmt: skip


def _overall(method: str, parts: Sequence[Contrast], tables: Sequence[tuple[Table, Table]]) -> Contrast:
    """The mean over capabilities: an item of a capability with n of them weighs 1 / n."""
    score, baseline = fmean(part.score for part in parts), fmean(part.baseline for part in parts)
    difference, seeds = score - baseline, parts[0].seeds
    weighted = [
        (one - other) / len(own[0])
        for own, base in tables
        for one, other in zip(_means(own), _means(base), strict=True)
    ]
    if seeds == (1, 1):  # the capabilities' items are drawn apart, so that variances add up
        below = math.hypot(*(part.difference - part.interval.low for part in parts)) / len(parts)
        above = math.hypot(*(part.interval.high - part.difference for part in parts)) / len(parts)
        interval, p = Interval(difference - below, difference + above), _sign_flips(weighted)
    else:
        own_side, base_side = (_evened([pair[side] for pair in tables]) for side in (0, 1))
        interval, p = _seeded(own_side, base_side, weighted)
    error = math.hypot(*(part.detectable for part in parts)) / len(parts)
    error = max(error, _standard_error(interval) if seeds != (1, 1) else 0.0)
    items, left_out = sum(part.items for part in parts), sum(part.left_out for part in parts)
    spread = math.hypot(*(_deviation(*pair) / math.sqrt(len(pair[0][0])) for pair in tables)) / len(parts)
    effect = difference / (spread * math.sqrt(items)) if spread > 0 else None
    return Contrast(method, OVERALL, score, baseline, difference, interval, p, p, effect, seeds, items, left_out, error)


def _evened(tables: Sequence[Table]) -> Table:
    """All items of an arm in one table: its mean is the overall score, and no capability is above another.

    Were they left as they are, how many items of each capability happen to be drawn would pass for chance.
    """
    items = sum(len(table[0]) for table in tables)
    means = [fmean(value for row in table for value in row) for table in tables]
    overall = fmean(means)
    return [
        [
            overall + (value - mean) * items / (len(tables) * len(table[0]))
            for table, mean in zip(tables, means, strict=True)
            for value in table[seed]
        ]
        for seed in range(len(tables[0]))
    ]


def _seeded(own: Table, base: Table, differences: Sequence[float]) -> tuple[Interval, float]:
    found = hierarchical_bootstrap(own, base)
    return found.interval, max(found.p, _sign_flips(differences))


def _sign_flips(differences: Sequence[float]) -> float:
    import numpy as np

    return sign_flip_p(np.array(differences))


def _adjusted(family: Sequence[Contrast]) -> list[Contrast]:
    """With Holm's p-values, and `detectable`, so far a standard error, turned into a difference."""
    return [
        replace(part, adjusted_p=p, detectable=detectable_difference(1, part.detectable, LEVEL / len(family)))
        for part, p in zip(family, holm([part.p for part in family]), strict=True)
    ]


def _means(table: Table) -> list[float]:
    """Of each item, over seeds."""
    return [fmean(column) for column in zip(*table, strict=True)]


def _deviation(own: Table, base: Table) -> float:
    """Standard deviation of the items' differences."""
    differences = [one - other for one, other in zip(_means(own), _means(base), strict=True)]
    mean = fmean(differences)
    return math.sqrt(sum((one - mean) ** 2 for one in differences) / (len(differences) - 1))


def _least_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Standard error under no difference; one more pair that differs keeps it above 0."""
    squares = sum((one - other) ** 2 for one, other in zip(ours, theirs, strict=True))
    return math.sqrt((squares + 1) / (len(ours) + 2) / len(ours))


def _standard_error(interval: Interval) -> float:
    return (interval.high - interval.low) / (2 * _HALF_WIDTH)
