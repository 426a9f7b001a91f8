"""`train`: supervised fine-tuning of a model on training rows, or with `--dry-run` what it would do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.cli.command import Command, Report, finite
from sage.libs.finetune.agent.config import AgentSFTConfig, option
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.types import TrainingResult

if TYPE_CHECKING:
    from sage.libs.finetune.agent.training.dry_run import TrainingPlan

_TASKS_SHOWN = 12


@dataclass
class TrainConfig(AgentSFTConfig):
    """The settings of `AgentSFTConfig`, whether to go on with an interrupted run, and whether to train at all."""

    resume: bool = option(False, "go on from the newest checkpoint in the run folder")
    dry_run: bool = option(False, "say what would be done, with memory and time it would take, and train nothing")


def run(config: TrainConfig, progress: Progress) -> Report:
    """Train, and evaluate when there is `eval_data`.

    Raises:
        AgentFinetuneError: when the model or the data cannot be used, or training cannot go on.
    """
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

    settings = AgentSFTConfig(**{spec.name: getattr(config, spec.name) for spec in fields(AgentSFTConfig)})
    trainer = AgentSFTTrainer(settings, progress=progress)
    if config.dry_run:
        from sage.libs.finetune.agent.training.dry_run import plan_training

        return _plan_report(plan_training(settings, resume=config.resume, progress=progress))
    return _report(config, trainer.train(resume=config.resume))


def _report(config: TrainConfig, result: TrainingResult) -> Report:
    from sage.libs.finetune.agent.jsonl import read_json
    from sage.libs.finetune.agent.reporting.progress import clock_time
    from sage.libs.finetune.agent.reporting.tables import facts_table
    from sage.libs.finetune.agent.training.coreset import in_words as coreset_in_words

    facts = {"steps": str(result.steps), "loss": f"{result.final_loss:.4f}"}
    if result.eval_loss is not None:
        facts["eval loss"] = f"{result.eval_loss:.4f}"
    facts["tokens"] = f"{result.tokens_seen:,} ({result.tokens_trained:,} with loss{_rate(result)})"
    if result.rows_selected is not None:
        facts["coreset"] = coreset_in_words(read_json(result.output_dir / "data.json")["train"])
    if result.rows_replayed is not None:
        facts["replayed"] = f"{result.rows_replayed:,} rows ({result.tokens_replayed:,} of the tokens)"
    if result.batches:
        computed = f"{result.tokens_computed / result.tokens_seen:.0%} of these tokens computed"
        facts["batches"] = f"{result.batches}; {computed}"
    facts["time"] = clock_time(result.seconds)
    facts["run folder"] = str(result.output_dir)
    data = {
        "steps": result.steps,
        "final_loss": finite(result.final_loss),
        "eval_loss": finite(result.eval_loss),
        "tokens_seen": result.tokens_seen,
        "tokens_trained": result.tokens_trained,
        "tokens_computed": result.tokens_computed,
        "batches": result.batches,
        "rows_selected": result.rows_selected,
        "rows_replayed": result.rows_replayed,
        "tokens_replayed": result.tokens_replayed,
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


def _rate(result: TrainingResult) -> str:
    """Tokens a second of the whole run, as its metrics count them: the result's seconds are of this call alone."""
    from sage.libs.finetune.agent.reporting.curves import read_metrics

    steps = [line for line in read_metrics(result.output_dir / "metrics.jsonl") if "tokens" in line]
    return f"; {steps[-1]['tokens'] / max(steps[-1]['seconds'], 1e-3):,.0f}/s" if steps else ""


def _plan_report(plan: TrainingPlan) -> Report:
    from sage.libs.finetune.agent.reporting.tables import facts_table

    settings = {name: str(value) for name, value in plan.changed.items()}
    tables: list[Any] = [facts_table(settings), "", facts_table(_data_facts(plan)), ""]
    tables += [_tasks_table(plan), "", facts_table(_run_facts(plan)), "", _memory_table(plan)]
    notes = [plan.reason, "nothing was trained or written; the same command without --dry-run trains"]
    return Report(plan.to_dict(), tables, notes)


