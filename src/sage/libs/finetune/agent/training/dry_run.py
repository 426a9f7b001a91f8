"""What a training run would do, told without doing it: rows, batches, steps, memory and time.

The rows go through the very code that training uses: they are checked, rendered and put into micro-batches. Of the
model only tokenizer and configuration are read; its layers are built without memory, and with the adapter that
training would add. Nothing is written and nothing is trained.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.adapters import add_adapter, require_same_adapter
from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.load import empty_model, load_tokenizer, pick_device, pick_dtype
from sage.libs.finetune.agent.models.lora_linear import replace_forwards
from sage.libs.finetune.agent.models.optimizer import learning_rate_for
from sage.libs.finetune.agent.models.quantize import quantization_of, require_quantization
from sage.libs.finetune.agent.preflight.faults import allowed_kinds
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.training.available import available_memory
from sage.libs.finetune.agent.training.batching import EpochBatches
from sage.libs.finetune.agent.training.callbacks import require_tracker
from sage.libs.finetune.agent.training.coreset import Coreset, reduced, without_model
from sage.libs.finetune.agent.training.data import TokenRows, token_rows, trained_tokens
from sage.libs.finetune.agent.training.duration import EFFICIENCY, product_rate, step_flops
from sage.libs.finetune.agent.training.estimate import (
    MemoryEstimate,
    MicroBatch,
    ModelShape,
    computed_tokens,
    decide_checkpointing,
    estimate_memory,
    largest_batch,
)
from sage.libs.finetune.agent.training.loop import epoch_batches
from sage.libs.finetune.agent.training.mix import training_rows
from sage.libs.finetune.agent.training.replay import Replay
from sage.libs.finetune.agent.training.run import CORESET, claim_folder

logger = logging.getLogger(__name__)

_TASK_NAMES = ("task_type", "environment", "kind", "family")
"""Where rows state their task, in `metadata`; the first of these that any row has."""

_TIMED_BATCHES = 32


@dataclass(frozen=True)
class TaskShare:
    """The rows of one task.

    Attributes:
        task: As the rows state it; "all rows" where none does.
        rows: How many.
        tokens: Their tokens.
        trained: Those with a label.
        epochs: How often the run trains on each of them, on average; without what is replayed.
    """

    task: str
    rows: int
    tokens: int
    trained: int
    epochs: float


@dataclass(frozen=True)
class TrainingPlan:
    """What a run would do.

    Attributes:
        config: The settings, `output_dir` being the folder it would write.
        train: Manifest of the training rows (`training.data`), with what was found and dropped. Of a coreset that
            needs losses, which nothing computes here, the figures are those of as many rows drawn at random.
        eval: The same of the evaluation rows, None without any.
        replay: Manifest of the rows that an earlier run left (`training.replay`), None without any.
        tasks: Rows by task.
        replayed: Rows that an epoch replays beside its own: the second one, where there is one, since in the first the
            buffer fills.
        tokens: Tokens of the rows of this epoch, replayed ones included.
        computed: Tokens that it runs through the model; fewer where prefixes are shared.
        padded: The same for padded batches in random order, as trainers compute them that do neither.
        form: How batches are computed, and why not packed or shared where they are not.
        batches: Micro-batches of an epoch.
        steps: Optimiser steps of the run.
        epochs: Passes over the rows.
        learning_rate: At its peak.
        parameters: Weights of the base model.
        trained: Weights that are trained.
        dtype: Of the base weights.
        device: Where it would run.
        memory: At the peak of a step.
        available: Bytes that can be taken there now; None when unknown.
        checkpointing: Whether activations would be recomputed.
        reason: Why.
        seconds: Rough time of all steps, without evaluation and loading.
    """

    config: AgentSFTConfig
    train: dict[str, Any]
    eval: dict[str, Any] | None
    replay: dict[str, Any] | None
    tasks: list[TaskShare]
    replayed: int
    tokens: int
    computed: int
    padded: int
    form: str
    batches: int
    steps: int
    epochs: float
    learning_rate: float
    parameters: int
    trained: int
    dtype: str
    device: str
    memory: MemoryEstimate
    available: int | None
    checkpointing: bool
    reason: str
    seconds: float

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        defaults = AgentSFTConfig(base_model="-", train_data="-").to_dict()
        return {name: value for name, value in self.config.to_dict().items() if value != defaults[name]}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **plain,
            "config": self.config.to_dict(),
            "changed": self.changed,
            "tasks": [asdict(task) for task in self.tasks],
            "memory": {
                "without_checkpointing": self.memory.parts(False), "total_without": self.memory.total(False),
                "with_checkpointing": self.memory.parts(True), "total_with": self.memory.total(True),
            },
        }  # fmt: skip


def plan_training(config: AgentSFTConfig, resume: bool = False, progress: Progress = silent) -> TrainingPlan:
    """What training with these settings would do here.

    Args:
        config: The run's settings.
        resume: Whether it would go on with a run; the plan is of the whole run.
        progress: Told while rows are checked.

    Raises:
        ConfigError: for what training would refuse: the run folder, a tracker that is not installed, quantisation
            without CUDA, adapters that fit nothing, other settings than those of an adapter given as base model.
        DataError: for rows with a fault that `allow` does not name, as in training.
        ModelError: when tokenizer or configuration cannot be read.

    Example:
        >>> plan = plan_training(AgentSFTConfig("smollm2-135m-instruct", "agent_sft:train"))  # doctest: +SKIP
        >>> plan.steps, plan.memory.total(plan.checkpointing)  # doctest: +SKIP
        (45, 1837453312)
    """
    config = replace(config, output_dir=claim_folder(config, resume))
    require_tracker(config.report_to)
    require_quantization(quantization_of(config.load_in_4bit, config.load_in_8bit))
    tokenizer, _ = load_tokenizer(config.base_model, tool_format=config.tool_format)
    allowed = allowed_kinds(config.allow)

    data = training_rows(config, tokenizer, allowed, progress)
    if config.use_coreset_selection:
        data = reduced(data, Coreset.read(config.output_dir / CORESET) if resume else without_model(config, data))
    held_out = None
    if config.eval_data:
        held_out = token_rows(config.eval_data, tokenizer, config.max_seq_length, allowed, progress, config.truncation)
    replay = Replay(config, data, tokenizer, allowed) if config.use_online_continual else None
    dtype = pick_dtype(config.dtype) if config.use_lora else torch.float32
    model = _empty_model(config, dtype)
    shape, device = ModelShape.of(model), pick_device()
    form = BatchForm(model, tokenizer.pad_token_id or 0, config.share_prefixes)
    batches = epoch_batches(data.rows, config, form.packed)
    per_epoch = math.ceil(len(batches) / config.gradient_accumulation_steps)
    steps = config.max_steps or config.num_epochs * per_epoch
    epochs = replay.rehearsed(batches, form.share) if replay else [list(batches)]
    rows = replay.pool.rows if replay else data.rows
    memory = estimate_memory(
        shape, config, largest_batch(rows, [batch for epoch in epochs for batch in epoch], form), device
    )
    available = available_memory(device)
    checkpointing, reason = decide_checkpointing(config, memory, available)
    chosen = [[rows[number] for number in batch] for batch in epochs[-1] if batch]
    replayed = sum(map(len, chosen)) - len(data.rows)
    computed = sum(computed_tokens(batch, form) for batch in chosen)
    a_pass = _seconds(shape, config, chosen, computed, form, checkpointing, dtype)
    logger.info("settings: %s", ", ".join(f"{name}: {value}" for name, value in config.to_dict().items()))
    return TrainingPlan(
        config=config,
        train=data.manifest,
        eval=held_out.manifest if held_out else None,
        replay=replay.manifest if replay else None,
        tasks=_tasks(data, _times(batches, steps, per_epoch, config.gradient_accumulation_steps)),
        replayed=replayed,
        tokens=sum(len(row["input_ids"]) for batch in chosen for row in batch),
        computed=computed,
        padded=_padded(data.rows, config) * (len(data.rows) + replayed) // len(data.rows),
        form=_form(form),
        batches=len(batches),
        steps=steps,
        epochs=steps / per_epoch,
        learning_rate=learning_rate_for(config, shape.parameters),
        parameters=shape.parameters,
        trained=shape.trained,
        dtype=str(dtype).removeprefix("torch."),
        device=device.type,
        memory=memory,
        available=available,
        checkpointing=checkpointing,
        reason=reason,
        seconds=a_pass * steps / per_epoch,
    )


def _empty_model(config: AgentSFTConfig, dtype: torch.dtype) -> Any:
    model = empty_model(config.base_model).to(dtype)
    if hasattr(model, "peft_config"):
        require_same_adapter(model, config)
    elif config.use_lora:  # other beginnings of an adapter need weights, and have the same shapes
        model = add_adapter(model, replace(config, init_lora_weights="default"))
    replace_forwards(model)
    return model


def _form(form: BatchForm) -> str:
    shown = "packed, prefixes shared" if form.share else "packed" if form.packed else "padded"
    return f"{shown} ({form.reason})" if form.reason else shown


def _padded(rows: Sequence[Mapping[str, Any]], config: AgentSFTConfig) -> int:
    """Tokens of an epoch's padded batches in random order."""
    plain = EpochBatches(rows, config.batch_size, 1, seed=config.seed, order="shuffled", by_prefix=False)
    lengths = [[len(rows[number]["input_ids"]) for number in batch] for batch in plain]
    return sum(len(batch) * max(batch) for batch in lengths)


