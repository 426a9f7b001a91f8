"""What a folder of runs holds, put in order: methods, their finished runs, what is missing, and the contrasts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.contrasts import OVERALL, Contrast, contrasts
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import GRID
from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import BASELINE
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord, load_results
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.statistics import hierarchical_bootstrap
from sage.libs.finetune.agent.types import Interval

COSTS = ("seen", "sweep", "selection", "collection")
"""Tokens that a run costs, in `RunRecord.tokens`."""
SECONDS = ("train", "sweep", "select", "collect")
"""Seconds that a method costs, in `RunRecord.seconds`; measuring it (`evaluate`, `forgetting`) is not part of it."""


@dataclass(frozen=True)
class Unfinished:
    """A run without a result that counts.

    Attributes:
        method_id: Of its method.
        seed: Its seed.
        state: failed, cancelled or missing.
        why: The error, or "".
    """

    method_id: str
    seed: int
    state: str
    why: str = ""


@dataclass(frozen=True)
class Measured:
    """A score over seeds and items, with its 95% interval where one is known."""

    score: float
    interval: Interval | None
    items: int


@dataclass(frozen=True)
class MethodRuns:
    """A method of the grid.

    Attributes:
        method_id: Its id.
        settings: The method's own.
        runs: Its finished runs, by seed.
        unfinished: The others.
    """

    method_id: str
    settings: dict[str, Any]
    runs: list[RunRecord]
    unfinished: list[Unfinished]

    @property
    def overall(self) -> float:
        """Mean overall score of the finished runs; nan without one."""
        return fmean(run.overall for run in self.runs) if self.runs else math.nan

    def score(self, capability: str) -> float | None:
        """Its mean score on a capability; None where no run has one."""
        scores = [one["score"] for one in self._scored(capability)]
        return fmean(scores) if scores else None

    def measured(self, capability: str) -> Measured | None:
        """Its score on a capability with an interval; None where no run has one."""
        scores = self._scored(capability)
        if not scores:
            return None
        mean = fmean(one["score"] for one in scores)
        items = [item for item in scores[0]["items"] if all(item in one["items"] for one in scores)]
        if len(scores) == 1:
            known = scores[0].get("interval")
            return Measured(mean, Interval(known["low"], known["high"]) if known else None, scores[0]["n"])
        if len(items) < 2:
            return Measured(mean, None, len(items))
        values = [[one["items"][item] for item in items] for one in scores]
        return Measured(mean, hierarchical_bootstrap(values, resamples=2000).interval, len(items))

    def _scored(self, capability: str) -> list[dict[str, Any]]:
        found = [run.metrics[capability] for run in self.runs if capability in run.metrics]
        return [one for one in found if one.get("score") is not None]

    def tokens(self, *kinds: str) -> float:
        """Mean tokens of these kinds a run; nan without a run."""
        return fmean(sum(run.tokens.get(kind, 0) for kind in kinds) for run in self.runs) if self.runs else math.nan

    def seconds(self, *kinds: str) -> float:
        """Mean seconds of these kinds a run; nan without a run that has any of them."""
        known = [run.seconds for run in self.runs if run.seconds.keys() & {*kinds}]
        found = [sum(seconds.get(kind, 0.0) for kind in kinds) for seconds in known]
        return fmean(found) if found else math.nan

    @property
    def memory(self) -> int | None:
        """The most bytes that a run had in use."""
        return max((run.peak_memory_bytes for run in self.runs if run.peak_memory_bytes), default=None)

    @property
    def rates(self) -> list[float]:
        """The learning rates that were taken, by seed."""
        return [run.learning_rate for run in self.runs if run.learning_rate is not None]


@dataclass(frozen=True)
class GridResults:
    """A folder of runs.

    Attributes:
        folder: The folder.
        methods: The baseline first, then by id.
        records: All results, failed ones too.
    """

    folder: Path
    methods: list[MethodRuns]
    records: list[RunRecord]

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """Every method against the baseline."""
        return contrasts(self.records)

    @cached_property
    def capabilities(self) -> list[str]:
        """Those that were measured, in the order of the first run that has them."""
        return list(dict.fromkeys(name for method in self.methods for run in method.runs for name in run.metrics))

    @property
    def finished(self) -> list[MethodRuns]:
        """The methods that have a finished run."""
        return [method for method in self.methods if method.runs]

    @property
    def unfinished(self) -> list[Unfinished]:
        """All runs without a result that counts."""
        return [run for method in self.methods for run in method.unfinished]

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the comparison, with all methods and seeds there are: runs are added to a grid later, too."""
        seeds = [run.seed for method in self.methods for run in method.runs] + [run.seed for run in self.unfinished]
        methods = ",".join(method.method_id for method in self.methods)
        return {**self.records[0].settings, "methods": methods, "seeds": 1 + max(seeds)}

    def run_folder(self, run: RunRecord) -> Path:
        """Where a run's files are."""
        return self.folder / f"{run.method_id}-seed{run.seed}"

    def contrast(self, method_id: str, capability: str = OVERALL) -> Contrast | None:
        """A method against the baseline; with one capability, that one is the overall score."""
        if capability == OVERALL and len(self.capabilities) == 1:
            capability = self.capabilities[0]
        found = (one for one in self.contrasts if one.method_id == method_id and one.capability == capability)
        return next(found, None)


def read_grid(folder: str | Path) -> GridResults:
    """Read what there is of a grid, finished or not.

    Args:
        folder: That of the runs.

    Raises:
        DataError: when it holds no result, or one cannot be read.
    """
    folder = Path(folder)
    records = load_results(folder)
    planned = {(record.method_id, record.seed): record.method for record in records}
    for spec in _specs(folder):
        planned.setdefault((spec["method_id"], spec["seed"]), spec["method"])
    done = {(record.method_id, record.seed): record for record in records}
    methods = []
    for method_id in _ordered(name for name, _ in planned):
        seeds = sorted(seed for name, seed in planned if name == method_id)
        runs = [done[method_id, seed] for seed in seeds if (method_id, seed) in done]
        own = next(method for (name, _), method in planned.items() if name == method_id)
        unfinished = [
            Unfinished(method_id, seed, record.status if record else "missing", (record and record.error) or "")
            for seed in seeds
            if (record := done.get((method_id, seed))) is None or record.status != "ok"
        ]
        methods.append(MethodRuns(method_id, own, [run for run in runs if run.status == "ok"], unfinished))
    return GridResults(folder, methods, records)


def _specs(folder: Path) -> list[dict[str, Any]]:
    """The runs that were planned, and those that were begun."""
    plan = jsonl.read_json(folder / GRID) if (folder / GRID).exists() else {"runs": []}
    specs = [*plan["runs"], *(jsonl.read_json(path) for path in sorted(folder.glob("*/spec.json")))]
    for spec in specs:
        if not {"method_id", "method", "seed"} <= spec.keys():
            raise DataError(f"{folder}: a planned run has no method or seed; run the comparison again to write it anew")
    return specs


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (name != BASELINE, name))
