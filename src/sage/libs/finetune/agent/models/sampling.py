"""Choosing the next token of each row: the likeliest, or one drawn by chance that is the row's own.

A batch must not change what is drawn, so each row has a random stream of its own and takes one number from it a token:
the point of [0, 1) at which the cumulative distribution is read off (inverse transform sampling). Two batches differ
only where rounding moves a border of that distribution across the point, about once in a million tokens in float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sage.libs.finetune.agent.errors import ConfigError, ModelError

Choose = Callable[[Tensor, Sequence[int]], list[int]]
"""`(logits [rows, vocabulary] in float32, number of each row's prompt) -> a token a row`."""


def greedy(logits: Tensor, rows: Sequence[int]) -> list[int]:
    """The likeliest token of each row.

    Raises:
        ModelError: when a row's logits are NaN: there is no likeliest token, and argmax would give one all the same.
    """
    best = logits.max(-1)
    _refuse_nan(best.values)
    chosen: list[int] = best.indices.tolist()
    return chosen


class Sampler:
    """Draws tokens at a temperature, each row from its own stream.

    Args:
        temperature: Above 0; 1 draws as the model says, less is closer to the likeliest.
        seeds: One a prompt, any text; the same seed draws the same reply, whatever is decoded beside it.

    Raises:
        ConfigError: a temperature that is not above 0.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, 9.0]])
        >>> Sampler(0.5, ["task-1/0/1"])(logits, [0])
        [2]
    """

    def __init__(self, temperature: float, seeds: Sequence[str]) -> None:
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}; a sampler needs one above 0")
        self._temperature = temperature
        self._streams = [random.Random(seed) for seed in seeds]

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        """One token a row.

        Raises:
            ModelError: when a row's logits are NaN.
        """
        shares = torch.softmax(logits.double() / self._temperature, dim=-1).cumsum(-1)
        _refuse_nan(shares[:, -1])
        points = torch.tensor([[self._streams[row].random()] for row in rows], dtype=torch.float64)
        # Scaled to the last sum, which rounding leaves a hair off 1, so that a token is always found.
        found = torch.searchsorted(shares, points.to(shares.device) * shares[:, -1:], right=True)
        chosen: list[int] = found.clamp_max(logits.shape[-1] - 1).squeeze(-1).tolist()
        return chosen


def _refuse_nan(values: Tensor) -> None:
    if bool(values.isnan().any()):
        raise ModelError(
            "the model computes NaN: its weights are broken, or too large for its number type; load another"
        )


class AsLogits:
    """A choice as a logits processor of transformers: the chosen token is the only one left.

    Args:
        choose: Greedy or a sampler.
        first: Number of the first row's prompt.
    """

    def __init__(self, choose: Choose, first: int) -> None:
        self._choose = choose
        self._first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the chosen token at 0 and the others at minus infinity."""
        rows = range(self._first, self._first + len(scores))
        chosen = torch.tensor(self._choose(scores.float(), rows), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)
