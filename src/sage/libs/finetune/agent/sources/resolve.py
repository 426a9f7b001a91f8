"""What a data reference means: a file (or folder) of rows in any known form, or `name:split` of a data set known here.

Data sets are known by entry points in the group `sage.finetune.data` (a callable `split -> rows`; `agent_sft`, the
embedded one, comes in by the same door), and by a YAML file named in `SAGE_DATA` or called `sage-data.yaml` in the
working directory:

    my_traces:
      train: traces/train.jsonl      # relative to the YAML file
      test: traces/test.jsonl
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.config import read_yaml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.registry import Registry
from sage.libs.finetune.agent.sources.files import read_rows
from sage.libs.finetune.agent.sources.stream import AUTO, Imported, import_located
from sage.libs.finetune.agent.types import Sample, ToolSpec

GROUP = "sage.finetune.data"
Split = Callable[[str], Iterable[tuple[str, Any]]]
"""The rows of a split by its name, each with where it stands (file and line, or row); a DataError for a broken one."""


def load_samples(reference: str | Path) -> list[Sample]:
    """All rows of a reference, checked and in canonical form.

    Args:
        reference: Path of a file or folder with rows in any form of `importers.known`, or `name:split`.

    Raises:
        DataError: naming file, line and field of the first bad row; or the known names when the reference is none of
            them.
    """
    return [sample for _, sample in located_samples(reference)]


def located_samples(reference: str | Path, source: str = AUTO) -> list[tuple[str, Sample]]:
    """`load_samples`, each with where it stands (`file:line`), for errors that come later."""
    samples = []
    for row in imported(reference, source):
        if row.sample is None:
            raise row.error or DataError(f"{row.where}: was not read")
        samples.append((row.where, row.sample))
    return samples


def imported(reference: str | Path, source: str = AUTO, tools: Sequence[ToolSpec] | None = None) -> Iterator[Imported]:
    """The rows of a reference of either kind, one at a time, the bad ones too (see `stream.import_rows`).

    Args:
        reference: As for `load_samples`.
        source: Name of an importer, or `auto`: by looking at the first rows.
        tools: Tool schemas for rows that have none.

    Raises:
        DataError: when there is no such data, no row in it, or its form cannot be told.
        ConfigError: for an unknown name or `source`.
    """
    text = str(reference)
    name, _, split = text.partition(":")
    rows = known_data()[name](split) if split and not Path(text).exists() else read_rows(text)
    found = False
    for row in import_located(rows, text, source, tools):
        found = True
        yield row
    if not found:
        raise DataError(f"{text}: holds no rows; expected one conversation (a JSON object with 'messages') a line")


def known_data() -> Registry[Split]:
    """The data sets that can be named as `name:split`."""
    known = Registry[Split]("data set")
    for point in entry_points(group=GROUP):
        known.add(point.name, _from_entry_point(point))
    chosen = os.environ.get("SAGE_DATA")
    path = Path(chosen or "sage-data.yaml")
    if chosen or path.exists():
        for name, splits in read_yaml(path).items():
            known.add(name, _from_yaml(name, splits, path))
    return known


def _from_entry_point(point: EntryPoint) -> Split:
    def rows(split: str) -> Iterator[tuple[str, Any]]:
        for number, row in enumerate(point.load()(split), start=1):
            yield f"{point.name}:{split}, row {number}", row

    return rows


def _from_yaml(name: str, splits: object, path: Path) -> Split:
    if not isinstance(splits, dict) or not all(isinstance(file, str) for file in splits.values()):
        raise DataError(f"{path}: '{name}': expected a mapping of split to file")

    def rows(split: str) -> Iterator[tuple[str, Any]]:
        if split not in splits:
            raise DataError(f"{path}: '{name}' has no split '{split}'; it has {', '.join(map(str, splits))}")
        return read_rows(path.parent / splits[split])

    return rows
