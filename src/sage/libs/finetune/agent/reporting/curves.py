"""The learning curve of a run as a picture, drawn from its `metrics.jsonl` alone.

Above: the training loss of each step, thin, with its mean over neighbouring steps; the loss on held-out rows with its
lowest point marked; the share of their turns that was right, on an axis of its own. Below: the learning rate. The loss
axis is logarithmic where the loss falls to a tenth, and leaves out lone spikes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.pictures import COLOURS, FAINT, clear_axes, new_figure, save_picture, set_title
from sage.libs.finetune.agent.reporting.progress import clock_time

CURVE = "learning_curve.png"

_LOSS, _HELD_OUT, _RIGHT = COLOURS[:3]
_LOG_FROM = 10.0
"""Ratio of the largest to the smallest smoothed loss from which on the axis is logarithmic."""

Points = tuple[list[float], list[float]]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, up to one that a killed run was writing; none when there is no file.

    Example:
        >>> read_metrics("no such run/metrics.jsonl")
        []
    """
    if not Path(path).exists():
        return []
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def draw_curve(folder: str | Path) -> Path:
    """Draw the learning curve of the run in `folder`, finished or not, as `learning_curve.png` beside its metrics.

    Returns:
        The picture.

    Raises:
        DataError: when `metrics.jsonl` is missing or holds no step, or the picture cannot be written.

    Example:
        >>> draw_curve(".sage/finetune/run-0001")  # doctest: +SKIP
        PosixPath('.sage/finetune/run-0001/learning_curve.png')
    """
    folder = Path(folder)
    lines = read_metrics(folder / "metrics.jsonl")
    if not _points(lines, "loss")[0]:
        raise DataError(f"{folder / 'metrics.jsonl'}: there is no training step to draw; give the folder of a run")
    return save_picture(_figure(lines, _title(folder)), folder / CURVE)


def smooth(values: Sequence[float], width: int) -> list[float]:
    """The mean over `width` neighbours (odd), fewer at both ends, so that nothing lags behind.

    Example:
        >>> smooth([1.0, 2.0, 6.0, 2.0], 3)
        [1.5, 3.0, 3.3333333333333335, 4.0]
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    half = width // 2
    spans = ((max(0, at - half), min(len(values), at + half + 1)) for at in range(len(values)))
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in spans]


def _points(lines: Sequence[dict[str, Any]], name: str) -> Points:
    """Steps and values of a number, without lines where it is missing or null."""
    found = [(float(line["step"]), float(line[name])) for line in lines if line.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _title(folder: Path) -> str:
    """Model and data by the config beside the metrics, else the folder's name."""
    settings = folder / "config.yaml"
    config = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings.exists() else None
    if not isinstance(config, dict) or not {"base_model", "train_data"} <= config.keys():
        return folder.resolve().name
    data = ", ".join(Path(part).name for part in str(config["train_data"]).split(","))
    return f"{Path(str(config['base_model'])).name} on {data}"


def _facts(lines: Sequence[dict[str, Any]], smoothed: Sequence[float]) -> str:
    """The run in a line: how long, how much, how far."""
    last = [line for line in lines if "loss" in line][-1]
    facts = ["1 step" if last["step"] == 1 else f"{last['step']:,} steps"]
    if last.get("tokens"):
        facts.append(f"{_short(last['tokens'])} tokens")
    if last.get("seconds") is not None:
        facts.append(clock_time(last["seconds"]))
    facts.append(f"training loss {_number(smoothed[-1])}")
    steps, losses = _points(lines, "eval_loss")
    if losses:
        facts.append(f"lowest held-out loss {_number(min(losses))} at step {steps[losses.index(min(losses))]:,.0f}")
    return "  ·  ".join(facts)


def _figure(lines: Sequence[dict[str, Any]], title: str) -> Any:
    figure = new_figure(8.0, 5.0)
    losses, rates = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [6, 1]})
    steps, loss = _points(lines, "loss")
    width = len(loss) // 30 | 1
    smoothed = smooth(smooth(loss, width), width)  # twice: no steps where a spike enters and leaves
    losses.plot(steps, loss, color=_LOSS, alpha=0.25, linewidth=0.7)
    few = {"marker": "o", "markersize": 4} if len(steps) < 3 else {}
    losses.plot(steps, smoothed, color=_LOSS, linewidth=1.8, label="training loss", **few)
    held_out = _points(lines, "eval_loss")
    _draw_held_out(losses, *held_out)
    _fit_losses(losses, [*smoothed, *held_out[1]], loss)
    right = _draw_right(losses, *_points(lines, "eval_accuracy"))
    _draw_rates(rates, *_points(lines, "learning_rate"))
    for axes in (losses, rates):
        clear_axes(axes)
    rates.set_xlim(0, max(steps) * 1.01)
    handles = [*losses.get_legend_handles_labels()[0], *right]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    set_title(losses, title, _facts(lines, smoothed))
    return figure


def _draw_held_out(axes: Any, steps: Sequence[float], values: Sequence[float]) -> None:
    if not values:
        return
    axes.plot(
        steps, values, color=_HELD_OUT, linewidth=1.6, marker="o", markersize=4, label="held-out loss", clip_on=False
    )
    best = values.index(min(values))
    axes.plot(steps[best], values[best], color=_HELD_OUT, marker="o", markersize=9, fillstyle="none", clip_on=False)


def _fit_losses(axes: Any, shown: Sequence[float], raw: Sequence[float]) -> None:
    """Limits that show the means and all but the rarest of the raw values."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    ordered = sorted(raw)
    low = min(*shown, ordered[len(ordered) // 100])
    high = max(*shown, ordered[len(ordered) - 1 - len(ordered) // 100])
    axes.set_ylabel("loss (nats per token)")
    if min(shown) > 0 and max(shown) / min(shown) >= _LOG_FROM:
        low = max(low, min(shown) / 3)
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.15)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(6))


def _draw_right(axes: Any, steps: Sequence[float], shares: Sequence[float]) -> list[Any]:
    """Accuracy on an axis of its own at the right, 0 to 100%; what the legend shows of it."""
    if not shares:
        return []
    from matplotlib.ticker import PercentFormatter

    twin = axes.twinx()
    drawn = twin.plot(
        steps, shares, color=_RIGHT, linewidth=1.6, marker="s", markersize=4, linestyle=(0, (4, 2)),
        label="held-out turns right", clip_on=False,
    )  # fmt: skip
    twin.set_ylim(-0.02, 1.02)
    twin.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    twin.tick_params(axis="y", colors=_RIGHT, length=0)
    twin.set_ylabel("turns right", color=_RIGHT)
    for spine in twin.spines.values():
        spine.set_visible(False)
    return list(drawn)


def _draw_rates(axes: Any, steps: Sequence[float], rates: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.plot(steps, rates, color=FAINT, linewidth=1.2)
    axes.fill_between(steps, rates, color=FAINT, alpha=0.15, linewidth=0)
    top = max(rates, default=0.0)
    axes.set_ylim(0, 1.15 * top or 1.0)
    axes.set_yticks([0, top] if top else [0])
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.1e}".replace("e-0", "e-") if value else "0")
    )
    axes.set_ylabel("learning\nrate", fontsize=8)
    axes.set_xlabel("optimiser step")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _short(count: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
