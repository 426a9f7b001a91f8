"""The peer of `sft_throughput.py`: TRL's SFTTrainer, as it comes and tuned by hand.

What the arms share: LoRA r 16, alpha 32 on all linear layers, and our rows as `input_ids` and `labels`. TRL takes rows
that are tokens already as they are, and labels that are there as they are (-100: not trained), so it trains on the very
tokens that ours trains on; its own `assistant_only_loss` needs a template with generation marks, which this one lacks.
`max_length` is off: the default of 1024 would cut rows. Nothing is saved.

trl        `SFTConfig()` with nothing else set: weights in float32 under bfloat16 autocast, gradient checkpointing,
           random order, padding to the longest row of a batch. (On CPUs `use_cpu=True` has to be said; TRL refuses to
           start without it.)
trl-tuned  What one sets who knows it: weights loaded in bfloat16, no gradient checkpointing, batches of like length.

Three more arms show that no better setting was passed over; `--arms` names them. On CPUs TRL starts with `bf16=False`
too, which is `trl-float32`; `trl-tuned-no-autocast` computes the adapters in float32 as their weights are, and
`trl-tuned-padding-free` flattens a batch into one row (TRL wants FlashAttention for it, and warns).

TRL 1.16 has no other loss for this: `chunked_nll` became what `nll` does, a head in chunks of the vocabulary, over the
trained tokens on CUDA and over all tokens on CPUs. `packing` is padding-free too; `use_liger_kernel` is CUDA's and is
deprecated.

With `dtype` "float32" every arm computes in float32 throughout.
"""

from __future__ import annotations

import time
from typing import Any

from common import LEARNING_RATE, WARM_UP_STEPS, Job

_TUNED = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
ARMS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl-tuned": _TUNED,
    "trl-float32": {"bf16": False},
    "trl-tuned-no-autocast": {**_TUNED, "bf16": False},
    "trl-tuned-padding-free": {**_TUNED, "padding_free": True},
}
"""What each arm sets beside what all set."""


def settings(arm: str, job: Job) -> dict[str, Any]:
    """What is set in `SFTConfig`; all else is TRL's default."""
    import torch

    chosen: dict[str, Any] = {
        "per_device_train_batch_size": job.batch_size,
        "num_train_epochs": 1,
        "max_length": None,
        "learning_rate": LEARNING_RATE,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }
    chosen.update(ARMS[arm])
    if job.dtype == "float32":
        chosen["bf16"] = False
    elif arm.startswith("trl-tuned"):
        chosen["model_init_kwargs"] = {"dtype": "bfloat16"}
    if job.order is not None:
        chosen.update(train_sampling_strategy="sequential", logging_steps=1)
    return chosen


def train(arm: str, job: Job) -> dict[str, Any]:
    """Train an epoch; seconds and tokens of the steps behind the warm-up, all tokens, and the logged losses."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    marks: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (WARM_UP_STEPS, state.max_steps):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                marks.append((time.perf_counter(), trainer._total_train_tokens))

    rows = job.rows()
    order = range(len(rows)) if job.order is None else [number for batch in job.order for number in batch]
    columns = {name: [rows[number][name] for number in order] for name in ("input_ids", "labels")}
    trainer = SFTTrainer(
        model=job.model,
        args=SFTConfig(output_dir=str(job.folder / "checkpoints"), **settings(arm, job)),
        train_dataset=Dataset.from_dict(columns),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    if job.order is not None:
        set_peft_model_state_dict(trainer.model, load_file(job.adapter))
    trainer.train()
    (begin, before), (end, after) = marks
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": end - begin, "tokens": after - before, "all_tokens": after, "losses": losses}
