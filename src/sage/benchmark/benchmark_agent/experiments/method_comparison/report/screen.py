"""The report for a terminal of 80 columns: verdict, scores, costs."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import tables, words
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import (
    COSTS,
    SECONDS,
    GridResults,
    MethodRuns,
    read_grid,
)
from sage.libs.finetune.agent.reporting.comparison import p_value, points
from sage.libs.finetune.agent.reporting.tables import make_table

_NAME = 20
_COLOURS = {"better": "green", "worse": "red"}


def terminal(folder: str | Path) -> list[RenderableType]:
    """What a folder of runs says, for a terminal.

    Args:
        folder: That of the runs, finished or not.

    Raises:
        DataError: when it holds no result, or one cannot be read.
    """
    grid = read_grid(folder)
    parts: list[RenderableType] = [_against_baseline(grid), "", _capabilities(grid), "", _costs(grid), ""]
    parts += [Text(sentence) for sentence in words.verdict(grid)]
    parts += [Text(sentence, style="dim") for sentence in words.notes(grid)]
    return parts


def _against_baseline(grid: GridResults) -> RenderableType:
    rows: list[list[str | Text]] = []
    for method in grid.methods:
        found = grid.contrast(method.method_id)
        cells: list[str | Text] = [_name(method), tables.runs(method), tables.percent(method.overall)]
        if found is None:
            cells += [tables.NOTHING] * 3 + [""]
        else:
            verdict = "not shown" if found.verdict == "no difference shown" else found.verdict
            cells += [points(found.difference), tables.span(found.interval), p_value(found.adjusted_p)]
            cells.append(Text(verdict, style=_COLOURS.get(verdict, "")))
        rows.append(cells)
    return make_table(("method", "runs", "overall", "points", "95% interval", "p", "difference"), rows)


def _capabilities(grid: GridResults) -> RenderableType:
    """Scores without intervals, for which there is no room; columns are named by their first word."""
    names = [name.split("_")[0][:11] for name in grid.capabilities]
    rows = [
        [_name(method), *(tables.percent(method.score(name)) for name in grid.capabilities)] for method in grid.methods
    ]
    return make_table(("score (%)", *names), rows)


def _costs(grid: GridResults) -> RenderableType:
    rows = [
        (
            _name(method), tables.count(method.tokens("seen")), tables.count(method.tokens(*COSTS)),
            tables.seconds(method.seconds(*SECONDS)), tables.memory(method.memory), _rates(method),
        )
        for method in grid.finished
    ]  # fmt: skip
    return make_table(("a run", "read", "tokens", "seconds", "memory", "rate"), rows)


def _name(method: MethodRuns) -> str:
    name = method.method_id
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."


def _rates(method: MethodRuns) -> str:
    taken = sorted(set(method.rates))
    return " to ".join(dict.fromkeys(map(tables.rate_text, taken[:1] + taken[-1:]))) or tables.NOTHING
