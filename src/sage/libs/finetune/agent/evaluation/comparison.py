"""Is one model better than another? Item by item, on the items that both were scored on.

Each capability is compared by its own pairs. Right or wrong: McNemar's exact test and Tango's interval. Graded: sign
flips and the bootstrap (see `statistics.paired`). The overall difference is the plain mean over the capabilities, as
the overall score is; its interval adds up theirs in squares (MOVER; Zou & Donner, 2008), and its test flips the signs
of all pairs. Holm's correction is over all of these together, so that one of six does not "win" by chance.

A difference is shown when its adjusted p-value is below 1 - confidence and its interval leaves out 0. Else the verdict
is "no difference shown", which is not "no difference": `detectable` says how large one would have had to be.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.statistics import (
    cohens_h,
    detectable_difference,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_share_interval,
    standardised_difference,
)
from sage.libs.finetune.agent.evaluation.statistics.paired import sign_flip_p
from sage.libs.finetune.agent.types import Interval

Records = Sequence[Mapping[str, Any]]
"""What is known of each reply: `id`, `value` (None: not scored), `error` (None: none), `prompt` where it was kept."""
Verdict = Literal["better", "worse", "no difference shown"]
OVERALL = "overall"


@dataclass(frozen=True)
class Compared:
    """A capability of two models, on the items that both were scored on.

    Attributes:
        name: The capability, or `overall`.
        n: Pairs; of the overall row, in all capabilities together.
        score_a: Mean score of the first model on these items, 0 to 1.
        score_b: Of the second.
        difference: First minus second.
        interval: Of the difference.
        p: Of this comparison alone, two-sided.
        adjusted_p: The same after Holm's correction over all rows.
        verdict: What was shown of the first model against the second.
        detectable: The difference that so many items show in 4 of 5 runs, at the strictest of Holm's levels.
        test: How p was found: `exact McNemar`, or `sign flips`.
        effect: Cohen's h of two shares, or d_z of graded differences; None where there is none.
        wins: Items on which the first scored more.
        losses: Items on which the second did.
        left_out: Items without a pair, by reason; empty when there are none.
    """

    name: str
    n: int
    score_a: float
    score_b: float
    difference: float
    interval: Interval
    p: float
    adjusted_p: float
    verdict: Verdict
    detectable: float
    test: str
    effect: float | None
    wins: int
    losses: int
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Two models, capability by capability.

    Attributes:
        rows: The capabilities that both have, then `overall` when there is more than one.
        only_a: Capabilities that only the first has; they are not compared.
        only_b: Those that only the second has.
        unpaired: Those that both have, without an item that both were scored on.
        confidence: Coverage of the intervals; 1 - confidence is the level of the tests.
    """

    rows: list[Compared]
    only_a: list[str]
    only_b: list[str]
    unpaired: list[str]
    confidence: float

    def regressions(self, tolerance: float = 0.0) -> list[Compared]:
        """The rows on which the first model is worse by more than is tolerated, beyond doubt.

        That is: the adjusted p-value is below 1 - confidence and the upper end of the interval is below -tolerance.

        Args:
            tolerance: Drop that is accepted, as a share: 0.02 is two points.
        """
        return [row for row in self.rows if row.verdict == "worse" and row.interval.high < -tolerance]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an end of an interval that is not known is None."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["interval"] = {end: None if math.isnan(at) else at for end, at in row["interval"].items()}
        return {**vars(self), "rows": rows}


