"""Losses of rows: ours (shared prefixes, head on supervised tokens only) beside a loop of single forward passes.

The peer is what one would write: for each row the model's own forward with `labels`, without gradients. Both get the
same token rows and take turns in one process; the loss of every row is compared. Run with `--dtype float32` for that
comparison, where they must agree to rounding, and with `--dtype bfloat16` for speed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import report

from sage.libs.finetune.agent.models.batches import BatchForm
from sage.libs.finetune.agent.models.embedded import EMBEDDED
from sage.libs.finetune.agent.models.load import load_model
from sage.libs.finetune.agent.selection.scoring import score_rows
from sage.libs.finetune.agent.tokenization.render import IGNORED
from sage.libs.finetune.agent.training.data import token_rows

TARGET = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--data", default="agent_sft:train")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--rows", type=int, help="how many, drawn with seed 0; default all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    loaded = load_model(options.model, dtype=options.dtype)
    model, pad_id = loaded.model, loaded.tokenizer.pad_token_id or 0
    rows = token_rows(options.data, loaded.tokenizer, max_length=2048).rows
    random.Random(0).shuffle(rows)
    rows = rows[: options.rows]
    arms: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: score_rows(model, pad_id, rows, batch_size=options.batch_size).losses,
        "one_by_one": lambda: one_by_one(model, rows),
    }
    one_by_one(model, rows[:3])  # warms up
    score_rows(model, pad_id, rows[:3])
    losses: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(options.repeats):
        for name in sorted(arms, reverse=bool(turn % 2)):
            begin = time.perf_counter()
            losses[name] = arms[name]()  # numbers on the CPU, so the device is done
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = [one / ours for one, ours in zip(seconds["one_by_one"], seconds["ours"], strict=True)]
    dtype = str(model.dtype).removeprefix("torch.")
    report(
        f"compute_losses_{dtype}",
        {
            "settings": {**vars(options), "dtype": dtype},
            "rows": len(rows),
            "tokens": sum(len(row["input_ids"]) for row in rows),
            "tokens_supervised": sum(label != IGNORED for row in rows for label in row["labels"][1:]),
            "batches": BatchForm(model, pad_id).description,
            "seconds": {
                name: {"median_s": medians[name], "min_s": min(times), "max_s": max(times)}
                for name, times in seconds.items()
            },
            "speedup": {"median": statistics.median(ratios), "lowest": min(ratios), "target": TARGET},
            "largest_loss_difference": float(np.abs(losses["ours"] - losses["one_by_one"]).max()),
            "mean_loss": {name: float(found.mean()) for name, found in losses.items()},
        },
    )


@torch.no_grad()
def one_by_one(model: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    losses = []
    for row in rows:
        ids, labels = (torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels"))
        losses.append(float(model(input_ids=ids, labels=labels, use_cache=False).loss))
    return np.array(losses)


if __name__ == "__main__":
    main()
