"""Trajectories as a file: JSON Lines, one trajectory a line, the fields of `AgentTrajectory`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.jsonl import read_jsonl, write_jsonl
from sage.libs.finetune.agent.types import AgentTrajectory


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
