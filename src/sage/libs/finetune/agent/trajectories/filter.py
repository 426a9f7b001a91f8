"""Which trajectories are worth training on.

A trajectory is dropped for the first of these reasons that applies: `error` (it broke off), `failed` (no success,
when success is required), `low_reward` (below `min_reward`, or not a number), `too_long` (more than `max_steps`
steps), `empty` (no step at all), `duplicate` (the same as one kept before it, when these are dropped), `over_cap`
(its task has better ones enough, when there is a cap).

Duplicates were given the same and did the same: equal instruction, system prompt, opening and tools (but for tools
that were inferred from the calls), and in every step equal thought, action, input and observation. Ids and rewards do
not count. Of the episodes of one task (the same `task_id`, and given the same) the cap keeps those with the highest
reward, of these the shortest, of these the first.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sage.libs.finetune.agent.chatml import shown_tools
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import AgentTrajectory

REASONS = ("error", "failed", "low_reward", "too_long", "empty", "duplicate", "over_cap")


class TrajectoryFilter:
    """Keeps trajectories by success, reward and length; one with an `error` or without steps is never kept.

    Args:
        min_reward: Least `total_reward` (inclusive); minus infinity lets every reward through.
        require_success: Drop trajectories that are no success.
        max_steps: Most steps (inclusive), None for no limit.
        drop_duplicates: Keep the first of several that are the same.
        max_per_task: Most trajectories of one task, None for no limit.

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

    def __init__(
        self,
        min_reward: float = 0.5,
        require_success: bool = True,
        max_steps: int | None = None,
        *,
        drop_duplicates: bool = False,
        max_per_task: int | None = None,
    ) -> None:
        if not _is_number(min_reward):
            raise ConfigError(f"TrajectoryFilter: min_reward={min_reward!r}: expected a number")
        for name, switch in (("require_success", require_success), ("drop_duplicates", drop_duplicates)):
            if not isinstance(switch, bool):
                raise ConfigError(f"TrajectoryFilter: {name}={switch!r}: expected True or False")
        for name, limit in (("max_steps", max_steps), ("max_per_task", max_per_task)):
            if limit is not None and not (_is_number(limit) and limit >= 1 and limit % 1 == 0):
                raise ConfigError(f"TrajectoryFilter: {name}={limit!r}: expected None or a whole number of at least 1")
        self.min_reward = min_reward
        self.require_success = require_success
        self.max_steps = max_steps
        self.drop_duplicates = drop_duplicates
        self.max_per_task = max_per_task

    def filter(self, trajectories: Sequence[AgentTrajectory]) -> list[AgentTrajectory]:
        """The trajectories worth keeping, in their order."""
        reasons = self.reasons(trajectories)
        return [trajectory for trajectory, reason in zip(trajectories, reasons, strict=True) if reason is None]

    def get_stats(self, trajectories: Sequence[AgentTrajectory]) -> dict[str, Any]:
        """Count what `filter` would do.

        Returns:
            `total`, `kept`, `kept_share` (0.0 of an empty list), under each reason how many were dropped for it (`kept`
            and the reasons add up to `total`), and `tasks` and `tasks_kept`: how many different tasks they are of.
        """
        reasons = self.reasons(trajectories)
        counts, total = Counter(reasons), len(trajectories)
        tasks = [_task(trajectory) for trajectory in trajectories]
        return {
            "total": total,
            "kept": counts[None],
            "kept_share": counts[None] / total if total else 0.0,
            **{reason: counts[reason] for reason in REASONS},
            "tasks": len(set(tasks)),
            "tasks_kept": len({task for task, reason in zip(tasks, reasons, strict=True) if reason is None}),
        }

    def reasons(self, trajectories: Sequence[AgentTrajectory]) -> list[str | None]:
        """Why each trajectory would be dropped, None for those that are kept."""
        reasons = [self._reason(trajectory) for trajectory in trajectories]
        if self.drop_duplicates:
            seen: set[bytes] = set()
            for index, trajectory in enumerate(trajectories):
                if reasons[index] is None:
                    path = _path(trajectory)
                    reasons[index] = "duplicate" if path in seen else None
                    seen.add(path)
        if self.max_per_task is not None:
            of_task: dict[bytes, list[int]] = defaultdict(list)
            for index, trajectory in enumerate(trajectories):
                if reasons[index] is None:
                    of_task[_task(trajectory)].append(index)
            for indices in of_task.values():
                best_first = sorted(
                    indices, key=lambda i: (-trajectories[i].total_reward, len(trajectories[i].steps), i)
                )
                for index in best_first[int(self.max_per_task) :]:
                    reasons[index] = "over_cap"
        return reasons

    def _reason(self, trajectory: AgentTrajectory) -> str | None:
        """The reason that lies in the trajectory itself."""
        if trajectory.error is not None:
            return "error"
        if self.require_success and not trajectory.success:
            return "failed"
        if not trajectory.total_reward >= self.min_reward:  # this way round, since NaN compares false
            return "low_reward"
        if self.max_steps is not None and len(trajectory.steps) > self.max_steps:
            return "too_long"
        return None if trajectory.steps else "empty"


def _given(trajectory: AgentTrajectory) -> list[Any]:
    tools = shown_tools(trajectory.tools, trajectory.metadata)
    return [trajectory.instruction, trajectory.system_prompt, trajectory.metadata.get("opening"), tools]


def _task(trajectory: AgentTrajectory) -> bytes:
    return _key([trajectory.task_id, _given(trajectory)])


def _path(trajectory: AgentTrajectory) -> bytes:
    steps = [[step.thought, step.action, step.action_input, step.observation] for step in trajectory.steps]
    return _key([_given(trajectory), steps])


def _key(value: object) -> bytes:
    """Equal for equal JSON, short for long ones."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).digest()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
