"""The episodes in a file of any form that can be imported, for the commands that work on whole episodes.

Also what all commands that turn one file into another ask of their paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import DataError

if TYPE_CHECKING:
    from sage.libs.finetune.agent.types import AgentTrajectory

OWN = "trajectory"
"""What `--from` calls our own trajectory files."""


def output_faults(input: Path, output: Path) -> list[str]:
    """Why a command must not write there: over its input, or among the files it would read the next time.

    Example:
        >>> output_faults(Path("rows.jsonl"), Path("x/../rows.jsonl"))
        ["'output' is the input file; give another name"]
    """
    read, written = input.resolve(), output.resolve()
    if read == written:
        return ["'output' is the input file; give another name"]
    if read in written.parents:
        return ["'output' lies in the input folder and would be read the next time; give another folder"]
    return []


def read_episodes(path: str | Path, source: str = "auto") -> tuple[list[AgentTrajectory], dict[str, int]]:
    """Read every episode of a file, and what its rows say that a trajectory has no place for.

    Our own trajectories are taken as they are, those without steps too, which have no form as a conversation; all
    others are imported and turned into trajectories.

    Args:
        path: A file or folder, as `sources.files.read_rows` takes it.
        source: The form of the rows, auto to look at them.

    Returns:
        The episodes; and by field (`messages.weight`), in how many rows it was lost (see `exchange.lost_fields`).

    Raises:
        DataError: for a file without rows, and for the first row that cannot be read, naming file and line.
        ConfigError: for an unknown form.
    """
    from sage.libs.finetune.agent.chatml import from_chatml
    from sage.libs.finetune.agent.exchange import lost_fields
    from sage.libs.finetune.agent.sources.files import read_rows
    from sage.libs.finetune.agent.sources.stream import import_located
    from sage.libs.finetune.agent.types import AgentTrajectory

    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: holds no rows; expected one episode (a JSON object) a line")
    rows = chain([first], rows)
    if source == OWN or (source == "auto" and _is_own(first[1])):
        return [AgentTrajectory.from_dict(row, where) for where, row in _whole(rows)], {}
    episodes = []
    lost: Counter[str] = Counter()
    for imported in import_located(rows, str(path), source):
        if imported.sample is None:
            raise imported.error or DataError(f"{imported.where}: cannot be read")
        episode = from_chatml(imported.sample, imported.where)
        lost.update(lost_fields(imported.sample, episode.to_dict(), OWN, imported.where))
        episodes.append(episode)
    return episodes, dict(lost)


def loss_note(lost: dict[str, int]) -> list[str]:
    """What `read_episodes` says was lost, as a line for the user; none where nothing was."""
    most_first = sorted(lost.items(), key=lambda item: -item[1])
    fields = ", ".join(f"{name} ({rows} row{'s' * (rows > 1)})" for name, rows in most_first)
    return [f"trajectories have no place for {fields}; it was left out or put elsewhere"] if lost else []


def _is_own(row: Any) -> bool:
    return isinstance(row, dict) and "steps" in row and "instruction" in row


def _whole(rows: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, row in rows:
        if isinstance(row, DataError):
            raise row
        yield where, row
