"""What a stream of tasks has come to: tables for the terminal, and a picture of `stream.json` alone.

Left the matrix: how well each task is done after each task. A column that pales below its diagonal is a task that is
being forgotten. Right the same over time, a line a task, thick from the moment it was trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from sage.libs.finetune.agent.reporting.pictures import (
    COLOURS,
    clear_axes,
    new_figure,
    save_picture,
    set_title,
)
from sage.libs.finetune.agent.reporting.tables import facts_table, interval, make_table, percent
from sage.libs.finetune.agent.training.stream_record import StreamResult, read_stream

PICTURE = "stream.png"
_BASE = "(before)"


def stream_tables(result: StreamResult) -> list[RenderableType]:
    """The matrix, what each task lost, and the figures of the whole, for a terminal.

    Args:
        result: Of a stream, finished or not.
    """
    tables: list[RenderableType] = [_matrix_table(result), ""]
    if result.after:
        tables += [_tasks_table(result), "", facts_table(_facts(result))]
    return tables


def draw_stream(folder: str | Path) -> Path:
    """Draw the stream in `folder`, finished or not, as `stream.png` in it.

    Returns:
        The picture.

    Raises:
        DataError: when there is no `stream.json`, or the picture cannot be written.

    Example:
        >>> draw_stream("runs/stream")  # doctest: +SKIP
        PosixPath('runs/stream/stream.png')
    """
    result = read_stream(folder)
    labels, lines = _lines(result)
    figure = new_figure(4.6 + 0.9 * len(result.tasks) + 3.2, 1.6 + max(2.6, 0.55 * len(lines)))
    matrix, times = figure.subplots(1, 2, gridspec_kw={"width_ratios": [max(3, len(result.tasks)), 4]})
    _draw_matrix(matrix, result, labels, lines)
    _draw_times(times, result, labels, lines)
    return save_picture(figure, Path(folder) / PICTURE)


def _lines(result: StreamResult) -> tuple[list[str], list[list[float | None]]]:
    """The matrix with the base model above it, where that was scored, and what stands before each line."""
    first = [] if result.before is None else [result.line(result.before)]
    labels = [] if result.before is None else [_BASE]
    return labels + result.tasks[: len(result.after)], first + result.matrix


def _matrix_table(result: StreamResult) -> Any:
    labels, lines = _lines(result)
    rows: list[list[str | Text]] = []
    for label, line in zip(labels, lines, strict=True):
        named = zip(result.tasks, line, strict=True)
        cells = [Text(_cell(value, result), style="bold" if name == label else "") for name, value in named]
        rows.append([label, *cells])
    return make_table((f"{result.measure} after", *result.tasks), rows)


def _tasks_table(result: StreamResult) -> Any:
    """Each task when it had just been trained and at the end."""
    lost = result.figures["forgetting"]["per_task"]
    rows = []
    for number, name in enumerate(result.tasks[: len(result.after)]):
        learned, last = result.after[number].get(name, {}), result.after[-1].get(name, {})
        rows.append((
            name,
            _cell(learned.get(result.measure), result),
            _cell(last.get(result.measure), result),
            interval(last["low"], last["high"], digits=0) if "low" in last else "-",
            str(last.get("n", "-")),
            _difference(lost[number] if number < len(lost) else None, result),
        ))  # fmt: skip
    return make_table(("task", "learned", "now", "95% CI", "n", "forgotten"), rows)


def _facts(result: StreamResult) -> dict[str, str]:
    figures = result.figures
    sign = -1 if result.measure == "loss" else 1
    average = None if figures["average"] is None else sign * figures["average"]
    facts = {
        f"average {result.measure}": _cell(average, result),
        "backward transfer": _difference(figures["backward_transfer"], result),
        "forgetting": _difference(figures["forgetting"]["mean"], result),
        "forward transfer": _difference(figures["forward_transfer"], result),
    }
    replayed = sum(run.get("rows_replayed") or 0 for run in result.runs)
    return {**facts, "rows replayed": f"{replayed:,}"} if replayed else facts


def _cell(value: float | None, result: StreamResult) -> str:
    if value is None:
        return "-"
    return percent(value) if result.measure == "accuracy" else f"{value:.3f}"


def _difference(value: float | None, result: StreamResult) -> str:
    """Points of accuracy, or nats, with a sign."""
    if value is None:
        return "-"
    return f"{100 * value:+.1f} points" if result.measure == "accuracy" else f"{value:+.3f} nats"


def _draw_matrix(axes: Any, result: StreamResult, labels: list[str], lines: list[list[float | None]]) -> None:
    known = [value for line in lines for value in line if value is not None]
    low, high = (0.0, 1.0) if result.measure == "accuracy" else (min(known, default=0.0), max(known, default=1.0))
    shades = [[float("nan") if value is None else value for value in line] for line in lines]
    better_is_darker = "Blues" if result.measure == "accuracy" else "Blues_r"
    axes.imshow(shades, cmap=better_is_darker, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
    for row, line in enumerate(lines):
        for column, value in enumerate(line):
            share = 0.0 if value is None else (value - low) / ((high - low) or 1.0)
            dark = value is not None and (share if result.measure == "accuracy" else 1 - share) > 0.55
            own = labels[row] == result.tasks[column]
            text = "" if value is None else f"{100 * value:.0f}" if result.measure == "accuracy" else f"{value:.2f}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black",
                fontweight="bold" if own else "normal",
            )  # fmt: skip
    axes.set_xticks(range(len(result.tasks)), result.tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylabel("after training on")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    unit = "% right" if result.measure == "accuracy" else "loss"
    set_title(axes, f"Each task ({unit})", _summary(result))


def _draw_times(axes: Any, result: StreamResult, labels: list[str], lines: list[list[float | None]]) -> None:
    ends: list[tuple[float, str, str]] = []
    for column, name in enumerate(result.tasks):
        colour = COLOURS[column % len(COLOURS)]
        points = [(at, line[column]) for at, line in enumerate(lines) if line[column] is not None]
        if not points:
            continue
        began = labels.index(name) if name in labels else len(labels)
        axes.plot(*zip(*points, strict=True), color=colour, alpha=0.35, linewidth=1.0)
        trained = [point for point in points if point[0] >= began]
        if trained:
            axes.plot(*zip(*trained, strict=True), color=colour, linewidth=2.0, marker="o", markersize=4, clip_on=False)
        ends.append((float(points[-1][1] or 0.0), name, colour))
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.2, max(0.2, len(labels) - 1 + 0.2))
    if result.measure == "accuracy":
        from matplotlib.ticker import PercentFormatter

        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _name_lines(axes, ends)
    clear_axes(axes)
    set_title(axes, "Over the stream", "thick from the task's own training on")


def _name_lines(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Names at the right end of the lines, pushed apart where they would lie on each other."""
    low, high = axes.get_ylim()
    gap, below = (high - low) / 18, float("-inf")
    for value, name, colour in sorted(ends):
        place = max(value, below + gap)
        below = place
        axes.annotate(
            name, (1.01, (place - low) / (high - low)), xycoords="axes fraction", color=colour, fontsize=9,
            va="center", annotation_clip=False,
        )  # fmt: skip


def _summary(result: StreamResult) -> str:
    if not result.after:
        return ""
    figures = result.figures
    parts = [f"backward transfer {_difference(figures['backward_transfer'], result)}"]
    if figures["average"] is not None:
        parts.insert(0, f"average {_cell(abs(figures['average']), result)}")
    return "  ·  ".join(parts) if figures["backward_transfer"] is not None else parts[0]
