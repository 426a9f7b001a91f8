"""Whatever names a test set, as items: rows, a file, a registered data set, the built-in sets, BFCL's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.evaluation.items import read_located
from sage.libs.finetune.agent.evaluation.score import Capability, Item
from sage.libs.finetune.agent.sources.files import read_rows
from sage.libs.finetune.agent.sources.resolve import known_data
from sage.libs.finetune.agent.sources.stream import import_located

BUILTIN, BFCL = "builtin", "bfcl"
BUILTIN_ITEMS = 64
"""Items of a built-in set whose number is not given."""
_CONVERSATIONS = ("conversations", "conversation")


@dataclass(frozen=True)
class ItemSet:
    """The items of a test set.

    Attributes:
        items: What is asked.
        source: Where they are from, in words.
        label: What a score on them must not be mistaken for, None for nothing.
    """

    items: list[Item]
    source: str
    label: str | None = None


def items_of(capability: Capability, data: Any) -> ItemSet:
    """The items that `data` stands for.

    Args:
        capability: What they test.
        data: Rows (see `evaluation.items`); a file or folder of rows; `name:split` of a registered data set;
            `builtin` or `builtin:N`; `bfcl:CATEGORY`.

    Raises:
        DataError: for data that cannot be read, naming file, line and field.
        ConfigError: for a name that stands for nothing.

    Example:
        >>> from sage.libs.finetune.agent.evaluation.score import Score
        >>> sums = Capability("sums", lambda *_: Score(1.0, None, ""), lambda row, where: row["answer"], lambda _: {})
        >>> items_of(sums, [{"question": "2 + 2?", "answer": 4}]).source
        '1 row'
    """
    if isinstance(data, str | Path):
        text = str(data)
        name, _, rest = text.partition(":")
        is_there = _exists(text)
        if not is_there and name in (BUILTIN, BFCL):
            return _builtin(capability, text, rest) if name == BUILTIN else _bfcl(capability, text, rest)
        rows = known_data()[name](rest) if rest and not is_there else read_rows(text)
        return ItemSet(read_located(capability, _canonical(rows, text), text), text)
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise ConfigError(
            f"test set of {capability.name}: expected rows, a file, 'name:split', '{BUILTIN}' or '{BUILTIN}:N', found "
            f"{type(data).__name__}"
        )
    name = f"test set of {capability.name}"
    located = ((f"{name}, row {number}", row) for number, row in enumerate(data, start=1))
    items = read_located(capability, _canonical(located, name), name)
    return ItemSet(items, f"{len(items)} row{'s' * (len(items) != 1)}")


def builtin_number(text: str) -> int:
    """How many items `builtin` or `builtin:N` asks for.

    Raises:
        ConfigError: when N is no number from 1 up.

    Example:
        >>> builtin_number("builtin:8"), builtin_number("builtin")
        (8, 64)
    """
    _, colon, rest = text.partition(":")
    if not colon:
        return BUILTIN_ITEMS
    if not rest.isdecimal() or int(rest) < 1:
        raise ConfigError(f"test set '{text}': expected {BUILTIN}:N with a whole number N of at least 1")
    return int(rest)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        raise ConfigError(f"test set {text!r:.60}: is no file name; expected rows, a file or 'name:split'") from None


def _builtin(capability: Capability, text: str, rest: str) -> ItemSet:
    from sage.libs.finetune.agent.capabilities.test_sets import test_set

    return ItemSet(test_set(capability.name, builtin_number(text)), text)


def _bfcl(capability: Capability, text: str, category: str) -> ItemSet:
    from sage.libs.finetune.agent.capabilities.bfcl import BFCL_LABEL, bfcl_items

    if capability.name != "tool_use":
        raise ConfigError(f"test set '{text}': BFCL tests tool_use, not {capability.name}")
    return ItemSet(bfcl_items(category), text, BFCL_LABEL)


def _canonical(rows: Iterable[tuple[str, Any]], name: str) -> Iterator[tuple[str, Any]]:
    """The rows, those of another data set's form as chat rows; the first that could not be read ends it."""
    located = list(rows)
    foreign = import_located([(where, row) for where, row in located if _is_foreign(row)], name)
    for where, row in located:
        if isinstance(row, DataError):
            raise row
        if not _is_foreign(row):
            yield where, row
            continue
        read = next(foreign)
        if read.sample is None:
            raise read.error or DataError(f"{where}: was not read")
        yield where, {**({"id": row["id"]} if "id" in row else {}), **read.sample}


def _is_foreign(row: Any) -> bool:
    """A conversation that is no chat row: ShareGPT's, or Alpaca's instruction and output."""
    if not isinstance(row, Mapping) or any(row.get(name) is not None for name in ("gold", "messages")):
        return False
    return any(name in row for name in _CONVERSATIONS) or ("instruction" in row and "output" in row)
