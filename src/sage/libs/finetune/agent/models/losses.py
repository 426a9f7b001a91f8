"""The training loss: negative log-likelihood of the tokens the model is to learn, and of no others.

With labels l_t (-100: not trained) and weights w_t (default 1), over the N trained tokens of an optimiser step,

    loss = 1/N * sum_t w_t * -log p(l_t | tokens before t)

The language-model head, the largest matrix of a small model, runs on the trained tokens only, and in chunks: the
logits of a chunk are the largest tensor of a step, and none outlives its chunk. With a frozen head (adapters) the
gradient with respect to the hidden states is computed along with the loss, so nothing is computed twice; a trained
head computes its logits again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.tokenization.render import IGNORED

_CHUNK = {"cpu": 128}  # on CPUs a chunk's logits should stay in the cache
_CHUNK_ELSEWHERE = 1024


def supervised_nll(model: Any, batch: Mapping[str, Any], head: nn.Module | None = None) -> Tensor:
    """Weighted negative log-likelihood of each trained token of a batch.

    Args:
        model: A causal language model of transformers, a PeftModel, or one of them wrapped for several devices.
        batch: From `models.prefix.pack` (the model then attends by `segment_attention_in`) or from
            `tokenization.collate.collate`.
        head: The model's output embeddings; only a wrapped model needs it given.

    Returns:
        [N] float32 in nats, in the order of the batch's rows and their tokens; empty when nothing is trained.
    """
    if "layout" not in batch:
        return _padded_nll(model, batch)
    head = base_model(model).get_output_embeddings() if head is None else head
    with _nll_in_place_of_logits(head, batch["targets"]):
        output = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            logits_to_keep=batch["index"],
            layout=batch["layout"],
            use_cache=False,
        )
    nll: Tensor = output.logits.view(-1) * batch["weights"]
    return nll


def _padded_nll(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """By the model's own attention and head; the head runs on the columns in which some row has a label.

    Rows are padded on the right and attention is causal, so no trained token sees padding and no mask is needed.
    """
    targets = batch["labels"][:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    logits = model(input_ids=batch["input_ids"], logits_to_keep=columns, use_cache=False).logits
    kept = targets[:, columns]
    nll = F.cross_entropy(logits.float().flatten(0, 1), kept.flatten(), ignore_index=IGNORED, reduction="none")
    if "weights" in batch:
        nll = nll * batch["weights"][:, 1:][:, columns].flatten()
    return nll[kept.flatten() != IGNORED]


@contextmanager
def _nll_in_place_of_logits(head: Any, targets: Tensor) -> Iterator[None]:
    """Within the model's forward, where wrappers for several devices have the weights at hand, the head gives losses.

    It is called with hidden states [1, N, width] and returns [1, N, 1].
    """
    logits_of = head.forward

    def forward(hidden: Tensor) -> Tensor:
        if type(head) is nn.Linear and not (torch.is_grad_enabled() and head.weight.requires_grad):
            return _FrozenHeadNLL.apply(hidden[0], head.weight, head.bias, targets)[None, :, None]  # type: ignore[no-untyped-call,no-any-return]
        return _checkpointed_nll(logits_of, hidden[0], targets)[None, :, None]

    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the instance's, which hid the class's


def _checkpointed_nll(logits_of: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """In chunks of which only the hidden states are kept for the backward pass."""

    def part(hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(hidden).float(), targets, reduction="none")

    chunk = _chunk(hidden)
    parts = [
        checkpoint(part, h, t, use_reentrant=False)
        for h, t in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    ]
    return torch.cat(parts)


class _FrozenHeadNLL(torch.autograd.Function):
    """-log softmax(hidden W^T + b)[target] for each row of `hidden`, with its gradient computed on the way.

    The gradient of row t with respect to its hidden state is (softmax - one-hot) W, whatever becomes of the loss; the
    backward pass only scales it.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        chunk = _chunk(hidden)
        for start in range(0, len(hidden), chunk):
            here = slice(start, start + chunk)
            logits = F.linear(hidden[here], weight, bias).float()
            chosen = targets[here, None]
            largest = logits.amax(dim=1, keepdim=True)
            of_target = logits.gather(1, chosen) - largest
            shares = logits.sub_(largest).exp_()
            total = shares.sum(dim=1, keepdim=True)
            nll[here] = (total.log() - of_target).squeeze(1)
            if gradient is not None:
                shares.div_(total)
                shares.scatter_add_(1, chosen, torch.full_like(of_target, -1.0))
                gradient[here] = shares.to(weight.dtype) @ weight
        ctx.gradient = gradient
        return nll

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, None, None, None]:
        gradient: Tensor = ctx.gradient
        return (outer[0][:, None] * gradient).to(gradient.dtype), None, None, None


def _chunk(hidden: Tensor) -> int:
    return _CHUNK.get(hidden.device.type, _CHUNK_ELSEWHERE)


@torch.no_grad()
def mean_loss(model: Any, batches: Iterable[Mapping[str, Any]]) -> float:
    """Mean weighted negative log-likelihood per trained token over `batches` (nats); nan when no token is trained."""
    total, count = 0.0, 0
    for batch in batches:
        nll = supervised_nll(model, batch)
        total += float(nll.sum())
        count += nll.numel()
    return total / count if count else float("nan")
