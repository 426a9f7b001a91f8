"""Letting an agent work through tasks, and keeping what it did.

Episodes run one after another; `concurrency` at a time in threads; `batch_size` at a time in lockstep when the agent
has `act_batch`; or on a cluster (`executor="ray"`). All give the same trajectories. Each finished episode is on disk,
failed ones too, before the next one is looked at, so an interrupt or a kill costs only the episodes that were still
running; collecting the same tasks into the same file goes on from there and runs none twice.

Nothing is invented: an episode whose agent or environment fails keeps the steps it had and carries the `error`, and
an episode nobody judged is not a success.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sage.libs.finetune.agent.errors import ConfigError, DataError, TrajectoryError
from sage.libs.finetune.agent.jsonl import JsonlAppender
from sage.libs.finetune.agent.trajectories.episode import Episode, error_kind
from sage.libs.finetune.agent.trajectories.execution.local import in_threads, in_turns
from sage.libs.finetune.agent.trajectories.execution.stop import Stop
from sage.libs.finetune.agent.trajectories.io import (
    EpisodeKey,
    drop_lines,
    episode_key,
    file_state,
    find_episodes,
    sole_writer,
)
from sage.libs.finetune.agent.trajectories.protocols import Cast, Task, batch_decider, read_tasks
from sage.libs.finetune.agent.types import AgentTrajectory

logger = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class CollectorConfig:
    """How episodes are collected.

    Attributes:
        max_steps: Steps after which an episode is cut off.
        require_success: Return successful trajectories only (the file at `output_path` gets all of them).
        save_intermediate: Keep the observations, and the steps of episodes that broke off. Without, observations are
            recorded as "" (the agent still sees them), and of an episode that broke off only the error is.
        output_path: JSONL file each finished episode is appended to, synced to disk.
        batch_size: Episodes in lockstep, when the agent has `act_batch` and the environment can be made anew.
        max_errors: End an episode after so many refused or unreadable calls in a row; None lets it go on to
            `max_steps`. (AgentBench, Liu et al., 2023, ends it at the first.)
        concurrency: Episodes at once, for agents that decide one at a time; on a cluster at least one for each CPU.
        samples_per_task: Episodes of each task; above 1 each has its number, from 0, in `metadata["sample"]`.
        executor: `local`, or `ray` for a Ray cluster (extra `ray`).
        resume: Go on with an existing `output_path`: its episodes are not run again, except those that broke off,
            whose lines are replaced. Without, an existing file is an error.
        episode_timeout: Seconds an episode may take; one that takes longer breaks off with the error `timeout`.
        stop_after_failures: Stop the collection when so many episodes in a row broke off at their first step for the
            same kind of error (a wrong key, a server that is down); None never stops.
        ray_address: The cluster; None takes `RAY_ADDRESS`, else starts one on this machine.
        ray_cpus: CPUs of the cluster that an episode takes; less than 1 suits agents that wait for a server.

    Raises:
        ConfigError: for a value out of range.
    """

    max_steps: int = 10
    require_success: bool = True
    save_intermediate: bool = True
    output_path: Path | None = None
    batch_size: int = 32
    max_errors: int | None = None
    concurrency: int = 1
    samples_per_task: int = 1
    executor: Literal["local", "ray"] = "local"
    resume: bool = True
    episode_timeout: float | None = None
    stop_after_failures: int | None = 20
    ray_address: str | None = None
    ray_cpus: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "concurrency", "samples_per_task"):
            self._expect(name, _is_count(getattr(self, name)), "a whole number of at least 1")
        for name in ("max_errors", "stop_after_failures"):
            value = getattr(self, name)
            self._expect(name, value is None or _is_count(value), "None or a whole number of at least 1")
        for name in ("require_success", "save_intermediate", "resume"):
            self._expect(name, isinstance(getattr(self, name), bool), "True or False")
        self._expect("executor", self.executor in ("local", "ray"), "'local' or 'ray'")
        timeout = self.episode_timeout
        self._expect("episode_timeout", timeout is None or _is_positive(timeout), "None or seconds above 0")
        self._expect("ray_address", isinstance(self.ray_address, str | None), "None or an address")
        self._expect("ray_cpus", _is_positive(self.ray_cpus), "a number above 0")
        if self.output_path is not None:
            self._expect("output_path", isinstance(self.output_path, str | Path), "a path")
            self.output_path = Path(self.output_path)

    def _expect(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise ConfigError(f"CollectorConfig: {name}={getattr(self, name)!r}: expected {expected}")


class TrajectoryCollector:
    """Runs an agent on tasks and records its trajectories.

    Args:
        agent: A callable `(task, history) -> decision`, or an object with `act`, `run_step` or `act_batch`, or the
            class of one, made anew for each episode (see `trajectories.protocols` for what a decision is).
        config: Defaults to `CollectorConfig()`.
        environment: An object with `reset(task)` and `step(action, action_input)`, or a callable without arguments
            that makes one; None when the agent runs its own tools and tells the observations itself.
        on_episode: Called with each finished episode, after it was written.

    Raises:
        TypeError: when the agent or the environment is none of these.
        ConfigError: when several episodes at once are asked for, but there is one environment or one agent with state.

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
        self._cast = Cast.of(agent, environment)
        self._in_batches = batch_decider(agent) is not None and self._cast.own_environments
        self._on_episode = on_episode
        self._check_cast()

    def collect(self, tasks: Iterable[str | Task]) -> list[AgentTrajectory]:
        """Run the episodes of the tasks and return their trajectories in the order of the tasks, then of the samples.

        With `require_success` only the successful ones are returned. An episode that fails does not stop the others;
        it is in `failures`. With `output_path`, episodes the file holds already are returned as they are there.

        Raises:
            DataError: when the tasks are unusable, or the file does not fit them; nothing was run then.
            ConfigError: when the file exists and `resume` is off, or the executor cannot be had.
            TrajectoryError: when `stop_after_failures` is reached, or the disk is full; what was collected is in the
                file.
            KeyboardInterrupt: after Ctrl-C. Where episodes run at once, the first lets those that run come to an end
                within 10 seconds, the second does not. What is finished is in the file; the message says how to go on.
        """
        trajectories = self._run(read_tasks(tasks), self.config.samples_per_task)
        if self.config.require_success:
            return [trajectory for trajectory in trajectories if trajectory.success]
        return trajectories

    def collect_single(self, task: str | Task) -> AgentTrajectory:
        """Run one episode and return its trajectory, successful or not.

        Raises:
            DataError: when the task is unusable.
        """
        return self._run(read_tasks([task]), 1)[0]

    def _check_cast(self) -> None:
        """Refuse to play several episodes at once with what can play one."""
        config, cast = self.config, self._cast
        if config.concurrency > 1 and self._in_batches and config.executor == "local":
            raise ConfigError(
                f"CollectorConfig: concurrency={config.concurrency}: the agent decides for many episodes at once "
                f"(act_batch); set batch_size (now {config.batch_size}) instead"
            )
        if config.executor == "ray":
            why = "executor='ray'"
        elif config.concurrency > 1:
            why = f"concurrency={config.concurrency}"
        elif config.episode_timeout is not None:  # an episode that is left behind still has its agent and environment
            why = f"episode_timeout={config.episode_timeout:g}"
        else:
            return
        if not cast.own_environments:
            raise ConfigError(
                f"CollectorConfig: {why} needs an environment for each episode; give the environment's class, or a "
                "function that makes one, instead of one environment"
            )
        if not cast.own_agents:
            raise ConfigError(
                f"CollectorConfig: {why} needs an agent for each episode, since this one keeps state (it has reset); "
                "give its class, or functools.partial(class, ...), instead of one agent"
            )

    def _run(self, tasks: list[dict[str, Any]], samples: int) -> list[AgentTrajectory]:
        attempts = _attempts(tasks, samples)
        done, state = self._finished_before(attempts)
        todo = [task for key, task in attempts.items() if key not in done]
        self.failures = []
        stop, streak = Stop(), _Streak(self.config.stop_after_failures)
        try:
            if todo:
                self._collect(todo, done, state, stop, streak)
        except KeyboardInterrupt:
            stop.interrupted = True
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            so_far = self._so_far(len(done), len(attempts))
            raise TrajectoryError(f"{error.strerror}: make room and go on; {so_far}") from error
        so_far = self._so_far(len(done), len(attempts))
        if stop.interrupted:
            raise KeyboardInterrupt(so_far)
        if len(done) < len(attempts):
            raise TrajectoryError(f"{streak}; mend that ({so_far}), or raise stop_after_failures")
        _report(done.values())
        return [done[key] for key in attempts]

    def _collect(
        self,
        todo: list[dict[str, Any]],
        done: dict[EpisodeKey, AgentTrajectory],
        state: object,
        stop: Stop,
        streak: _Streak,
    ) -> None:
        """Run what is to do; each trajectory is written, then noted in `done`."""
        path = self.config.output_path
        with (
            self._as_it_was(path, state) if path is not None else nullcontext(),
            JsonlAppender(path) if path is not None else nullcontext() as out,
            stop.on_interrupt() if self._at_once else nullcontext(),
            closing(self._trajectories(todo, stop)) as trajectories,
        ):
            for whole in trajectories:
                trajectory = self._as_recorded(whole)
                if out is not None:
                    out.append(trajectory.to_dict())
                done[episode_key(trajectory.task_id, trajectory.metadata, "episode")] = trajectory
                self._note_failure(trajectory)
                if self._on_episode is not None:
                    self._on_episode(trajectory)
                if streak.reached(whole):
                    stop.ask()

    @contextmanager
    def _as_it_was(self, path: Path, state: object) -> Iterator[None]:
        """Keep others away from the file, which none has written to since it was searched for finished episodes."""
        with sole_writer(path):
            if file_state(path) != state:
                raise DataError(f"{path}: another collection wrote to it just now; collect into it again to go on")
            yield

    def _trajectories(self, todo: list[dict[str, Any]], stop: Stop) -> Generator[AgentTrajectory]:
        """Have the executor play the episodes."""
        config = self.config
        episodes = (Episode(task, config.max_steps, config.max_errors) for task in todo)
        timeout = config.episode_timeout
        if config.executor == "ray":
            from sage.libs.finetune.agent.trajectories.execution.ray_cluster import on_cluster

            address, cpus = config.ray_address, config.ray_cpus
            return on_cluster(
                episodes, self._cast, stop, width=config.concurrency, timeout=timeout, address=address, cpus=cpus
            )
        if self._at_once:
            return in_threads(episodes, self._cast, stop, width=config.concurrency, timeout=timeout)
        width = config.batch_size if self._in_batches else 1
        return in_turns(episodes, self._cast, stop, width=width, timeout=timeout)

    @property
    def _at_once(self) -> bool:
        """Whether the caller's thread only waits and writes, so that an interrupt can let running episodes end."""
        if self.config.executor == "ray":
            return True
        return not self._in_batches and (self.config.concurrency > 1 or self.config.episode_timeout is not None)

    def _finished_before(
        self, attempts: dict[EpisodeKey, dict[str, Any]]
    ) -> tuple[dict[EpisodeKey, AgentTrajectory], object]:
        """The episodes that the output file holds, without the lines of those that broke off; and its state then."""
        path = self.config.output_path
        if path is None or not path.is_file() or path.stat().st_size == 0:
            return {}, None
        if not self.config.resume:
            raise ConfigError(f"{path} exists already; set resume to go on with it, or give another output_path")
        with sole_writer(path):
            found = find_episodes(path, {key: task["instruction"] for key, task in attempts.items()})
            if found.broken:
                drop_lines(path, found.broken)
            state = file_state(path)
        if found.finished:
            logger.warning(
                "%s: %d of %d episodes are there already and are not run again",
                path,
                len(found.finished),
                len(attempts),
            )
        return found.finished, state

    def _as_recorded(self, trajectory: AgentTrajectory) -> AgentTrajectory:
        """What is kept of it; see `save_intermediate`."""
        if self.config.save_intermediate:
            return trajectory
        steps = [] if trajectory.error is not None else [replace(step, observation="") for step in trajectory.steps]
        return replace(trajectory, steps=steps)

    def _so_far(self, done: int, total: int) -> str:
        path = self.config.output_path
        if path is None:
            return f"{done} of {total} episodes were finished; they are lost, set output_path to keep them"
        return f"{done} of {total} episodes are in {path}; collect the same tasks into it again to go on"

    def _note_failure(self, trajectory: AgentTrajectory) -> None:
        if trajectory.error is None:
            return
        if not self.failures:
            logger.warning(
                "task '%s' broke off: %s; the other tasks go on. Mend what raised it and run the tasks of "
                "collector.failures again (debug logging shows the traceback)",
                trajectory.task_id,
                trajectory.error,
            )
        self.failures.append(trajectory)


