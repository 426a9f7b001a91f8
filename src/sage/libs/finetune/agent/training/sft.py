"""Supervised fine-tuning on agent rows.

The path from file to gradient: `token_rows` (data.py) renders each conversation once, labels the assistant's turns
and nothing else; `SupervisedTrainer` (loop.py) batches them, and `supervised_nll` (models/losses.py) is the loss.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import set_seed

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError, TrainingError
from sage.libs.finetune.agent.models.adapters import (
    add_adapter,
    float32_copy_needed,
    learning_rate_for,
    require_finite,
    require_same_adapter,
)
from sage.libs.finetune.agent.models.load import LoadedModel, load_model, pick_device
from sage.libs.finetune.agent.models.losses import mean_loss
from sage.libs.finetune.agent.preflight.faults import allowed_kinds
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.reporting.progress import TerminalProgress
from sage.libs.finetune.agent.training.ask import ask_turns
from sage.libs.finetune.agent.training.callbacks import RunLog, StopOnSignal
from sage.libs.finetune.agent.training.card import model_card
from sage.libs.finetune.agent.training.checkpoints import last_checkpoint
from sage.libs.finetune.agent.training.data import TokenRows, token_rows
from sage.libs.finetune.agent.training.loop import SupervisedTrainer, batches
from sage.libs.finetune.agent.training.run import claim_folder, write_start
from sage.libs.finetune.agent.types import EvalResult, TrainingResult

logger = logging.getLogger(__name__)

_LATER = ("use_coreset_selection", "use_online_continual")


class AgentSFTTrainer:
    """Fine-tunes a model on agent trajectories, and measures it.

    Args:
        config: What to train on what; see `AgentSFTConfig`.
        progress: Told about long steps; None shows bars on stderr, `progress.silent` nothing.

    Attributes:
        config: The settings.
        run_folder: Where the last `train` wrote, None before.

    Raises:
        ConfigError: when a setting asks for what this version does not do, or `allow` names no kind of fault.

    Example:
        >>> config = AgentSFTConfig(base_model="smollm2-135m-instruct", train_data="agent_sft:train")
        >>> trainer = AgentSFTTrainer(config)
        >>> result = trainer.train()  # doctest: +SKIP
        >>> trainer.evaluate("agent_sft:test").accuracy  # doctest: +SKIP
        0.83
    """

    def __init__(self, config: AgentSFTConfig, progress: Progress | None = None) -> None:
        for name in _LATER:
            if getattr(config, name):
                raise ConfigError(f"'{name}' is not available in this version; leave it false")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("training in several processes is not available in this version; start one process")
        _warn_of_settings_without_effect(config)
        self._allowed = allowed_kinds(config.allow)
        self.config = config
        self.run_folder: Path | None = None
        self._progress = progress
        self._loaded: LoadedModel | None = None

    @classmethod
    def from_pretrained(cls, name: str, progress: Progress | None = None, **settings: Any) -> AgentSFTTrainer:
        """A trainer around a saved model (run folder, adapter, model folder or id), to evaluate or train further."""
        return cls(AgentSFTConfig(base_model=name, train_data="agent_sft:train", **settings), progress)

    @property
    def loaded(self) -> LoadedModel:
        """Model and tokenizer, loaded on first use.

        Raises:
            ModelError: when the model cannot be found, loaded, or shown tools.
        """
        if self._loaded is None:
            config = self.config
            self._loaded = load_model(config.base_model, dtype=config.dtype, tool_format=config.tool_format)
        return self._loaded

    def train(self, resume: bool = False) -> TrainingResult:
        """Train, and write the run folder (see `training/run.py`).

        Ctrl-C ends after the current step with a checkpoint; `resume` goes on from there to the same result.

        Args:
            resume: Go on with the run in `output_dir` (with the default `output_dir`, the newest there).

        Raises:
            ConfigError: when the folder holds a run and `resume` is False, or cannot be resumed.
            DataError: for rows with a fault that `allow` does not name, with file and line of the first.
            ModelError: for an unusable model.
            TrainingError: when the loss is no longer a number, or the run folder cannot be written (a full disk).
        """
        begin = time.perf_counter()
        folder = claim_folder(self.config, resume)
        config = replace(self.config, output_dir=folder)
        loaded = self.loaded
        if hasattr(loaded.model, "peft_config"):
            require_same_adapter(loaded.model, config)
        train_rows = self._rows(config.train_data)
        eval_rows = self._rows(config.eval_data) if config.eval_data else None
        checkpoint = last_checkpoint(folder) if resume else None
        if resume:
            _require_same_data(folder, train_rows)
        write_start(folder, config, {"train": train_rows.manifest, "eval": eval_rows.manifest if eval_rows else None})
        self.run_folder = folder
        with _told_of_disk(folder):
            trainer, stop = self._fit(config, train_rows, checkpoint)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        interrupted = stop.asked and trainer.state.global_step < trainer.state.max_steps
        tail = losses[-max(1, len(losses) // 10) :]
        result = TrainingResult(
            final_loss=sum(tail) / len(tail),
            losses=losses,
            steps=trainer.state.global_step,
            tokens_seen=trainer.tokens_seen,
            tokens_trained=trainer.tokens_trained,
            seconds=time.perf_counter() - begin,
            output_dir=folder,
            eval_loss=self._loss(eval_rows.rows) if eval_rows and not interrupted else None,
            interrupted=interrupted,
        )
        if not interrupted:
            with _told_of_disk(folder):
                self._finish(config, result, train_rows)
        return result

    def evaluate(self, data: str | Path | Sequence[dict[str, Any]]) -> EvalResult:
        """Ask the model for each assistant turn of held-out rows, and score calls and answers.

        Args:
            data: JSONL file, reference such as `agent_sft:test`, or rows.

        Returns:
            Accuracy over turns with interval, loss of the true turns, valid calls, and each reply with its score.

        Raises:
            DataError: for unusable rows.
            ModelError: for an unusable model.
        """
        loaded, config = self.loaded, self.config
        with self._telling() as progress:
            return ask_turns(
                loaded, data, max_length=config.max_seq_length, max_new_tokens=config.max_new_tokens,
                batch_size=config.eval_batch_size, progress=progress,
            )  # fmt: skip

    def save_model(self, path: str | Path) -> None:
        """Save the adapter (PEFT layout) or the whole model, with tokenizer and chat template beside it.

        The folder is written aside and then put in place, so an older save is never half replaced.

        Raises:
            ConfigError: when `path` is a file, or a folder that holds something else than such a save.
        """
        folder = Path(path)
        mark = "adapter_config.json" if hasattr(self.loaded.model, "peft_config") else "config.json"
        if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / mark).exists())):
            raise ConfigError(f"{folder} is not empty and holds no earlier save (no {mark}); give a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
            draft, old = Path(aside) / "new", Path(aside) / "old"
            self.loaded.model.save_pretrained(draft)
            self.loaded.tokenizer.save_pretrained(draft)
            if folder.exists():
                folder.rename(old)
            draft.rename(folder)

    def load_model(self, path: str | Path) -> None:
        """Take the model saved at `path` (adapter, model or run folder) in place of the current one.

        Raises:
            ModelError: when there is no loadable model.
        """
        self._loaded = load_model(str(path), dtype=self.config.dtype, tool_format=self.config.tool_format)

    def _rows(self, reference: str) -> TokenRows:
        with self._telling() as progress:
            config, tokenizer = self.config, self.loaded.tokenizer
            return token_rows(reference, tokenizer, config.max_seq_length, self._allowed, progress, config.truncation)

    def _fit(
        self, config: AgentSFTConfig, data: TokenRows, checkpoint: Path | None
    ) -> tuple[SupervisedTrainer, StopOnSignal]:
        loaded = self.loaded
        set_seed(config.seed)
        if config.use_lora and not hasattr(loaded.model, "peft_config"):
            loaded.model = add_adapter(loaded.model, config)
        elif float32_copy_needed(loaded.model.dtype, config):
            loaded.model = loaded.model.float()
        rate = learning_rate_for(config, loaded.model.num_parameters())
        if config.use_lora and rate < 1e-4:
            logger.warning(
                "learning_rate %g is low for LoRA, which wants about ten times the rate of full fine-tuning; "
                "'auto' would take %g here",
                rate,
                learning_rate_for(replace(config, learning_rate="auto"), loaded.model.num_parameters()),
            )
        stop = StopOnSignal()
        pad_id = loaded.tokenizer.pad_token_id or 0
        with self._telling() as progress, stop.listening():
            callbacks = [RunLog(config.output_dir / "metrics.jsonl", progress), stop]
            trainer = SupervisedTrainer(config, rate, pad_id, data.rows, model=loaded.model, callbacks=callbacks)
            trainer.train_from(checkpoint)
        loaded.model.eval()
        return trainer, stop

    @contextmanager
    def _telling(self) -> Iterator[Progress]:
        if self._progress is not None:
            yield self._progress
        else:
            with TerminalProgress() as bars:
                yield bars

    def _finish(self, config: AgentSFTConfig, result: TrainingResult, data: TokenRows) -> None:
        folder = result.output_dir
        require_finite(self.loaded.model, result.steps)
        self.save_model(folder / ("adapter" if config.use_lora else "model"))
        jsonl.write_text(folder / "chat_template.jinja", str(self.loaded.tokenizer.chat_template))
        jsonl.write_json(folder / "result.json", {**asdict(result), "output_dir": str(folder)})
        self.write_card(result, data.manifest)

    def write_card(self, result: TrainingResult, manifest: dict[str, Any], table: str | None = None) -> None:
        """Write the model card; a later call with a table of results replaces it."""
        config = replace(self.config, output_dir=result.output_dir)
        facts = [
            f"{manifest['rows']} rows, {manifest['tokens']} tokens, {manifest['tokens_trained']} of them trained on",
            f"{result.steps} optimiser steps of {config.batch_size * config.gradient_accumulation_steps} rows, "
            f"final training loss {result.final_loss:.3f}",
            f"chat template: {self.loaded.template.source}, tools {self.loaded.template.tool_format}",
        ]
        card = model_card(result.output_dir, config, self.loaded, facts, table)
        jsonl.write_text(result.output_dir / "README.md", card)
        jsonl.write_text(result.output_dir / ("adapter" if config.use_lora else "model") / "README.md", card)

    def _loss(self, rows: list[Any]) -> float:
        tokenizer = self.loaded.tokenizer
        model, size = self.loaded.model, self.config.eval_batch_size
        return mean_loss(model, batches(rows, size, tokenizer.pad_token_id or 0, pick_device()))


@contextmanager
def _told_of_disk(folder: Path) -> Iterator[None]:
    """What the libraries raise when a file cannot be written, as one line with the way on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder} cannot be written ({error}); free some space there and resume: what was saved before is whole"
        ) from error


def _warn_of_settings_without_effect(config: AgentSFTConfig) -> None:
    """A setting that nothing reads is a hope that nothing meets."""
    switches = {
        "use_lora": ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
        "use_lora_plus": ("lora_plus_lr_ratio",),
        "use_coreset_selection": ("coreset_strategy", "coreset_target_size"),
        "use_online_continual": ("continual_buffer_size", "continual_replay_ratio"),
    }
    defaults = AgentSFTConfig(base_model="-", train_data="-")
    for switch, names in switches.items():
        idle = [name for name in names if getattr(config, name) != getattr(defaults, name)]
        if idle and not getattr(config, switch):
            logger.warning("%s: no effect while %s is false", ", ".join(idle), switch)


def _require_same_data(folder: Path, data: TokenRows) -> None:
    before = jsonl.read_json(folder / "data.json")["train"]["sha256"]
    if before != data.manifest["sha256"]:
        raise ConfigError(
            f"{folder / 'data.json'}: the training rows have changed since the run began (sha256 {before[:12]} then, "
            f"{data.manifest['sha256'][:12]} now); restore them, or start a new run"
        )
