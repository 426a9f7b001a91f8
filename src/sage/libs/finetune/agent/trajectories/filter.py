"""Which trajectories are worth training on.

A trajectory is dropped for the first of these reasons that applies: `error` (it broke off), `failed` (no success,
when success is required), `low_reward` (below `min_reward`, or not a number), `too_long` (more than `max_steps`
steps), `empty` (no step at all).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import AgentTrajectory

REASONS = ("error", "failed", "low_reward", "too_long", "empty")


class TrajectoryFilter:
    """Keeps trajectories by success, reward and length; one with an `error` or without steps is never kept.

    Args:
        min_reward: Least `total_reward` (inclusive); minus infinity lets every reward through.
        require_success: Drop trajectories that are no success.
        max_steps: Most steps (inclusive), None for no limit.

    Raises:
        ConfigError: for a value out of range.

    Example:
        >>> from sage.libs.finetune.agent.types import TrajectoryStep
        >>> steps = [TrajectoryStep("", "finish", {"answer": "4"})]
        >>> good = AgentTrajectory("a", "2 + 2?", steps, success=True, total_reward=1.0)
        >>> bad = AgentTrajectory("b", "2 + 3?", steps, success=False)
        >>> stats = TrajectoryFilter(min_reward=0.5).get_stats([good, bad])
        >>> stats["kept"], stats["total"], stats["failed"]
        (1, 2, 1)
    """

    def __init__(self, min_reward: float = 0.5, require_success: bool = True, max_steps: int | None = None) -> None:
        if not _is_number(min_reward):
            raise ConfigError(f"TrajectoryFilter: min_reward={min_reward!r}: expected a number")
        if not isinstance(require_success, bool):
            raise ConfigError(f"TrajectoryFilter: require_success={require_success!r}: expected True or False")
        if max_steps is not None and not (_is_number(max_steps) and max_steps >= 1 and max_steps % 1 == 0):
            raise ConfigError(
                f"TrajectoryFilter: max_steps={max_steps!r}: expected None or a whole number of at least 1"
            )
        self.min_reward = min_reward
        self.require_success = require_success
        self.max_steps = max_steps

    def filter(self, trajectories: Sequence[AgentTrajectory]) -> list[AgentTrajectory]:
        """The trajectories worth keeping, in their order."""
        return [trajectory for trajectory in trajectories if self._reason(trajectory) is None]

    def get_stats(self, trajectories: Sequence[AgentTrajectory]) -> dict[str, Any]:
        """Count what `filter` would do.

        Returns:
            `total`, `kept`, `kept_share` (0.0 of an empty list), and under each reason how many were dropped for it;
            `kept` and the reasons add up to `total`.
        """
        reasons = Counter(self._reason(trajectory) for trajectory in trajectories)
        total, kept = len(trajectories), reasons[None]
        return {
            "total": total,
            "kept": kept,
            "kept_share": kept / total if total else 0.0,
            **{reason: reasons[reason] for reason in REASONS},
        }

    def _reason(self, trajectory: AgentTrajectory) -> str | None:
        if trajectory.error is not None:
            return "error"
        if self.require_success and not trajectory.success:
            return "failed"
        if not trajectory.total_reward >= self.min_reward:  # this way round, since NaN compares false
            return "low_reward"
        if self.max_steps is not None and len(trajectory.steps) > self.max_steps:
            return "too_long"
        return None if trajectory.steps else "empty"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
