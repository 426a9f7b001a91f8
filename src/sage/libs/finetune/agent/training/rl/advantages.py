"""From rewards to advantages. Pure functions of tensors.

Two ways to cut an episode into actions. In the **turn** view an action is all that the policy writes at once, the state
is the history before it, and a step of time is a turn (Turn-PPO, arXiv:2512.17008). In the **token** view every token
is an action. What the environment writes is no action in either. The views differ in what a discount means: over 200
tokens gamma = 0.99 leaves 0.13 of a reward, over 4 turns 0.96.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the steps of one episode (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lambda A_{t+1}
        R_t     = A_t + V_t

    The episode is over after its last step, so V and A are 0 there, also for one that was cut off: what it did not
    reach, it was not paid for (as in TRL's PPO).

    Args:
        rewards: [T] rewards of the steps.
        values: [T] values of the states before them.
        gamma: Discount of a step.
        lam: 0 trusts the values (A = delta), 1 trusts the rewards (A = discounted sum of rewards - V).

    Returns:
        [T] advantages and [T] returns, the targets of the values.

    Example:
        >>> advantages, returns = gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), 1.0, 1.0)
        >>> advantages.tolist(), returns.tolist()
        ([0.5, 0.5], [1.0, 1.0])
    """
    found: list[float] = []
    after = value_after = 0.0
    # Plain numbers: the steps depend on each other, and a tensor operation for each takes a hundred times as long.
    for reward, value in zip(reversed(rewards.tolist()), reversed(values.tolist()), strict=True):
        after = reward + gamma * value_after - value + gamma * lam * after
        value_after = value
        found.append(after)
    advantages = torch.tensor(found[::-1], dtype=values.dtype)
    return advantages, advantages + values


def whiten(values: Tensor, weights: Tensor | None = None, spread: float | None = None) -> Tensor:
    """Values with mean 0 and variance 1; a constant becomes 0.

    Args:
        values: [N].
        weights: [N] how much each counts for mean and variance (a turn's tokens); 1 each by default.
        spread: The standard deviation to divide by, where it is not to be their own.

    Example:
        >>> whiten(torch.tensor([1.0, 3.0])).tolist()
        [-1.0, 1.0]
    """
    weights = torch.ones_like(values) if weights is None else weights
    mean = _mean(values, weights)
    spread = deviation(values, weights) if spread is None else spread
    return ((values.double() - mean) / math.hypot(spread, 1e-4)).to(values.dtype)


def deviation(values: Tensor, weights: Tensor) -> float:
    """The standard deviation of values [N] that count by their weights [N].

    Example:
        >>> deviation(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1.0, 1.0, 0.0]))
        1.0
    """
    return float(_mean((values.double() - _mean(values, weights)) ** 2, weights).sqrt())


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """In float64: in float32 equal values are not their own mean, and Adam makes a whole step of any rest."""
    return (weights.double() * values.double()).sum() / weights.double().sum()


def kl_estimate(logps: Tensor, others: Tensor, estimator: str = "k1") -> Tensor:
    """KL(p || q) at tokens drawn from p, of their log-probabilities (Schulman 2020, joschu.net/blog/kl-approx).

        k1 = log p - log q                  unbiased, may be negative at a token
        k3 = (r - 1) - log r, r = q / p     unbiased, never negative, of lower variance

    Args:
        logps: [N] log p of the tokens.
        others: [N] log q of them.
        estimator: k1 or k3.

    Returns:
        [N], in nats; their sum over an episode estimates the KL of episodes.

    Example:
        >>> kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.5])).tolist()
        [0.5]
    """
    if estimator == "k1":
        return logps - others
    if estimator == "k3":
        log_ratio = others - logps
        return torch.expm1(log_ratio) - log_ratio
    raise ValueError(f"unknown KL estimator '{estimator}'; known: k1, k3")


class AdaptiveKL:
    """Steers the KL coefficient so that the KL of an episode nears a target (Ziegler et al. 2019, arXiv:1909.08593).

        e = clip(KL / target - 1, -0.2, 0.2);  coefficient <- coefficient (1 + e n / horizon)

    Args:
        coefficient: To begin with.
        target: Nats an episode.
        horizon: Episodes over which the coefficient may change by a fifth.

    Example:
        >>> control = AdaptiveKL(0.1, target=6.0, horizon=1000)
        >>> control.update(kl=12.0, episodes=500)
        >>> round(control.coefficient, 4)
        0.11
    """

    def __init__(self, coefficient: float, target: float, horizon: int = 1000) -> None:
        self.coefficient, self._target, self._horizon = coefficient, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Move the coefficient after `episodes` of mean `kl`."""
        error = min(max(kl / self._target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * episodes / self._horizon


def explained_variance(returns: Sequence[float] | Tensor, values: Sequence[float] | Tensor) -> float | None:
    """Share of the variance of the returns that the values foretell: 1 - Var(R - V) / Var(R); None where R is constant.

    Example:
        >>> explained_variance([1.0, 0.0], [1.0, 0.0]), explained_variance([1.0, 1.0], [0.0, 0.0])
        (1.0, None)
    """
    told, found = torch.as_tensor(values, dtype=torch.float64), torch.as_tensor(returns, dtype=torch.float64)
    spread = found.var(correction=0)
    return None if spread == 0 else float(1 - (found - told).var(correction=0) / spread)
