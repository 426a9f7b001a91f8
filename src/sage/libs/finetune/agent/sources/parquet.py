"""Rows out of a Parquet file, batch by batch, as plain JSON values. Needs pyarrow (the extra `parquet`).

A column of Arrow structs has one set of fields for all rows, so a row that lacks a field has null for it. Rows that
went through Arrow therefore show every call with the arguments of all other tools, as nulls
(https://github.com/huggingface/datasets/issues/7617). Nulls of fields are left out here, at every depth: a field that
was truly null is lost with them, and a format that can tell the two apart is JSON Lines.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.sources.strict import DEEPEST

_ROWS = 64
"""Rows turned into Python objects at once."""


def read_parquet(path: str) -> Iterator[tuple[str, Any]]:
    """The rows, each with `file:row n` (from 1), or a DataError in the place of one that JSON has no form for.

    Raises:
        DataError: when the file is damaged.
        ConfigError: when pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            f"{path}: reading Parquet needs pyarrow, which is missing; run pip install 'sage-libs[parquet]'"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            # Ten times slower, so only where there are maps, which are lists of pairs otherwise.
            maps: Any = {"maps_as_pydicts": "strict"} if "map<" in str(file.schema_arrow) else {}
            for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                for row in batch.to_pylist(**maps):
                    number += 1
                    where = f"{path}:row {number}"
                    yield where, _row(row, where)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        fault = DataError(f"{path}:row {number + 1}: the Parquet file is damaged ({' '.join(str(error).split()):.200})")
        if not number:
            raise fault from None
        yield f"{path}:row {number + 1}", fault


def _row(row: dict[str, Any], where: str) -> dict[str, Any] | DataError:
    try:
        return {name: _plain(value, name, 1) for name, value in row.items() if value is not None}
    except ValueError as error:
        return DataError(f"{where}: {error}")


def _plain(value: Any, field: str, depth: int) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{field}: {value} is not a JSON number")
        return value
    if depth > DEEPEST:
        raise ValueError(f"{field}: nested deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        return {name: _plain(item, f"{field}.{name}", depth + 1) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item, field, depth + 1) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise ValueError(f"{field}: expected text, numbers, lists or objects, found {type(value).__name__}")
