"""Rows -> a padded batch.

Padding is known by length, never by the pad id: in many tokenizers pad is eos, and a mask by id would hide the very
token that teaches the model to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sage.libs.finetune.agent.tokenization.render import IGNORED


def collate(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Any]:
    """Pad rows on the right to the longest of them.

    Args:
        rows: Each has `input_ids` and `labels` of one length, optionally `weights`; a row without weights in a batch
            that has some counts 1 on each of its trained tokens.
        pad_id: Token id to fill `input_ids` with.

    Returns:
        `input_ids`, `labels`, `attention_mask` (int64) and, when any row has them, `weights` (float32), each
        `(len(rows), longest)`; `logical_tokens`, the length of all rows together, and `trained_tokens`, the number of
        labels after a row's first token.

    Example:
        >>> collate([{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}], pad_id=0)["labels"]
        tensor([[-100,    6],
                [   7, -100]])
    """
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(sequences: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([[*values, *[fill] * (longest - len(values))] for values in sequences], dtype=dtype)

    batch: dict[str, Any] = {
        "logical_tokens": sum(len(row["input_ids"]) for row in rows),
        "trained_tokens": sum(label != IGNORED for row in rows for label in row["labels"][1:]),
        "input_ids": padded([row["input_ids"] for row in rows], pad_id, torch.int64),
        "labels": padded([row["labels"] for row in rows], IGNORED, torch.int64),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0, torch.int64),
    }
    if any(row.get("weights") is not None for row in rows):
        batch["weights"] = padded([_weights(row) for row in rows], 0.0, torch.float32)
    return batch


def _weights(row: Mapping[str, Any]) -> Sequence[float]:
    if row.get("weights") is not None:
        weights: Sequence[float] = row["weights"]
        return weights
    return [float(label != IGNORED) for label in row["labels"]]
