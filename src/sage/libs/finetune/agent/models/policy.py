"""A language model as a policy: probabilities of what it wrote, values of where it stood, and what it was before.

The forward pass is that of training (`models/losses.py`): packed rows, shared prefixes computed once, the head on the
tokens in question only. What the value head reads is what the language-model head reads at the same place: the state
before the token, whose value it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.models.losses import supervised_nll
from sage.libs.finetune.agent.tokenization.render import IGNORED

_CHUNK = {"cpu": 128}
_CHUNK_ELSEWHERE = 1024


class PolicyOutputs(NamedTuple):
    """Of the N labelled tokens of a batch, in the order of its rows and their tokens.

    Attributes:
        logps: [N] float32, log-probability of each token given all before it.
        values: [N] float32, value of the state before each token; None without a value head.
        entropy: [N] float32, entropy in nats of the distribution it was drawn from; None when not asked for.
    """

    logps: Tensor
    values: Tensor | None = None
    entropy: Tensor | None = None


class ValueHead(nn.Module):
    """Value of a state, read off the policy's last hidden state by one linear map; it begins as 0 everywhere.

    Args:
        width: Of the hidden state.
        detach: Whether the policy's own weights are kept from the value loss.
    """

    def __init__(self, width: int, detach: bool = False) -> None:
        super().__init__()
        self.map = nn.Linear(width, 1)
        self.detach = detach
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, width] -> [N], in float32."""
        states = hidden.detach() if self.detach else hidden
        values: Tensor = self.map(states.float()).squeeze(-1)
        return values


def policy_outputs(
    model: Any,
    batch: Mapping[str, Any],
    value_head: ValueHead | None = None,
    entropy: bool = False,
    temperature: float = 1.0,
) -> PolicyOutputs:
    """Log-probabilities, values and entropies of the labelled tokens of a batch, all with gradient.

    Args:
        model: A causal language model of transformers, or a PeftModel around one.
        batch: From `models.batches.BatchForm`, within its `attention()`; its rows must not have weights.
        value_head: Reads the values.
        entropy: Whether entropies are wanted; they cost a second pass over the head.
        temperature: Divides the logits. A policy that plays at a temperature is that distribution and not the one at 1.

    Example:
        >>> form = BatchForm(model, pad_id=0)  # doctest: +SKIP
        >>> with form.attention():  # doctest: +SKIP
        ...     logps = policy_outputs(model, form([rollout.row()])).logps
    """
    head = base_model(model).get_output_embeddings()
    entropies = None
    if "layout" in batch:
        # The heads of all models that are packed are linear: a state divided gives logits divided.
        with _states_read_by(head, temperature) as read:
            logps = -supervised_nll(model, batch)
        states = read[0][0]
        if entropy:
            entropies = _entropy_of_states(head, states / temperature)
    else:
        targets = batch["labels"][:, 1:]
        columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
        labelled = targets[:, columns] != IGNORED
        with _states_read_by(head) as read:
            output = model(input_ids=batch["input_ids"], logits_to_keep=columns, use_cache=False)
        # The model's own logits: some models scale or bound what their head gives.
        logs = torch.log_softmax(output.logits[labelled].float() / temperature, dim=-1)
        logps = logs.gather(1, targets[:, columns][labelled][:, None]).squeeze(1)
        states = read[0][labelled]
        if entropy:
            entropies = _entropy(logs)
    return PolicyOutputs(logps, None if value_head is None else value_head(states), entropies)


@contextmanager
def _states_read_by(head: Any, divisor: float = 1.0) -> Iterator[list[Tensor]]:
    """What the head is given within the block, call by call; it reads that divided by `divisor`."""
    read: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        read.append(inputs[0])
        return None if divisor == 1.0 else (inputs[0] / divisor,)

    hook = head.register_forward_pre_hook(keep)
    try:
        yield read
    finally:
        hook.remove()


def _entropy(logs: Tensor) -> Tensor:
    return -(logs.exp() * logs).sum(dim=-1)


def _entropy_of_states(head: Any, states: Tensor) -> Tensor:
    """Of the softmax at each state; a chunk's logits are made again in the backward pass and never kept."""

    def part(states: Tensor) -> Tensor:
        return _entropy(torch.log_softmax(head(states).float(), dim=-1))

    chunk = _CHUNK.get(states.device.type, _CHUNK_ELSEWHERE)
    if not torch.is_grad_enabled():
        return torch.cat([part(states_here) for states_here in torch.split(states, chunk)])
    return torch.cat([checkpoint(part, states_here, use_reentrant=False) for states_here in torch.split(states, chunk)])


class Reference:
    """What a model was before it was trained on: a copy of its trainable weights, to compute with now and then.

    With a fresh adapter this is the model with its adapter switched off; with one that was trained before, that one.

    Args:
        model: Whose weights are trainable now as they will be in training.

    Example:
        >>> reference = Reference(model)  # doctest: +SKIP
        >>> with reference.in_place(), torch.no_grad():  # doctest: +SKIP
        ...     before = policy_outputs(model, batch).logps
    """

    def __init__(self, model: nn.Module) -> None:
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._before = {name: weight.detach().clone() for name, weight in self._trained.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model computes as it was; nothing may be trained then."""
        now = {name: weight.data for name, weight in self._trained.items()}
        for name, weight in self._trained.items():
            weight.data = self._before[name]
        try:
            yield
        finally:
            for name, weight in self._trained.items():
                weight.data = now[name]

    def state_dict(self) -> dict[str, Tensor]:
        """The copy, for a checkpoint: a resumed run has other weights than the ones it began with."""
        return dict(self._before)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the copy of a checkpoint."""
        for name, before in self._before.items():
            before.copy_(state[name])
