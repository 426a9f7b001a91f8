"""The one door to reinforcement learning: a model, tasks, rewards, and a run folder.

It looks as `AgentSFTTrainer` does, and what it leaves is the same: an adapter on the base model it began with, ready to
be evaluated, served, exported or trained further.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, overload

from transformers import set_seed

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ConfigError, TrainingError
from sage.libs.finetune.agent.evaluation.episodes import EpisodeScore, score_episodes
from sage.libs.finetune.agent.models.adapters import require_finite
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.reporting.progress import TerminalProgress
from sage.libs.finetune.agent.reporting.rl import beginning_and_end, draw_rl_curve
from sage.libs.finetune.agent.rl_config import RLTrainingConfig
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.callbacks import StopOnSignal, require_tracker
from sage.libs.finetune.agent.training.card import model_card
from sage.libs.finetune.agent.training.checkpoints import last_checkpoint
from sage.libs.finetune.agent.training.fit import make_trainable
from sage.libs.finetune.agent.training.guards import out_of_memory, told_of_disk
from sage.libs.finetune.agent.training.rl.context import RLContext, RLOutcome
from sage.libs.finetune.agent.training.rl.log import RLLog
from sage.libs.finetune.agent.training.rl.rewards import Source, reward_of
from sage.libs.finetune.agent.training.rl.start import (
    Model,
    Place,
    holder_of,
    manifest_of,
    require_possible,
    require_same,
    with_the_model,
)
from sage.libs.finetune.agent.training.run import claim_folder, write_start
from sage.libs.finetune.agent.training.sft import AgentSFTTrainer
from sage.libs.finetune.agent.trajectories.agents import ModelAgent
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.protocols import Task, read_tasks
from sage.libs.finetune.agent.types import AgentTrajectory, EvalResult, TrainingResult

logger = logging.getLogger(__name__)

Algorithm = Callable[[LoadedModel, RLTrainingConfig, RLContext, Path | None], RLOutcome]


class AgentRLTrainer:
    """Trains a model by reinforcement on the tasks of an environment, and measures it.

    Args:
        config: How; see `RLTrainingConfig`.
        model: What to begin with: a run folder, adapter, model folder or id; an `AgentSFTTrainer` or `LoadedModel`,
            with its weights as they are; an `AgentSFTConfig`, for its base model and the kind of adapter; None for the
            config's `base_model`.
        tasks: What is played; None for those of the config.
        environment: Where: a callable without arguments that makes an environment; None for the config's.
        reward: What an episode is worth: a function of a trajectory, the name of a reward model, or a list of these
            with weights; None for the config's `reward_model`, else the environment's own rewards.
        progress: Told about long steps; None shows bars on stderr, `progress.silent` nothing.

    Attributes:
        config: The settings, with what the model given says of itself.
        run_folder: Where the last `train` wrote, None before.

    Raises:
        ConfigError: when no model is given, or the environment is unknown or has no tasks.

    Example:
        >>> config = RLTrainingConfig(base_model="smollm2-135m-instruct", iterations=10)
        >>> trainer = AgentRLTrainer(config)
        >>> result = trainer.train()  # doctest: +SKIP
        >>> trainer.evaluate().success  # doctest: +SKIP
        0.71
    """

    def __init__(
        self,
        config: RLTrainingConfig,
        model: Model | None = None,
        *,
        tasks: Sequence[str | Task] | None = None,
        environment: Callable[[], object] | None = None,
        reward: Source = None,
        progress: Progress | None = None,
    ) -> None:
        processes.join()
        self._place = Place.of(config, tasks, environment)
        self._sft = holder_of(config, model, progress)
        self.config = with_the_model(config, self._sft.config)
        if isinstance(model, AgentSFTTrainer) and model.run_folder is not None:
            self.config = replace(self.config, base_model=str(model.run_folder))  # which is what it has become
        for line in self.config.without_effect():
            logger.warning("%s", line)
        self.run_folder: Path | None = None
        self._progress = progress
        self._lives_in_memory = isinstance(model, AgentSFTTrainer | LoadedModel)
        self._reward = reward if reward is not None else config.reward_model

    @property
    def loaded(self) -> LoadedModel:
        """Model and tokenizer, loaded on first use.

        Raises:
            ModelError: when the model cannot be found, loaded, or shown tools.
        """
        return self._sft.loaded

    def train(self, resume: bool = False) -> TrainingResult:
        """Train, and write the run folder (see `training/run.py`).

        Ctrl-C ends after the current iteration (DPO: optimiser step) with a checkpoint; `resume` goes on from there to
        the same result.

        Args:
            resume: Go on with the run in `output_dir` (with the default `output_dir`, the newest there).

        Raises:
            ConfigError: when the folder holds a run and `resume` is False, or cannot be resumed.
            DataError: for unusable tasks or pairs.
            ModelError: for an unusable model or reward model.
            TrainingError: when all episodes break off, a reward or a loss is no number, memory ends, or no checkpoint
                to resume from is whole.
        """
        begin = time.perf_counter()
        require_tracker(self.config.report_to)
        require_possible(self.config)
        folder = processes.first_decides(lambda: claim_folder(self.config, resume))
        config = replace(self.config, output_dir=folder)
        tasks = [] if config.preferences else self._place.tasks()
        manifest = manifest_of(config, tasks)
        if resume:
            require_same(folder, manifest)
        reward = reward_of(self._reward)
        checkpoint = processes.first_decides(lambda: last_checkpoint(folder)) if resume else None
        if resume and self.run_folder is not None:
            self._take_the_first_model()
        loaded = self._trainable(config)
        processes.first_decides(lambda: write_start(folder, config, manifest))
        self.run_folder = folder
        stop, named = StopOnSignal(), self._place.named
        with told_of_disk(folder), _told_of_memory(config), self._telling() as progress, stop.listening():
            log = RLLog(folder, progress, config.sample_every, config.report_to, config.run_name)
            context = RLContext(
                tasks, self._place.make_environment, reward, folder, log, lambda: stop.asked, progress,
                named.agents if named else {},
            )  # fmt: skip
            with log.open():
                outcome = _algorithm(config.algorithm)(loaded, config, context, checkpoint)
        loaded.model.eval()
        result = _result(outcome, folder, time.perf_counter() - begin)
        if not outcome.interrupted:
            with told_of_disk(folder):
                self._finish(config, result, outcome, manifest)
        if processes.is_first() and outcome.losses:
            draw_rl_curve(folder)
        return result

    @overload
    def evaluate(self, data: str | Path | Sequence[dict[str, Any]]) -> EvalResult: ...

    @overload
    def evaluate(self, data: None = None, *, tasks: Sequence[str | Task] | None = None) -> EpisodeScore: ...

    def evaluate(
        self,
        data: str | Path | Sequence[dict[str, Any]] | None = None,
        *,
        tasks: Sequence[str | Task] | None = None,
    ) -> EvalResult | EpisodeScore:
        """How well the model does, greedily: on rows, turn by turn, or on tasks, by playing them.

        Args:
            data: Rows as in `AgentSFTTrainer.evaluate`: a JSONL file, a reference, or a list.
            tasks: What is played when there are no rows; None for the tasks that are trained on.

        Raises:
            ConfigError: when both are given.
            DataError: for unusable rows or tasks.
            ModelError: for an unusable model.
        """
        if data is None:
            return score_episodes(self.play(tasks))
        if tasks is not None:
            raise ConfigError("evaluate: rows and tasks were given; give one of them")
        return self._sft.evaluate(data)

    def play(self, tasks: Sequence[str | Task] | None = None) -> list[AgentTrajectory]:
        """Let the model work on tasks, greedily.

        Args:
            tasks: Which; None for those that are trained on.

        Raises:
            DataError: for unusable tasks.
            ModelError: for an unusable model.
        """
        config, place = self.config, self._place
        todo = place.tasks() if tasks is None else place.with_tools(read_tasks(tasks))
        agent = ModelAgent(self.loaded, max_new_tokens=config.max_new_tokens, batch_size=config.eval_batch_size)
        settings = CollectorConfig(max_steps=config.max_steps, require_success=False, batch_size=config.eval_batch_size)
        return TrajectoryCollector(agent, settings, place.make_environment).collect(todo)

    def save_model(self, path: str | Path) -> None:
        """Save the adapter or the whole model; as `AgentSFTTrainer.save_model`."""
        self._sft.save_model(path)

    def load_model(self, path: str | Path) -> None:
        """Take the model saved at `path` in place of the current one; as `AgentSFTTrainer.load_model`."""
        self._sft.load_model(path)

    def _take_the_first_model(self) -> None:
        """An earlier call trained the model in hand; a run goes on from its checkpoint and what it began with."""
        if self._lives_in_memory:
            raise ConfigError(
                "the model was given loaded and has been trained since; to resume give it anew, to a new trainer"
            )
        self._sft.load_model(self._sft.config.base_model)

    def _trainable(self, config: RLTrainingConfig) -> LoadedModel:
        """The model with what is to be trained of it."""
        loaded = self.loaded
        has_adapter = hasattr(loaded.model, "peft_config")
        if has_adapter and not config.use_lora:
            raise ConfigError(
                f"'use_lora' is false but {config.base_model} is an adapter; merge it first (sage-finetune export "
                f"{config.base_model} --merge), or leave use_lora at true"
            )
        if not has_adapter:
            self._sft.run_folder = config.output_dir  # where PiSSA's start is kept
        set_seed(config.seed)  # a new adapter is drawn from it
        make_trainable(loaded, replace(self._sft.config, output_dir=config.output_dir))
        return loaded

    @contextmanager
    def _telling(self) -> Iterator[Progress]:
        if not processes.is_first():
            yield silent
        elif self._progress is not None:
            yield self._progress
        else:
            with TerminalProgress() as bars:
                yield bars

    def _finish(
        self, config: RLTrainingConfig, result: TrainingResult, outcome: RLOutcome, manifest: dict[str, Any]
    ) -> None:
        folder = result.output_dir
        require_finite(self.loaded.model, result.steps)
        saved = folder / ("adapter" if config.use_lora else "model")
        self.save_model(saved)
        if not processes.is_first():
            return
        jsonl.write_text(folder / "chat_template.jinja", str(self.loaded.tokenizer.chat_template))
        facts = {**asdict(result), "output_dir": str(folder), "kind": "rl", "algorithm": config.algorithm}
        jsonl.write_json(folder / "result.json", {**facts, "figures": outcome.figures})
        card = model_card(folder, config, self.loaded, self._facts(config, result, manifest), None)
        jsonl.write_text(folder / "README.md", card)
        jsonl.write_text(saved / "README.md", card)

    def _facts(self, config: RLTrainingConfig, result: TrainingResult, manifest: dict[str, Any]) -> list[str]:
        """What the model card says of the run."""
        reward = (
            self._reward if isinstance(self._reward, str) else "a function" if self._reward else "the environment's"
        )
        played = [] if config.preferences else [f"{manifest['tasks']['n']} tasks, reward: {reward}"]
        return [
            *played,
            f"{result.steps} optimiser steps, {result.tokens_trained} tokens learned from, the model's own all of them",
            *(
                f"{name}: {first} at first, {last} in the end"
                for name, first, last in beginning_and_end(result.output_dir)
            ),
            f"chat template: {self.loaded.template.source}, tools {self.loaded.template.tool_format}",
        ]


def _algorithm(name: str) -> Algorithm:
    if name == "ppo":
        from sage.libs.finetune.agent.training.rl.ppo import train_ppo

        return train_ppo
    if name == "dpo":
        from sage.libs.finetune.agent.training.rl.dpo import train_dpo

        return train_dpo
    from sage.libs.finetune.agent.training.rl.grpo import train_grpo

    return train_grpo


@contextmanager
def _told_of_memory(config: RLTrainingConfig) -> Iterator[None]:
    """Out of memory as one line that says which settings to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, TrainingError) or not out_of_memory(error):
            raise
        learning = "batch_size" if config.algorithm == "dpo" else "minibatch_episodes"
        smaller = f"{learning} below {getattr(config, learning)}, or max_seq_length below {config.max_seq_length}"
        raise TrainingError(
            f"out of memory; resume with eval_batch_size below {config.eval_batch_size} if it was playing, or start a "
            f"new run with {smaller}"
        ) from error


def _result(outcome: RLOutcome, folder: Path, seconds: float) -> TrainingResult:
    tail = outcome.losses[-max(1, len(outcome.losses) // 10) :]
    return TrainingResult(
        final_loss=sum(tail) / len(tail) if tail else float("nan"), losses=outcome.losses, steps=outcome.steps,
        tokens_seen=outcome.tokens_seen, tokens_trained=outcome.tokens_trained, seconds=seconds, output_dir=folder,
        interrupted=outcome.interrupted,
    )  # fmt: skip
