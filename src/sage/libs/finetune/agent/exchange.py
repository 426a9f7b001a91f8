"""From any known form of rows to any other: import, export, and the truth about what was lost on the way.

No table says what a form can hold. Each exported row is read again by the importer of its form and compared with the
sample it was made from; the fields that come back different are the losses. So the report cannot claim more than a
reader of the file would get. A row that its importer refuses is not written.

Rows are streamed: memory holds one row and the counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sage.libs.finetune.agent.conversion.export import (
    EXPORTERS,
    with_json_arguments,
    with_system_prompt,
    without_observations,
)
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.jsonl import check_output, write_jsonl
from sage.libs.finetune.agent.preflight.faults import Fault, Tally
from sage.libs.finetune.agent.sources.importers.known import IMPORTERS
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.sources.stream import AUTO, import_rows
from sage.libs.finetune.agent.types import Sample, ToolSpec

OTHERS = "others"
"""What further fields and reasons are counted under, once there are `MAX_KINDS` of them."""
MAX_KINDS = 100
_DEPTH = {"tools": 1, "metadata": 2}
"""Names below `metadata` and within schemas come from the data; deeper ones would list values, not fields."""


@dataclass
class ExchangeReport:
    """What came of a conversion.

    Attributes:
        read: Rows found in the input.
        written: Rows in the output; 0 when nothing was written.
        source: Name of the form they were read as.
        to: Name of the form they were written in.
        lost: By field (`messages.weight`), the rows that came back from the output without it or with another value.
        failed: By reason, the rows that could not be read or have no form in the output.
        output: The file; None when nothing was written.
    """

    to: str
    read: int = 0
    written: int = 0
    source: str = ""
    lost: dict[str, Tally] = field(default_factory=dict)
    failed: dict[str, Tally] = field(default_factory=dict)
    output: Path | None = None

    @property
    def failures(self) -> int:
        """Rows that could not be converted."""
        return sum(tally.rows for tally in self.failed.values())


class _Refused(Exception):
    """Ends the writing, so that the output is left as it was."""


def convert_file(
    input: str | Path,
    output: str | Path,
    source: str = AUTO,
    to: str = "chatml",
    *,
    tools: Sequence[ToolSpec] | None = None,
    include_observation: bool = True,
    system_prompt: str | None = None,
    arguments: Literal["object", "json"] = "object",
    skip_bad: bool = False,
) -> ExchangeReport:
    """Convert a file of rows to another form; the output is JSON Lines and takes its place only when it is whole.

    Args:
        input: A file or folder in any form that `sources` reads.
        output: The file to write.
        source: Name of the input's form; `auto` finds it by looking at the first rows.
        to: Name of an exporter (`conversion.export.EXPORTERS`).
        tools: Tool schemas for rows that have none of their own.
        include_observation: Without, the turns of tools, and of users after the assistant's first, stay but are empty.
        system_prompt: System message of every row instead of its own; "" leaves it out.
        arguments: For chatml, the arguments of calls as objects or, as OpenAI's servers want them, as JSON text.
        skip_bad: Write the other rows when some cannot be converted; else nothing is written then.

    Returns:
        What was written, lost and refused.

    Raises:
        ConfigError: for an unknown form, or `arguments` for another form than chatml.
        DataError: when the input cannot be read at all or holds no rows, or the output cannot be written.
    """
    exporter = EXPORTERS[to]
    if source != AUTO:
        IMPORTERS[source]  # an unknown name fails before the file is looked at
    if arguments == "json" and to != "chatml":
        raise ConfigError(f"arguments='json' is for chatml, not {to}")
    check_output(output)
    report = ExchangeReport(to)

    def written(sample: Sample, where: str) -> dict[str, Any]:
        sample = sample if include_observation else without_observations(sample)
        sample = sample if system_prompt is None else with_system_prompt(sample, system_prompt)
        row = exporter.write(sample, where)
        row = with_json_arguments(row) if arguments == "json" else row
        for path in lost_fields(sample, row, exporter.importer, where):
            _count(report.lost, path, where)
        return row

    def rows() -> Iterator[dict[str, Any]]:
        for imported in import_rows(input, source, tools):
            report.read += 1
            report.source = report.source or imported.source
            try:
                if imported.sample is None:
                    raise imported.error or DataError(f"{imported.where}: neither a sample nor an error")
                row = written(imported.sample, imported.where)
            except DataError as error:
                _count_failure(report, imported.where, str(error))
                continue
            if skip_bad or not report.failed:
                report.written += 1
                yield row
        if (report.failed and not skip_bad) or not report.written:
            raise _Refused

    try:
        write_jsonl(output, rows())
    except _Refused:
        report.written = 0
    else:
        report.output = Path(output)
    if not report.read:
        raise DataError(f"{input}: holds no rows; expected one JSON object a line, or an array of them")
    return report


def lost_fields(sample: Sample, row: Mapping[str, Any], importer: str, where: str = "row") -> list[str]:
    """The fields of a sample that come back different when `row`, made of it, is read again; paths without indices.

    What comes back in addition is no loss. Messages are compared role by role, so that a system message that has gone
    does not make all others differ.

    Raises:
        DataError: when the importer refuses the row; it must not be written then.
    """
    try:
        back = read_sample(IMPORTERS[importer].read(row, where), where)
    except DataError as error:
        why = str(error).removeprefix(where).lstrip(":, ")
        raise DataError(f"{where}: the row would not be read back as {importer}: {why}") from None
    found: dict[str, None] = {}
    for name, value in sample.items():
        if name == "messages":
            _compare_messages(sample["messages"], back["messages"], found)
        else:
            _compare(value, back.get(name), name, _DEPTH.get(name, 2), found)
    return list(found)


def _compare_messages(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], found: Any) -> None:
    roles = [[message["role"] for message in messages] for messages in (one, other)]
    for role in dict.fromkeys(roles[0]):
        default = {"weight": 1} if role == "assistant" else {}  # a turn without a weight is trained
        ours = [{**default, **message} for message in one if message["role"] == role]
        theirs = [{**default, **message} for message in other if message["role"] == role]
        if len(ours) != len(theirs):
            found[f"messages[{role}]"] = None
        for message, twin in zip(ours, theirs, strict=False):
            _compare(message, twin, "messages", 4, found)
    if roles[0] != roles[1] and sorted(roles[0]) == sorted(roles[1]):
        found["messages (their order)"] = None


def _compare(one: Any, other: Any, path: str, depth: int, found: Any) -> None:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and depth > 1:
        for name, value in one.items():
            _compare(value, other.get(name, _ABSENT), f"{path}.{name}", depth - 1, found)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and depth > 1:
        for value, twin in zip(one, other, strict=True):
            _compare(value, twin, path, depth, found)
    elif not _same(one, other):
        found[path] = None


_ABSENT = object()


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; 1 and True are two, 1 and 1.0 are one number."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _count_failure(report: ExchangeReport, where: str, message: str) -> None:
    text = message.removeprefix(where).lstrip(":, ")
    reason = re.sub(r"\[[0-9]+\]", "[]", re.sub(r", found .*", "", text, flags=re.DOTALL))
    reason = re.sub(r"[0-9]+", "N", re.sub(r"'[^']*'", "'...'", reason))
    _count(report.failed, reason, where, text[:200])


def _count(tallies: dict[str, Tally], name: str, where: str, message: str = "") -> None:
    """Count a row under `name`; data must not be able to fill the memory with names."""
    if name not in tallies and len(tallies) >= MAX_KINDS:
        name = OTHERS
    tallies.setdefault(name, Tally()).add(Fault(name, where, message))


def read_tools_file(path: str | Path) -> list[ToolSpec]:
    """Tool schemas out of a JSON file: a list of them.

    Raises:
        DataError: naming the file, when it is not JSON or no list of tools.
    """
    from sage.libs.finetune.agent.jsonl import read_json
    from sage.libs.finetune.agent.sources.importers.base import read_tools
    from sage.libs.finetune.agent.types import check_tools

    tools = read_tools(read_json(path), f"{path}: tools")
    check_tools(tools, str(path))
    if not tools:
        raise DataError(f"{path}: holds no tools; expected a list of function schemas")
    return tools