def _data_facts(plan: TrainingPlan) -> dict[str, str]:
    from sage.libs.finetune.agent.preflight.faults import KINDS
    from sage.libs.finetune.agent.reporting.tables import percent
    from sage.libs.finetune.agent.training.coreset import in_words as coreset_in_words
    from sage.libs.finetune.agent.training.mix import in_words as mix_in_words
    from sage.libs.finetune.agent.training.replay import in_words as replay_in_words

    data = plan.train
    facts = {"rows": f"{data['rows']:,} from {data['rows_read']:,} read, {data['rows_left_out']:,} left out"}
    for kind, count in data["found"].items():
        facts[f"  {kind}"] = f"{count:,} {'row' if count == 1 else 'rows'}: {KINDS[kind].meaning}"
    if data["rows_shortened"]:
        facts["shortened"] = f"{data['rows_shortened']:,} rows, by {data['tokens_dropped']:,} tokens"
    if mixed := mix_in_words(data):
        facts["mix"] = mixed
    if selected := coreset_in_words(data):
        facts["coreset"] = selected
    facts["tokens"] = f"{data['tokens']:,}, {data['tokens_trained']:,} trained; the longest row {data['longest_row']:,}"
    if plan.config.use_online_continual:
        facts["replayed"] = f"{plan.replayed:,} rows an epoch, {replay_in_words(plan.config)}"
    if plan.replay is not None:
        facts["carried over"] = f"{plan.replay['rows']:,} rows of the {plan.replay['seen']:,} in the stream so far"
    facts["computed"] = (
        f"{plan.computed:,} an epoch: {percent(plan.computed / plan.tokens)} of the rows' own, "
        f"{percent(plan.computed / plan.padded)} of padded batches'"
    )
    facts["batches"] = plan.form
    if plan.eval is not None:
        facts["eval rows"] = f"{plan.eval['rows']:,} from {plan.eval['rows_read']:,} read"
    return facts


def _tasks_table(plan: TrainingPlan) -> Any:
    from sage.libs.finetune.agent.reporting.tables import make_table, percent

    lines = [
        (task.task[:30], f"{task.rows:,}", f"{task.tokens:,}", f"{task.trained:,}",
         percent(task.trained / plan.train["tokens_trained"]), f"{task.epochs:.2f}")
        for task in plan.tasks[:_TASKS_SHOWN]
    ]  # fmt: skip
    if hidden := plan.tasks[_TASKS_SHOWN:]:
        lines.append((f"and {len(hidden)} more (--json)", f"{sum(task.rows for task in hidden):,}", "", "", "", ""))
    return make_table(("task", "rows", "tokens", "trained", "of all", "epochs"), lines)


def _run_facts(plan: TrainingPlan) -> dict[str, str]:
    from sage.libs.finetune.agent.reporting.progress import clock_time
    from sage.libs.finetune.agent.reporting.tables import percent
    from sage.libs.finetune.agent.training.estimate import in_bytes

    return {
        "run folder": str(plan.config.output_dir),
        "steps": f"{plan.steps:,} ({plan.batches:,} micro-batches an epoch, {plan.epochs:.2f} epochs)",
        "learning rate": f"{plan.learning_rate:g}{' (auto)' if plan.config.learning_rate == 'auto' else ''}",
        "parameters": f"{plan.parameters:,}, {plan.trained:,} trained ({percent(plan.trained / plan.parameters)})",
        "device": f"{plan.device}, {plan.dtype} weights, adapters and optimiser in float32"
        if plan.config.use_lora
        else f"{plan.device}, all weights and the optimiser in float32",
        "memory": f"{in_bytes(plan.memory.total(plan.checkpointing))} estimated, "
        f"{'unknown' if plan.available is None else in_bytes(plan.available)} available",
        "time": f"about {clock_time(plan.seconds)}; rough, within a factor of two",
    }


def _memory_table(plan: TrainingPlan) -> Any:
    from sage.libs.finetune.agent.reporting.tables import make_table
    from sage.libs.finetune.agent.training.estimate import in_bytes

    plain, with_it = plan.memory.parts(False), plan.memory.parts(True)
    lines = [(name, in_bytes(plain[name]), in_bytes(with_it[name])) for name in plain if plain[name]]
    lines.append(("total", in_bytes(plan.memory.total(False)), in_bytes(plan.memory.total(True))))
    return make_table(("memory at the peak", "plain", "with checkpointing"), lines)


COMMAND = Command(
    name="train",
    help="Fine-tune a model on training rows.\n\nOn several devices: behind `--` come arguments for accelerate launch, "
    "such as `-- --multi_gpu --num_processes 8` (docs/scaling.md).",
    example="sage-finetune train --base-model smollm2-135m-instruct --train-data rows.jsonl --output-dir runs/first",
    config=TrainConfig,
    run=run,
)
