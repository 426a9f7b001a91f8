"""From token rows to the batches a model computes: packed where that is exact for it, padded everywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from sage.libs.finetune.agent.models.exactness import base_model, inexact_because
from sage.libs.finetune.agent.models.losses import mean_loss
from sage.libs.finetune.agent.models.prefix import pack, segment_attention_in
from sage.libs.finetune.agent.tokenization.collate import collate


class BatchForm:
    """How rows become batches for one model.

    Args:
        model: A causal language model of transformers, or a PeftModel around one.
        pad_id: Any valid token.
        share: Whether rows that begin alike may share what they have in common.

    Attributes:
        packed: Whether batches are packed without padding; else they are padded to their longest row.
        share: Whether prefixes are shared.
        reason: Why batches are padded, or packed but not shared; empty when both are as wished.

    Example:
        >>> form = BatchForm(model, pad_id=0)  # doctest: +SKIP
        >>> with form.attention():  # doctest: +SKIP
        ...     loss = supervised_nll(model, form(rows)).mean()
    """

    def __init__(self, model: Any, pad_id: int, share: bool = True) -> None:
        self._model = model
        self._pad_id = pad_id
        self.reason = inexact_because(model) or _dropout_in_attention(model)
        self.packed = not self.reason
        self.share = self.packed and share
        dropout = _dropout_in_adapters(model)
        if self.share and dropout:
            # Each row draws its own dropout; a shared prefix would draw one for all.
            self.share, self.reason = False, dropout

    @property
    def description(self) -> str:
        """How batches are computed, in words.

        Example:
            >>> BatchForm(model, pad_id=0).description  # doctest: +SKIP
            'packed, shared prefixes computed once'
        """
        kind = "packed, shared prefixes computed once" if self.share else "packed" if self.packed else "padded"
        return f"{kind} ({self.reason})" if self.reason else kind

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rows as one batch; without rows a batch of one token in which nothing is trained."""
        rows = rows or [{"input_ids": [self._pad_id], "labels": [-100]}]
        return pack(rows, self.share) if self.packed else collate(rows, self._pad_id)

    def attention(self) -> AbstractContextManager[None]:
        """Within it the model computes these batches; it must reach around the backward pass as well."""
        return segment_attention_in(self._model) if self.packed else nullcontext()

    def evaluation(self, rows: Sequence[Mapping[str, Any]], size: int) -> Iterator[dict[str, Any]]:
        """All rows in batches of `size`, those that begin alike together, on the model's device."""
        order = sorted(rows, key=lambda row: row["input_ids"] if self.share else [len(row["input_ids"])])
        for start in range(0, len(order), size):
            yield on_device(self(order[start : start + size]), self._model.device)


def rows_loss(model: Any, rows: Sequence[Mapping[str, Any]], pad_id: int, batch_size: int) -> float:
    """Mean negative log-likelihood per trained token of token rows, in nats; nan when no token is trained.

    Args:
        model: A causal language model of transformers, or a PeftModel around one.
        rows: Token rows.
        pad_id: Any valid token.
        batch_size: Rows computed together.
    """
    form = BatchForm(model, pad_id)
    with form.attention():
        return mean_loss(model, form.evaluation(rows, batch_size))


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


def _dropout_in_attention(model: Any) -> str:
    share = getattr(base_model(model).config, "attention_dropout", 0.0)
    return f"the model has attention_dropout {share}" if share else ""


def _dropout_in_adapters(model: Any) -> str:
    for adapter in getattr(model, "peft_config", {}).values():
        share = getattr(adapter, "lora_dropout", 0.0)  # adapters of other kinds have none
        if share:
            return f"lora_dropout is {share}"
    return ""
