"""Supervised fine-tuning on agent rows.

The path from file to gradient: `token_rows` (data.py) renders each conversation once and labels the assistant's turns
and nothing else; `select` (coreset.py) chooses among the rows where that is wanted; `EpochBatches` (batching.py) says
which rows make a batch, to which `Replay` (replay.py) may add older ones; `BatchForm` (models/batches.py) packs them
into one sequence, `SupervisedTrainer` (loop.py) takes the steps, and `supervised_nll` (models/losses.py) is the loss.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.mixing.references import names_a_mix
from sage.libs.finetune.agent.models.adapters import require_finite, require_same_adapter, save_adapter
from sage.libs.finetune.agent.models.batches import rows_loss
from sage.libs.finetune.agent.models.load import LoadedModel, load_model
from sage.libs.finetune.agent.models.quantize import quantization_of
from sage.libs.finetune.agent.preflight.faults import allowed_kinds
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.reporting.curves import draw_curve
from sage.libs.finetune.agent.reporting.progress import TerminalProgress
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.ask import ask_turns
from sage.libs.finetune.agent.training.callbacks import require_tracker
from sage.libs.finetune.agent.training.card import model_card
from sage.libs.finetune.agent.training.checkpoints import last_checkpoint
from sage.libs.finetune.agent.training.coreset import Coreset, reduced, select
from sage.libs.finetune.agent.training.coreset import in_words as coreset_in_words
from sage.libs.finetune.agent.training.data import TokenRows, token_rows
from sage.libs.finetune.agent.training.dry_run import TrainingPlan, plan_training
from sage.libs.finetune.agent.training.fit import fit
from sage.libs.finetune.agent.training.guards import told_of_disk, told_of_memory
from sage.libs.finetune.agent.training.mix import in_words as mix_in_words
from sage.libs.finetune.agent.training.mix import training_rows
from sage.libs.finetune.agent.training.replay import Replay
from sage.libs.finetune.agent.training.replay import in_words as replay_in_words
from sage.libs.finetune.agent.training.run import CORESET, REPLAY_BUFFER, claim_folder, write_start
from sage.libs.finetune.agent.types import EvalResult, TrainingResult

logger = logging.getLogger(__name__)


class AgentSFTTrainer:
    """Fine-tunes a model on agent trajectories, and measures it.

    Args:
        config: What to train on what; see `AgentSFTConfig`.
        progress: Told about long steps; None shows bars on stderr, `progress.silent` nothing.

    Attributes:
        config: The settings.
        run_folder: Where the last `train` wrote, None before.

    Raises:
        ConfigError: when `allow` names no kind of fault.

    Example:
        >>> config = AgentSFTConfig(base_model="smollm2-135m-instruct", train_data="agent_sft:train")
        >>> trainer = AgentSFTTrainer(config)
        >>> result = trainer.train()  # doctest: +SKIP
        >>> trainer.evaluate("agent_sft:test").accuracy  # doctest: +SKIP
        0.83
    """

    def __init__(self, config: AgentSFTConfig, progress: Progress | None = None) -> None:
        _warn_of_settings_without_effect(config)
        self._allowed = allowed_kinds(config.allow)
        processes.join()
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
            self._loaded = self._load(config.base_model)
        return self._loaded

    def use(self, loaded: LoadedModel) -> None:
        """Take a model that is loaded already in place of the current one."""
        self._loaded = loaded

    def train(self, resume: bool = False) -> TrainingResult:
        """Train, and write the run folder (see `training/run.py`).

        Ctrl-C ends after the current step with a checkpoint; `resume` goes on from there to the same result.

        Args:
            resume: Go on with the run in `output_dir` (with the default `output_dir`, the newest there).

        Raises:
            ConfigError: when the folder holds a run and `resume` is False, or cannot be resumed.
            DataError: for rows with a fault that `allow` does not name, with file and line of the first.
            ModelError: for an unusable model.
            TrainingError: when the loss is no longer a number, memory ends, the run folder cannot be written (a full
                disk), or no checkpoint to resume from is whole.
        """
        begin = time.perf_counter()
        _warn_of_a_buffer_left_behind(self.config)
        require_tracker(self.config.report_to)
        folder = processes.first_decides(lambda: claim_folder(self.config, resume))
        config = replace(self.config, output_dir=folder)
        if resume and self.run_folder is not None:
            self._loaded = None  # an earlier call trained it; a run goes on from its checkpoint and nothing else
        loaded = self.loaded
        if hasattr(loaded.model, "peft_config"):
            require_same_adapter(loaded.model, config)
        train_rows = self._mixed_rows() if names_a_mix(config.train_data) else self._rows(config.train_data)
        eval_rows = self._rows(config.eval_data) if config.eval_data else None
        checkpoint = processes.first_decides(lambda: last_checkpoint(folder)) if resume else None
        coreset = self._coreset(config, train_rows, resume) if config.use_coreset_selection else None
        train_rows = reduced(train_rows, coreset) if coreset else train_rows
        replay = Replay(config, train_rows, loaded.tokenizer, self._allowed) if config.use_online_continual else None
        manifests = {"train": train_rows.manifest, "eval": eval_rows.manifest if eval_rows else None}
        manifests |= {"replay": replay.manifest} if replay else {}
        if resume:
            _require_same_data(folder, manifests)
        processes.first_decides(lambda: write_start(folder, config, manifests, coreset.to_dict() if coreset else None))
        self.run_folder = folder
        with told_of_disk(folder), told_of_memory(config), self._telling() as progress:
            fitted = fit(loaded, config, train_rows, eval_rows, checkpoint, progress, replay)
            eval_loss = fitted.eval_loss
            if eval_rows and eval_loss is None and not fitted.interrupted:
                eval_loss = self._loss(eval_rows.rows)
        tail = fitted.losses[-max(1, len(fitted.losses) // 10) :]
        seen, trained, computed = fitted.tokens
        best_step, best_loss = fitted.best_evaluation or (None, None)
        rows_replayed, tokens_replayed = fitted.replayed or (None, None)
        result = TrainingResult(
            final_loss=sum(tail) / len(tail),
            losses=fitted.losses,
            steps=fitted.steps,
            tokens_seen=seen,
            tokens_trained=trained,
            tokens_computed=computed,
            batches=fitted.batches,
            seconds=time.perf_counter() - begin,
            output_dir=folder,
            eval_loss=eval_loss if not fitted.interrupted else None,
            best_eval_step=best_step,
            best_eval_loss=best_loss,
            interrupted=fitted.interrupted,
            rows_selected=len(coreset.rows) if coreset else None,
            rows_replayed=rows_replayed,
            tokens_replayed=tokens_replayed,
        )
        if not fitted.interrupted:
            with told_of_disk(folder):
                self._finish(config, result, train_rows)
        if processes.is_first():
            draw_curve(folder)
        return result

    def dry_run(self, resume: bool = False) -> TrainingPlan:
        """What `train` would do: rows, steps, tokens, memory, time. Nothing is trained, written or loaded but rows.

        Raises:
            ConfigError: as `train` would.
            DataError: as `train` would.
            ModelError: when there is no such model.
        """
        with self._telling() as progress:
            return plan_training(self.config, resume, progress)

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

        The folder is written aside and then put in place, so an older save is never half replaced. Of several processes
        all must call it, and the first one writes.

        Raises:
            ConfigError: when `path` is a file, or a folder that holds something else than such a save.
        """
        folder, weights = Path(path), processes.whole_weights(self.loaded.model)
        if not processes.is_first():
            return
        mark = "adapter_config.json" if hasattr(self.loaded.model, "peft_config") else "config.json"
        if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / mark).exists())):
            raise ConfigError(f"{folder} is not empty and holds no earlier save (no {mark}); give a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
            draft, old = Path(aside) / "new", Path(aside) / "old"
            if mark == "adapter_config.json":
                save_adapter(self.loaded.model, draft, self.run_folder, weights)
            else:
                self.loaded.model.save_pretrained(draft, state_dict=weights)
            self.loaded.tokenizer.save_pretrained(draft)
            if folder.exists():
                folder.rename(old)
            draft.rename(folder)

    def load_model(self, path: str | Path) -> None:
        """Take the model saved at `path` (adapter, model or run folder) in place of the current one.

        Raises:
            ModelError: when there is no loadable model.
        """
        self._loaded = self._load(str(path))

    def _load(self, name: str) -> LoadedModel:
        config = self.config
        # Full fine-tuning computes in float32; weights that were read in bfloat16 would stay rounded.
        dtype = "float32" if config.dtype == "auto" and not config.use_lora else config.dtype
        quantization = quantization_of(config.load_in_4bit, config.load_in_8bit)
        return load_model(name, dtype=dtype, tool_format=config.tool_format, quantization=quantization)

    def _rows(self, reference: str) -> TokenRows:
        with self._telling() as progress:
            config, tokenizer = self.config, self.loaded.tokenizer
            return token_rows(reference, tokenizer, config.max_seq_length, self._allowed, progress, config.truncation)

    def _mixed_rows(self) -> TokenRows:
        with self._telling() as progress:
            return training_rows(self.config, self.loaded.tokenizer, self._allowed, progress)

    def _coreset(self, config: AgentSFTConfig, data: TokenRows, resume: bool) -> Coreset:
        if resume:
            return processes.first_decides(lambda: Coreset.read(config.output_dir / CORESET))
        with told_of_memory(config), self._telling() as progress:
            return select(config, data, self.loaded, progress)

    @contextmanager
    def _telling(self) -> Iterator[Progress]:
        if not processes.is_first():
            yield silent
        elif self._progress is not None:
            yield self._progress
        else:
            with TerminalProgress() as bars:
                yield bars

    def _finish(self, config: AgentSFTConfig, result: TrainingResult, data: TokenRows) -> None:
        folder = result.output_dir
        require_finite(self.loaded.model, result.steps)
        self.save_model(folder / ("adapter" if config.use_lora else "model"))
        if not processes.is_first():
            return
        jsonl.write_text(folder / "chat_template.jinja", str(self.loaded.tokenizer.chat_template))
        jsonl.write_json(folder / "result.json", {**asdict(result), "output_dir": str(folder)})
        self.write_card(result, data.manifest)

    def write_card(self, result: TrainingResult, manifest: dict[str, Any], table: str | None = None) -> None:
        """Write the model card; a later call with a table of results replaces it."""
        config = replace(self.config, output_dir=result.output_dir)
        facts = [
            f"{manifest['rows']} rows, {manifest['tokens']} tokens, {manifest['tokens_trained']} of them trained on",
            f"{result.steps} optimiser steps of "
            f"{config.batch_size * config.gradient_accumulation_steps * processes.count()} "
            f"{f'bins of {config.max_seq_length} tokens' if config.packing else 'rows'}, "
            f"final training loss {result.final_loss:.3f}",
            f"chat template: {self.loaded.template.source}, tools {self.loaded.template.tool_format}",
        ]
        if selected := coreset_in_words(manifest):
            facts.insert(1, f"these are {selected}")
        if mixed := mix_in_words(manifest):
            facts.insert(1, mixed)
        if result.rows_replayed is not None:
            facts.insert(-1, f"beside them {result.rows_replayed} rows of the past, {replay_in_words(config)}")
        card = model_card(result.output_dir, config, self.loaded, facts, table)
        jsonl.write_text(result.output_dir / "README.md", card)
        jsonl.write_text(result.output_dir / ("adapter" if config.use_lora else "model") / "README.md", card)

    def _loss(self, rows: list[Any]) -> float:
        loaded = self.loaded
        return rows_loss(loaded.model, rows, loaded.tokenizer.pad_token_id or 0, self.config.eval_batch_size)


def _warn_of_settings_without_effect(config: AgentSFTConfig) -> None:
    """A setting that nothing reads is a hope that nothing meets."""
    if config.packing and config.row_order == "grouped":
        logger.warning("row_order: no effect while packing is true")
    mixed = names_a_mix(config.train_data)
    if mixed and config.use_coreset_selection:
        logger.warning("train_data: a coreset is selected from the mixed rows and does not keep their shares")
    switches: dict[str, tuple[str, ...]] = {
        "use_lora": ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
        "use_lora_plus": ("lora_plus_lr_ratio",),
        "use_coreset_selection": ("coreset_strategy", "coreset_target_size", "coreset_scorer"),
        "use_online_continual": (
            "continual_buffer_size", "continual_replay_ratio", "continual_strategy", "continual_buffer_path",
        ),
    }  # fmt: skip
    defaults = AgentSFTConfig(base_model="-", train_data="-")
    mixing = ("mixing_strategy", "mixing_size", "mixing_temperature", "mixing_max_repeats")
    if not mixed and (idle := [name for name in mixing if getattr(config, name) != getattr(defaults, name)]):
        logger.warning("%s: no effect while train_data is one data set", ", ".join(idle))
    for switch, names in switches.items():
        idle = [name for name in names if getattr(config, name) != getattr(defaults, name)]
        if idle and not getattr(config, switch):
            logger.warning("%s: no effect while %s is false", ", ".join(idle), switch)


def _warn_of_a_buffer_left_behind(config: AgentSFTConfig) -> None:
    left = Path(config.base_model) / REPLAY_BUFFER
    if config.use_online_continual and config.continual_buffer_path is None and left.is_dir():
        logger.warning(
            "the replay buffer begins empty; to go on with the last run's give continual_buffer_path: %s", left
        )


def _require_same_data(folder: Path, now: dict[str, Any]) -> None:
    before = jsonl.read_json(folder / "data.json")
    for name, what in (("train", "training rows"), ("replay", "rows in continual_buffer_path")):
        then, new = ((manifests.get(name) or {}).get("sha256", "none") for manifests in (before, now))
        if then != new:
            raise ConfigError(
                f"{folder / 'data.json'}: the {what} have changed since the run began (sha256 {then[:12]} then, "
                f"{new[:12]} now); restore them, or start a new run"
            )
