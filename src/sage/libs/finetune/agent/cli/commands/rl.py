"""`rl`: reinforcement learning of a model on the tasks of an environment."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.cli.command import Command, Report, finite
from sage.libs.finetune.agent.config import option
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.rl_config import RLTrainingConfig

if TYPE_CHECKING:
    from sage.libs.finetune.agent.types import TrainingResult


@dataclass
class RLConfig(RLTrainingConfig):
    """The settings of `RLTrainingConfig`, and whether to go on with an interrupted run."""

    resume: bool = option(False, "go on from the newest checkpoint in the run folder")

    def conflicts(self) -> list[str]:
        """A command has nobody else to name the model."""
        missing = [] if self.base_model else ["'base_model' is required: a run folder, adapter, model folder or id"]
        return [*super().conflicts(), *missing]


def run(config: RLConfig, progress: Progress) -> Report:
    """Train; stopped early the exit code is 130.

    Raises:
        AgentFinetuneError: when the model, the tasks or the reward cannot be used, or training cannot go on.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.training.rl.trainer import AgentRLTrainer

    settings = RLTrainingConfig(**{spec.name: getattr(config, spec.name) for spec in fields(RLTrainingConfig)})
    return _report(config, AgentRLTrainer(settings, progress=progress).train(resume=config.resume))


def _report(config: RLConfig, result: TrainingResult) -> Report:
    from sage.libs.finetune.agent.reporting.curves import read_metrics
    from sage.libs.finetune.agent.reporting.progress import clock_time
    from sage.libs.finetune.agent.reporting.rl import beginning_and_end
    from sage.libs.finetune.agent.reporting.tables import facts_table, make_table

    lines = [line for line in read_metrics(result.output_dir / "metrics.jsonl") if "step" in line]
    facts = {
        "algorithm": config.algorithm,
        "optimiser steps": f"{result.steps:,}",
        "tokens": f"{result.tokens_seen:,} ({result.tokens_trained:,} with loss)",
        "time": clock_time(result.seconds),
        "run folder": str(result.output_dir),
    }
    rows = beginning_and_end(result.output_dir)
    data: dict[str, Any] = {
        "algorithm": config.algorithm,
        "steps": result.steps,
        "final_loss": finite(result.final_loss),
        "tokens_seen": result.tokens_seen,
        "tokens_trained": result.tokens_trained,
        "seconds": result.seconds,
        "output_dir": str(result.output_dir),
        "interrupted": result.interrupted,
        "last": lines[-1] if lines else None,
    }
    tables: list[Any] = [facts_table(facts)]
    if rows:
        tables += ["", make_table(("", "at the beginning", "at the end"), rows)]
    report = Report(data, tables)
    if result.interrupted:
        report.exit_code = 130
        report.problem = (
            f"after {result.steps} optimiser steps; a checkpoint is in {result.output_dir}: run the same command with "
            "--resume to go on"
        )
    else:
        report.notes.append(f"next: sage-finetune evaluate {result.output_dir} --against {config.base_model}")
    return report


COMMAND = Command(
    name="rl",
    help="Train a model by reinforcement on the tasks of an environment: PPO, DPO, GRPO or RLOO.",
    example="sage-finetune rl --base-model runs/first --algorithm ppo --output-dir runs/rl",
    config=RLConfig,
    run=run,
)
