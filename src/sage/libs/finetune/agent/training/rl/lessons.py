"""What is to be learned from an episode: its steps, what each was worth, and how much better than expected that was.

With `gae_level="turn"` a step is a turn: its state is the history, its value is read before its first token, and its
advantage goes to all of its tokens (Turn-PPO, arXiv:2512.17008). With "token" a step is a token. What the environment
wrote is no step and in no sum.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sage.libs.finetune.agent.models.policy import PolicyOutputs
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.rl.advantages import gae
from sage.libs.finetune.agent.training.rl.rollouts import Rollout


@dataclass
class Lesson:
    """An episode, and all that is to be learned from it; tensors are over the tokens the policy wrote, in order.

    Attributes:
        rollout: The episode.
        logps: Log-probabilities under the policy that played.
        reference: The same under the reference.
        values: Values before each token (token level) or turn (turn level), of the policy that played.
        steps: For each token the number of its step.
        rewards: Of each step, the KL penalty included.
        score: What the episode was worth, without it.
        entropy: Of the policy that played, in nats, summed over the tokens.
        advantages: Of each step.
        returns: Of each step.
    """

    rollout: Rollout
    logps: Tensor
    reference: Tensor
    values: Tensor
    steps: Tensor
    rewards: Tensor
    score: float
    entropy: float
    advantages: Tensor
    returns: Tensor


def lesson(
    rollout: Rollout, now: PolicyOutputs, reference: Tensor, rewards: Sequence[float], penalty: Tensor,
    config: RLTrainingConfig,
) -> Lesson:  # fmt: skip
    """The steps of an episode with their rewards, advantages and returns.

    Args:
        rollout: The episode.
        now: Of its tokens, under the policy that played, with values.
        reference: [N] log-probabilities of its tokens under the reference.
        rewards: One a turn.
        penalty: [N] what the KL to the reference costs at each token.
        config: `gae_level`, `gamma`, `gae_lambda`.
    """
    assert now.values is not None, "values come with a value head"
    lengths = torch.tensor([turn.stop - turn.start for turn in rollout.turns])
    turns = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    ends = lengths.cumsum(0)
    paid = torch.tensor(list(rewards), dtype=torch.float32)
    if config.gae_level == "turn":
        steps, values = turns, now.values[ends - lengths]
        of_step = paid - torch.zeros_like(paid).index_add_(0, turns, penalty)
    else:
        steps, values = torch.arange(len(turns)), now.values
        of_step = (-penalty).index_add(0, ends - 1, paid)
    advantages, returns = gae(of_step, values, config.gamma, config.gae_lambda)
    entropy = float("nan") if now.entropy is None else float(now.entropy.sum())
    score = float(paid.sum())
    return Lesson(rollout, now.logps, reference, values, steps, of_step, score, entropy, advantages, returns)


def episodes_of(tasks: Sequence[dict[str, Any]], n: int, iteration: int, seed: int) -> list[dict[str, Any]]:
    """The tasks of an iteration's episodes: they go round and round, each round in an order of its own.

    A task that comes twice in an iteration is told apart by `metadata["sample"]`.

    Example:
        >>> tasks = [{"task_id": name, "instruction": "Do it."} for name in "abc"]
        >>> names = [[task["task_id"] for task in episodes_of(tasks, 3, number, 0)] for number in (1, 2)]
        >>> sorted(names[0]), sorted(names[1])
        (['a', 'b', 'c'], ['a', 'b', 'c'])
    """
    chosen: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    order: list[int] = []
    for at in range((iteration - 1) * n, iteration * n):
        round_, place = divmod(at, len(tasks))
        if not order or place == 0:
            order = random.Random(f"tasks {seed} {round_}").sample(range(len(tasks)), len(tasks))
        task = tasks[order[place]]
        sample = seen[task["task_id"]] = seen.get(task["task_id"], -1) + 1
        chosen.append({**task, "metadata": {**(task.get("metadata") or {}), "sample": sample}})
    return chosen