def _times(batches: EpochBatches, steps: int, per_epoch: int, accumulation: int) -> Counter[int]:
    """How often the run trains on each row: once a whole epoch, and as far as it gets in the last one."""
    whole, rest = divmod(steps, per_epoch)
    batches.epoch = whole
    last = list(batches)
    times = Counter({number: whole for batch in last for number in batch})
    times.update(number for batch in last[: rest * accumulation] for number in batch)
    return times


def _tasks(data: TokenRows, times: Mapping[int, int]) -> list[TaskShare]:
    stated: list[Mapping[str, Any]] = [sample.get("metadata") or {} for sample in data.samples]
    name = next((name for name in _TASK_NAMES if any(metadata.get(name) for metadata in stated)), None)
    members: dict[str, list[int]] = {}
    for number, metadata in enumerate(stated):
        members.setdefault(str(metadata.get(name) or "(none)") if name else "all rows", []).append(number)
    return [
        TaskShare(
            task,
            len(rows),
            sum(len(data.rows[number]["input_ids"]) for number in rows),
            sum(trained_tokens(data.rows[number]) for number in rows),
            sum(times[number] for number in rows) / len(rows),
        )
        for task, rows in sorted(members.items(), key=lambda member: -len(member[1]))
    ]


def _seconds(
    shape: ModelShape,
    config: AgentSFTConfig,
    batches: Sequence[Sequence[Mapping[str, Any]]],
    computed: int,
    form: BatchForm,
    checkpointing: bool,
    dtype: torch.dtype,
) -> float:
    """Time of an epoch, from the work of some of its micro-batches."""
    device = pick_device()
    some = [MicroBatch.of(batch, form) for batch in batches[:: max(1, len(batches) // _TIMED_BATCHES)]]
    tokens = sum(batch.tokens for batch in some)
    work = sum(step_flops(shape, config, batch, checkpointing) for batch in some)
    rate = product_rate(shape, dtype, device, tokens // len(some)) * EFFICIENCY[device.type]
    return work * computed / tokens / rate
