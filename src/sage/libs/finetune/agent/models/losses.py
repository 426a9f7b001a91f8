"""The training loss: mean negative log-likelihood of the tokens the model is to learn, and of no others.

With labels l_t (-100: not trained) and weights w_t (default 1), over the N trained tokens of an optimiser step,

    loss = 1/N * sum_t w_t * -log p(l_t | tokens before t)

The language-model head, the largest matrix of a small model, runs on the supervised columns only. Rows are padded on
the right and attention is causal, so no trained token ever sees padding and no attention mask is needed: the numbers
are the same without it, and attention kernels run faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sage.libs.finetune.agent.tokenization.render import IGNORED


def supervised_nll(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each supervised token.

    Args:
        model: A causal language model of transformers (or a PeftModel).
        batch: `input_ids` and `labels` (rows, length), right-padded, labels not shifted; optionally `weights`.

    Returns:
        `(nll, mask)`, both (rows, columns) over the columns in which some row has a label, in float32; `nll` is
        weighted, and 0 where `mask` is False.
    """
    targets = batch["labels"][:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    if columns.numel() == 0:
        nothing = torch.zeros(targets.shape[0], 0, device=targets.device)
        return nothing, nothing.bool()
    logits = model(input_ids=batch["input_ids"], logits_to_keep=columns, use_cache=False).logits
    kept = targets[:, columns]
    nll = F.cross_entropy(logits.float().flatten(0, 1), kept.flatten(), ignore_index=IGNORED, reduction="none")
    nll = nll.view_as(kept)
    if "weights" in batch:
        nll = nll * batch["weights"][:, 1:][:, columns]
    return nll, kept != IGNORED


@torch.inference_mode()
def mean_loss(model: Any, batches: Any) -> float:
    """Mean negative log-likelihood per supervised token over `batches` (nats); nan when no token is supervised."""
    total, count = 0.0, 0
    for batch in batches:
        nll, mask = supervised_nll(model, batch)
        total += float(nll.sum())
        count += int(mask.sum())
    return total / count if count else float("nan")
