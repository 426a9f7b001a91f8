"""What a data reference means: a JSONL file, or `name:split` of a data set known here.

Data sets are known by entry points in the group `sage.finetune.data` (a callable `split -> rows`; `agent_sft`, the
embedded one, comes in by the same door), and by a YAML file named in `SAGE_DATA` or called `sage-data.yaml` in the
working directory:

    my_traces:
      train: traces/train.jsonl      # relative to the YAML file
      test: traces/test.jsonl
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.config import read_yaml
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.jsonl import read_jsonl
from sage.libs.finetune.agent.registry import Registry
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.types import Sample

GROUP = "sage.finetune.data"
Split = Callable[[str], Iterable[tuple[str, Mapping[str, Any]]]]
"""The rows of a split by its name, each with where it stands (file and line, or row)."""


def load_samples(reference: str | Path) -> list[Sample]:
    """All rows of a reference, checked and in canonical form.

    Args:
        reference: Path of a JSONL file with `messages` (and `tools`), or `name:split`.

    Raises:
        DataError: naming file, line and field; or the known names when the reference is none of them.
    """
    return [sample for _, sample in located_samples(reference)]


def located_samples(reference: str | Path) -> list[tuple[str, Sample]]:
    """`load_samples`, each with where it stands (`file:line`), for errors that come later."""
    text = str(reference)
    name, _, split = text.partition(":")
    rows = known_data()[name](split) if split and not Path(text).exists() else _file_rows(text)
    samples = [(where, read_sample(row, where)) for where, row in rows]
    if not samples:
        raise DataError(f"{text}: holds no rows; expected one conversation (a JSON object with 'messages') a line")
    return samples


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


def _file_rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((f"{path}:{line}", row) for line, row in read_jsonl(path))


def _from_entry_point(point: EntryPoint) -> Split:
    def rows(split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, row in enumerate(point.load()(split), start=1):
            yield f"{point.name}:{split}, row {number}", row

    return rows


def _from_yaml(name: str, splits: object, path: Path) -> Split:
    if not isinstance(splits, dict) or not all(isinstance(file, str) for file in splits.values()):
        raise DataError(f"{path}: '{name}': expected a mapping of split to JSONL file")

    def rows(split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if split not in splits:
            raise DataError(f"{path}: '{name}' has no split '{split}'; it has {', '.join(map(str, splits))}")
        return _file_rows(path.parent / splits[split])

    return rows
