"""`filter`: keep the trajectories that are worth training on, and say why the others are not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress

_MEANINGS = {
    "error": "broke off with an error",
    "failed": "no success",
    "low_reward": "reward below {min_reward:g}",
    "too_long": "more than {max_steps} steps",
    "empty": "no steps",
}


@dataclass
class FilterConfig(Config):
    """What is kept."""

    input: Path = option(help="JSONL file of trajectories", positional=True)
    output: Path = option(help="JSONL file of those that are kept", short="o")
    min_reward: float = option(0.5, "least total reward")
    require_success: bool = option(True, "drop episodes without success")
    max_steps: int | None = option(None, "most steps", low=1)

    def conflicts(self) -> list[str]:
        """The input is not overwritten."""
        same = self.input.absolute() == self.output.absolute()
        return ["'output' is the input file; give another name"] if same else []


def run(config: FilterConfig, progress: Progress) -> Report:
    """Filter one file; when nothing is kept, nothing is written and the exit code is 3.

    Raises:
        DataError: when the input cannot be read, or the output not written.
    """
    from sage.libs.finetune.agent.jsonl import check_output
    from sage.libs.finetune.agent.reporting.tables import make_table, percent
    from sage.libs.finetune.agent.trajectories.filter import REASONS, TrajectoryFilter
    from sage.libs.finetune.agent.trajectories.io import load_trajectories, save_trajectories

    check_output(config.output)
    trajectories = load_trajectories(config.input)
    chosen = TrajectoryFilter(config.min_reward, config.require_success, config.max_steps)
    stats = chosen.get_stats(trajectories)
    kept = chosen.filter(trajectories)
    rows = [("kept", str(stats["kept"]), percent(stats["kept_share"]))]
    for reason in REASONS:
        if stats[reason]:
            meaning = _MEANINGS[reason].format(min_reward=config.min_reward, max_steps=config.max_steps)
            rows.append((f"dropped: {meaning}", str(stats[reason]), percent(stats[reason] / stats["total"])))
    table = make_table((f"{stats['total']} trajectories", "n", "share"), rows)
    report = Report({**stats, "output": str(config.output) if kept else None}, [table])
    if not kept:
        report.exit_code = 3
        report.problem = (
            f"filter: none of the {stats['total']} trajectories in {config.input} was kept and nothing was written; "
            "the table says why: lower --min-reward, give --no-require-success, or collect with a better agent"
        )
        return report
    save_trajectories(config.output, kept)
    report.notes.append(f"next: sage-finetune convert {config.output} -o rows.jsonl")
    return report


COMMAND = Command(
    name="filter",
    help="Keep the trajectories that are worth training on.",
    example="sage-finetune filter trajectories.jsonl -o kept.jsonl --max-steps 6",
    config=FilterConfig,
    run=run,
)
