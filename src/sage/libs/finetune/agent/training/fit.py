"""From a loaded model and token rows to trained weights: what is made ready around the loop, and what it leaves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.adapters import add_adapter, float32_copy_needed
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.lora_linear import replace_forwards
from sage.libs.finetune.agent.models.optimizer import learning_rate_for
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.callbacks import RunLog, StopOnSignal, tracker_callbacks
from sage.libs.finetune.agent.training.data import TokenRows
from sage.libs.finetune.agent.training.estimate import choose_checkpointing
from sage.libs.finetune.agent.training.guards import told_of_memory
from sage.libs.finetune.agent.training.loop import SupervisedTrainer
from sage.libs.finetune.agent.training.replay import Replay
from sage.libs.finetune.agent.training.run import REPLAY_BUFFER
from sage.libs.finetune.agent.training.watch import Watch, best_evaluation

logger = logging.getLogger(__name__)


@dataclass
class Fitted:
    """What the loop leaves beside the weights.

    Attributes:
        losses: Of each optimiser step, those before a resumption included.
        steps: Optimiser steps done.
        tokens: Seen, trained and computed, in this order.
        interrupted: Whether it was asked to stop before its last step.
        eval_loss: Of an evaluation at the last step, None without one.
        best_evaluation: Step and loss of the lowest evaluation, None without one.
        batches: How batches were computed, in words.
        replayed: Rows and tokens that came from the replay buffer, None without one.
    """

    losses: list[float]
    steps: int
    tokens: tuple[int, int, int]
    interrupted: bool
    eval_loss: float | None
    best_evaluation: tuple[int, float] | None
    batches: str
    replayed: tuple[int, int] | None


def fit(
    loaded: LoadedModel,
    config: AgentSFTConfig,
    data: TokenRows,
    held_out: TokenRows | None,
    checkpoint: Path | None,
    progress: Progress,
    replay: Replay | None = None,
) -> Fitted:
    """Train `loaded.model` in place, adding an adapter to it first where the settings want one.

    A replay buffer is in the run folder at the end, also at that of an interrupted run.

    Args:
        loaded: The model; with `use_lora` its base weights stay as they are.
        config: With the run folder as `output_dir`.
        data: Rows to train on.
        held_out: Rows to evaluate on every `eval_steps`.
        checkpoint: Where to go on from, None to begin.
        progress: Told of steps and evaluations.
        replay: What steps take from the past and leave to the future; None replays nothing.

    Raises:
        ConfigError: when the settings do not fit the model.
        TrainingError: for a loss that is no number, memory that ends, or a broken checkpoint.
    """
    set_seed(config.seed)
    make_trainable(loaded, config)
    rate = _learning_rate(loaded.model.num_parameters(), config)
    stop = StopOnSignal()
    first_step = 1 + (int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0)
    log = RunLog(config.output_dir / "metrics.jsonl", progress, lambda: (trainer.tokens_seen, trainer.tokens_trained))
    tracker = tracker_callbacks(config.report_to if processes.is_first() else "none", config.output_dir, first_step)
    with stop.listening():
        trainer = SupervisedTrainer(
            config, rate, loaded.tokenizer.pad_token_id or 0, data.rows, replay, model=loaded.model,
            callbacks=[log, stop, *tracker],
        )  # fmt: skip
        trainer.places = replay.pool.places if replay else data.places
        if held_out is not None and config.eval_steps:
            asked = list({id(sample): sample for sample in held_out.samples}.values())  # windows share their row's
            trainer.watch = Watch(
                loaded, held_out.rows, asked[: config.eval_rows], batch_size=config.eval_batch_size,
                max_new_tokens=config.max_new_tokens, progress=progress,
                stopping=lambda: stop.asked and not trainer.sharded,
            )  # fmt: skip
        logger.info("batches: %s", trainer.form.description)
        rows, batches = data.rows, list(trainer.batches)
        if replay is not None:
            epochs = replay.rehearsed(trainer.batches, trainer.form.share)
            rows, batches = replay.pool.rows, [batch for epoch in epochs for batch in epoch]
        estimate = choose_checkpointing(loaded.model, config, rows, batches, trainer.form)
        with told_of_memory(config, estimate):
            trainer.train_from(checkpoint)
    loaded.model.eval()
    if replay is not None:
        processes.first_decides(lambda: replay.save(config.output_dir / REPLAY_BUFFER))
    return _fitted(trainer, stop.asked, replay)


def make_trainable(loaded: LoadedModel, config: AgentSFTConfig) -> None:
    """Give the model what the settings want trained: a fresh adapter where it has none, or all its weights in float32.

    Raises:
        ConfigError: when the settings do not fit the model.
    """
    if config.use_lora and not hasattr(loaded.model, "peft_config"):
        loaded.model = add_adapter(loaded.model, config)
    elif float32_copy_needed(loaded.model.dtype, config):
        loaded.model = loaded.model.float()
    left = replace_forwards(loaded.model).left
    if left:
        name, reason = next(iter(left.items()))
        logger.info("%d adapter layers keep PEFT's own forward, %s among them: %s", len(left), name, reason)


def _learning_rate(parameters: int, config: AgentSFTConfig) -> float:
    rate = learning_rate_for(config, parameters)
    if config.use_lora and rate < 1e-4:
        logger.warning(
            "learning_rate %g is low for LoRA, which wants about ten times the rate of full fine-tuning; "
            "'auto' would take %g here",
            rate,
            learning_rate_for(replace(config, learning_rate="auto"), parameters),
        )
    return rate


def _fitted(trainer: SupervisedTrainer, stopped: bool, replay: Replay | None) -> Fitted:
    state = trainer.state
    history: Sequence[dict[str, Any]] = state.log_history
    at_end = [entry["eval_loss"] for entry in history if "eval_loss" in entry and entry["step"] == state.global_step]
    return Fitted(
        losses=[entry["loss"] for entry in history if "loss" in entry],
        steps=state.global_step,
        tokens=(trainer.tokens_seen, trainer.tokens_trained, trainer.tokens_computed),
        interrupted=stopped and state.global_step < state.max_steps,
        eval_loss=at_end[-1] if at_end else None,
        best_evaluation=best_evaluation(history),
        batches=trainer.form.description,
        replayed=(replay.rows_replayed, replay.tokens_replayed) if replay else None,
    )
