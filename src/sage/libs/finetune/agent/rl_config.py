"""Settings of reinforcement learning: PPO, DPO, GRPO and RLOO. Standard library and PyYAML only.

Not every algorithm reads every setting: `without_effect` tells which were set for nothing, and the trainer warns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.registry import suggestion

ALGORITHMS = ("ppo", "dpo", "grpo", "rloo")
_GROUPS = ("grpo", "rloo")
_PLAYING = ("ppo", "grpo", "rloo")
_READ_BY: dict[str, tuple[str, ...]] = {
    "gamma": ("ppo",), "gae_lambda": ("ppo",), "gae_level": ("ppo",), "value_clip_range": ("ppo",),
    "value_coef": ("ppo",), "detach_value_trunk": ("ppo",), "whiten_advantages": ("ppo",), "entropy_coef": ("ppo",),
    "kl_estimator": ("ppo",), "kl_control": ("ppo",), "target_kl": ("ppo",), "max_kl": ("ppo",),
    "unfinished_penalty": ("ppo",), "warmup_iterations": ("ppo",), "clip_range": _PLAYING, "iterations": _PLAYING,
    "episodes_per_iteration": _PLAYING, "minibatch_episodes": _PLAYING,
    "preferences": ("dpo",), "rounds": ("dpo",), "expert": ("dpo",), "batch_size": ("dpo",),
    "samples_per_task": ("dpo", *_GROUPS),
}  # fmt: skip
"""The settings that not all algorithms read."""


@dataclass
class RLTrainingConfig(Config):
    """Settings of reinforcement learning; the reference's names, then ours.

    An iteration of PPO, GRPO and RLOO is: play `episodes_per_iteration` episodes with the policy as it is, then learn
    from them. A round of DPO is: play `samples_per_task` episodes of each task, make pairs, and learn from those.

    Example:
        >>> config = RLTrainingConfig()
        >>> config.algorithm, config.kl_coef, config.gamma
        ('ppo', 0.1, 0.99)
        >>> RLTrainingConfig(algorithm="ppo", gae_level="step")
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: 'gae_level': expected 'turn' or 'token', found 'step'
    """

    algorithm: str = option("ppo", "ppo, dpo, grpo or rloo")
    reward_model: str | None = option(
        None, "sequence-classification model (path or id) whose score is added; without one the environment's reward"
    )
    kl_coef: float = option(
        0.1, "weight of the KL divergence to the model that RL began with (DPO, GRPO and RLOO: their beta)", low=0.0
    )
    gamma: float = option(0.99, "PPO: discount, per turn or per token as gae_level says", low=0.0, high=1.0)
    base_model: str | None = option(
        None, "run folder, adapter, model folder or model id to begin with", aliases=("model_name_or_path", "model")
    )
    output_dir: Path = option(Path(".sage/rl/"), "run folder")
    environment: str = option("desk", "where episodes are played, as `sage-finetune env` lists them")
    tasks: Path | None = option(None, "JSONL file of tasks; without one the environment's own")
    split: str | None = option(None, "of the environment's tasks; train by default")
    num_tasks: int | None = option(
        None, "tasks that are played, over and over: 128 of the environment's own, or all of the file by default", low=1
    )
    max_steps: int = option(10, "turns after which an episode is cut off", low=1)
    samples_per_task: int = option(4, "episodes of a task that are compared (DPO, GRPO, RLOO)", low=1)
    temperature: float = option(1.0, "at which the policy plays, and learns", above=0.0)
    max_new_tokens: int = option(96, "longest turn, in tokens", low=1)
    iterations: int = option(20, "times of playing and learning (PPO, GRPO, RLOO)", low=1)
    episodes_per_iteration: int = option(64, "episodes played before each learning", low=1)
    minibatch_episodes: int = option(16, "episodes in an optimiser step", low=1)
    num_epochs: int = option(
        4, "passes over the episodes of an iteration, or over the pairs of a round", low=1, aliases=("num_ppo_epochs",)
    )
    learning_rate: float | Literal["auto"] = option(
        "auto", "peak learning rate; auto is 3e-5 with adapters and 1e-6 without", above=0.0
    )
    batch_size: int = option(8, "DPO: pairs in an optimiser step", low=1, aliases=("per_device_train_batch_size",))
    gae_lambda: float = option(0.95, "PPO: lambda of generalised advantage estimation", low=0.0, high=1.0)
    gae_level: Literal["turn", "token"] = option(
        "turn", "PPO: what an action is: a whole turn, discounted per turn, or a token"
    )
    clip_range: float = option(0.2, "ratios of probabilities are clipped this far from 1", above=0.0)
    value_clip_range: float | None = option(0.2, "PPO: values are clipped this far from the old ones", above=0.0)
    value_coef: float = option(0.1, "PPO: weight of the value loss", low=0.0)
    detach_value_trunk: bool = option(False, "PPO: the value loss trains the value head alone")
    whiten_advantages: bool = option(True, "PPO: advantages to mean 0 and variance 1 over an iteration; see rl/ppo.py")
    entropy_coef: float = option(0.0, "PPO: weight of the entropy bonus", low=0.0)
    kl_estimator: Literal["k1", "k3"] = option("k1", "PPO: how KL is estimated from the tokens that were played")
    kl_control: Literal["fixed", "adaptive"] = option("fixed", "PPO: adaptive steers kl_coef towards target_kl")
    target_kl: float = option(6.0, "PPO: nats per episode that adaptive control aims at", above=0.0)
    max_kl: float | None = option(
        10.0, "PPO: learning from an iteration ends when the KL of an episode to its start is above this", above=0.0
    )
    unfinished_penalty: float = option(0.0, "PPO: taken off the reward of an episode cut off at max_steps", low=0.0)
    warmup_iterations: int = option(1, "PPO: iterations over which the rate rises to its peak", low=0)
    preferences: str | None = option(None, "DPO: file of pairs (`sage-finetune preferences`) instead of playing")
    rounds: int = option(1, "DPO: rounds of exploring, pairing and training", low=1, high=3)
    expert: str | None = option(
        None, "DPO: solves what the policy never solved: `scripted` (the environment's own) or a trajectories file"
    )
    use_lora: bool = option(True, "adapters where the model has none yet; false trains all weights")
    lora_r: int = option(16, "LoRA rank of new adapters", low=1)
    lora_alpha: int = option(32, "LoRA alpha of new adapters", low=1)
    max_seq_length: int = option(
        2048, "longest episode in tokens; one that would be longer is cut off", low=16,
        aliases=("max_length", "max_seq_len"),
    )  # fmt: skip
    tool_format: Literal["auto", "compact", "json"] = option("auto", "how our chat template shows tools")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "base weights; auto is bfloat16 where the processor computes in it"
    )
    max_grad_norm: float = option(1.0, "gradient clipping", above=0.0)
    eval_batch_size: int = option(64, "episodes played at once", low=1, aliases=("per_device_eval_batch_size",))
    save_steps: int = option(5, "checkpoint every so many iterations (DPO: optimiser steps)", low=1)
    save_total_limit: int = option(2, "checkpoints kept", low=1)
    sample_every: int = option(5, "episodes are written out in the first iteration and every so many", low=1)
    seed: int = option(0, "fixes the order of tasks, what is played, and new adapters", low=0, high=2**32 - 1)
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = option("none", "also log to this tracker")
    run_name: str | None = option(None, "name of the run in the tracker; the run folder's name by default")

    def conflicts(self) -> list[str]:
        """An algorithm that is none, and settings that exclude each other."""
        if self.algorithm not in ALGORITHMS:
            near = suggestion(self.algorithm, ALGORITHMS)
            return [f"'algorithm': unknown algorithm '{self.algorithm}'; {near}known: {', '.join(ALGORITHMS)}"]
        faults = []
        if self.algorithm in _GROUPS:
            if self.samples_per_task < 2:
                faults.append(f"'samples_per_task' must be at least 2 for {self.algorithm}: it compares episodes")
            faults += [
                f"'episodes_per_iteration' ({self.episodes_per_iteration}) must be a multiple of {name} ({part})"
                for name in ("samples_per_task", "minibatch_episodes")
                if self.episodes_per_iteration % (part := getattr(self, name))
            ]
        elif self.algorithm == "ppo" and self.minibatch_episodes > self.episodes_per_iteration:
            faults.append("'minibatch_episodes' must not be above episodes_per_iteration")
        if self.algorithm == "ppo" and self.kl_control == "adaptive" and self.kl_coef == 0:
            faults.append("'kl_control' adaptive scales kl_coef, which is 0; give kl_coef a start")
        if self.algorithm == "dpo":
            if self.kl_coef == 0:
                faults.append("'kl_coef' must be above 0 for dpo: it is its beta")
            if self.samples_per_task < 2 and self.expert is None and self.preferences is None:
                faults.append(
                    "'samples_per_task' must be at least 2 for dpo, or there is nothing to pair; or give expert"
                )
            if self.preferences is not None and self.rounds > 1:
                faults.append("'rounds' above 1 explore anew in each; leave preferences out")
        faults += [
            f"'{name}' is empty"
            for name in ("base_model", "reward_model", "preferences", "expert")
            if (value := getattr(self, name)) is not None and not value.strip()
        ]
        return faults

    @property
    def rate(self) -> float:
        """The learning rate; `auto` is 3e-5 with adapters and 1e-6 without.

        Example:
            >>> RLTrainingConfig().rate, RLTrainingConfig(learning_rate=1e-4).rate
            (3e-05, 0.0001)
        """
        if isinstance(self.learning_rate, str):
            return 3e-5 if self.use_lora else 1e-6
        return self.learning_rate

    def without_effect(self) -> list[str]:
        """Settings that are not at their default and that nothing reads, each line with the reason.

        Example:
            >>> RLTrainingConfig(algorithm="dpo", gamma=0.9, target_kl=3.0).without_effect()
            ['gamma, target_kl: no effect with algorithm dpo']
            >>> RLTrainingConfig(target_kl=3.0).without_effect()
            ['target_kl: no effect while kl_control is fixed']
        """
        foreign = tuple(name for name, readers in _READ_BY.items() if self.algorithm not in readers)
        reasons = {f"with algorithm {self.algorithm}": foreign}
        if self.algorithm == "ppo" and self.kl_control == "fixed":
            reasons["while kl_control is fixed"] = ("target_kl",)
        if self.algorithm == "dpo" and self.preferences is not None:
            unplayed = ("reward_model", "tasks", "split", "num_tasks", "temperature", "samples_per_task", "expert")
            reasons["while preferences are given"] = unplayed
        elif self.tasks is not None:
            reasons["while tasks are given"] = ("split",)
        if not self.use_lora:
            reasons["while use_lora is false"] = ("lora_r", "lora_alpha")
        defaults: dict[str, Any] = {spec.name: spec.default for spec in fields(self)}
        idle = {
            reason: [name for name in names if getattr(self, name) != defaults[name]]
            for reason, names in reasons.items()
        }
        return [f"{', '.join(names)}: no effect {reason}" for reason, names in idle.items() if names]
