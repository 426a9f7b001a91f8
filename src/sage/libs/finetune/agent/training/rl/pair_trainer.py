"""TRL's `DPOTrainer` for pairs of conversations: our masks, our reference, our checkpoints.

TRL's collator counts every token after the prompt; `collate_pairs` those that carry a label. TRL computes the
reference's log-probabilities with the model at hand, which in a resumed run is another one; `remember_reference` once,
before the first step, and keeps them in the run folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainerState
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.models.load import LoadedModel, pick_device
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.tokenization.collate import collate
from sage.libs.finetune.agent.tokenization.render import IGNORED
from sage.libs.finetune.agent.training.checkpoints import CHECKPOINTS, Attributes
from sage.libs.finetune.agent.training.guards import StepGuard
from sage.libs.finetune.agent.training.rl.pairs import TokenPair
from sage.libs.finetune.agent.training.saving import DraftedCheckpoints

_BATCH_TOKENS = 4096
"""Tokens computed at once, padding and both sides counted; a pair that is longer is computed alone."""


@dataclass
class Course:
    """How far a run of DPO has come; kept in its checkpoints.

    Attributes:
        round: The one that is going on, from 1.
        steps_before: Optimiser steps of the rounds before it.
        losses: Of each step, all rounds.
        tokens_seen: Of the conversations learned from, both sides.
        tokens_trained: Those of them that the assistant wrote.
    """

    round: int = 1
    steps_before: int = 0
    losses: list[float] = field(default_factory=list)
    tokens_seen: int = 0
    tokens_trained: int = 0

    def kept(self) -> Attributes:
        """As a state of a checkpoint."""
        return Attributes(self, "round", "steps_before", "losses", "tokens_seen", "tokens_trained")


class PairTrainer(DraftedCheckpoints, DPOTrainer):
    """TRL's trainer with our masks, our reference and our checkpoints; for one round.

    The loss of a step is the mean over its pairs, however it is split into micro-batches. All epochs are one to
    `Trainer`: each pair comes `num_epochs` times, and a step may end one pass and begin the next.

    Args:
        loaded: The policy.
        config: Its settings.
        folder: The run folder.
        pairs: To learn from.
        course: How far the run has come; goes on as steps are made.
        callbacks: Of `Trainer`.
    """

    loss_is_scaled_for_ga = True  # by the pairs of the whole step, see `compute_loss`

    def __init__(
        self,
        loaded: LoadedModel,
        config: RLTrainingConfig,
        folder: Path,
        pairs: Sequence[TokenPair],
        course: Course,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.run_folder, self.save_total_limit, self.steps_before = folder, config.save_total_limit, course.steps_before
        self.kept = {"dpo": course.kept()}
        self._pairs, self._course, self._pad_id = pairs, course, loaded.tokenizer.pad_token_id or 0
        self._policy: Any = loaded.model
        self._reference: Sequence[Sequence[float]] = [(0.0, 0.0)] * len(pairs)
        self._guard = StepGuard(folder, [pair.place for pair in pairs])
        micro = at_once(max(pair.length for pair in pairs), config.batch_size)
        seed = f"{config.seed} round {course.round}"
        self._batches = pair_batches([pair.length for pair in pairs], config.batch_size, micro, config.num_epochs, seed)
        super().__init__(
            model=loaded.model, args=dpo_arguments(config, folder, micro), processing_class=loaded.tokenizer,
            train_dataset=Dataset.from_dict({"pair": list(range(len(pairs)))}), data_collator=self._batch,
            callbacks=list(callbacks),
        )  # fmt: skip
        self.processing_class = None  # or each checkpoint has the tokenizer, and its special tokens go to the model
        if "ref" in getattr(self.model, "peft_config", {}):
            loaded.model.delete_adapter("ref")  # TRL's copy of the adapter; the reference is numbers here
        self.remove_callback(PrinterCallback)  # it prints on stdout, which is for results

    def train_from(self, checkpoint: Path | None) -> None:
        """Train, or go on from a checkpoint of this round; one of its last step is loaded and nothing more is done."""
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= state.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def remember_reference(self, path: Path) -> None:
        """Take the reference's log-probabilities from a file, or compute them with the model as it is and write it."""
        if not path.exists():
            jsonl.write_json(path, self._logps_now())
        self._reference = jsonl.read_json(path)

    @torch.no_grad()
    def _logps_now(self) -> list[tuple[float, float]]:
        """Of each pair, chosen and rejected, in float32; those of like length together."""
        order = sorted(range(len(self._pairs)), key=lambda number: self._pairs[number].length)
        size = self.args.per_device_train_batch_size
        found: dict[int, tuple[float, float]] = {}
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            batch = self._prepare_inputs(self._batch([{"pair": number} for number in numbers]))
            labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
            outputs = self._policy(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, use_cache=False,
                fused_lm_head=True,
            )  # fmt: skip
            chosen, rejected = outputs.log_probs.float().sum(dim=1).chunk(2)
            found |= dict(zip(numbers, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True))
        return [found[number] for number in range(len(self._pairs))]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """All micro-batches of the round; their order comes from the seed and the round alone."""
        rows: Any = self.train_dataset
        return DataLoader(rows, batch_sampler=self._batches, collate_fn=self._batch)

    def _batch(self, chosen: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        numbers = [each["pair"] for each in chosen]
        reference = [self._reference[number] for number in numbers]
        return {**collate_pairs([self._pairs[number] for number in numbers], reference, self._pad_id), "pairs": numbers}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], int]:
        """The micro-batches of an optimiser step, and the pairs in it."""
        found = [next(epoch_iterator) for _ in range(num_batches)]
        self._course.tokens_seen += sum(int(batch["attention_mask"].sum()) for batch in found)
        self._course.tokens_trained += sum(int(batch["completion_mask"][:, 1:].sum()) for batch in found)
        return found, sum(len(batch["pairs"]) for batch in found)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """This micro-batch's share of the mean over the step's pairs.

        `kl` is what the policy has lost in log-probability on these conversations. Of episodes drawn from the reference
        that would estimate the KL between the two; pairs are chosen by their outcome, and experts' are among them, so
        it is a sign of how far the policy has moved and can be below 0.
        """
        batch = {name: value for name, value in inputs.items() if name != "pairs"}
        mean: Tensor = super().compute_loss(model, batch)  # type: ignore[no-untyped-call]
        figures = self._metrics["train"]
        now = figures["logps/chosen"][-1] + figures["logps/rejected"][-1]
        before = float(batch["ref_chosen_logps"].mean() + batch["ref_rejected_logps"].mean())
        figures["kl"].append((before - now) / 2)
        share = len(inputs["pairs"]) / int(num_items_in_batch)
        return mean * share

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a micro-batch, whose loss the guard is told of."""
        numbers = inputs["pairs"]
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        self._guard.saw(loss, numbers)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float | None:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        return self._guard.check(self.steps_before + self.state.global_step + 1, norm)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Left as it is: the pairs are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        """Left as it is: `remember_reference` keeps them in the run folder, TRL would in its own cache."""
        return dataset

    def _send_telemetry(self) -> None:
        """Nothing goes out."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The run folder has one of its own."""


