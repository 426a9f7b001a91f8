"""The arms of `rl.py`: what each trains, all from one SFT adapter, and how it is measured.

    sft         the start: SFT that was stopped at about half of its success
    rft         more SFT, on what the start itself solved when it played (rejection sampling): the cheap control
    dpo         one round of ETO: the same play, in pairs; where nothing was solved the scripted expert's episode wins
    ppo_turn    PPO with turns as actions
    ppo_token   PPO with tokens as actions
    grpo        groups of episodes of a task, compared among themselves

Every arm but the first plays equally many episodes of the same training tasks; both PPO arms take equally many
optimiser steps. Every arm is measured on the same held-out tasks, greedily, whatever the seed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.progress import silent

START = "sft"
RFT = "rft"
ARMS: dict[str, dict[str, Any]] = {
    START: {},
    RFT: {},
    "dpo": {"algorithm": "dpo", "expert": "scripted"},
    "ppo_turn": {"algorithm": "ppo", "gae_level": "turn"},
    # A discount of 0.99 a token would leave a first turn a third of the reward; Monte Carlo returns suit this arm best.
    "ppo_token": {"algorithm": "ppo", "gae_level": "token", "gamma": 1.0, "gae_lambda": 1.0},
    "grpo": {"algorithm": "grpo"},
}
"""Settings of `RLTrainingConfig` by name; `sft` and `rft` are supervised."""

RFT_BATCH = 4
_SINGLE_ROW = 1.5
"""A row alone in its step takes so much longer than one in a batch."""
HELD_OUT = ("test_iid", "test_wording")
TEST_SEED = 0
MAX_STEPS, MAX_NEW_TOKENS, MAX_LENGTH = 6, 64, 1024
CURVES = ("reward", "success", "kl_per_episode", "entropy", "clip_share", "explained_variance")
PAIR_CURVES = ("loss", "accuracy", "margin")
EPISODE_TOKENS, WRITTEN_TOKENS = 280, 90
"""Of an episode at temperature 1, about: all of them, and those that the policy wrote."""


@dataclass
class Scale:
    """How much is done.

    Attributes:
        arms: Which of `ARMS`; `sft` is always done.
        seeds: Of rows, adapters, training tasks and play.
        sft_steps: Of one row; what makes the start half as good as it could be.
        sft_learning_rate: Its peak.
        tasks: Training tasks that are played.
        samples: Episodes of each, for rft, dpo and grpo; with `tasks` also the episodes of PPO.
        iterations: Of PPO and GRPO, over which these episodes are spread.
        minibatch: Episodes in an optimiser step of PPO and GRPO.
        epochs: Over the episodes of an iteration.
        learning_rate: Of PPO and GRPO.
        kl_coef: Of PPO and GRPO.
        rft_steps: Of `RFT_BATCH` rows.
        rft_learning_rate: Its peak.
        dpo_learning_rate: Its peak.
        dpo_beta: Its `kl_coef`.
        dpo_epochs: Over the pairs.
        test_tasks: Of each held-out split.
        read_per_second: Tokens read a second, for the estimate at the start.
        written_per_second: Tokens written a second, likewise.
        trained_per_second: Tokens trained a second, likewise.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    sft_steps: int
    sft_learning_rate: float
    tasks: int
    samples: int
    iterations: int
    minibatch: int
    epochs: int
    learning_rate: float
    kl_coef: float
    rft_steps: int
    rft_learning_rate: float
    dpo_learning_rate: float
    dpo_beta: float
    dpo_epochs: int
    test_tasks: int
    read_per_second: float
    written_per_second: float
    trained_per_second: float

    @property
    def episodes(self) -> int:
        """Played by every arm but the start."""
        return self.tasks * self.samples

    @property
    def an_iteration(self) -> int:
        """Episodes of an iteration of PPO and GRPO."""
        return self.episodes // self.iterations


