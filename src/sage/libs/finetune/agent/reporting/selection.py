"""A selection beside its pool: counts by task, length and loss, and a picture of both on a plane.

Lengths and losses are counted in five bands between quantiles of the *pool*, the upper twentieth apart, since that is
where wrong and foreign rows gather. The plane is spanned by the two main directions (PCA) of the features of the rows
drawn; of a large pool a seeded part is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from sage.libs.finetune.agent.reporting.pictures import COLOURS, clear_axes, new_figure, save_picture, set_title
from sage.libs.finetune.agent.reporting.tables import make_table, percent

_QUANTILES = (0.25, 0.5, 0.75, 0.95)
_TASKS_SHOWN = 12
_DRAWN_OTHERS, _DRAWN_CHOSEN = 3000, 2000
_NO_TASK = "(none)"


@dataclass(frozen=True)
class Part:
    """Some rows of the pool: how many there are, and how many of them were chosen."""

    name: str
    pool: int
    chosen: int


def parts_by_task(tasks: Sequence[str], chosen: Sequence[int]) -> list[Part]:
    """One part per task, the most frequent first.

    Example:
        >>> parts_by_task(["a", "b", "a"], [1])
        [Part(name='a', pool=2, chosen=0), Part(name='b', pool=1, chosen=1)]
    """
    pool, taken = Counter(tasks), Counter(tasks[index] for index in chosen)
    return [Part(task or _NO_TASK, count, taken[task]) for task, count in pool.most_common()]


def parts_by_value(values: np.ndarray, chosen: Sequence[int]) -> list[Part]:
    """One part per band between the quartiles of the values, and one for the upper twentieth; lowest first.

    Args:
        values: [n] one number per row of the pool.
        chosen: Row numbers.

    Example:
        >>> [(part.name, part.pool, part.chosen) for part in parts_by_value(np.arange(1, 41), [0, 39, 38])]
        [('1 to 10', 10, 1), ('11 to 20', 10, 0), ('21 to 30', 10, 0), ('31 to 38', 8, 0), ('39 to 40', 2, 2)]
    """
    edges = np.unique(np.quantile(values, _QUANTILES))
    bands = np.searchsorted(edges, values, side="left")  # a value on an edge belongs below it
    taken = np.bincount(bands[np.asarray(chosen, dtype=np.int64)], minlength=len(edges) + 1)
    parts = []
    for band in range(len(edges) + 1):
        members = values[bands == band]
        if len(members):
            parts.append(Part(_span(members.min(), members.max()), len(members), int(taken[band])))
    return parts


def selection_table(breakdown: Mapping[str, Sequence[Part]], pool: int, chosen: int) -> Any:
    """Rows of the pool and of the selection, in all and by each property; shares are of either whole.

    Args:
        breakdown: Parts by the name of the property: task, characters, loss ...
        pool: Rows of the pool.
        chosen: Rows chosen.
    """
    lines: list[tuple[str | Text, ...]] = [("all", f"{pool:,}", percent(1.0), f"{chosen:,}", percent(1.0))]
    for name, parts in breakdown.items():
        lines.append((Text(name, style="bold"), "", "", "", ""))
        shown = parts if len(parts) <= _TASKS_SHOWN else parts[: _TASKS_SHOWN - 1]
        lines += [_line(part, pool, chosen) for part in shown]
        if hidden := parts[len(shown) :]:
            rest = Part(f"{len(hidden)} more (--json)", sum(p.pool for p in hidden), sum(p.chosen for p in hidden))
            lines.append(_line(rest, pool, chosen))
    return make_table(("rows", "pool", "share", "chosen", "share"), lines)


def drawn_rows(pool: int, chosen: Sequence[int], seed: int = 0) -> list[int]:
    """Which rows a picture shows, ascending: all of a small pool, else up to 2000 chosen and 3000 other rows.

    Example:
        >>> drawn_rows(5, [4, 1]), len(drawn_rows(100_000, range(5000)))
        ([0, 1, 2, 3, 4], 5000)
    """
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(pool), np.asarray(chosen, dtype=np.int64))
    parts = [(np.asarray(chosen, dtype=np.int64), _DRAWN_CHOSEN), (others, _DRAWN_OTHERS)]
    kept = [rows if len(rows) <= most else rng.choice(rows, most, replace=False) for rows, most in parts]
    return [int(row) for row in np.sort(np.concatenate(kept))]


def draw_selection(
    path: str | Path, features: np.ndarray, chosen: np.ndarray, tasks: Sequence[str], title: str, facts: str = ""
) -> Path:
    """Draw chosen rows in colour over the others in grey, as PNG.

    Args:
        path: The picture.
        features: [m, width] of the rows to draw.
        chosen: [m] bool.
        tasks: The task of each row; up to 8 different ones get a colour each.
        title: First line.
        facts: Second line, faint.

    Returns:
        The picture.

    Raises:
        DataError: when it cannot be written.
    """
    points, explained = _plane(features)
    figure = new_figure(8.0, 5.5)
    axes = figure.subplots()
    others = points[~chosen]
    axes.scatter(*others.T, s=9, c="#ced4da", linewidths=0, label=f"not chosen ({len(others):,})", rasterized=True)
    names = [name for name, _ in Counter(tasks).most_common()]
    groups = names if 1 < len(names) <= len(COLOURS) else [None]
    for colour, name in zip(COLOURS, groups, strict=False):
        members = chosen if name is None else chosen & np.array([task == name for task in tasks], dtype=bool)
        # The blank: matplotlib leaves out what begins with an underscore.
        label = f" {'chosen' if name is None else name or _NO_TASK} ({members.sum():,})"
        axes.scatter(*points[members].T, s=16, c=colour, alpha=0.8, linewidths=0, label=label)
    clear_axes(axes, "both")
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    axes.set_xlabel(f"first main direction of the features ({percent(explained[0])} of their variance)", fontsize=9)
    axes.set_ylabel(f"second ({percent(explained[1])})", fontsize=9)
    legend = figure.legend(
        loc="outside lower center", ncols=min(5, 1 + len(groups)), frameon=False, fontsize=9, markerscale=1.6
    )
    for text in legend.get_texts():  # names of tasks are no formulas
        text.set_parse_math(False)
    set_title(axes, title, facts)
    return save_picture(figure, path)


def _plane(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Points on the two main directions, and the share of the variance each has; zeros where there is none."""
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    turned = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])  # SVD leaves it open
    points = np.zeros((len(centred), 2))
    points[:, : len(directions)] = centred @ (directions * turned[:, None]).T
    shares = np.zeros(2)
    if sizes.any():
        shares[: len(directions)] = sizes[: len(directions)] ** 2 / (sizes**2).sum()
    return points, (float(shares[0]), float(shares[1]))


def _line(part: Part, pool: int, chosen: int) -> tuple[str, ...]:
    share = percent(part.chosen / chosen if chosen else None)
    return f"  {part.name[:40]}", f"{part.pool:,}", percent(part.pool / pool), f"{part.chosen:,}", share


def _span(low: float, high: float) -> str:
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
