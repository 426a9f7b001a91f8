"""Reproductions that are comparisons of methods (R2, R3): grids of runs on the same items, as `compare` does them.

Their settings are those of `compare`, for one grid or for several that differ in something; a grid is a folder that
`sage-finetune report` makes a report of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.contrasts import contrasts
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord
from sage.benchmark.benchmark_agent.experiments.method_comparison.rows import GENERAL
from sage.benchmark.benchmark_agent.experiments.method_comparison.runner import MethodComparisonExperiment
from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.progress import Progress, silent

GROUPS = ("all", "agent", "general")


def run(settings: Mapping[str, Any], folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """The grids; what was done is read from the folder.

    Args:
        settings: `common`, settings of `compare`; `grids`, by name what each has otherwise; `baseline`, the method that
            the others are compared with; `untrained`, whether the model is measured as it comes.
        folder: A folder of each grid goes here.
        progress: Told of runs, steps and replies.

    Raises:
        TrainingError: when a run failed.
    """
    found: dict[str, Any] = {"grids": {}}
    for name, own in settings["grids"].items():
        config = ComparisonConfig.from_dict({**settings["common"], **(own or {}), "output_dir": folder / name})
        grid = MethodComparisonExperiment.of(config, progress).run()
        if grid.failed:
            raise TrainingError(f"{grid.folder / grid.failed[0].method_id}: {grid.failed[0].error}")
        found["grids"][name] = summary(grid.records, settings["baseline"])
    if settings.get("untrained"):
        report = _untrained(config, folder, progress)
        base = RunRecord("untrained", {}, 0, "", "ok", {}, metrics={
            name: {
                "score": score.score,
                "items": {one["id"]: one["value"] for one in score.replies if one["value"] is not None},
            }
            for name, score in report.scores.items()
        })  # fmt: skip
        found["untrained"] = {group: _only([base], group)[0].overall for group in _groups(base)}
        found["against_untrained"] = {
            group: [
                _told(one)
                for one in contrasts(_only([*grid.records, base], group), "untrained")
                if one.capability == "overall"
            ]
            for group in _groups(base)
        }
    return found


def summary(records: Sequence[RunRecord], baseline: str) -> dict[str, Any]:
    """Scores by method and group of capabilities, and the differences to the baseline.

    Args:
        records: Of a grid.
        baseline: Id of the method that the others are compared with.
    """
    methods: dict[str, Any] = {}
    for method in dict.fromkeys(record.method_id for record in records):
        runs = [record for record in records if record.method_id == method]
        methods[method] = {
            "scores": {group: fmean(record.overall for record in _only(runs, group)) for group in _groups(runs[0])},
            "by_capability": {
                name: fmean(record.metrics[name]["score"] for record in runs) for name in runs[0].metrics
            },
            "seeds": len(runs), "learning_rates": [record.learning_rate for record in runs],
            "tokens_seen": [record.tokens["seen"] for record in runs],
            "seconds": [record.seconds["total"] for record in runs],
        }  # fmt: skip
    return {
        "methods": methods, "items": {name: len(found["items"]) for name, found in records[0].metrics.items()},
        "contrasts": {
            group: [_told(one) for one in contrasts(_only(records, group), baseline) if one.capability == "overall"]
            for group in _groups(records[0])
        },
    }  # fmt: skip


def _groups(record: RunRecord) -> list[str]:
    """Those with two capabilities at least: of one alone there is no overall score."""
    return [group for group in GROUPS if len(_of(record, group)) > 1]


def _of(record: RunRecord, group: str) -> list[str]:
    return [name for name in record.metrics if group == "all" or (name in GENERAL) == (group == "general")]


def _only(records: Sequence[RunRecord], group: str) -> list[RunRecord]:
    return [replace(record, metrics={name: record.metrics[name] for name in _of(record, group)}) for record in records]


def _told(contrast: Any) -> dict[str, Any]:
    return {**asdict(contrast), "verdict": contrast.verdict}


def _untrained(config: ComparisonConfig, folder: Path, progress: Progress) -> CapabilityReport:
    from sage.libs.finetune.agent.capabilities.evaluator import AgentCapabilityEvaluator
    from sage.libs.finetune.agent.capabilities.test_sets import test_set

    path = folder / "untrained.json"
    if not path.exists():
        evaluator = AgentCapabilityEvaluator(
            batch_size=config.eval_batch_size, max_new_tokens=config.max_new_tokens, progress=progress
        )
        sets = {name: test_set(name, config.test_items, "test") for name in config.measured()}
        evaluator.evaluate(config.base_model, sets).save(path)
    return CapabilityReport.load(path)
