"""A file of rows in any known form -> samples in canonical form, one at a time.

The form is given by name, or found by looking at the first rows: every importer that recognises all of them is a
candidate and the most specific one is taken for the whole file. Rows that differ from the rest are then errors in
their place rather than conversations read as something they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.files import read_rows
from sage.libs.finetune.agent.sources.importers.alpaca import ALPACA
from sage.libs.finetune.agent.sources.importers.base import Importer, read_tools
from sage.libs.finetune.agent.sources.importers.chat import CHAT
from sage.libs.finetune.agent.sources.importers.known import IMPORTERS, ORDER
from sage.libs.finetune.agent.sources.importers.react import REACT, name_inputs
from sage.libs.finetune.agent.sources.importers.sharegpt import SHAREGPT
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.types import Sample, ToolSpec, check_tools

AUTO = "auto"
_LOOKED_AT = 64
"""Rows that the form is found by."""
_CANONICAL = {"messages", "tools", "metadata"}
_PLAIN = (ALPACA, CHAT, SHAREGPT)
_HELD = 1000
"""Rows held in memory for it at most, those that cannot be read included."""


@dataclass(frozen=True)
class Imported:
    """One row that was read, or why it was not: exactly one of `sample` and `error` is set.

    Attributes:
        where: `file:line`, or the row of a registered data set.
        sample: The conversation in canonical form.
        error: What is wrong with the row; its text begins with `where`.
        source: Name of the importer; empty when no row could be read, so that none was found.
    """

    where: str
    sample: Sample | None
    error: DataError | None
    source: str


def import_rows(path: str | Path, source: str = AUTO, tools: Sequence[ToolSpec] | None = None) -> Iterator[Imported]:
    """The rows of a file or folder as samples; a bad row does not stop the rest.

    Args:
        path: What `files.read_rows` reads.
        source: Name of an importer (`importers.known.IMPORTERS`), or `auto`.
        tools: Tool schemas for rows that have none, or only such as were inferred from their calls
            (`metadata["tools_inferred"]`).

    Raises:
        DataError: when the file cannot be read, `tools` are none, or, with `auto`, the rows are of no known form or
            of several.
        ConfigError: for an unknown `source`, listing the known ones.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> _ = path.write_text('{"instruction": "Say hi", "input": "", "output": "Hi"}')
        >>> row = next(import_rows(path))
        >>> row.source, row.sample["messages"][1]
        ('alpaca', {'role': 'assistant', 'content': 'Hi'})
    """
    return import_located(read_rows(path), str(path), source, tools)


def import_located(
    rows: Iterable[tuple[str, Any]], name: str, source: str = AUTO, tools: Sequence[ToolSpec] | None = None
) -> Iterator[Imported]:
    """`import_rows` for rows that are there already, each `(where, row or DataError)`; `name` is for the errors."""
    if tools:
        tools = read_tools(list(tools), "tools")
        check_tools(tools, "tools")
    importer = None if source == AUTO else IMPORTERS[source]
    return _imported(iter(rows), name, importer, tools or ())


def _imported(
    rows: Iterator[tuple[str, Any]], name: str, importer: Importer | None, tools: Sequence[ToolSpec]
) -> Iterator[Imported]:
    found = importer is None
    if importer is None:
        held = _first(rows)
        importer = _form(held, name)
        rows = chain(held, rows)
    for where, row in rows:
        if importer is None or isinstance(row, DataError):
            fault = row if isinstance(row, DataError) else DataError(f"{where}: {_no_object(row)}")
            yield Imported(where, None, fault, importer.name if importer else "")
            continue
        try:
            if found:
                _refuse_acting(importer, row, where)
            yield Imported(where, _sample(importer, row, where, tools), None, importer.name)
        except DataError as error:
            yield Imported(where, None, one_line(error), importer.name)


def one_line(error: DataError) -> DataError:
    r"""The error as text that a terminal can show: what a message quotes of a row may hold line ends and worse.

    Example:
        >>> print(one_line(DataError("a.jsonl:1: unknown field 'a\nb'")))
        a.jsonl:1: unknown field 'a\nb'
    """
    text = str(error)
    if text.isprintable():
        return error
    return DataError("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def _refuse_acting(importer: Importer, row: object, where: str) -> None:
    """A row of ReAct text among rows of plain text, which would train its calls and observations as words."""
    if importer in _PLAIN and isinstance(row, Mapping) and row.keys() != _CANONICAL and REACT.matches(row):
        raise DataError(
            f"{where}: the row looks like react, others like {importer.name}; put rows of one form in a file, or give "
            "--from NAME"
        )


def _sample(importer: Importer, row: Any, where: str, tools: Sequence[ToolSpec]) -> Sample:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: {_no_object(row)}")
    try:
        sample = read_sample(importer.read(row, where), where)
    except RecursionError:
        raise DataError(f"{where}: nested too deeply to be read") from None
    metadata = sample.get("metadata") or {}
    for name in ("images", "videos", "audios"):
        if metadata.get(name) and any(f"<{name[:-1]}>" in message["content"] for message in sample["messages"]):
            raise DataError(f"{where}: {name}: the text shows one with <{name[:-1]}>; only text can be trained on here")
    if tools and (not sample["tools"] or metadata.get("tools_inferred")):
        if sample["tools"]:  # the calls of a text have no parameter names of their own
            name_inputs(sample["messages"], tools)
        sample["tools"] = list(tools)
        sample["metadata"] = {key: value for key, value in metadata.items() if key != "tools_inferred"}
    return sample


def _no_object(row: Any) -> str:
    return f"expected an object with 'messages', found {type(row).__name__}"


def _first(rows: Iterator[tuple[str, Any]]) -> list[tuple[str, Any]]:
    held: list[tuple[str, Any]] = []
    readable = 0
    while readable < _LOOKED_AT and len(held) < _HELD and (row := next(rows, None)):
        held.append(row)
        readable += isinstance(row[1], Mapping)
    return held


def _found(row: Mapping[str, Any]) -> list[Importer]:
    """The importers that recognise the row.

    A canonical row, as `convert` writes it, is read as it stands, since its text may look like another form's.
    """
    if row.keys() == _CANONICAL and CHAT.matches(row):
        return [CHAT]
    return [importer for importer in ORDER if importer.matches(row)]


def _form(held: Sequence[tuple[str, Any]], name: str) -> Importer | None:
    """The importer for rows that begin so; None when none of them could be read at all.

    Raises:
        DataError: when they are of no known form, or not all of one.
    """
    rows = [(where, row) for where, row in held if isinstance(row, Mapping)]
    if not rows:
        if len(held) == _HELD:
            raise DataError(f"{name}: none of the first {_HELD} rows is a JSON object; the first: {held[0][1]}")
        return None
    plain = [(where, row, _found(row)) for where, row in rows]
    votes = [vote for vote in plain if vote[2]]  # a row of no form at all is an error in its place later
    if not votes:
        where, row, _ = plain[0]
        if isinstance(row.get("messages"), list):
            CHAT.read(row, where)  # says which message is none
        forms = "; ".join(f"{importer.name}: {importer.needs}" for importer in ORDER)
        found = ", ".join(map(str, row))[:200] or "nothing"
        raise one_line(DataError(f"{where}: a row of no known form (it has {found}); known are {forms}"))
    for importer in ORDER:
        if any(importer in found for _, _, found in votes) and all(
            importer in found or importer.accepts(row) for _, row, found in votes
        ):
            return importer
    pairs = list(combinations(votes, 2))
    apart = [pair for pair in pairs if not any(importer in pair[1][2] for importer in pair[0][2])]
    differ = [pair for pair in pairs if pair[0][2] != pair[1][2]]
    (first, _, ours), (other, _, theirs) = (apart or differ)[0]
    raise DataError(
        f"{first}: the row looks like {ours[0].name}, {other} like {theirs[0].name}; "
        "put rows of one form in a file, or give --from NAME"
    )
