"""`preferences`: episodes that solved a task beside ones that failed at it, as rows for preference training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.cli.episodes import loss_note, output_faults, read_episodes
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.conversion.preferences import PairStats

_MEANINGS = {
    "both": "tasks with success and failure",
    "only_successes": "tasks nobody failed at",
    "only_failures": "tasks nobody solved",
    "broken": "left out: broke off with an error",
    "unjudged": "left out: never judged",
    "empty": "left out: no steps",
    "same": "no pair: the agent did the same",
    "too_close": "no pair: rewards too close",
}


@dataclass
class PreferencesConfig(Config):
    """Which episodes are paired, and how."""

    input: Path = option(help="file of episodes: trajectories, or any form that can be imported", positional=True)
    output: Path = option(help="JSONL file of rows with prompt, chosen and rejected", short="o")
    source: str = option("auto", "form of the input; auto looks at it", flag="from", aliases=("from",))
    max_pairs_per_task: int = option(1, "most pairs of one task", low=1)
    min_reward_gap: float = option(0.0, "least difference of the two rewards")
    divergence: Literal["trajectory", "step"] = option(
        "trajectory", "the prompt ends before the first step, or after the steps both have in common"
    )
    seed: int = option(0, "fixes which episodes are paired", low=0)

    def conflicts(self) -> list[str]:
        """The input is neither overwritten nor added to."""
        return output_faults(self.input, self.output)


def run(config: PreferencesConfig, progress: Progress) -> Report:
    """Pair the episodes of one file; when there is no pair, nothing is written and the exit code is 3.

    Raises:
        ConfigError: for an unknown form of input.
        DataError: when the input cannot be read, or the output not written.
    """
    from sage.libs.finetune.agent.conversion.preferences import pair_stats, preference_pairs
    from sage.libs.finetune.agent.jsonl import check_output, write_jsonl
    from sage.libs.finetune.agent.reporting.tables import make_table

    check_output(config.output)
    trajectories, lost = read_episodes(config.input, config.source)
    names = ("max_pairs_per_task", "min_reward_gap", "divergence", "seed")
    settings = {name: getattr(config, name) for name in names}
    pairs = preference_pairs(trajectories, **settings)
    stats = pair_stats(trajectories, **settings)
    counts = stats.to_dict()
    rows = [("pairs", str(stats.pairs))]
    rows += [(meaning, str(counts[name])) for name, meaning in _MEANINGS.items() if counts[name] or name == "both"]
    table = make_table((f"{stats.trajectories} episodes of {stats.tasks} tasks", "n"), rows)
    data = {**counts, "lost": lost, "output": str(config.output) if pairs else None}
    report = Report(data, [table], loss_note(lost))
    if not pairs:
        report.exit_code = 3
        report.problem = f"preferences: no pair in {config.input} and nothing was written; {_why(stats)}"
        return report
    write_jsonl(config.output, pairs)
    report.notes.append(f"{config.output} has prompt, chosen, rejected and tools, as TRL's DPOTrainer takes them")
    return report


def _why(stats: PairStats) -> str:
    if stats.both:
        return "the tasks with both outcomes have no two episodes that differ enough: lower --min-reward-gap"
    if stats.unjudged:
        return f"{stats.unjudged} episodes were never judged: only episodes with a success or failure can be paired"
    if not stats.tasks:
        return "every episode broke off or has no steps: mend what broke them and collect again"
    if stats.only_successes and stats.only_failures:
        return "no task has a success and a failure: collect several samples of each task"
    if stats.only_successes:
        return "nobody failed: collect several samples of each task, or with a weaker agent"
    return "nobody succeeded: collect with a better agent"


COMMAND = Command(
    name="preferences",
    help="Pair episodes that solved a task with ones that failed at it.",
    example="sage-finetune preferences trajectories.jsonl -o pairs.jsonl --divergence step",
    config=PreferencesConfig,
    run=run,
)
