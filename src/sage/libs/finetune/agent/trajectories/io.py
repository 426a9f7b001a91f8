"""Trajectories as a file: JSON Lines, one trajectory a line, the fields of `AgentTrajectory`.

A file that a collection grows holds each episode once. An episode is known by its task and its sample: `task_id`, and
`metadata["sample"]` (0 where there is none).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.jsonl import JsonlAppender, read_jsonl, write_jsonl
from sage.libs.finetune.agent.types import AgentTrajectory

EpisodeKey = tuple[str, int]
"""`(task_id, sample)`."""


def load_trajectories(path: str | Path) -> list[AgentTrajectory]:
    """Read the trajectories of a JSONL file.

    Raises:
        DataError: when the file cannot be opened, holds no trajectory, or has a line that is none; the message names
            file, line and field.
    """
    trajectories = [AgentTrajectory.from_dict(row, where=f"{path}:{line}") for line, row in read_jsonl(path)]
    if not trajectories:
        raise DataError(f"{path}: the file is empty; expected one trajectory (a JSON object) a line")
    return trajectories


def save_trajectories(path: str | Path, trajectories: Iterable[AgentTrajectory]) -> None:
    """Write trajectories as JSONL, atomically; `load_trajectories` is the inverse.

    Raises:
        DataError: naming the line, for a trajectory that JSON has no form for.
    """
    write_jsonl(path, (trajectory.to_dict() for trajectory in trajectories))


def episode_key(task_id: str, metadata: Mapping[str, Any], where: str) -> EpisodeKey:
    """What tells an episode from every other one.

    Raises:
        DataError: naming `where`, when `metadata["sample"]` is no whole number from 0 on.
    """
    sample = metadata.get("sample", 0)
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
        raise DataError(f"{where}: field 'metadata.sample': expected a whole number from 0 on, found {sample!r:.80}")
    return task_id, sample


@dataclass
class FoundEpisodes:
    """What a collection finds in the file it is to go on with.

    Attributes:
        finished: The wanted episodes that ran to their end.
        broken: The lines of wanted episodes that broke off.
    """

    finished: dict[EpisodeKey, AgentTrajectory] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keep other collections away from a file while the block runs; it is made if need be. A kill sets it free.

    Raises:
        DataError: when another process or collector is writing to it, or it cannot be written to.
    """
    handle = _opened(path)
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nobody is kept away
        handle.close()
        yield
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = os.fstat(handle.fileno()).st_ino != path.stat().st_ino  # replaced while we waited
        except (BlockingIOError, FileNotFoundError):
            taken = True
        if taken:
            raise DataError(f"{path}: another collection is writing to it; let that end, or give another output")
        yield


def file_state(path: Path) -> tuple[int, int] | None:
    """What changes when somebody writes to the file; None while it is empty or not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_size) if found.st_size else None


def _opened(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give a file that can be") from error


def find_episodes(path: Path, wanted: Mapping[EpisodeKey, str]) -> FoundEpisodes:
    """Look for the wanted episodes in a file, a line at a time; a half-written last line is cut off first.

    Args:
        path: The file; none is as good as an empty one.
        wanted: The instruction of each episode.

    Raises:
        DataError: naming file and line, when a line is no trajectory, an episode is there twice, or a task has
            another instruction than in `wanted`.
    """
    found = FoundEpisodes()
    if not path.exists():
        return found
    JsonlAppender(path).close()
    lines: dict[EpisodeKey, int] = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        trajectory = AgentTrajectory.from_dict(row, where)
        key = episode_key(trajectory.task_id, trajectory.metadata, where)
        if key in lines:
            raise DataError(
                f"{where}: task '{key[0]}', sample {key[1]} stands in line {lines[key]} already; remove one of the two"
            )
        lines[key] = line
        if key not in wanted:
            continue
        if trajectory.instruction != wanted[key]:
            raise DataError(
                f"{where}: task '{key[0]}' is another one here ({trajectory.instruction!r:.60}, not "
                f"{wanted[key]!r:.60}); give the tasks ids of their own, or another output"
            )
        if trajectory.error is not None:
            found.broken.add(line)
        else:
            found.finished[key] = trajectory
    return found


def drop_lines(path: Path, numbers: set[int]) -> None:
    """Take lines out of a JSONL file, atomically."""
    write_jsonl(path, (row for number, row in read_jsonl(path) if number not in numbers))
