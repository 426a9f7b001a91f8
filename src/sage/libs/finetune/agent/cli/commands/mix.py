"""`mix`: several files of rows as one, each with its share, and how often each is gone through."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.cli.episodes import output_faults
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.mixing.config import STRATEGIES, MixerConfig
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.mixing.references import WeightedData
    from sage.libs.finetune.agent.mixing.report import MixReport
    from sage.libs.finetune.agent.types import TaskSample


@dataclass
class MixConfig(Config):
    """What is mixed, in which shares, and where it goes."""

    data: list[str] = option(
        help="data sets with their weights: rows.jsonl:0.35, agent_sft:train:0.2, or NAME=rows.jsonl:0.35",
        positional=True,
    )
    output: Path = option(help="JSONL file of the mixed rows", short="o")
    strategy: str = option("weighted", ", ".join(STRATEGIES))
    size: int | None = option(
        None, "rows of the mix, repeats counted; by default as many as bring in every row once", low=1
    )
    max_repeats: float = option(4.0, "how often a row may come at most; the mix is smaller then", low=1.0)
    temperature: float = option(2.0, "temperature: shares are sizes to the power of 1 / it", above=0.0)
    eta: float | None = option(
        None, "share of agent tasks against the general ones (AgentTuning: 0.2)", low=0.0, high=1.0
    )
    general_tasks: list[str] | None = option(
        None, "names of the general data sets, separated by commas", flag="general", aliases=("general",)
    )
    stages: list[dict[str, Any]] | None = option(
        None, "curriculum: weights by name and share of each stage", file_only=True
    )
    shuffle: bool = option(True, "rows in random order")
    seed: int = option(0, "fixes what is drawn", low=0, high=2**32 - 1)
    model: str | None = option(
        None, "model id, folder, or smollm2-135m-instruct: also count the tokens its loss would see",
        aliases=("base_model",),
    )  # fmt: skip


def run(config: MixConfig, progress: Progress) -> Report:
    """Mix, and write the rows with their task and source.

    Raises:
        ConfigError: for a weight that is missing or means nothing, two data sets of one name, or an unknown strategy.
        DataError: for rows that cannot be read, or an output that cannot be written.
        ModelError: for a model without a usable tokenizer.
    """
    from sage.libs.finetune.agent.errors import ConfigError
    from sage.libs.finetune.agent.jsonl import check_output, write_jsonl
    from sage.libs.finetune.agent.mixing.mixer import MultiTaskMixer
    from sage.libs.finetune.agent.mixing.references import read_reference
    from sage.libs.finetune.agent.sources.resolve import load_samples
    from sage.libs.finetune.agent.types import TaskSample

    check_output(config.output)
    items = [read_reference(text) for text in config.data]
    if faults := [fault for item in items for fault in output_faults(Path(item.reference), config.output)]:
        raise ConfigError(faults[0])
    mixer = MultiTaskMixer(_settings(config, items), _tokenizer(config))
    rows: dict[str, list[TaskSample]] = {}
    for number, item in enumerate(items):
        progress("read", number, len(items), item.name)
        rows[item.name] = [
            TaskSample(item.name, dict(sample), item.reference) for sample in load_samples(item.reference)
        ]
    progress("read", len(items), len(items))
    mixed = mixer.mix(rows)
    assert mixer.report is not None
    write_jsonl(config.output, (_row(sample) for sample in mixed))
    return _report(config, items, mixer.report)


def _settings(config: MixConfig, items: list[WeightedData]) -> MixerConfig:
    from sage.libs.finetune.agent.mixing.references import task_weights
    from sage.libs.finetune.agent.mixing.strategies import STRATEGIES as KNOWN

    KNOWN[config.strategy]  # an unknown one is said before a weight is missed
    return MixerConfig(
        task_weights(items, config.strategy),
        config.strategy,
        config.shuffle,
        seed=config.seed,
        total_size=config.size,
        max_repeats=config.max_repeats,
        temperature=config.temperature,
        stages=config.stages,
        eta=config.eta,
        general_tasks=config.general_tasks,
    )


def _tokenizer(config: MixConfig) -> Any:
    if config.model is None:
        return None
    from sage.libs.finetune.agent.cli.logs import quiet_transformers

    quiet_transformers()
    from sage.libs.finetune.agent.models.load import load_tokenizer

    return load_tokenizer(config.model)[0]


def _row(sample: TaskSample) -> dict[str, Any]:
    """The row with its task and where it came from."""
    metadata = sample.data.get("metadata") or {}
    return {**sample.data, "metadata": {**metadata, "task_type": sample.task_type, "source": sample.source}}


def _report(config: MixConfig, items: list[WeightedData], report: MixReport) -> Report:
    from sage.libs.finetune.agent.reporting.tables import make_table

    references = {item.name: item.reference for item in items}
    data = report.to_dict()
    data["tasks"] = [{**task, "source": references[task["task"]]} for task in data["tasks"]]
    data |= {"output": str(config.output), "model": config.model}
    train = ["sage-finetune", "train", "--base-model", config.model or "MODEL", "--train-data", str(config.output)]
    notes = [note for note in report.notes if note not in report.warnings]  # these were logged
    notes.append(f"{config.output} has {report.rows:,} rows; epochs are passes over a data set")
    if report.repeats:
        train += ["--allow", "duplicate"]
        notes.append("rows that come more than once are meant to, which training is told by --allow duplicate")
    return Report(data, [make_table(*report.table())], [*notes, f"next: {shlex.join(train)}"])


COMMAND = Command(
    name="mix",
    help="Mix several data sets into one file, each with its share.\n\nA weight is a number after the last colon; "
    "shares are exact to within a row (docs/mixing.md). train mixes by itself when --train-data names several.",
    example="sage-finetune mix tools.jsonl:0.35 plans.jsonl:0.3 agent_sft:train:0.35 -o mixed.jsonl",
    config=MixConfig,
    run=run,
)
