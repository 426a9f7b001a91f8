"""transformers' `Trainer` with our batches and our loss; the loop, schedule and checkpoints are its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerState, TrainingArguments

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.adapters import parameter_groups
from sage.libs.finetune.agent.models.load import pick_device
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.tokenization.collate import collate
from sage.libs.finetune.agent.training.checkpoints import CHECKPOINTS


class SupervisedTrainer(Trainer):
    """Mean loss per trained token of an optimiser step, whatever batches the step is split into.

    Attributes:
        tokens_seen: Tokens that went through the model, padding not counted.
        tokens_trained: Those of them with a label.
    """

    def __init__(self, config: AgentSFTConfig, learning_rate: float, pad_id: int, rows: list[Any], **rest: Any) -> None:
        self._config, self._learning_rate = config, learning_rate
        self.tokens_seen = self.tokens_trained = 0
        super().__init__(
            args=training_arguments(config, learning_rate),
            train_dataset=rows,
            data_collator=lambda batch: collate(batch, pad_id),
            **rest,
        )
        # The loss below divides by the tokens of the whole optimiser step, so Trainer must count them and not rescale.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)  # it prints on stdout, which is for results

    def train_from(self, checkpoint: Path | None) -> None:
        """Train, or go on from a checkpoint; one of the last step is loaded and nothing more is done.

        (`Trainer.train` would do another step from there.)
        """
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= state.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

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
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of the tokens' loss over the number of trained tokens in the optimiser step."""
        nll, mask = supervised_nll(model, inputs)
        self.tokens_seen += int(inputs["attention_mask"].sum())
        self.tokens_trained += int(mask.sum())
        items = mask.sum() if num_items_in_batch is None else num_items_in_batch
        loss = nll.sum() / items
        return (loss, {}) if return_outputs else loss


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
        warmup_steps=config.warmup_ratio,  # below 1 it is a share of the steps
        max_grad_norm=config.max_grad_norm,
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
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device: DataParallel would cut up our column index
    return arguments


def batches(rows: list[Any], size: int, pad_id: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Rows in padded batches of similar length, for evaluation."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    for start in range(0, len(order), size):
        batch = collate([rows[index] for index in order[start : start + size]], pad_id)
        yield {name: tensor.to(device) for name, tensor in batch.items()}
