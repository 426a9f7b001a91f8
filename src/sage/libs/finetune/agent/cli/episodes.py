"""The episodes in a file of any form that can be imported, for the commands that work on whole episodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import DataError

if TYPE_CHECKING:
    from sage.libs.finetune.agent.types import AgentTrajectory

OWN = "trajectory"
"""What `--from` calls our own trajectory files."""


def read_episodes(path: str | Path, source: str = "auto") -> list[AgentTrajectory]:
    """Read every episode of a file.

    Our own trajectories are taken as they are, those without steps too, which have no form as a conversation; all
    others are imported and turned into trajectories.

    Args:
        path: A file or folder, as `sources.files.read_rows` takes it.
        source: The form of the rows, auto to look at them.

    Raises:
        DataError: for the first row that cannot be read, naming file and line.
        ConfigError: for an unknown form.
    """
    from sage.libs.finetune.agent.chatml import from_chatml
    from sage.libs.finetune.agent.sources.files import read_rows
    from sage.libs.finetune.agent.sources.stream import import_located
    from sage.libs.finetune.agent.types import AgentTrajectory

    rows = read_rows(path)
    if source in ("auto", OWN):
        first = next(rows)
        rows = chain([first], rows)
        if source == OWN or _is_own(first[1]):
            return [AgentTrajectory.from_dict(row, where) for where, row in _whole(rows)]
    episodes = []
    for imported in import_located(rows, str(path), source):
        if imported.sample is None:
            raise imported.error or DataError(f"{imported.where}: cannot be read")
        episodes.append(from_chatml(imported.sample, imported.where))
    return episodes


def _is_own(row: Any) -> bool:
    return isinstance(row, dict) and "steps" in row and "instruction" in row


def _whole(rows: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, row in rows:
        if isinstance(row, DataError):
            raise row
        yield where, row
