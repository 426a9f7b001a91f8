"""The report as Markdown, for a pull request or a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import reproduce, tables, words
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import GridResults
from sage.libs.finetune.agent.reporting.reply_text import valid

_MARKUP = re.compile(r"[\\`|<*\[]|(?<!\w)_|_(?!\w)")


def markdown_text(grid: GridResults) -> str:
    """The report as text.

    Args:
        grid: Finished or not.
    """
    return "\n".join(_lines(grid))


def _lines(grid: GridResults) -> Iterator[str]:
    yield "# Comparison of training methods\n"
    yield f"Base model: {_text(grid.settings.get('base_model', 'unknown'))}\n"
    for sentence in (*words.verdict(grid), *words.notes(grid)):
        yield f"{_text(sentence)}\n"
    yield "## Scores\n"
    yield _table(tables.scores(grid))
    found = tables.against_baseline(grid)
    if found.rows:
        yield "## Against the baseline\n"
        yield _table(found)
    yield "## Costs\n"
    yield _table(tables.costs(grid))
    if (swept := tables.sweep(grid)) is not None:
        yield "## Learning rates\n"
        yield _table(swept)
    streams = tables.forgetting(grid)
    if streams:
        yield "## Forgetting\n"
        yield f"{_text(words.forgetting(grid))}\n"
        for stream in streams:
            yield _table(tables.forgetting_sheet(stream))
    if (unfinished := tables.unfinished(grid)) is not None:
        yield "## Unfinished runs\n"
        yield _table(unfinished)
    yield "## How to reproduce\n"
    yield f"```bash\n{valid(reproduce.command(grid))}\n```\n"
    for sentence in reproduce.caveats(grid):
        yield f"{_text(sentence)}\n"
    yield _table(tables.Sheet("Where and with what", ("what", "value"), list(reproduce.facts(grid).items())))


def _table(sheet: tables.Sheet) -> str:
    lines = [f"{_text(sheet.caption)}:\n", _row(sheet.columns), "|---" + "|---:" * (len(sheet.columns) - 1) + "|"]
    return "\n".join([*lines, *map(_row, sheet.rows), ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_text(cell) for cell in cells)} |"


def _text(value: object) -> str:
    """Text in which nothing is markup, on one line."""
    text = " ".join(valid(value).split())
    return _MARKUP.sub(r"\\\g<0>", text)
