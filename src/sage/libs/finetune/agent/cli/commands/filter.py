"""`filter`: keep the trajectories that are worth training on, and say why the others are not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.cli.episodes import loss_note, output_faults, read_episodes
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress

_MEANINGS = {
    "error": "broke off with an error",
    "failed": "no success",
    "low_reward": "reward below {min_reward:g}",
    "too_long": "more than {max_steps} steps",
    "empty": "no steps",
    "duplicate": "same as one kept",
    "over_cap": "more than {max_per_task} of its task",
}


@dataclass
class FilterConfig(Config):
    """What is kept."""

    input: Path = option(help="file of episodes: trajectories, or any form that can be imported", positional=True)
    output: Path = option(help="JSONL file of the trajectories that are kept", short="o")
    source: str = option("auto", "form of the input; auto looks at it", flag="from", aliases=("from",))
    min_reward: float = option(0.5, "least total reward")
    require_success: bool = option(True, "drop episodes without success")
    max_steps: int | None = option(None, "most steps", low=1)
    drop_duplicates: bool = option(False, "keep the first of episodes that are the same")
    max_per_task: int | None = option(None, "most episodes of one task: the best rewarded, then the shortest", low=1)

    def conflicts(self) -> list[str]:
        """The input is neither overwritten nor added to."""
        return output_faults(self.input, self.output)


def run(config: FilterConfig, progress: Progress) -> Report:
    """Filter one file; when nothing is kept, nothing is written and the exit code is 3.

    Raises:
        ConfigError: for an unknown form of input.
        DataError: when the input cannot be read, or the output not written.
    """
    from sage.libs.finetune.agent.jsonl import check_output
    from sage.libs.finetune.agent.reporting.tables import make_table, percent
    from sage.libs.finetune.agent.trajectories.filter import REASONS, TrajectoryFilter
    from sage.libs.finetune.agent.trajectories.io import save_trajectories

    check_output(config.output)
    trajectories, lost = read_episodes(config.input, config.source)
    chosen = TrajectoryFilter(
        config.min_reward,
        config.require_success,
        config.max_steps,
        drop_duplicates=config.drop_duplicates,
        max_per_task=config.max_per_task,
    )
    stats = chosen.get_stats(trajectories)
    kept = chosen.filter(trajectories)
    rows = [("kept", str(stats["kept"]), percent(stats["kept_share"]))]
    for reason in REASONS:
        if stats[reason]:
            meaning = _MEANINGS[reason].format(**vars(config))
            rows.append((f"dropped: {meaning}", str(stats[reason]), percent(stats[reason] / stats["total"])))
    if stats["tasks"] < stats["total"]:
        rows.append(
            (
                f"tasks kept, of {stats['tasks']}",
                str(stats["tasks_kept"]),
                percent(stats["tasks_kept"] / stats["tasks"]),
            )
        )
    unjudged = sum(trajectory.metadata.get("judged") is False for trajectory in trajectories)
    table = make_table((f"{stats['total']} trajectories", "n", "share"), rows)
    data = {**stats, "unjudged": unjudged, "lost": lost, "output": str(config.output) if kept else None}
    report = Report(data, [table], loss_note(lost))
    if unjudged:
        report.notes.append(
            f"{unjudged} of them were never judged, and count as no success with the rewards they have; "
            "--no-require-success --min-reward 0 lets them through"
        )
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