@contextmanager
def as_found(model: Any) -> Iterator[None]:
    """Afterwards the model has the forward, the dropout and the mode it had: TRL changes the first two for good."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    own_forward, training = vars(inner).get("forward"), model.training
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    try:
        yield
    finally:
        vars(inner).pop("forward", None)
        if own_forward is not None:
            inner.forward = own_forward
        for module, probability in dropouts:
            module.p = probability
        model.train(training)


def collate_pairs(pairs: Sequence[TokenPair], reference: Sequence[Sequence[float]], pad_id: int) -> dict[str, Tensor]:
    """Pairs as the batch that TRL's `DPOTrainer` computes with, masked to the assistant's own tokens.

    Args:
        pairs: B of them.
        reference: Log-probability under the reference of the chosen and of the rejected side, for each.
        pad_id: Token id to fill up with.

    Returns:
        `input_ids`, `attention_mask` and `completion_mask` of shape (2B, longest), the chosen sides first;
        `ref_chosen_logps` and `ref_rejected_logps` of shape (B,).

    Example:
        >>> side = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}
        >>> shorter = {"input_ids": [5, 9], "labels": [-100, 9]}
        >>> collate_pairs([TokenPair(side, shorter, "pairs.jsonl:1")], [(-1.0, -2.0)], pad_id=0)["completion_mask"]
        tensor([[0, 1, 0, 1],
                [0, 1, 0, 0]])
    """
    batch = collate([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)], pad_id)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "completion_mask": (batch["labels"] != IGNORED).long(),
        "ref_chosen_logps": torch.tensor([chosen for chosen, _ in reference], dtype=torch.float32),
        "ref_rejected_logps": torch.tensor([rejected for _, rejected in reference], dtype=torch.float32),
    }


def at_once(longest: int, batch_size: int) -> int:
    """Pairs in a micro-batch: as many as memory is meant for, and a divisor of the pairs in a step.

    Example:
        >>> at_once(longest=600, batch_size=8), at_once(longest=100, batch_size=8), at_once(longest=9000, batch_size=8)
        (2, 8, 1)
    """
    fitting = [
        size for size in range(1, batch_size + 1) if batch_size % size == 0 and 2 * size * longest <= _BATCH_TOKENS
    ]
    return max(fitting, default=1)


def pair_batches(lengths: Sequence[int], batch_size: int, micro: int, epochs: int, seed: str) -> list[list[int]]:
    """Micro-batches of pair numbers for all epochs: shuffled, cut into steps, and within a step put by length.

    Args:
        lengths: Of each pair, in tokens.
        batch_size: Pairs in a step; the last one may have fewer.
        micro: Pairs in a micro-batch, a divisor of `batch_size`.
        epochs: How often each pair comes.
        seed: Of the order.

    Example:
        >>> batches = pair_batches([9, 1, 5], batch_size=2, micro=1, epochs=2, seed="0")
        >>> sorted(number for batch in batches for number in batch)
        [0, 0, 1, 1, 2, 2]
    """
    order: list[int] = []
    for epoch in range(epochs):
        order += random.Random(f"{seed} pairs {epoch}").sample(range(len(lengths)), len(lengths))
    steps = [
        sorted(order[start : start + batch_size], key=lengths.__getitem__) for start in range(0, len(order), batch_size)
    ]
    return [step[at : at + micro] for step in steps for at in range(0, len(step), micro)]


def dpo_arguments(config: RLTrainingConfig, folder: Path, micro: int) -> DPOConfig:
    """Our settings in TRL's terms; AdamW without weight decay, at a rate that falls to 0 in a line."""
    arguments = DPOConfig(
        output_dir=str(folder / CHECKPOINTS),
        beta=config.kl_coef,
        loss_type=["sigmoid"],
        max_length=None,
        precompute_ref_log_probs=True,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_size // micro,
        num_train_epochs=1,
        learning_rate=config.rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        activation_checkpointing=False,
        bf16=False,  # the base weights have their data type; autocast would go round our LoRA forward
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        remove_unused_columns=False,
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=pick_device().type == "cpu",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
