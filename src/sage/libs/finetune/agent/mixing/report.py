"""What came of a mix, task by task: rows there were, rows taken, shares, effective epochs, and tokens if counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True)
class MixedTask:
    """One task of a mix.

    Attributes:
        task: Its name.
        weight: As it was given.
        target: The share that the strategy gives it.
        rows: Rows there are.
        taken: Rows in the mix, repeats counted.
        share: Of the mix.
        epochs: Effective epochs: passes over its rows that one pass over the mix makes.
        unused: Rows that are not in the mix.
        wanted: Rows it would have without `max_repeats`.
        capped: Whether `wanted` is more than `max_repeats` allows.
        tokens: Of its rows in the mix, repeats counted; None when nothing counted them.
        token_share: Of all tokens of the mix.
    """

    task: str
    weight: float
    target: float
    rows: int
    taken: int
    share: float
    epochs: float
    unused: int
    wanted: int
    capped: bool
    tokens: int | None = None
    token_share: float | None = None


@dataclass(frozen=True)
class MixReport:
    """A mix in numbers.

    Attributes:
        strategy: How shares came about.
        seed: Of what was drawn.
        rows: Of the mix.
        wanted: Rows it would have without `max_repeats`.
        max_repeats: How often a row was allowed to come.
        tasks: In the order of `task_weights`.
    """

    strategy: str
    seed: int
    rows: int
    wanted: int
    max_repeats: float
    tasks: Sequence[MixedTask]

    @property
    def repeats(self) -> bool:
        """Whether some row comes more than once."""
        return any(task.taken > task.rows for task in self.tasks)

    @property
    def warnings(self) -> list[str]:
        """Tasks that would be repeated too often, with what was done about it, and those without a row; a line each."""
        capped = [
            f"{task.task}: its share of {_count(self.wanted)} rows is {_count(task.wanted)}, "
            f"{Decimal(task.wanted) / task.rows:.3g} passes over its {task.rows:,}; max_repeats allows "
            f"{self.max_repeats:g}, so the mix has {self.rows:,} rows"
            for task in self.tasks
            if task.capped
        ]
        none = [
            f"{task.task}: none of its rows is in the mix, its share of {self.rows:,} rows being "
            f"{task.target * self.rows:.2g}"
            for task in self.tasks
            if task.target and not task.taken
        ]
        return [*capped, *none]

    @property
    def notes(self) -> list[str]:
        """What else the table leaves to be worked out: `warnings`, and rows that are not in the mix."""
        unused = [
            f"{task.task}: {task.unused:,} of {task.rows:,} rows are not in the mix"
            for task in self.tasks
            if task.unused and (task.taken or not task.target)
        ]
        return [*self.warnings, *unused]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Column names and lines of text, the sum last; tokens only where they were counted."""
        counted = all(task.tokens is not None for task in self.tasks)
        columns = ("task", "weight", "rows", "taken", "share", "epochs", *(("tokens", "of all") if counted else ()))
        lines = []
        for task in self.tasks:
            line = (task.task, f"{task.weight:g}", f"{task.rows:,}", f"{task.taken:,}", f"{task.share:.1%}")
            tokens = (f"{task.tokens:,}", f"{task.token_share or 0:.1%}") if counted else ()
            lines.append((*line, f"{task.epochs:.2f}", *tokens))
        rows, total = sum(task.rows for task in self.tasks), sum(task.tokens or 0 for task in self.tasks)
        last = ("all", "", f"{rows:,}", f"{self.rows:,}", "", "")
        return columns, [*lines, (*last, *((f"{total:,}", "") if counted else ()))]

    def __str__(self) -> str:
        columns, lines = self.table()
        widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
        shown = [
            " ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(pairs)).rstrip()
            for pairs in ([*zip(line, widths, strict=True)] for line in (columns, *lines))
        ]
        return "\n".join([*shown, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "tasks": [asdict(task) for task in self.tasks]}


def _count(rows: int) -> str:
    """A tiny weight can ask for numbers that nobody wants to read digit by digit."""
    return f"{rows:,}" if rows < 10**12 else f"{Decimal(rows):.3g}"
