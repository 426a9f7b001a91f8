"""A training step with LoRA and DoRA adapters: our forward of them beside PEFT's, same rows, same steps.

Four arms take turns in one process: a step is forward and backward over each packed micro-batch, gradient clipping
and AdamW.
Their losses stand side by side; in float32 ours must agree with PEFT's to rounding, in bfloat16 they show what it is
that the two thin products run in bfloat16 here and in float32 in PEFT. Peak memory is taken in a process per arm.
Run with `--dtype float32` for the comparison of losses, and with `--dtype bfloat16` for that of speed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from common import memory_gb, report

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.models.adapters import add_adapter
from sage.libs.finetune.agent.models.batches import BatchForm, on_device
from sage.libs.finetune.agent.models.embedded import EMBEDDED
from sage.libs.finetune.agent.models.load import load_model, load_tokenizer
from sage.libs.finetune.agent.models.lora_linear import replace_forwards
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.models.optimizer import parameter_groups
from sage.libs.finetune.agent.training.data import token_rows

ARMS = ("lora_ours", "lora_peft", "dora_ours", "dora_peft")
LEARNING_RATE = 1e-3
WARM_UP_STEPS = 1


class Arm:
    """A model with an adapter and its optimiser."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        method, forward = name.split("_")
        config = AgentSFTConfig(
            base_model=options.model,
            train_data="-",
            use_dora=method == "dora",
            dtype=options.dtype,
            lora_r=options.rank,
        )  # fmt: skip
        model = load_model(options.model, dtype=options.dtype).model
        torch.manual_seed(0)
        self.model = add_adapter(model, config).train()
        if forward == "ours":
            replaced = replace_forwards(self.model)
            if replaced.left:
                raise SystemExit(f"layers left to PEFT: {replaced.left}")
        self.form = BatchForm(self.model, pad_id=0)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config, LEARNING_RATE), fused=True)

    def step(self, parts: list[list[dict[str, Any]]]) -> tuple[float, float]:
        """Loss per trained token, and seconds; `parts` are the rows of each micro-batch."""
        batches = [on_device(self.form(rows), self.model.device) for rows in parts]
        _synchronize()
        begin = time.perf_counter()
        trained = sum(batch["trained_tokens"] for batch in batches)
        total = torch.zeros((), device=self.model.device)
        with self.form.attention():
            for batch in batches:
                loss = supervised_nll(self.model, batch).sum() / trained
                loss.backward()
                total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss_value = float(total)
        _synchronize()
        return loss_value, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--data", default="agent_sft:train")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4, help="of a micro-batch")
    parser.add_argument("--steps", type=int, default=6, help="counted after the first, which warms up")
    parser.add_argument("--accumulation", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--memory-of", choices=ARMS, help="only this arm, only its peak memory (used by itself)")
    options = parser.parse_args()
    if options.memory_of:
        json.dump(_peak_memory(options.memory_of, options), sys.stdout)
        return
    runs = {str(accumulation): _compare(accumulation, options) for accumulation in options.accumulation}
    memory = {name: _memory_in_own_process(name) for name in options.arms}
    report(
        f"dora_{options.dtype}",
        {"settings": {**vars(options), "learning_rate": LEARNING_RATE}, "accumulation": runs, "peak_memory": memory},
    )


def _compare(accumulation: int, options: argparse.Namespace) -> dict[str, Any]:
    """All arms through the same steps, in turns."""
    arms = {name: Arm(name, options) for name in options.arms}
    steps = _steps(accumulation, options)
    losses: dict[str, list[float]] = {name: [] for name in arms}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number, parts in enumerate(steps):
        names = list(arms)
        for name in names[number % len(names) :] + names[: number % len(names)]:  # none always comes after the same
            loss, took = arms[name].step(parts)
            losses[name].append(loss)
            seconds[name].append(took)
    counted = {name: times[WARM_UP_STEPS:] for name, times in seconds.items()}
    pairs = [("dora_peft", "dora_ours"), ("lora_peft", "lora_ours"), ("dora_ours", "lora_ours")]
    present = [(one, other) for one, other in pairs if one in arms and other in arms]
    return {
        "tokens_per_step": [sum(len(row["input_ids"]) for rows in parts for row in rows) for parts in steps],
        "seconds_per_step": {
            name: {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}
            for name, times in counted.items()
        },
        "ratios_of_seconds": {
            f"{one} / {other}": statistics.median(a / b for a, b in zip(counted[one], counted[other], strict=True))
            for one, other in present
        },
        "largest_loss_difference": {
            f"{one} - {other}": max(abs(a - b) for a, b in zip(losses[one], losses[other], strict=True))
            for one, other in present[:2]
            if one.split("_")[0] == other.split("_")[0]
        },
        "losses": [dict(zip(losses, row, strict=True)) for row in zip(*losses.values(), strict=True)],
    }


def _steps(accumulation: int, options: argparse.Namespace) -> list[list[list[dict[str, Any]]]]:
    """The rows of each micro-batch of each step, in an order drawn once."""
    rows = _rows(options.data, options.model)
    count = (WARM_UP_STEPS + options.steps) * accumulation
    drawn = [rows[index % len(rows)] for index in range(count * options.rows)]
    batches = [drawn[start : start + options.rows] for start in range(0, len(drawn), options.rows)]
    return [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]


@cache
def _rows(data: str, model: str) -> list[dict[str, Any]]:
    tokenizer, _ = load_tokenizer(model)
    rows = token_rows(data, tokenizer, max_length=2048).rows
    random.Random(0).shuffle(rows)
    return rows


def _memory_in_own_process(name: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--memory-of", name], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _peak_memory(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Of the process in its second to fourth step, and what it holds between steps (Linux, or CUDA)."""
    steps = _steps(1, options)
    arm = Arm(name, options)
    arm.step(steps[0])
    if torch.cuda.is_available():
        held = torch.cuda.memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    else:
        held = memory_gb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
    for parts in steps[1:4]:
        arm.step(parts)
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else memory_gb("VmHWM")
    return {"peak_gb": peak, "held_between_steps_gb": held}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
