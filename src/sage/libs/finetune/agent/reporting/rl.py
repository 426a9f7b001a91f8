"""How a run of reinforcement learning went, as a picture drawn from its `metrics.jsonl` alone."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.curves import read_metrics
from sage.libs.finetune.agent.reporting.pictures import COLOURS, clear_axes, new_figure, save_picture, set_title

CURVE = "rl_curve.png"
_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("What episodes were worth", (("reward", "reward"), ("success", "success"))),
    ("Nats from the reference, an episode", (("kl_per_episode", "KL"),)),
    ("Entropy of a token", (("entropy", "entropy"),)),
    ("Loss", (("loss", "loss"),)),
    ("Share of ratios clipped", (("clip_share", "clipped"),)),
    ("Variance of returns foretold", (("explained_variance", "explained"),)),
    ("Pairs told apart", (("accuracy", "chosen above rejected"),)),
    ("Turns of an episode", (("steps_per_episode", "turns"),)),
)
_SHOWN = {
    "reward": ("reward", "{:.3f}"), "success": ("success", "{:.1%}"),
    "kl_per_episode": ("KL an episode", "{:.2f} nats"),
    "accuracy": ("pairs told apart", "{:.1%}"), "explained_variance": ("explained variance", "{:.2f}"),
}  # fmt: skip
_ENDS = 5


def draw_rl_curve(folder: str | Path) -> Path:
    """Draw what the run in `folder` measured, finished or not, as `rl_curve.png` beside its metrics.

    Panels whose figures the algorithm does not have are left out.

    Raises:
        DataError: when there is no step to draw, or the picture cannot be written.

    Example:
        >>> draw_rl_curve(".sage/rl/run-0001")  # doctest: +SKIP
        PosixPath('.sage/rl/run-0001/rl_curve.png')
    """
    folder = Path(folder)
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "step" in line]
    panels = [panel for panel in _PANELS if any(_points(lines, name)[0] for name, _ in panel[1])]
    if not panels:
        raise DataError(f"{folder / 'metrics.jsonl'}: there is no step to draw; give the folder of a run")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.5 * columns, 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for at, (title, curves) in enumerate(panels):
        _draw(grid[at // columns][at % columns], title, curves, lines)
    for at in range(len(panels), rows * columns):
        grid[at // columns][at % columns].set_visible(False)
    return save_picture(figure, folder / CURVE)


def beginning_and_end(folder: str | Path) -> list[tuple[str, str, str]]:
    """What the run in `folder` was like at first and in the end: figure, mean of its first lines and of its last ones.

    Up to five lines count on either side, so that one lucky iteration says little; figures that were not measured are
    left out.
    """
    lines = read_metrics(Path(folder) / "metrics.jsonl")
    found = []
    for name, (title, form) in _SHOWN.items():
        values = [float(line[name]) for line in lines if line.get(name) is not None]
        few = min(_ENDS, max(1, len(values) // 2))
        if values:
            found.append((title, form.format(fmean(values[:few])), form.format(fmean(values[-few:]))))
    return found


def _draw(axes: Any, title: str, curves: tuple[tuple[str, str], ...], lines: list[dict[str, Any]]) -> None:
    for colour, (name, label) in zip(COLOURS, curves, strict=False):
        steps, values = _points(lines, name)
        if values:
            axes.plot(steps, values, color=colour, label=label, linewidth=1.6, marker="o" if len(steps) < 3 else None)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8)
    set_title(axes, title)
    clear_axes(axes)


def _points(lines: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    found = [(float(line["step"]), float(line[name])) for line in lines if line.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]
