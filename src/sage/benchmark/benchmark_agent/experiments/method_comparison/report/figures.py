"""The parts of the page that show numbers as pictures; each has its numbers beside it, in a table or a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from sage.benchmark.benchmark_agent.experiments.method_comparison.contrasts import OVERALL
from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import BASELINE
from sage.benchmark.benchmark_agent.experiments.method_comparison.report import charts, tables, words
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import (
    COSTS,
    SECONDS,
    GridResults,
    MethodRuns,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.markup import (
    breaking,
    captioned,
    scrolling,
    shut,
    table,
    text,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord
from sage.libs.finetune.agent.capabilities.report import title_of
from sage.libs.finetune.agent.reporting.comparison import p_value, points
from sage.libs.finetune.agent.reporting.curves import smooth

_CURVE_POINTS = 100


def forest_plot(grid: GridResults) -> str:
    """Differences from the baseline with their intervals: overall in the open, each capability below."""
    names = [*([OVERALL] if len(grid.capabilities) > 1 else []), *grid.capabilities]
    plots = [_forest(grid, name) for name in names]
    shown = [plot for plot in plots if plot]
    if not shown:
        return ""
    sheet = tables.against_baseline(grid)
    rest = "".join(shown[1:])
    return shown[0] + (shut("Capability by capability", rest) if rest else "") + shut("As a table", table(sheet))


def _forest(grid: GridResults, capability: str) -> str:
    found = [one for method in grid.methods if (one := grid.contrast(method.method_id, capability)) is not None]
    if not found:
        return ""
    ends = [end for one in found for end in (one.interval.low, one.interval.high)]
    axis = charts.span_of(ends, around=(0.0,))
    kinds = {"better": "better", "worse": "worse"}
    rows = "".join(
        f'<tr><th scope="row">{breaking(one.method_id)}</th><td>'
        f"{charts.forest(axis, one.difference, one.interval, kinds.get(one.verdict, 'same'))}</td>"
        f"<td>{points(one.difference)}</td><td>{tables.span(one.interval)}</td><td>{p_value(one.adjusted_p)}</td>"
        f'<td class="{kinds.get(one.verdict, "same")}">{one.verdict}</td></tr>'
        for one in found
    )
    ticks = charts.axis(axis, [(at, f"{100 * at:+g}" if at else "0") for at in axis.ticks()])
    caption = f"{title_of(capability)}: points above or below {BASELINE}, with the 95% interval"
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("method", "worse | better", "points", "95% interval", "p", "verdict")
    )
    return scrolling(
        caption,
        f'<table class="forest">{captioned(caption)}<thead><tr>{heads}</tr></thead><tbody>{rows}'
        f'<tr class="ticks"><td></td><td>{ticks}</td><td colspan="4"></td></tr></tbody></table>',
    )


def capability_bars(grid: GridResults) -> str:
    """A card a capability: each method's score as a bar with its interval."""
    cards = []
    for name in grid.capabilities:
        rows = []
        for method in grid.finished:
            found = method.measured(name)
            if found is not None:
                rows.append(
                    f'<tr><th scope="row">{breaking(method.method_id)}</th>'
                    f"<td>{charts.bar(found.score, found.interval)}</td><td>{tables.score(found)}</td></tr>"
                )
        cards.append(
            f'<table class="bars">{captioned(title_of(name))}<thead class="unseen"><tr>'
            '<th scope="col">method</th><th scope="col">bar</th><th scope="col">score and 95% interval, %</th></tr>'
            f"</thead><tbody>{''.join(rows)}</tbody></table>"
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def cost_plots(grid: GridResults) -> str:
    """Overall score against tokens and seconds of a run, selection, collection and sweep included."""
    measured = [method for method in grid.finished if not math.isnan(method.overall)]
    signs = _signs([method.method_id for method in measured])
    costs = {
        "tokens in all": [method.tokens(*COSTS) for method in measured],
        "seconds in all": [method.seconds(*SECONDS) for method in measured],
    }
    plots = []
    for across, found in costs.items():
        known = [(method, cost) for method, cost in zip(measured, found, strict=True) if not math.isnan(cost)]
        if known:
            marks = [_mark(grid, method, cost, signs[method.method_id]) for method, cost in known]
            said = "; ".join(f"{mark.label} {100 * mark.y:.1f}% at {mark.x:,.0f}" for mark in marks)
            plots.append(charts.scatter(marks, across, f"Overall score against {across}: {said}"))
    if not plots:
        return ""
    names = ", ".join(f"{sign}: {name}" for name, sign in signs.items())
    note = f"<p>Overall score upwards; the line through a point: from its lowest to its highest seed. {text(names)}</p>"
    return f'<div class="cards">{"".join(plots)}</div>{note}'


def _signs(names: Sequence[str]) -> dict[str, str]:
    """A few letters for each method: `B3` for B3_coreset_hybrid, with a number where that is not enough."""
    first = {name: name.split("_")[0][:6] for name in names}
    taken = list(first.values())
    return {
        name: sign if taken.count(sign) == 1 else f"{sign}{number}"
        for number, (name, sign) in enumerate(first.items(), start=1)
    }


def _mark(grid: GridResults, method: MethodRuns, cost: float, sign: str) -> charts.Mark:
    seeds = [run.overall for run in method.runs if not math.isnan(run.overall)]
    found = grid.contrast(method.method_id)
    kind = found.verdict if found is not None and found.verdict in ("better", "worse") else "same"
    return charts.Mark(cost, fmean(seeds), min(seeds), max(seeds), sign, kind)


def rate_sweep(grid: GridResults) -> str:
    """The dev score of each learning rate; nothing where none was swept."""
    sheet = tables.sweep(grid)
    if sheet is None:
        return ""
    found = {method.method_id: tables.dev_scores(method) for method in grid.finished}
    rates = tables.tried_rates(grid)
    span = charts.span_of([score for scores in found.values() for score in scores.values()], margin=0.15)
    rows = "".join(
        f'<tr><th scope="row">{breaking(row[0])}</th><td>'
        f"{charts.steps([found[row[0]].get(rate) for rate in rates], span)}</td>"
        f"{''.join(f'<td>{text(cell)}</td>' for cell in row[1:])}</tr>"
        for row in sheet.rows
    )
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in ("method", "low to high rate", *sheet.columns[1:]))
    return scrolling(
        sheet.caption,
        f'<table class="forest">{captioned(sheet.caption)}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>',
    )


