"""Tables for a terminal or a file: no frame but a line of dashes, colour on terminals only, lines that do not wrap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import Box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH = 200
_BAR_WIDTH = 10
_HEADED = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def write_out(tables: Iterable[RenderableType]) -> None:
    """Print to stdout; where that is no terminal, rows are not folded and lines do not end in blanks."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(*tables, sep="\n")
        return
    console.width = _PIPED_WIDTH
    with console.capture() as captured:
        console.print(*tables, sep="\n")
    for line in captured.get().splitlines():
        print(line.rstrip())


def plain_output() -> bool:
    """Whether stdout wants plain ASCII: it is no terminal, or one without Unicode."""
    console = Console()
    return not console.is_terminal or console.options.ascii_only


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table of text; the first column is set left, the others right.

    Example:
        >>> import sys
        >>> Console(file=sys.stdout, width=40).print(make_table(("split", "n"), [("dev", "60")]))
        split   n
        ---------
        dev    60
    """
    table = Table(box=_HEADED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    return table


def facts_table(facts: Mapping[str, str]) -> Table:
    """Name and value, one fact a line, without a header; long values go on in the next line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, _plain(value))
    return table


def percent(share: float | None) -> str:
    """A share as a percentage; a dash where there is none.

    Example:
        >>> percent(0.6111), percent(1.0), percent(None)
        ('61.1%', '100%', '-')
    """
    if share is None:
        return "-"
    return "100%" if share == 1 else f"{share:.1%}"


def interval(low: float, high: float, digits: int = 1) -> str:
    """A confidence interval of a share, in percent.

    Example:
        >>> interval(0.537, 0.6805), interval(0.537, 0.6805, digits=0)
        ('53.7-68.0%', '54-68%')
    """
    return f"{100 * low:.{digits}f}-{100 * high:.{digits}f}%"


def bar(share: float, width: int = _BAR_WIDTH, *, ascii_only: bool = True) -> str:
    """A share as a bar of `width` signs; only nothing is shown as empty, only everything as full.

    Example:
        >>> bar(0.5, 8), bar(0.001, 8), bar(0.999, 8)
        ('####....', '#.......', '#######.')
    """
    full = round(share * width)
    if 0 < share < 1:
        full = min(max(full, 1), width - 1)
    on, off = ("#", ".") if ascii_only else ("━", "╌")
    return on * full + off * (width - full)


def success_table(rows: Sequence[Mapping[str, Any]], *, ascii_only: bool = True) -> Table:
    """Models x splits: success as bar and percentage, its 95% interval, valid calls. Fits 80 columns.

    Rows of one model stand together, with its name in the first; the `held-out` row is set off in bold.

    Args:
        rows: `model, split, success, low, high, n, valid_calls, calls`; shares between 0 and 1, the last three are
            counts. They are shown in their order.
        ascii_only: Draw the bars with `#` and `.`.
    """
    table = Table(box=_HEADED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="ellipsis", no_wrap=True, max_width=16)
    table.add_column("tasks", no_wrap=True)
    table.add_column("success", no_wrap=True)
    for column in ("", "95% CI", "valid calls"):
        table.add_column(column, justify="right", no_wrap=True)
    above = None
    for row in rows:
        first = row["model"] != above
        if first and above is not None:
            table.add_row()
        _add_success(table, row, row["model"] if first else "", ascii_only)
        above = row["model"]
    return table


def _add_success(table: Table, row: Mapping[str, Any], model: str, ascii_only: bool) -> None:
    overall = row["split"] == "held-out"
    table.add_row(
        Text(model, style="bold"),
        f"{row['split']} ({row['n']})",
        Text(bar(row["success"], ascii_only=ascii_only), style="green" if overall else "cyan"),
        percent(row["success"]),
        interval(row["low"], row["high"], digits=0),
        percent(row["valid_calls"] / row["calls"] if row["calls"] else None),
        style="bold" if overall else "",
    )


def _plain(cell: str | Text) -> Text:
    """Text as it is: what looks like markup in it (`[a]`) is shown."""
    return cell if isinstance(cell, Text) else Text(cell)
