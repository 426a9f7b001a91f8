"""How many steps LoRA+ needs for LoRA's final evaluation loss, each at its own best learning rate of three.

Both train the embedded model on the desk's rows from the same adapter, with the same batches, at a constant rate after
a short warm-up: under a falling rate a loss in the middle of a run could not be compared with one at its end. Best is
the rate with the lowest last evaluation loss on `agent_sft:test`. LoRA+'s rates are those of A; B's are 16 times them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from common import report

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.adapters import add_adapter
from sage.libs.finetune.agent.models.batches import BatchForm, on_device, rows_loss
from sage.libs.finetune.agent.models.embedded import EMBEDDED
from sage.libs.finetune.agent.models.load import load_model, load_tokenizer
from sage.libs.finetune.agent.models.lora_linear import replace_forwards
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.models.optimizer import parameter_groups
from sage.libs.finetune.agent.training.batching import EpochBatches
from sage.libs.finetune.agent.training.data import token_rows

WARM_UP_STEPS = 3
Curve = list[tuple[int, float]]
"""Evaluation losses after so many steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=8, help="of a step")
    parser.add_argument("--eval-rows", type=int, default=48)
    parser.add_argument("--eval-every", type=int, default=4, help="steps")
    parser.add_argument("--ratio", type=float, default=16.0)
    parser.add_argument("--lora-rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--lora-plus-rates", type=float, nargs="+", default=[1e-4, 2e-4, 4e-4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="lora_plus", help="of the result")
    options = parser.parse_args()
    lora = AgentSFTConfig(
        base_model=options.model, train_data="agent_sft:train", eval_data="agent_sft:test", seed=options.seed,
        dtype=options.dtype, batch_size=options.rows, gradient_accumulation_steps=1, max_steps=options.steps,
    )  # fmt: skip
    plus = replace(lora, use_lora_plus=True, lora_plus_lr_ratio=options.ratio)
    begin = time.perf_counter()
    curves = {
        "LoRA": {rate: _curve(replace(lora, learning_rate=rate), options) for rate in options.lora_rates},
        "LoRA+": {rate: _curve(replace(plus, learning_rate=rate), options) for rate in options.lora_plus_rates},
    }
    best = {name: min(runs, key=lambda rate, runs=runs: runs[rate][-1][1]) for name, runs in curves.items()}
    target = curves["LoRA"][best["LoRA"]][-1][1]
    needed = next((step for step, loss in curves["LoRA+"][best["LoRA+"]] if loss <= target), None)
    first = next(step for step, loss in curves["LoRA"][best["LoRA"]] if loss <= target)
    report(
        options.name,
        {
            "settings": {**vars(options), "lora_r": lora.lora_r, "lora_alpha": lora.lora_alpha},
            "best_rates": best,
            "lora_final_eval_loss": target,
            "lora_plus_final_eval_loss": curves["LoRA+"][best["LoRA+"]][-1][1],
            "steps_of_lora": first,
            "steps_of_lora_plus_for_it": needed,
            "share_of_steps": needed / first if needed is not None else None,
            "seconds": time.perf_counter() - begin,
            "eval_losses": {
                name: {f"{rate:g}": curve for rate, curve in runs.items()} for name, runs in curves.items()
            },
        },
    )


def _curve(config: AgentSFTConfig, options: argparse.Namespace) -> Curve:
    """Train once; the evaluation losses on the way."""
    loaded = load_model(config.base_model, dtype=config.dtype)
    train = _rows(config.train_data, config.base_model)
    held_out = _rows(str(config.eval_data), config.base_model)[: options.eval_rows]
    torch.manual_seed(config.seed)
    model = add_adapter(loaded.model, config).train()
    replace_forwards(model)
    rate = float(config.learning_rate)
    optimizer = torch.optim.AdamW(parameter_groups(model, config, rate), betas=(0.9, config.adam_beta2), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARM_UP_STEPS))
    form = BatchForm(model, pad_id=0)
    curve: Curve = []
    for step, batch in enumerate(_batches(train, form, config), start=1):
        with form.attention():
            nll = supervised_nll(model, on_device(batch, model.device))
            nll.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % options.eval_every == 0 or step == options.steps:
            curve.append((step, rows_loss(model, held_out, 0, config.eval_batch_size)))
    return curve


@cache
def _rows(data: str, model: str) -> list[Any]:
    tokenizer, _ = load_tokenizer(model)
    return token_rows(data, tokenizer, max_length=2048).rows


def _batches(rows: list[Any], form: BatchForm, config: AgentSFTConfig) -> list[dict[str, Any]]:
    """One batch a step, the rows in shuffled order, epoch after epoch."""
    order = EpochBatches(rows, config.batch_size, accumulation=1, order="shuffled", seed=config.seed)
    chosen: list[list[int]] = []
    while len(chosen) < (config.max_steps or 0):
        chosen += list(order)
        order.epoch += 1
    return [form([rows[index] for index in numbers]) for numbers in chosen[: config.max_steps]]


if __name__ == "__main__":
    main()