SMALL = Scale(
    ("sft", "rft", "dpo", "ppo_turn", "ppo_token"), (0,), sft_steps=120, sft_learning_rate=2e-3, tasks=40, samples=4,
    iterations=5, minibatch=8, epochs=2, learning_rate=2e-4, kl_coef=0.02, rft_steps=60, rft_learning_rate=5e-4,
    dpo_learning_rate=1e-4, dpo_beta=0.1, dpo_epochs=3, test_tasks=32, read_per_second=2400.0,
    written_per_second=150.0, trained_per_second=900.0,
)  # fmt: skip
FULL = Scale(
    tuple(ARMS), (0, 1, 2), sft_steps=120, sft_learning_rate=2e-3, tasks=384, samples=8, iterations=24, minibatch=16,
    epochs=4, learning_rate=1e-4, kl_coef=0.05, rft_steps=300, rft_learning_rate=5e-4, dpo_learning_rate=1e-4,
    dpo_beta=0.1, dpo_epochs=2, test_tasks=120, read_per_second=60_000.0, written_per_second=4_000.0,
    trained_per_second=25_000.0,
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One training run: what, and the seed."""

    name: str
    seed: int

    def folder(self, runs: Path) -> Path:
        """Its run folder."""
        return runs / f"{self.name}-seed{self.seed}"


def all_arms(scale: Scale) -> Iterator[Arm]:
    """Seed by seed, each beginning with the start of all others, so that a run cut short has something to say."""
    for seed in scale.seeds:
        yield Arm(START, seed)
        yield from (Arm(name, seed) for name in scale.arms if name != START)


def estimate(arm: Arm, scale: Scale) -> float:
    """Seconds, roughly: playing costs what is written, learning what is read, with and without gradient."""
    played = 0 if arm.name == START else scale.episodes
    rows = {
        START: scale.sft_steps * _SINGLE_ROW,
        RFT: scale.rft_steps * RFT_BATCH,
        "dpo": scale.dpo_epochs * 3 * scale.tasks,  # one to two pairs a task, of two sides
    }.get(arm.name, scale.epochs * scale.episodes)
    noted = 0 if arm.name in (START, RFT) else 2 * scale.episodes
    written = (played + len(HELD_OUT) * scale.test_tasks) * WRITTEN_TOKENS / scale.written_per_second
    read = noted * EPISODE_TOKENS / scale.read_per_second
    return written + read + rows * EPISODE_TOKENS / scale.trained_per_second + 5


def measure(arm: Arm, scale: Scale, model: str, runs: Path) -> dict[str, Any]:
    """Train and measure an arm, or the rest of it, or read what it came to when that is done.

    Raises:
        KeyboardInterrupt: on Ctrl-C during training, with a checkpoint to go on from.
    """
    done = runs / f"{arm.name}-seed{arm.seed}.json"
    if not done.exists():
        folder = arm.folder(runs)
        resumed, begin = folder.exists(), time.perf_counter()
        if not (folder / "result.json").exists():
            _train(arm, scale, model, runs)
        trained = jsonl.read_json(folder / "result.json")
        half = time.perf_counter()
        held_out = _held_out(arm, scale, folder)
        record = {
            "arm": arm.name, "seed": arm.seed, **held_out, "curves": _curves(arm, folder), "steps": trained["steps"],
            "tokens_seen": trained["tokens_seen"], "tokens_trained": trained["tokens_trained"],
            "train_seconds": half - begin, "evaluate_seconds": time.perf_counter() - half,
            "resumed": resumed,  # then the seconds are those of the last call alone
        }  # fmt: skip
        jsonl.write_json(done, record)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    result: dict[str, Any] = jsonl.read_json(done)
    return result


def _train(arm: Arm, scale: Scale, model: str, runs: Path) -> None:
    folder = arm.folder(runs)
    start = str(Arm(START, arm.seed).folder(runs) / "adapter")
    resume = (folder / "config.yaml").exists()
    if arm.name == START:
        trainer = _supervised(scale.sft_steps, scale.sft_learning_rate, 1, arm, model, folder, "agent_sft:train")
    elif arm.name == RFT:
        rows = own_successes(arm, scale, start, runs)
        trainer = _supervised(scale.rft_steps, scale.rft_learning_rate, RFT_BATCH, arm, start, folder, str(rows))
    else:
        trainer = _reinforced(arm, scale, start, folder)
    if trainer.train(resume=resume).interrupted:
        raise KeyboardInterrupt


def _supervised(
    steps: int, learning_rate: float, batch_size: int, arm: Arm, model: str, folder: Path, data: str
) -> Any:  # fmt: skip
    from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer

    config = AgentSFTConfig(
        base_model=model, train_data=data, output_dir=folder, batch_size=batch_size, gradient_accumulation_steps=1,
        learning_rate=learning_rate, adam_beta2=0.98, max_steps=steps, max_seq_length=MAX_LENGTH, save_steps=50,
        seed=arm.seed,
    )  # fmt: skip
    return AgentSFTTrainer(config, silent)


def reinforcement(arm: Arm, scale: Scale, start: str, folder: Path) -> Any:
    """The settings of an arm; those of the supervised ones play with them."""
    from sage.libs.finetune.agent.rl_config import RLTrainingConfig

    own = dict(ARMS[arm.name])
    if own.get("algorithm") == "dpo":
        own |= {
            "samples_per_task": scale.samples, "kl_coef": scale.dpo_beta, "learning_rate": scale.dpo_learning_rate,
            "num_epochs": scale.dpo_epochs, "save_steps": 10,
        }  # fmt: skip
    elif own:
        own |= {
            "iterations": scale.iterations, "episodes_per_iteration": scale.an_iteration,
            "minibatch_episodes": scale.minibatch, "num_epochs": scale.epochs, "kl_coef": scale.kl_coef,
            "learning_rate": scale.learning_rate, "save_steps": 2,
        }  # fmt: skip
        if own["algorithm"] == "grpo":
            own["samples_per_task"] = scale.samples
    return RLTrainingConfig(
        base_model=start, output_dir=folder, num_tasks=scale.tasks, max_steps=MAX_STEPS, seed=arm.seed,
        max_new_tokens=MAX_NEW_TOKENS, max_seq_length=MAX_LENGTH, eval_batch_size=64, **own,
    )  # fmt: skip


def _reinforced(arm: Arm, scale: Scale, start: str, folder: Path) -> Any:
    from sage.libs.finetune.agent.training.rl.trainer import AgentRLTrainer

    return AgentRLTrainer(reinforcement(arm, scale, start, folder), progress=silent)


def own_successes(arm: Arm, scale: Scale, start: str, runs: Path) -> Path:
    """Play as dpo does, and write the episodes that were solved, each way once, as training rows."""
    from sage.libs.finetune.agent.conversion.converter import TrajectoryToSFTConverter
    from sage.libs.finetune.agent.environments.desk import DeskEnvironment, desk_tasks
    from sage.libs.finetune.agent.models.load import load_model
    from sage.libs.finetune.agent.trajectories.agents import ModelAgent
    from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
    from sage.libs.finetune.agent.trajectories.filter import TrajectoryFilter

    path = runs / "played" / f"{RFT}-seed{arm.seed}.jsonl"
    if not path.exists():
        agent = ModelAgent(
            load_model(start), max_new_tokens=MAX_NEW_TOKENS, batch_size=64, temperature=1.0, seed=arm.seed
        )
        settings = CollectorConfig(
            MAX_STEPS, require_success=False, batch_size=64, samples_per_task=scale.samples,
            output_path=path.with_suffix(".all.jsonl"),
        )  # fmt: skip
        tasks = desk_tasks("train", scale.tasks, arm.seed)
        episodes = TrajectoryCollector(agent, settings, DeskEnvironment).collect(tasks)
        solved = TrajectoryFilter(min_reward=0.5, drop_duplicates=True).filter(episodes)
        jsonl.write_jsonl(path, TrajectoryToSFTConverter().convert(solved))
    return path


def _held_out(arm: Arm, scale: Scale, folder: Path) -> dict[str, Any]:
    """Greedy play of the held-out tasks, in the same order for all arms."""
    from sage.libs.finetune.agent.environments.desk import desk_tasks
    from sage.libs.finetune.agent.evaluation.episodes import score_episodes
    from sage.libs.finetune.agent.training.rl.trainer import AgentRLTrainer

    tasks = [task for split in HELD_OUT for task in desk_tasks(split, scale.test_tasks, TEST_SEED)]
    settings = reinforcement(Arm(START, arm.seed), scale, str(folder / "adapter"), folder)
    episodes = AgentRLTrainer(settings, progress=silent).play(tasks)
    score = score_episodes(episodes)
    return {
        "success": score.success, "interval": [score.interval.low, score.interval.high],
        "by_split": {
            split: score_episodes([e for e in episodes if e.metadata["split"] == split]).success for split in HELD_OUT
        },
        "calls": score.calls, "calls_valid": score.calls_valid, "mean_steps": score.mean_steps,
        "solved": [[episode.task_id, int(episode.success)] for episode in episodes],
    }  # fmt: skip


def _curves(arm: Arm, folder: Path) -> dict[str, Any]:
    """What the run wrote down as it went: of its episodes, of its pairs (dpo), or nothing (supervised)."""
    names = {START: (), RFT: (), "dpo": PAIR_CURVES}.get(arm.name, CURVES)
    lines = [line for _, line in jsonl.read_jsonl(folder / "metrics.jsonl")]
    found = {name: [line[name] for line in lines if line.get(name) is not None] for name in names}
    return {name: values for name, values in found.items() if values}
