"""Letting an agent work through tasks, and keeping what it did.

Episodes run one after another, or `batch_size` at a time in lockstep when the agent has `act_batch` and each episode
can have its own environment; both give the same trajectories. Each finished episode is on disk, failed ones too,
before the next one is looked at, so an interrupt or a kill costs only the episodes that were still running.

Nothing is invented: an episode whose agent or environment fails keeps the steps it had and carries the `error`, and
an episode nobody judged is not a success.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.jsonl import JsonlAppender
from sage.libs.finetune.agent.trajectories.episode import Episode, decide_together
from sage.libs.finetune.agent.trajectories.protocols import (
    Decide,
    Task,
    batch_decider,
    decider,
    environment_maker,
    read_tasks,
)
from sage.libs.finetune.agent.types import AgentTrajectory

logger = logging.getLogger(__name__)


@dataclass
class CollectorConfig:
    """How episodes are collected.

    Attributes:
        max_steps: Steps after which an episode is cut off.
        require_success: Return successful trajectories only (the file at `output_path` gets all of them).
        save_intermediate: Keep the observations in the steps; without, they are recorded as "" (the agent still
            sees them).
        output_path: JSONL file each finished episode is appended to; an existing file is continued.
        batch_size: Episodes in lockstep, when the agent and the environment allow it.
        max_errors: End an episode after so many refused or unreadable calls in a row; None lets it go on to
            `max_steps`. (AgentBench, Liu et al., 2023, ends it at the first.)

    Raises:
        ConfigError: for a value out of range.
    """

    max_steps: int = 10
    require_success: bool = True
    save_intermediate: bool = True
    output_path: Path | None = None
    batch_size: int = 32
    max_errors: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"CollectorConfig: {name}={value!r}: expected a whole number of at least 1")
        errors = self.max_errors
        if errors is not None and (not isinstance(errors, int) or isinstance(errors, bool) or errors < 1):
            raise ConfigError(f"CollectorConfig: max_errors={errors!r}: expected None or a whole number of at least 1")
        for name in ("require_success", "save_intermediate"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"CollectorConfig: {name}={getattr(self, name)!r}: expected True or False")
        if self.output_path is not None:
            if not isinstance(self.output_path, str | Path):
                raise ConfigError(f"CollectorConfig: output_path={self.output_path!r}: expected a path")
            self.output_path = Path(self.output_path)


class TrajectoryCollector:
    """Runs an agent on tasks and records its trajectories.

    Args:
        agent: A callable `(task, history) -> decision`, or an object with `act`, `run_step` or `act_batch`
            (see `trajectories.protocols` for what a decision is).
        config: Defaults to `CollectorConfig()`.
        environment: An object with `reset(task)` and `step(action, action_input)`, or a callable without arguments
            that makes one; None when the agent runs its own tools and tells the observations itself.
        on_episode: Called with each finished episode, after it was written.

    Raises:
        TypeError: when the agent or the environment is none of these.

    Attributes:
        failures: The episodes of the last call that broke off with an `error`.

    Example:
        >>> def agent(task, history):
        ...     return {"thought": "2 + 2 is 4.", "action": "finish", "action_input": {"answer": "4"}}
        >>> collector = TrajectoryCollector(agent, CollectorConfig(max_steps=3))
        >>> [trajectory] = collector.collect([{"instruction": "What is 2 + 2?", "answer": 4}])
        >>> trajectory.success, trajectory.answer
        (True, '4')
    """

    def __init__(
        self,
        agent: object,
        config: CollectorConfig | None = None,
        environment: object = None,
        on_episode: Callable[[AgentTrajectory], None] | None = None,
    ) -> None:
        self.config = config or CollectorConfig()
        self.failures: list[AgentTrajectory] = []
        self._decide = decider(agent)
        self._make_environment, many = environment_maker(environment)
        self._decide_batch = batch_decider(agent) if many else None
        self._reset_agent: Callable[[Any], object] | None = getattr(agent, "reset", None)
        self._on_episode = on_episode

    def collect(self, tasks: Iterable[str | Task]) -> list[AgentTrajectory]:
        """Run one episode per task and return the trajectories in the order of the tasks.

        With `require_success` only the successful ones are returned. An episode that fails does not stop the others;
        it is in `failures`.

        Raises:
            DataError: when the tasks are unusable; nothing was run then.
        """
        trajectories = self._run(read_tasks(tasks))
        if self.config.require_success:
            return [trajectory for trajectory in trajectories if trajectory.success]
        return trajectories

    def collect_single(self, task: str | Task) -> AgentTrajectory:
        """Run one episode and return its trajectory, successful or not.

        Raises:
            DataError: when the task is unusable.
        """
        return self._run(read_tasks([task]))[0]

    def _run(self, tasks: list[dict[str, Any]]) -> list[AgentTrajectory]:
        finished: dict[str, AgentTrajectory] = {}
        self.failures = []
        path = self.config.output_path
        with JsonlAppender(path) if path is not None else nullcontext() as out:
            for episode in self._finished_episodes(tasks):
                trajectory = episode.trajectory(self.config.save_intermediate)
                if out is not None:
                    out.append(trajectory.to_dict())
                finished[trajectory.task_id] = trajectory
                self._note_failure(trajectory)
                if self._on_episode is not None:
                    self._on_episode(trajectory)
        _report(finished.values())
        return [finished[task["task_id"]] for task in tasks]

    def _finished_episodes(self, tasks: list[dict[str, Any]]) -> Iterator[Episode]:
        """Yield each episode the moment it ends, keeping as many going as can run together."""
        width = 1 if self._decide_batch is None else self.config.batch_size
        waiting = iter(tasks)
        going: list[Episode] = []
        while True:
            fresh = [
                Episode(task, self.config.max_steps, self.config.max_errors)
                for task in islice(waiting, width - len(going))
            ]
            going += fresh
            if not going:
                return
            for episode in fresh:
                episode.begin(self._make_environment, self._reset_agent)
                if episode.ended is not None:
                    yield episode
            going = [episode for episode in going if episode.ended is None]
            for episode, decide in zip(going, self._decisions(going), strict=True):
                episode.advance(decide)
                if episode.ended is not None:
                    yield episode
            going = [episode for episode in going if episode.ended is None]

    def _decisions(self, episodes: list[Episode]) -> list[Decide]:
        """What to advance each episode with: the agent itself, or its share of one decision for all."""
        if self._decide_batch is not None and len(episodes) > 1:
            return decide_together(episodes, self._decide, self._decide_batch)
        return [self._decide] * len(episodes)

    def _note_failure(self, trajectory: AgentTrajectory) -> None:
        if trajectory.error is None:
            return
        if not self.failures:
            logger.warning(
                "task '%s' broke off: %s; its steps are kept and the other tasks go on. Mend what raised it and run "
                "the tasks of collector.failures again (debug logging shows the traceback)",
                trajectory.task_id,
                trajectory.error,
            )
        self.failures.append(trajectory)


def _report(trajectories: Iterable[AgentTrajectory]) -> None:
    """One line for the lot on each thing that makes the trajectories worth less."""
    everything = list(trajectories)
    failed = sum(trajectory.error is not None for trajectory in everything)
    unjudged = sum(trajectory.metadata.get("judged") is False for trajectory in everything)
    if failed > 1:
        logger.warning("%d of %d episodes broke off with an error", failed, len(everything))
    if unjudged:
        logger.warning(
            "%d of %d episodes were not judged and count as not successful; give the tasks an 'answer', let the agent "
            "return 'success', or use an environment whose step gives a verdict",
            unjudged,
            len(everything),
        )