class _Streak:
    """Counts episodes in a row that broke off at their first step for the same kind of error."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._count = 0
        self._last: AgentTrajectory | None = None

    def reached(self, trajectory: AgentTrajectory) -> bool:
        """Take one more episode; whether the limit is reached, after which nothing counts any more."""
        if self._count == self._limit:
            return True
        if trajectory.error is None or trajectory.steps:
            self._count, self._last = 0, None
            return False
        same = self._last is not None and error_kind(self._last.error or "") == error_kind(trajectory.error)
        self._count, self._last = (self._count + 1 if same else 1), trajectory
        return self._count == self._limit

    def __str__(self) -> str:
        last = self._last
        return (
            f"stopped, since {self._limit} episodes in a row broke off at their first step; "
            f"task '{last.task_id if last else ''}': {last.error if last else ''}"
        )


def _attempts(tasks: list[dict[str, Any]], samples: int) -> dict[EpisodeKey, dict[str, Any]]:
    """The episodes to run, each with its task; several of a task are told apart by `metadata["sample"]`."""
    attempts: dict[EpisodeKey, dict[str, Any]] = {}
    for task in tasks:
        where, metadata = f"task '{task['task_id']}'", task.get("metadata", {})
        if samples > 1 and "sample" in metadata:
            raise DataError(f"{where}: field 'metadata.sample' is given, and samples_per_task={samples} would set it")
        numbered = [{**task, "metadata": {**metadata, "sample": n}} for n in range(samples)] if samples > 1 else [task]
        for attempt in numbered:
            attempts[episode_key(attempt["task_id"], attempt.get("metadata", {}), where)] = attempt
    return attempts


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


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
