"""transformers' `Trainer` with our batches and our loss; the loop, schedule and checkpoints are its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError, DivergedError
from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.models.load import pick_device
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.models.optimizer import parameter_groups
from sage.libs.finetune.agent.training.batching import EpochBatches
from sage.libs.finetune.agent.training.checkpoints import (
    CHECKPOINTS,
    Attributes,
    Stateful,
    read_states,
    remove_leftovers,
    require_same_processes,
)
from sage.libs.finetune.agent.training.guards import StepGuard
from sage.libs.finetune.agent.training.processes import (
    PATIENCE,
    anywhere,
    first_decides,
    first_of_all,
    is_first,
    summed,
)
from sage.libs.finetune.agent.training.replay import OffersRows, Replay
from sage.libs.finetune.agent.training.saving import DraftedCheckpoints


class SupervisedTrainer(DraftedCheckpoints, Trainer):
    """Mean loss per trained token of an optimiser step, whatever batches the step is split into.

    Attributes:
        tokens_seen: Tokens of the rows trained on, padding not counted.
        tokens_trained: Those of them with a label.
        tokens_computed: Tokens that went through the model: a shared prefix once, padding as well.
        form: How rows become batches.
        batches: Which rows each of them takes.
        places: Where each row comes from, as `FILE:NUMBER`, for messages; set before training.
        watch: Evaluates the model every `eval_steps` (`training/watch.py`); set before training.
    """

    places: Sequence[str] | None = None
    watch: Callable[[], dict[str, float]] | None = None

    def __init__(
        self,
        config: AgentSFTConfig,
        learning_rate: float,
        pad_id: int,
        rows: Sequence[Any],
        replay: Replay | None = None,
        **rest: Any,
    ) -> None:
        self._config, self._learning_rate, self._replay = config, learning_rate, replay
        self._rows = replay.pool.rows if replay else rows
        self.tokens_seen = self.tokens_trained = self.tokens_computed = 0
        self.run_folder, self.save_total_limit = config.output_dir, config.save_total_limit
        self.form = BatchForm(rest["model"], pad_id, config.share_prefixes)
        self._head = base_model(rest["model"]).get_output_embeddings()
        super().__init__(
            args=training_arguments(config, learning_rate), train_dataset=range(len(rows)), data_collator=self._batch,
            eval_dataset=range(0),  # asked for where there are evaluations; the watch has the rows
            **rest,
        )  # fmt: skip
        self.batches = epoch_batches(rows, config, self.form.packed, self.args.world_size, self.args.process_index)
        self.add_callback(_EpochClock(self.batches))
        if replay is not None:
            self.add_callback(OffersRows(replay))
        # The loss below divides by the tokens of the whole optimiser step, so Trainer must not rescale.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)  # it prints on stdout, which is for results

    def train_from(self, checkpoint: Path | None) -> None:
        """Train, or go on from a checkpoint; one of the last step is loaded and nothing more is done.

        (`Trainer.train` would do another step from there.)
        """
        if self.args.process_index == 0:
            remove_leftovers(self._config.output_dir)
        self.accelerator.wait_for_everyone()
        if checkpoint is not None:
            require_same_processes(checkpoint, self.args.world_size)
            read_states(checkpoint, self.kept, self.args.process_index)
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= state.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return
        if self.args.process_index > 0:  # each its own dropout; checkpoints have the random state of every process
            torch.manual_seed(self._config.seed + self.args.process_index)
        with self.form.attention():
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of the rows this process trains on; the order comes from the seed and the epoch alone.

        With replay only the numbers of their rows: what is replayed beside them is not known before the step.
        """
        cuda = torch.cuda.is_available()  # there a worker packs the next batch while the device computes
        numbers: Any = self.train_dataset
        if self._replay is not None:
            return DataLoader(numbers, batch_sampler=self.batches, collate_fn=list)
        return DataLoader(
            numbers, batch_sampler=self.batches, collate_fn=self._batch, num_workers=2 if cuda else 0,
            pin_memory=cuda,
        )  # fmt: skip

    def _batch(self, numbers: list[int]) -> dict[str, Any]:
        return {**self.form([self._rows[number] for number in numbers]), "rows": numbers}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """The micro-batches of an optimiser step, and the trained tokens of all processes in it."""
        found = list(itertools.islice(epoch_iterator, num_batches))
        if self._replay is not None:
            first_epoch, rank = self.batches.epoch == 0, self.args.process_index
            found = [self._batch(rows) for rows in self._replay.mixed(found, first_epoch, self.form.share, rank)]
        seen, trained, computed = summed([
            sum(batch["logical_tokens"] for batch in found if batch["rows"]),
            sum(batch["trained_tokens"] for batch in found),
            sum(batch["input_ids"].numel() for batch in found),
        ])  # fmt: skip
        self.tokens_seen += seen
        self.tokens_trained += trained
        self.tokens_computed += computed
        return found, torch.tensor(max(1, trained), device=device)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model only, so that all must compute together (FSDP, ZeRO-3)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @cached_property
    def kept(self) -> dict[str, Stateful]:  # type: ignore[override]
        """What a checkpoint holds beside the model and what `Trainer` keeps, by name; add to it before training."""
        kept: dict[str, Stateful] = {"tokens": Attributes(self, "tokens_seen", "tokens_trained", "tokens_computed")}
        return kept if self._replay is None else {**kept, "replay": self._replay}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's own; the line of a step says how many of its rows were replayed."""
        if self._replay is not None and "loss" in logs:
            logs["rows_replayed"] = self._replay.last_replayed
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """What the watch finds, in place of Trainer's own evaluation; the first process asks, the others wait.

        Where each has a part of the model only, all ask, and the first one's numbers count.
        """
        found = self.watch() if self.watch is not None and (is_first() or self.sharded) else {}
        numbers = first_decides(lambda: found)
        if numbers:
            self.log(numbers)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, numbers)
        return numbers

    @cached_property
    def _guard(self) -> StepGuard:
        return StepGuard(self._config.output_dir, self.places)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Forward and backward of a micro-batch, whose loss the guard is told of."""
        rows = inputs.get("rows")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._guard.saw(loss, rows)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float | None:
        """The norm as a number; between the backward pass and the optimiser's step, so the guard looks here.

        What one process finds stops all of them; the loss of one makes the norm of every one no number.
        """
        problem = number = None
        try:
            norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
            number = self._guard.check(self.state.global_step + 1, norm)
        except DivergedError as error:
            problem = str(error)
        if anywhere(problem is not None):
            of_loss = None if bool(torch.isfinite(self._tr_loss)) else problem
            raise DivergedError(first_of_all(of_loss) or first_of_all(problem))
        return number

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW on the groups of LoRA+ (one rate for all without it)."""
        if self.optimizer is None:
            trained: Any = model or self.model
            groups = parameter_groups(trained, self._config, self._learning_rate)
            self.optimizer = torch.optim.AdamW(
                groups, lr=self._learning_rate, betas=(0.9, self._config.adam_beta2), fused=True
            )
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of the tokens' loss over the number of trained tokens in the optimiser step."""
        nll = supervised_nll(model, inputs, self._head)
        if self._replay is not None:
            self._replay.saw(inputs, nll)
        items = max(1, nll.numel()) if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over processes, so each one's share of the sum counts that many times.
        loss = nll.sum() * self.accelerator.num_processes / items
        return (loss, {}) if return_outputs else loss


