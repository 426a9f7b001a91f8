"""`quickstart`: collect, train and measure on the embedded model and tasks, with nothing to download."""

from __future__ import annotations

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.quickstart import QuickstartConfig, QuickstartResult, run_quickstart


def run(config: QuickstartConfig, progress: Progress) -> Report:
    """Run the quickstart.

    Raises:
        AgentFinetuneError: when the embedded model is missing, or a stage fails.
        KeyboardInterrupt: with how to go on.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    try:
        result = run_quickstart(config, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command with --resume to go on") from None
    return _report(result)


def _report(result: QuickstartResult) -> Report:
    from sage.libs.finetune.agent.reporting.progress import clock_time
    from sage.libs.finetune.agent.reporting.tables import plain_output, success_table

    folder = str(result.run_folder)
    data = {"run_folder": folder, "rows": result.rows, "collected": result.collected, "seconds": result.seconds}
    parts = ", ".join(f"{stage} {clock_time(seconds)}" for stage, seconds in result.seconds.items() if seconds >= 1)
    notes = [
        f"time        {clock_time(sum(result.seconds.values()))} ({parts or 'read from the run folder'})",
        f"run folder  {folder}",
    ]
    broken = sum(row["broken"] for row in result.rows if row["split"] != "held-out")
    if broken:
        notes.append(f"{broken} episodes broke off and count as failed; their errors are in {folder}/episodes")
    notes.append(f"next: sage-finetune collect --agent {folder} --split test_compose -o episodes.jsonl")
    return Report(data, [success_table(result.rows, ascii_only=plain_output())], notes)


COMMAND = Command(
    name="quickstart",
    help="Run the whole pipeline in minutes; nothing to download.",
    example="sage-finetune quickstart",
    config=QuickstartConfig,
    run=run,
)
