from __future__ import annotations

import torch

from sage.libs.finetune.agent.tokenization.collate import collate


def test_padding_is_known_by_length_even_when_pad_is_eos() -> None:
    """A mask by pad id would hide the stop token, and the model would never learn to stop."""
    eos = 2
    rows = [
        {"input_ids": [5, eos, 6, eos], "labels": [-100, eos, 6, eos]},
        {"input_ids": [7, eos], "labels": [-100, eos]},
    ]
    batch = collate(rows, pad_id=eos)
    assert batch["input_ids"].tolist() == [[5, eos, 6, eos], [7, eos, eos, eos]]
    assert batch["labels"].tolist() == [[-100, eos, 6, eos], [-100, eos, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert (batch.pop("logical_tokens"), batch.pop("trained_tokens")) == (6, 4)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_rows_without_weights_count_one_beside_rows_with_some() -> None:
    rows = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "weights": [0.0, 0.5, 0.5]},
        {"input_ids": [1, 2], "labels": [-100, 2]},
    ]
    weights = collate(rows, pad_id=0)["weights"]
    assert weights.tolist() == [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]
    assert weights.dtype == torch.float32
