"""Episodes in groups, for GRPO and RLOO: who is in a group, what it is paid, and how many steps that makes for TRL."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from trl.trainer.grpo_config import GRPOConfig

from sage.libs.finetune.agent.models.load import pick_device
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training.checkpoints import CHECKPOINTS
from sage.libs.finetune.agent.training.rl.lessons import episodes_of

_BATCH_TOKENS = 8192
"""Most tokens computed at once with gradient, were all episodes as long as they may be."""


def grouped_episodes(
    tasks: Sequence[dict[str, Any]], config: RLTrainingConfig, iteration: int
) -> list[dict[str, Any]]:  # fmt: skip
    """The episodes of an iteration, those of a group next to each other, told apart by `metadata["sample"]`.

    Example:
        >>> config = RLTrainingConfig("grpo", episodes_per_iteration=4, minibatch_episodes=4, samples_per_task=2)
        >>> [(task["task_id"], task["metadata"]["sample"]) for task in grouped_episodes([{"task_id": "a"}], config, 1)]
        [('a', 0), ('a', 1), ('a', 2), ('a', 3)]
    """
    size = config.samples_per_task
    groups = episodes_of(tasks, config.episodes_per_iteration // size, iteration, config.seed)
    return [
        {**task, "metadata": {**task["metadata"], "sample": task["metadata"]["sample"] * size + at}}
        for task in groups
        for at in range(size)
    ]


def beyond_the_group(rewards: Sequence[float | None], size: int, leave_one_out: bool = False) -> list[float | None]:
    """Rewards less the mean of their group, which is all that either algorithm reads of them.

    TRL takes the mean off as well, in float32, in which equal rewards are not always their own mean: divided by a
    standard deviation of nearly 0 the rest would be an advantage. Here it is exact, and TRL takes off a 0.

    Args:
        rewards: Group by group; None for an episode that there is not.
        size: Of a group.
        leave_one_out: Less the mean of the others instead: with n rewards in a group,
            r_i - (sum - r_i) / (n - 1) = n / (n - 1) (r_i - sum / n).

    Example:
        >>> beyond_the_group([1.0, 0.0, None, 4.0, 2.0, 0.0], 3)
        [0.5, -0.5, None, 2.0, 0.0, -2.0]
        >>> beyond_the_group([4.0, 2.0, 0.0], 3, leave_one_out=True)
        [3.0, 0.0, -3.0]
    """
    found: list[float | None] = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        there = [reward for reward in group if reward is not None]
        scale = len(there) / max(1, len(there) - 1) if leave_one_out else 1.0
        mean = fmean(there) if len(set(there)) > 1 else (there or [0.0])[0]
        found += [None if reward is None else scale * (reward - mean) for reward in group]
    return found


def steps_per_iteration(config: RLTrainingConfig) -> int:
    """Optimiser steps.

    Example:
        >>> steps_per_iteration(RLTrainingConfig(episodes_per_iteration=64, minibatch_episodes=16, num_epochs=4))
        16
    """
    return config.episodes_per_iteration // config.minibatch_episodes * config.num_epochs


def group_arguments(config: RLTrainingConfig) -> GRPOConfig:
    """Our settings in TRL's terms."""
    episodes, minibatch = config.episodes_per_iteration, config.minibatch_episodes
    most = max(1, _BATCH_TOKENS // config.max_seq_length)
    at_once = max(size for size in range(1, minibatch + 1) if minibatch % size == 0 and size <= most)
    steps = steps_per_iteration(config)
    arguments = GRPOConfig(
        output_dir=str(config.output_dir / CHECKPOINTS),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=minibatch // at_once,
        generation_batch_size=episodes,
        num_generations=config.samples_per_task,
        temperature=config.temperature,
        num_iterations=config.num_epochs,
        max_steps=config.iterations * steps,
        shuffle_dataset=False,
        beta=0.0,  # `GroupTrainer` sets it
        epsilon=config.clip_range,
        scale_rewards="none" if config.algorithm == "rloo" else "group",
        loss_type="dapo",
        learning_rate=config.rate,
        lr_scheduler_type="constant",
        adam_beta2=0.99,
        max_grad_norm=config.max_grad_norm,
        gradient_checkpointing=False,
        bf16=False,  # as the model was loaded
        logging_steps=steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps * steps,
        save_total_limit=config.save_total_limit,
        seed=config.seed,
        report_to="none",  # the trackers' callbacks come from `tracker_callbacks`
        run_name=config.run_name or config.output_dir.name,
        project="sage-finetune",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=pick_device().type == "cpu",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device
    return arguments
