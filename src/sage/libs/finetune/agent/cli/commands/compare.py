"""`compare`: training methods against each other, every one of them really trained, on the same budget and items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import QUICK, ComparisonConfig
from sage.libs.finetune.agent.cli.command import Command, Report, finite
from sage.libs.finetune.agent.config import option
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.benchmark.benchmark_agent.experiments.method_comparison.runner import Grid


@dataclass
class CompareConfig(ComparisonConfig):
    """The settings of `ComparisonConfig`, and whether they begin from those of a quick look."""

    quick: bool = option(
        False, "begin from small settings, about 17 minutes on two cores; what is given wins over them"
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Build one from plain values; with `quick`, those of `QUICK` stand in for what is not given."""
        asked = str(values.get("quick", False)).lower() in ("true", "yes")
        named = {"output_dir" if name == "out" else name for name in values}
        begun = {name: value for name, value in QUICK.items() if name not in named} if asked else {}
        return super().from_dict({**begun, **values}, where)


def run(config: CompareConfig, progress: Progress) -> Report:
    """Do the runs that have no result yet, and report on all.

    Raises:
        AgentFinetuneError: before anything is trained, when methods, rows, model or folder do not go together.
        KeyboardInterrupt: with how to go on.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.benchmark.benchmark_agent.experiments.method_comparison.runner import MethodComparisonExperiment

    settings = ComparisonConfig(**{spec.name: getattr(config, spec.name) for spec in fields(ComparisonConfig)})
    try:
        grid = MethodComparisonExperiment.of(settings, progress).run()
    except KeyboardInterrupt:
        seen = f"sage-finetune report {config.output_dir} shows what there is"
        raise KeyboardInterrupt(f"what is finished is kept: run the same command to go on; {seen}") from None
    return _report(grid)


def _report(grid: Grid) -> Report:
    from sage.benchmark.benchmark_agent.experiments.method_comparison.report import terminal, write_report

    written = write_report(grid.folder)
    data = {
        "output_dir": str(grid.folder),
        "runs": [
            {
                "method": record.method_id, "seed": record.seed, "status": record.status, "error": record.error,
                "overall": finite(record.overall), "learning_rate": record.learning_rate, "tokens": record.tokens,
                "seconds": record.seconds,
            }
            for record in grid.records
        ],
        "report": [str(path) for path in written],
    }  # fmt: skip
    report = Report(data, terminal(grid.folder), [f"report  {path}" for path in written])
    if grid.failed:
        named = "; ".join(f"{record.method_id} with seed {record.seed}: {record.error}" for record in grid.failed)
        count = f"{len(grid.failed)} of {len(grid.records)} runs failed"
        report.exit_code = 1
        report.problem = f"compare: {count}; the same command tries them again: {named}"
    return report


COMMAND = Command(
    name="compare",
    help="Compare training methods: each is trained with every seed on the same budget of tokens, its learning rate "
    "swept, and measured on the same items.\n\nA run is a folder in --out; the same command goes on with what is "
    "missing or failed. `report` shows a folder at any time.",
    example="sage-finetune compare --methods A_baseline,B3_coreset_hybrid --seeds 3 --out runs/comparison",
    config=CompareConfig,
    run=run,
)
