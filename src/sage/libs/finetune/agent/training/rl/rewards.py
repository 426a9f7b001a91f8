"""What an episode is worth.

None        the environment's own rewards, step by step, as the episode was played
a function  `(trajectory) -> float`, paid at the last step, in place of the environment's
a name      a sequence-classification model (path or hub id) with one output, which reads the whole conversation
a list      of functions and names, each with a weight: their weighted sum

Success is the environment's verdict and no reward of its own: most environments pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError, TrainingError
from sage.libs.finetune.agent.training.rl.context import RewardFunction
from sage.libs.finetune.agent.training.rl.reward_model import RewardModel
from sage.libs.finetune.agent.types import AgentTrajectory

Reward = Callable[[AgentTrajectory], float]
Source = None | str | Reward | Sequence[tuple[str | Reward, float]]


def reward_of(source: Source) -> RewardFunction:
    """The reward that was asked for.

    Args:
        source: None, a function, the name of a reward model, or a list of `(function or name, weight)`.

    Raises:
        ConfigError: for anything else, or a weight that is no number.
        ModelError: when a reward model cannot be loaded.

    Example:
        >>> short = reward_of([(lambda trajectory: float(len(trajectory.steps)), -0.1)])
        >>> from sage.libs.finetune.agent.types import TrajectoryStep
        >>> short.score([AgentTrajectory("a", "Do it.", [TrajectoryStep("", "finish")])])
        [-0.1]
    """
    if source is None:
        return EnvironmentReward()
    parts = [(source, 1.0)] if isinstance(source, str) or callable(source) else source
    if not isinstance(parts, Sequence) or not parts or not all(_is_part(part) for part in parts):
        raise ConfigError(
            f"reward={source!r:.80}: expected a function of a trajectory, the name of a reward model, or a list of "
            "(function or name, weight)"
        )
    return AtTheEnd(
        [
            (RewardModel.from_pretrained(part) if isinstance(part, str) else part, float(weight))
            for part, weight in parts
        ]
    )


class EnvironmentReward:
    """The rewards that the environment gave while the episode was played."""

    def score(self, trajectories: Sequence[AgentTrajectory]) -> list[float]:
        """Their sums."""
        return [sum(rewards) for rewards in self.by_turn(trajectories)]

    def by_turn(self, trajectories: Sequence[AgentTrajectory]) -> list[list[float]]:
        """Those of the steps."""
        return [[_finite(step.reward, trajectory) for step in trajectory.steps] for trajectory in trajectories]


class AtTheEnd:
    """A reward for the episode as a whole, paid at its last step.

    Args:
        parts: Functions of a trajectory and reward models, and how much each counts.
    """

    def __init__(self, parts: Sequence[tuple[Reward | RewardModel, float]]) -> None:
        self._parts = list(parts)

    def score(self, trajectories: Sequence[AgentTrajectory]) -> list[float]:
        """The weighted sums.

        Raises:
            TrainingError: naming the task and sample of a trajectory on which a function raised, or whose reward is no
                finite number.
        """
        totals = [0.0] * len(trajectories)
        for reward, weight in self._parts:
            model = isinstance(reward, RewardModel)
            scores = reward.score(trajectories) if model else [_called(reward, one) for one in trajectories]  # type: ignore[arg-type,union-attr]
            for at, (score, trajectory) in enumerate(zip(scores, trajectories, strict=True)):
                totals[at] += weight * _finite(score, trajectory)
        return totals

    def by_turn(self, trajectories: Sequence[AgentTrajectory]) -> list[list[float]]:
        """Zeros, and the score at the last step."""
        scores = self.score(trajectories)
        return [
            [*[0.0] * (len(trajectory.steps) - 1), score]
            for trajectory, score in zip(trajectories, scores, strict=True)
        ]


def _is_part(part: object) -> bool:
    if not isinstance(part, Sequence) or isinstance(part, str) or len(part) != 2:
        return False
    reward, weight = part
    number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
    return number and (isinstance(reward, str) or callable(reward))


def _called(reward: Reward, trajectory: AgentTrajectory) -> Any:
    """The reward function is the user's code and may fail in any way; a run on rewards that are not there is worse."""
    try:
        return reward(trajectory)
    except Exception as error:
        said = " ".join(str(error).split())
        raise TrainingError(f"{_which(trajectory)} raised {type(error).__name__}: {said}") from error


def _finite(value: Any, trajectory: AgentTrajectory) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TrainingError(f"{_which(trajectory)} is {value!r:.60}; expected a finite number")
    return number


def _which(trajectory: AgentTrajectory) -> str:
    return f"the reward of task '{trajectory.task_id}', sample {trajectory.metadata.get('sample', 0)},"