def compare(
    a: Mapping[str, Records],
    b: Mapping[str, Records],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two models by their replies to the same items.

    Args:
        a: Records of the first model by capability. Items are paired by id; those that one side lacks, has no score
            of, or erred on are left out of both sides and counted.
        b: Those of the second.
        confidence: Coverage of the intervals, and 1 less the level of the tests.
        resamples: Of bootstraps and sign flips.
        seed: Of both.

    Raises:
        DataError: when no capability has a pair, an id stands twice, or one id is of two different items.

    Example:
        >>> right = [{"id": str(n), "value": 1.0} for n in range(10)]
        >>> wrong = [{"id": str(n), "value": 0.0} for n in range(10)]
        >>> [row] = compare({"tool_use": right}, {"tool_use": wrong}).rows
        >>> row.verdict, row.difference, round(row.p, 4), round(row.interval.low, 3)
        ('better', 1.0, 0.002, 0.445)
    """
    both = [name for name in a if name in b]
    only_a, only_b = [name for name in a if name not in b], [name for name in b if name not in a]
    pairs = {name: _pairs(a[name], b[name], name) for name in both}
    compared = [name for name in both if pairs[name].a]
    if not compared:
        raise DataError(_nothing_in_common(a, b, pairs))
    rows = [_compared(name, pairs[name], confidence, resamples, seed) for name in compared]
    if len(rows) > 1:
        rows.append(_overall(rows, [pairs[name] for name in compared], resamples, seed))
    adjusted = holm([row.p for row in rows])
    rows = [_judged(row, p, len(rows), 1 - confidence) for row, p in zip(rows, adjusted, strict=True)]
    unpaired = [name for name in both if name not in compared]
    return Comparison(rows, only_a, only_b, unpaired, confidence)


@dataclass(frozen=True)
class _Pairs:
    a: list[float]
    b: list[float]
    left_out: dict[str, int]

    @property
    def graded(self) -> bool:
        return any(score not in (0, 1) for score in self.a + self.b)

    @property
    def differences(self) -> list[float]:
        return [first - second for first, second in zip(self.a, self.b, strict=True)]


def _pairs(a: Records, b: Records, name: str) -> _Pairs:
    first, second = _by_id(a, name, "first"), _by_id(b, name, "second")
    left_out = Counter(
        {
            "only the first has": sum(key not in second for key in first),
            "only the second has": sum(key not in first for key in second),
        }
    )
    scores_a, scores_b = [], []
    for key in [key for key in first if key in second]:
        one, other = first[key], second[key]
        if _asked(one) != _asked(other) and None not in (one.get("prompt"), other.get("prompt")):
            raise DataError(
                f"{name}: item '{key}' is not the same on both sides; the models were measured on different items that "
                "share their ids: measure both on one test set"
            )
        if one.get("error") is not None or other.get("error") is not None:
            left_out["with an error"] += 1
        elif one["value"] is None or other["value"] is None:
            left_out["not scored"] += 1
        else:
            scores_a.append(float(one["value"]))
            scores_b.append(float(other["value"]))
    return _Pairs(scores_a, scores_b, {reason: count for reason, count in left_out.items() if count})


def _by_id(records: Records, name: str, side: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        key = str(record["id"])
        if key in found:
            raise DataError(f"{name}: item '{key}' stands twice on the {side} side; items are paired by id")
        found[key] = record
    return found


def _asked(record: Mapping[str, Any]) -> str:
    return json.dumps(record.get("prompt"), sort_keys=True, ensure_ascii=False, default=str)


def _nothing_in_common(a: Mapping[str, Records], b: Mapping[str, Records], pairs: Mapping[str, _Pairs]) -> str:
    if not pairs:
        first, second = ", ".join(a) or "nothing", ", ".join(b) or "nothing"
        return f"no capability was measured on both sides: the first has {first}; the second {second}"
    reasons = "; ".join(
        f"{name}: " + ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
        for name, found in pairs.items()
    )
    return f"no item was scored on both sides ({reasons}); measure both on one test set"


def _compared(name: str, pairs: _Pairs, confidence: float, resamples: int, seed: int) -> Compared:
    differences, n = pairs.differences, len(pairs.a)
    score_a, score_b = fmean(pairs.a), fmean(pairs.b)
    effect: float | None
    if pairs.graded:
        found = paired_bootstrap(pairs.a, pairs.b, confidence, resamples, seed)
        interval, p, test = found.interval, found.p, "sign flips"
        effect = standardised_difference(pairs.a, pairs.b)
    else:
        counted = mcnemar(pairs.a, pairs.b)
        interval = paired_share_interval(counted.only_a, counted.only_b, n, confidence)
        p, test, effect = counted.p, "exact McNemar", cohens_h(score_a, score_b)
    return Compared(
        name=name,
        n=n,
        score_a=score_a,
        score_b=score_b,
        difference=fmean(differences),
        interval=interval,
        p=p,
        adjusted_p=p,
        verdict="no difference shown",
        detectable=_spread(differences) / math.sqrt(n),
        test=test,
        effect=effect,
        wins=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        left_out=pairs.left_out,
    )


def _overall(rows: Sequence[Compared], pairs: Sequence[_Pairs], resamples: int, seed: int) -> Compared:
    """The plain mean over the capabilities: a pair of a capability with n of them weighs 1 / n."""
    import numpy as np

    weighted = np.concatenate([np.array(found.differences) / len(found.a) for found in pairs])
    difference = fmean(row.difference for row in rows)
    below = math.hypot(*(row.difference - row.interval.low for row in rows)) / len(rows)
    above = math.hypot(*(row.interval.high - row.difference for row in rows)) / len(rows)
    p = sign_flip_p(weighted, resamples, seed)
    return Compared(
        name=OVERALL,
        n=sum(row.n for row in rows),
        score_a=fmean(row.score_a for row in rows),
        score_b=fmean(row.score_b for row in rows),
        difference=difference,
        interval=Interval(difference - below, difference + above),
        p=p,
        adjusted_p=p,
        verdict="no difference shown",
        detectable=math.hypot(*(row.detectable for row in rows)) / len(rows),
        test="sign flips",
        effect=None,
        wins=sum(row.wins for row in rows),
        losses=sum(row.losses for row in rows),
    )


def _spread(differences: Sequence[float]) -> float:
    """Standard deviation of the differences under no difference; one more pair that differs keeps it above 0."""
    return math.sqrt((sum(difference**2 for difference in differences) + 1) / (len(differences) + 2))


def _judged(row: Compared, adjusted_p: float, rows: int, alpha: float) -> Compared:
    """The row with its verdict, and `detectable`, so far a standard error, turned into a difference."""
    detectable = detectable_difference(1, row.detectable, alpha / rows)
    if row.test == "exact McNemar":
        # so many items must differ, all one way, before an exact test can find anything
        detectable = max(detectable, math.ceil(math.log2(2 * rows / alpha)) / row.n)
    verdict: Verdict = "no difference shown"
    if adjusted_p < alpha and row.interval.low > 0:
        verdict = "better"
    elif adjusted_p < alpha and row.interval.high < 0:
        verdict = "worse"
    return replace(row, adjusted_p=adjusted_p, verdict=verdict, detectable=detectable)
