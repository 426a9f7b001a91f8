"""What an algorithm of reinforcement learning is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from sage.libs.finetune.agent.types import AgentTrajectory


class RewardFunction(Protocol):
    """What episodes are worth; see `rl/rewards.py`."""

    def score(self, trajectories: Sequence[AgentTrajectory]) -> list[float]:
        """One finite number for each; a TrainingError names the task of one that has none."""

    def by_turn(self, trajectories: Sequence[AgentTrajectory]) -> list[list[float]]:
        """One finite number for each step of each; they add up to the score."""


class Log(Protocol):
    """Takes the figures of an iteration or of an optimiser step; see `rl/log.py`."""

    def step(self, number: int, total: int, figures: Mapping[str, float | int | None]) -> None:
        """Write them as a line of `metrics.jsonl`, and tell progress."""

    def drop_after(self, number: int) -> None:
        """Forget the lines of steps that a resumed run will do again."""

    def episodes(self, number: int, trajectories: Sequence[AgentTrajectory]) -> None:
        """Write some episodes out, where that is due."""


@dataclass
class RLContext:
    """Everything around the learning itself.

    Attributes:
        tasks: What is played, checked, each with `task_id` and `tools`.
        make_environment: Makes an environment for one episode at a time.
        reward: What an episode is worth.
        folder: The run folder; checkpoints go to its `checkpoints/`.
        log: Takes figures and episodes.
        stop: Whether the run was asked to end after the current step (a signal).
        progress: For anything long within a step.
        agents: The environment's own agents by name (`environments.known`), for DPO's expert.
    """

    tasks: Sequence[dict[str, Any]]
    make_environment: Callable[[], object]
    reward: RewardFunction
    folder: Path
    log: Log
    stop: Callable[[], bool]
    progress: Progress
    agents: Mapping[str, Callable[..., object]] = field(default_factory=dict)


@dataclass
class RLOutcome:
    """What an algorithm leaves beside the weights.

    Attributes:
        losses: One a logged step, those before a resumption included.
        steps: Optimiser steps done.
        tokens_seen: Tokens of the sequences learned from.
        tokens_trained: Those of them that the policy wrote and that carried loss.
        interrupted: Whether it was asked to stop before its last step.
        figures: Anything else worth keeping in `result.json`: plain JSON.
    """

    losses: list[float]
    steps: int
    tokens_seen: int
    tokens_trained: int
    interrupted: bool
    figures: dict[str, Any] = field(default_factory=dict)