class _EpochClock(TrainerCallback):
    """Tells the batches which epoch begins."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A resumed run is somewhere within the epoch."""
        self.batches.epoch = int((state.epoch or 0.0) + 1e-6)


def epoch_batches(
    rows: Sequence[Any], config: AgentSFTConfig, packed: bool = True, processes: int = 1, rank: int = 0
) -> EpochBatches:
    """How a run with these settings splits its rows into micro-batches.

    Args:
        rows: Token rows.
        config: Of the run.
        packed: Whether the model computes packed batches (`BatchForm.packed`).
        processes: How many train together.
        rank: Number of this one.

    Raises:
        ConfigError: when `packing` is asked for and the model cannot do it.
    """
    if config.packing and not packed:
        raise ConfigError("'packing' needs a model whose attention keeps packed rows apart; leave it false here")
    return EpochBatches(
        rows, config.batch_size, config.gradient_accumulation_steps, seed=config.seed, order=config.row_order,
        bin_tokens=config.max_seq_length if config.packing else None, processes=processes, rank=rank,
        by_prefix=packed and config.share_prefixes,
    )  # fmt: skip


def training_arguments(config: AgentSFTConfig, learning_rate: float) -> TrainingArguments:
    """Our settings in transformers' terms."""
    arguments = TrainingArguments(
        output_dir=str(config.output_dir / CHECKPOINTS),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        learning_rate=learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=min(config.warmup_ratio, math.nextafter(1.0, 0.0)),  # below 1 it is a share, 1 would be one step
        max_grad_norm=config.max_grad_norm,
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if config.eval_steps else "no",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        remove_unused_columns=False,
        seed=config.seed,
        report_to="none",  # the trackers' callbacks come from `tracker_callbacks`, behind the log that adds to theirs
        run_name=config.run_name or config.output_dir.name,
        project="sage-finetune",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=pick_device().type == "cpu",
        ddp_find_unused_parameters=False,  # every batch, an empty one too, goes through all that is trained
        ddp_timeout=int(PATIENCE.total_seconds()),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device: DataParallel would cut up our column index
    return arguments
