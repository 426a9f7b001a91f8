"""`train`: supervised fine-tuning of a model on training rows."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sage.libs.finetune.agent.cli.command import Command, Report, finite
from sage.libs.finetune.agent.config import AgentSFTConfig, option
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.types import TrainingResult


@dataclass
class TrainConfig(AgentSFTConfig):
    """The settings of `AgentSFTConfig`, and whether to go on with an interrupted run."""

    resume: bool = option(False, "go on from the newest checkpoint in the run folder")


def run(config: TrainConfig, progress: Progress) -> Report:
    """Train, and evaluate when there is `eval_data`.

    Raises:
        AgentFinetuneError: when the model or the data cannot be used, or training cannot go on.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

    settings = AgentSFTConfig(**{spec.name: getattr(config, spec.name) for spec in fields(AgentSFTConfig)})
    result = AgentSFTTrainer(settings, progress=progress).train(resume=config.resume)
    return _report(config, result)


def _report(config: TrainConfig, result: TrainingResult) -> Report:
    from sage.libs.finetune.agent.reporting.progress import clock_time
    from sage.libs.finetune.agent.reporting.tables import facts_table

    rate = result.tokens_seen / result.seconds
    facts = {"steps": str(result.steps), "loss": f"{result.final_loss:.4f}"}
    if result.eval_loss is not None:
        facts["eval loss"] = f"{result.eval_loss:.4f}"
    facts["tokens"] = f"{result.tokens_seen:,} ({result.tokens_trained:,} with loss; {rate:,.0f}/s)"
    facts["time"] = clock_time(result.seconds)
    facts["run folder"] = str(result.output_dir)
    data = {
        "steps": result.steps,
        "final_loss": finite(result.final_loss),
        "eval_loss": finite(result.eval_loss),
        "tokens_seen": result.tokens_seen,
        "tokens_trained": result.tokens_trained,
        "seconds": result.seconds,
        "output_dir": str(result.output_dir),
        "interrupted": result.interrupted,
    }
    report = Report(data, [facts_table(facts)])
    if result.interrupted:
        report.exit_code = 130
        report.problem = (
            f"after step {result.steps}; a checkpoint is in {result.output_dir}: run the same command with --resume "
            "to go on"
        )
    else:
        report.notes.append(f"next: sage-finetune evaluate {result.output_dir} {config.eval_data or 'DATA.jsonl'}")
    return report


COMMAND = Command(
    name="train",
    help="Fine-tune a model on training rows.",
    example="sage-finetune train --base-model smollm2-135m-instruct --train-data rows.jsonl --output-dir runs/first",
    config=TrainConfig,
    run=run,
)
