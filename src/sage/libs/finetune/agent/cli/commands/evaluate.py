"""`evaluate`: how well a model replies on held-out rows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sage.libs.finetune.agent.cli.command import Command, Report, finite
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.types import EvalResult


@dataclass
class EvaluateConfig(Config):
    """Which model, on which rows."""

    model: str = option(help="run folder, adapter, model folder or model id", positional=True)
    data: str = option(help="JSONL file or reference such as agent_sft:test", positional=True)
    output: Path | None = option(None, "JSON file of all replies", short="o")
    min_accuracy: float | None = option(None, "exit with 3 when the accuracy is below", low=0.0, high=1.0)
    eval_batch_size: int = option(32, "rows generated at once", low=1, aliases=("per_device_eval_batch_size",))
    max_new_tokens: int = option(128, "longest reply, in tokens", low=1)
    max_seq_length: int = option(
        2048, "longest row in tokens; longer ones lose whole exchanges, oldest first", low=16,
        aliases=("max_length", "max_seq_len"),
    )  # fmt: skip
    tool_format: Literal["auto", "compact", "json"] = option("auto", "how our chat template shows tools")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "weights; auto is bfloat16 where the processor computes in it"
    )


def run(config: EvaluateConfig, progress: Progress) -> Report:
    """Evaluate; below `min_accuracy` the exit code is 3, with a loss that is not a number it is 1.

    Raises:
        AgentFinetuneError: when the model or the data cannot be used, or the output not written.
    """
    from sage.libs.finetune.agent.jsonl import check_output, write_json

    if config.output is not None:
        check_output(config.output)
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.training.sft import AgentSFTTrainer

    trainer = AgentSFTTrainer.from_pretrained(
        config.model,
        progress=progress,
        eval_batch_size=config.eval_batch_size,
        max_new_tokens=config.max_new_tokens,
        max_seq_length=config.max_seq_length,
        tool_format=config.tool_format,
        dtype=config.dtype,
    )
    result = trainer.evaluate(config.data)
    data = _data(config, result)
    if config.output is not None:
        write_json(config.output, {**data, "replies": result.replies})
    return _report(config, result, data)


def _data(config: EvaluateConfig, result: EvalResult) -> dict[str, Any]:
    numbers = asdict(result)
    del numbers["replies"]
    return {**numbers, "loss": finite(result.loss), "model": config.model, "data": config.data}


def _report(config: EvaluateConfig, result: EvalResult, data: dict[str, Any]) -> Report:
    from sage.libs.finetune.agent.reporting.tables import facts_table, interval, percent

    span = interval(result.accuracy_interval.low, result.accuracy_interval.high)
    facts = {
        "accuracy": f"{percent(result.accuracy)} (95% interval {span})",
        "turns": f"{result.n} in {result.rows} rows",
        "loss": f"{result.loss:.4f}",
        "valid calls": f"{percent(result.calls_valid)} of {result.calls_attempted}",
    }
    if config.output is not None:
        facts["replies"] = str(config.output)
    report = Report(data, [facts_table(facts)])
    if not math.isfinite(result.loss):
        report.exit_code = 1
        report.problem = (
            f"evaluate: the model's loss is not a number ({result.loss}), so its replies mean nothing; evaluate with "
            "--dtype float32, or train again with a lower --learning-rate"
        )
    elif config.min_accuracy is not None and result.accuracy < config.min_accuracy:
        report.exit_code = 3
        report.problem = f"evaluate: accuracy {result.accuracy:.4f} is below --min-accuracy {config.min_accuracy:g}"
    return report


COMMAND = Command(
    name="evaluate",
    help="Measure how well a model replies on held-out rows.",
    example="sage-finetune evaluate runs/first test.jsonl --min-accuracy 0.8",
    config=EvaluateConfig,
    run=run,
)
