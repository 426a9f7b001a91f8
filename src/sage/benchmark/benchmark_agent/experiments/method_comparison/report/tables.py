"""The numbers of a comparison as plain tables, which Markdown and the page both show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.config import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import (
    COSTS,
    SECONDS,
    GridResults,
    Measured,
    MethodRuns,
)
from sage.libs.finetune.agent.capabilities.report import title_of
from sage.libs.finetune.agent.reporting.comparison import p_value, points
from sage.libs.finetune.agent.types import Interval

NOTHING = "-"


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        caption: What it shows.
        columns: Headings; the first names its rows.
        rows: Cells.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def scores(grid: GridResults) -> Sheet:
    """Methods x capabilities, with intervals."""
    columns = ("method", "runs", *map(title_of, grid.capabilities), "Overall")
    rows = [
        (method.method_id, runs(method), *(score(method.measured(name)) for name in grid.capabilities),
         percent(method.overall))
        for method in grid.methods
    ]  # fmt: skip
    return Sheet("Score on held-out items, mean over seeds, with its 95% interval", columns, rows)


def against_baseline(grid: GridResults) -> Sheet:
    """The contrasts, overall first."""
    names = [*(["overall"] if len(grid.capabilities) > 1 else []), *grid.capabilities]
    rows = [
        (
            method.method_id, title_of(name), points(found.difference), span(found.interval), p_value(found.adjusted_p),
            NOTHING if found.effect is None else f"{found.effect:+.2f}", str(found.items), found.verdict,
        )
        for name in names
        for method in grid.methods
        if (found := grid.contrast(method.method_id, name)) is not None
    ]  # fmt: skip
    columns = ("method", "capability", "points", "95% interval", "p (Holm)", "effect", "items", "verdict")
    return Sheet("Difference from the baseline, paired by item", columns, rows)


def costs(grid: GridResults) -> Sheet:
    """What a run of each method takes."""
    columns = (
        "method", "rows used", "tokens read in training", "sweep", "selection", "collection", "tokens in all",
        "seconds training", "seconds in all", "peak memory", "learning rate",
    )  # fmt: skip
    rows = [
        (
            method.method_id, rows_used(method), count(method.tokens("seen")), count(method.tokens("sweep")),
            count(method.tokens("selection")), count(method.tokens("collection")), count(method.tokens(*COSTS)),
            seconds(method.seconds("train")), seconds(method.seconds(*SECONDS)), memory(method.memory), rates(method),
        )
        for method in grid.finished
    ]  # fmt: skip
    caption = "What a run costs, mean over seeds, measuring left out; tokens of a selection are only read, once"
    return Sheet(caption, columns, rows)


def sweep(grid: GridResults) -> Sheet | None:
    """Dev score of each learning rate, mean over seeds; None where nothing was swept."""
    tried = tried_rates(grid)
    if not tried:
        return None
    rows = []
    for method in grid.finished:
        found, taken, broken = dev_scores(method), Counter(method.rates), Counter(broken_rates(method))
        cells = [
            f"{percent(found.get(rate))}{f' (taken {taken[rate]}x)' if taken[rate] else ''}"
            f"{f' (broke off {broken[rate]}x)' if broken[rate] else ''}"
            for rate in tried
        ]
        rows.append((method.method_id, *cells))
    columns = ("method", *map(rate_text, tried))
    items = grid.settings.get("dev_items", "?")
    caption = f"Overall score on {items} dev items of each capability by learning rate, mean over seeds that have one"
    return Sheet(caption, columns, rows)


def tried_rates(grid: GridResults) -> list[float]:
    """The rates of the sweep, ascending, those with which training broke off among them."""
    return sorted({rate for method in grid.finished for rate in (*dev_scores(method), *broken_rates(method))})


def broken_rates(method: MethodRuns) -> list[float]:
    """The rates with which training broke off, as often as it did."""
    return [one["rate"] for run in method.runs for one in run.learning_rates if one.get("error")]


def dev_scores(method: MethodRuns) -> dict[float, float]:
    """Mean dev score of each rate that was swept."""
    found: dict[float, list[float]] = {}
    for run in method.runs:
        for one in run.learning_rates:
            if one["score"] is not None and one["rate"] is not None:
                found.setdefault(one["rate"], []).append(one["score"])
    return {rate: fmean(scores) for rate, scores in sorted(found.items())}


def unfinished(grid: GridResults) -> Sheet | None:
    """Runs that failed, were cancelled or are missing; None when there are none."""
    rows = [(run.method_id, str(run.seed), run.state, run.why or NOTHING) for run in grid.unfinished]
    return Sheet("Runs without a result", ("method", "seed", "state", "why"), rows) if rows else None


@dataclass(frozen=True)
class Forgetting:
    """A stream's scores, mean over its seeds.

    Attributes:
        method_id: The method.
        seeds: How many.
        tasks: In the order of the stream.
        matrix: After each task, the score on each; None where it was not measured.
        figures: Means of the stream's figures, by name.
    """

    method_id: str
    seeds: int
    tasks: list[str]
    matrix: list[list[float | None]]
    figures: dict[str, float]


def forgetting(grid: GridResults) -> list[Forgetting]:
    """The matrices of the methods that ran a stream."""
    found = []
    for method in grid.finished:
        streams = [run.forgetting for run in method.runs if run.forgetting]
        streams = [one for one in streams if one["tasks"] == streams[0]["tasks"]]
        if not streams:
            continue
        lines = [len(one["matrix"]) for one in streams]
        matrix = [
            [_mean(one["matrix"][line][task] for one in streams) for task in range(len(streams[0]["tasks"]))]
            for line in range(min(lines))
        ]
        parts = {
            "average at the end": [one.get("average") for one in streams],
            "backward transfer": [one.get("backward_transfer") for one in streams],
            "forgetting": [(one.get("forgetting") or {}).get("mean") for one in streams],
        }
        figures = {name: mean for name, values in parts.items() if (mean := _mean(values)) is not None}
        found.append(Forgetting(method.method_id, len(streams), streams[0]["tasks"], matrix, figures))
    return found


def forgetting_sheet(found: Forgetting) -> Sheet:
    """The matrix of a stream."""
    rows = [(found.tasks[line], *map(percent, cells)) for line, cells in enumerate(found.matrix)]
    said = ", ".join(f"{name} {_figure(name, value)}" for name, value in found.figures.items())
    caption = f"{found.method_id}: turns of each task answered as its rows do, after each task ({said or 'no figures'})"
    return Sheet(caption, ("after", *map(title_of, found.tasks)), rows)


def settings_of(method: dict[str, Any]) -> dict[str, Any]:
    """What of a method's settings differs from the defaults; name and description left out."""
    defaults = _default_settings()
    return {
        name: value
        for name, value in method.items()
        if name not in ("name", "description") and defaults.get(name) != value
    }


