"""`report`: what a comparison has found so far, as a table, as Markdown, and as a page of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress


@dataclass
class ReportConfig(Config):
    """Of which runs."""

    folder: Path = option(help="folder of a comparison (its --out), finished or not", positional=True)


def run(config: ReportConfig, progress: Progress) -> Report:
    """Write report.md and report.html into the folder, and show the table.

    Raises:
        DataError: for a folder without a result, or one that cannot be read or written to.
    """
    from sage.benchmark.benchmark_agent.experiments.method_comparison.report import terminal, write_report
    from sage.benchmark.benchmark_agent.experiments.method_comparison.results import load_results

    records = load_results(config.folder)
    written = write_report(config.folder)
    statuses = ("ok", "failed", "cancelled")
    counted = {status: sum(record.status == status for record in records) for status in statuses}
    data = {"folder": str(config.folder), "runs": counted, "report": [str(path) for path in written]}
    return Report(data, terminal(config.folder), [f"report  {path}" for path in written])


COMMAND = Command(
    name="report",
    help="Report on a comparison: table, Markdown and a page.\n\nWorks on the folder of `compare` at any time, also "
    "while it runs; what is missing or failed is shown as that.",
    example="sage-finetune report runs/comparison",
    config=ReportConfig,
    run=run,
)
