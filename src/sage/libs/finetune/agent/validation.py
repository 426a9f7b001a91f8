"""Every row of a data set checked: what is wrong with which rows, how often, and how many can be trained on.

`check_rows` gives the rows one by one with their faults; training takes its token rows from it, so what is validated is
what is trained. `validate` counts them. Neither holds more than a row and what finds duplicates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.preflight.faults import Fault, Tally, allowed_kinds, count, in_order, is_note
from sage.libs.finetune.agent.preflight.rows import REMEMBERED, RowChecks
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.sources.resolve import imported
from sage.libs.finetune.agent.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sage.libs.finetune.agent.preflight.tokens import TokenFindings

_PACE = 1000
"""Rows between two words about progress."""


@dataclass(frozen=True)
class CheckedRow:
    """A row, and everything that was found about it.

    Attributes:
        where: File and line.
        source: The importer that read it.
        sample: In canonical form; None when it could not be read.
        faults: Faults and notes, each kind once.
        tokens: The row as training takes it, when there was a tokenizer.
    """

    where: str
    source: str
    sample: Sample | None
    faults: list[Fault]
    tokens: TokenFindings | None = None

    @property
    def trainable(self) -> bool:
        """Whether there is something to train on, faults or not; without a tokenizer as far as can be seen."""
        if self.tokens is not None:
            return self.tokens.trained_tokens > 0
        return self.sample is not None and all(fault.kind != "untrained" for fault in self.faults)


@dataclass
class ValidationReport:
    """What is in a data set.

    Attributes:
        reference: The file, folder or `name:split`.
        allowed: Kinds of faults that do not fail a row.
        source: The form its rows are in.
        rows: How many there are.
        failed: Rows with a fault that is not allowed.
        left_out: Further rows that have nothing to train on (their kind is allowed).
        found: Faults and notes by kind.
        tokens: In all rows that are kept, with a tokenizer: `total`, `trained`, `longest` row, and what does not fit:
            `shortened` rows, `dropped_messages`, `dropped_exchanges`, `dropped_tokens` and, of these,
            `trained_tokens_lost`. None without one.
        all_compared: Whether every row was compared with all before it; false only for more than a million rows.
    """

    reference: str
    allowed: frozenset[str] = frozenset()
    source: str = ""
    rows: int = 0
    failed: int = 0
    left_out: int = 0
    found: dict[str, Tally] = field(default_factory=dict)
    tokens: dict[str, int] | None = None

    @property
    def kept(self) -> int:
        """Rows that training takes."""
        return self.rows - self.failed - self.left_out

    @property
    def all_compared(self) -> bool:
        """Whether duplicates were looked for among all rows."""
        return self.rows <= REMEMBERED

    @property
    def fatal(self) -> dict[str, Tally]:
        """The kinds of faults that fail rows."""
        notes = {kind for kind in self.found if is_note(kind)}
        return {kind: tally for kind, tally in in_order(self.found).items() if kind not in self.allowed | notes}

    def add(self, row: CheckedRow) -> bool:
        """Count a row; says whether training takes it."""
        self.rows += 1
        self.source = self.source or row.source
        count(self.found, row.faults)
        if any(not is_note(fault.kind) and fault.kind not in self.allowed for fault in row.faults):
            self.failed += 1
            return False
        if not row.trainable:
            self.left_out += 1
            return False
        if row.tokens is not None:
            self._add_tokens(row.tokens)
        return True

    def _add_tokens(self, found: TokenFindings) -> None:
        if self.tokens is None:
            self.tokens = dict.fromkeys(_TOKENS, 0)
        tokens, lengths = self.tokens, [len(row.rendered.input_ids) for row in found.fitted]
        tokens["total"] += sum(lengths)
        tokens["trained"] += found.trained_tokens
        tokens["longest"] = max(tokens["longest"], *lengths)
        if len(found.fitted) == 1 and found.fitted[0].dropped_messages:  # windows together drop nothing
            [row] = found.fitted
            tokens["shortened"] += 1
            for name in _DROPPED:
                tokens[name] += getattr(row, name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = {kind: tally.to_dict() for kind, tally in in_order(self.found).items()}
        return {
            "reference": self.reference, "source": self.source, "rows": self.rows, "kept": self.kept,
            "failed": self.failed, "left_out": self.left_out, "allowed": sorted(self.allowed),
            "faults": {kind: tally for kind, tally in found.items() if not is_note(kind)},
            "notes": {kind: tally for kind, tally in found.items() if is_note(kind)},
            "tokens": self.tokens, "all_compared": self.all_compared,
        }  # fmt: skip


_DROPPED = ("dropped_messages", "dropped_exchanges", "dropped_tokens", "trained_tokens_lost")
_TOKENS = ("total", "trained", "longest", "shortened", *_DROPPED)


def check_rows(
    reference: str | Path,
    source: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    progress: Progress = silent,
    truncation: str = "drop",
) -> Iterator[CheckedRow]:
    """The rows of a data set with their faults, one at a time.

    Args:
        reference: File, folder, or `name:split`.
        source: Name of an importer, or `auto`.
        tokenizer: With its chat template; without, rows are not rendered and nothing of torch is loaded.
        max_length: Longest row in tokens.
        progress: Told the line that is looked at, for files of lines.
        truncation: What becomes of longer rows: `drop` (their oldest exchanges go) or `windows` (they are split).

    Raises:
        DataError: when the data set cannot be read at all, holds no rows, or its form is unknown.
        ConfigError: for an unknown `source` or data set.
    """
    rows, tokens = RowChecks(), None
    lines = 0 if progress is silent else _line_count(reference)
    if tokenizer is not None:
        from sage.libs.finetune.agent.preflight.tokens import TokenChecks

        tokens = TokenChecks(tokenizer, max_length, truncation)
    for number, row in enumerate(imported(reference, source), start=1):
        if number % _PACE == 0:
            _tell(progress, row.where, lines)
        if row.sample is None:
            what = str(row.error).removeprefix(f"{row.where}: ")
            yield CheckedRow(row.where, row.source, None, [Fault("unreadable", row.where, what)])
            continue
        faults = rows.check(row.where, row.sample)
        findings = tokens.check(row.where, row.sample) if tokens else None
        yield CheckedRow(row.where, row.source, row.sample, [*faults, *(findings.faults if findings else ())], findings)


def validate(
    reference: str | Path,
    source: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    allow: Collection[str] = (),
    progress: Progress = silent,
    truncation: str = "drop",
) -> ValidationReport:
    """Check every row of a data set and count what is wrong.

    Args:
        reference: File, folder, or `name:split`.
        source: Name of an importer, or `auto`.
        tokenizer: With its chat template, for the checks that need one.
        max_length: Longest row in tokens.
        allow: Kinds of faults that do not fail a row.
        progress: As for `check_rows`.
        truncation: As for `check_rows`.

    Raises:
        ConfigError: for an unknown kind in `allow`, and as `check_rows`.
        DataError: as `check_rows`.
    """
    report = ValidationReport(str(reference), allowed_kinds(",".join(allow)))
    for row in check_rows(reference, source, tokenizer, max_length, progress, truncation):
        report.add(row)
    return report


def _tell(progress: Progress, where: str, lines: int) -> None:
    line = where.rpartition(":")[2]
    if line.isdecimal() and int(line) <= lines:
        progress("check rows", int(line), lines)


def _line_count(reference: str | Path) -> int:
    """Lines of a file of text, so that progress has an end; 0 for anything else."""
    path = Path(reference)
    if not path.is_file():
        return 0
    with path.open("rb") as handle:
        if handle.read(4).startswith((b"\x1f\x8b", b"PAR1")):  # gzip, Parquet
            return 0
        return sum(block.count(b"\n") for block in iter(lambda: handle.read(1 << 20), b""))