def learning_curves(grid: GridResults) -> str:
    """A card a method: the training loss of each seed, smoothed, over that of the baseline."""
    lines = {method.method_id: [_curve(run) for run in method.runs if run.losses] for method in grid.finished}
    flat = [point for curves in lines.values() for curve in curves for point in curve]
    if not flat:
        return ""
    across = charts.span_of([step for step, _ in flat], around=(0.0,), margin=0.0)
    up = charts.Span(0.0, charts.span_of([loss for _, loss in flat], around=(0.0,)).high)
    behind = [(curve, "behind") for curve in lines.get(BASELINE, ())]
    cards = []
    for name, own in lines.items():
        if own:
            ends = ", ".join(f"{curve[-1][1]:.3g}" for curve in own)
            drawn = [*(behind if name != BASELINE else []), *((curve, "own") for curve in own)]
            picture = charts.curves(drawn, across, up, f"{name}: training loss by step, at the end {ends}")
            cards.append(f"<figure>{picture}<figcaption>{text(name)}: {ends} at the end</figcaption></figure>")
    note = (
        f"<p>Training loss (nats per token) by optimiser step, smoothed, a line a seed; grey: {BASELINE}. Methods that "
        "train on other rows have other losses: lower is not better between them.</p>"
    )
    return f'<div class="cards">{"".join(cards)}</div>{note}'


def _curve(run: RunRecord) -> list[tuple[float, float]]:
    losses = [loss for _, loss in run.losses]
    width = len(losses) // 20 | 1
    smoothed = smooth(smooth(losses, width), width)
    every = max(1, len(losses) // _CURVE_POINTS)
    curve = [(step, loss) for (step, _), loss in zip(run.losses, smoothed, strict=True)]
    return [*curve[:-1:every], curve[-1]]


def forgetting_matrices(grid: GridResults) -> str:
    """The matrix of each method that ran a stream, darker where the score is higher."""
    found = tables.forgetting(grid)
    return f"<p>{text(words.forgetting(grid))}</p>{''.join(map(_matrix, found))}" if found else ""


def _matrix(found: tables.Forgetting) -> str:
    sheet = tables.forgetting_sheet(found)
    rows = []
    for number, (row, values) in enumerate(zip(sheet.rows, found.matrix, strict=True)):
        cells = [
            _shaded(cell, value, at == number) for at, (cell, value) in enumerate(zip(row[1:], values, strict=True))
        ]
        rows.append(f'<tr><th scope="row">{text(title_of(row[0]))}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in sheet.columns)
    caption = f"{sheet.caption}; mean of {found.seeds} {'seed' if found.seeds == 1 else 'seeds'}, in percent"
    return scrolling(
        caption,
        f'<table class="matrix">{captioned(caption)}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
    )


def _shaded(cell: str, value: float | None, own: bool) -> str:
    shade = 0 if value is None else round(10 * min(1.0, max(0.0, value)))
    return f'<td class="s{shade}{" own" if own else ""}">{cell}</td>'


def legend(parts: Sequence[tuple[str, str]]) -> str:
    """What colours mean."""
    return '<p class="legend">' + " ".join(f'<span class="{kind}">{text(name)}</span>' for kind, name in parts) + "</p>"