def runs(method: MethodRuns) -> str:
    """Finished runs, and how many there should be where that is more."""
    finished, total = len(method.runs), len(method.runs) + len(method.unfinished)
    return str(total) if finished == total else f"{finished} of {total}"


def score(measured: Measured | None) -> str:
    """A score in percent with its interval."""
    if measured is None:
        return NOTHING
    known = measured.interval
    between = f" ({100 * known.low:.0f} to {100 * known.high:.0f})" if known else ""
    return f"{percent(measured.score)}{between}"


def percent(share: float | None) -> str:
    """A share in percent, a dash where there is none.

    Example:
        >>> percent(0.4567), percent(float("nan")), percent(None)
        ('45.7', '-', '-')
    """
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.1f}"


def span(interval: Interval) -> str:
    """An interval of a difference, in points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def count(number: float) -> str:
    """A number of tokens.

    Example:
        >>> count(1234567.0), count(0.0), count(float("nan"))
        ('1,234,567', '0', '-')
    """
    return NOTHING if math.isnan(number) else f"{number:,.0f}"


def seconds(number: float) -> str:
    """A time, short ones with a digit more."""
    return NOTHING if math.isnan(number) else f"{number:,.1f}" if number < 100 else f"{number:,.0f}"


def memory(size: int | None) -> str:
    """Bytes in GiB."""
    return NOTHING if size is None else f"{size / 2**30:.2f} GiB"


def rates(method: MethodRuns) -> str:
    """The learning rates that were taken, with how often where there were several."""
    taken = Counter(method.rates)
    if len(taken) == 1:
        return rate_text(next(iter(taken)))
    return ", ".join(f"{times}x {rate_text(rate)}" for rate, times in sorted(taken.items())) or NOTHING


def rate_text(rate: float) -> str:
    """A learning rate as it is written.

    Example:
        >>> rate_text(0.0003), rate_text(0.00025), rate_text(0.05)
        ('3e-4', '2.5e-4', '0.05')
    """
    if rate >= 0.01:
        return f"{rate:g}"
    digits, power = f"{rate:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def rows_used(method: MethodRuns) -> str:
    """Rows that were trained on, of those there were; of the first seed."""
    found = method.runs[0].rows
    if not {"used", "given"} <= found.keys():
        return NOTHING
    of = "of" if found["used"] <= found["given"] else "drawn from"  # a mixture repeats rows
    return f"{found['used']:,} {of} {found['given']:,}"


@cache
def _default_settings() -> dict[str, Any]:
    return vars(MethodConfig(""))


def _figure(name: str, value: float) -> str:
    return percent(value) if name == "average at the end" else points(value)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
