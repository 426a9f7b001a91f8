"""What the runs of `coreset.py` come to: means with intervals, paired differences, and the picture in the docs.

Two things are uncertain: which held-out rows were asked, and what the seed did to the training. The interval of a mean
is Student's over seeds; beside it stands Wilson's over the turns, each counted once however many seeds asked it. A
difference between two strategies is taken on the same rows and seeds, and its interval is a bootstrap over both.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS
from flawed_pool import FLAWS, flaw_counts

from sage.libs.finetune.agent.evaluation.statistics import wilson_interval

PICTURE = Path(__file__).parents[1] / "docs" / "selection.png"
FULL_DATA = "full"
_RESAMPLES = 4000
_COLOURS_OF_FLAWS = {"near_duplicate": "#adb5bd", "corrupted": "#e0a800", "gibberish": "#c2255c"}
Key = tuple[str, float | None]


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per strategy and budget: mean accuracy over seeds, two intervals, and what was picked."""
    lines = []
    for (arm, budget), runs in by_arm(results).items():
        accuracies = [run["accuracy"] for run in runs]
        mean = statistics.fmean(accuracies)
        turns = runs[0]["turns"]
        wilson = wilson_interval(round(mean * turns), turns)
        share = {
            flaw: statistics.fmean(run["flaws"][flaw] / run["rows"] for run in runs) for flaw in FLAWS
        }  # fmt: skip
        lines.append(
            {
                "arm": arm, "budget": budget, "rows": runs[0]["rows"], "seeds": [run["seed"] for run in runs],
                "accuracy": mean, "by_seed": accuracies, "student_interval": student_interval(accuracies),
                "wilson_interval": [wilson.low, wilson.high],
                "held_out_loss": statistics.fmean(run["held_out_loss"] for run in runs),
                "share_of_flaws": share, "kinds": statistics.fmean(run["kinds"] for run in runs),
            }
        )  # fmt: skip
    return lines


def differences(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each strategy's accuracy minus that of random rows at the same budget, and minus that of all the data."""
    groups = by_arm(results)
    lines = []
    for (arm, budget), runs in groups.items():
        for other in ("random", FULL_DATA):
            beside = groups.get((other, budget if other == "random" else None))
            if arm in (other, FULL_DATA) or beside is None:
                continue
            difference, low, high = paired_difference(runs, beside)
            lines.append(
                {"arm": arm, "budget": budget, "minus": other, "difference": difference, "interval": [low, high]}
            )
    return lines


def paired_difference(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Difference of accuracies over turns, with a 95% bootstrap interval over held-out rows and seeds.

    Runs of both sides are paired by seed; a run's `right` holds the row and the verdict of every turn.
    """
    beside = {run["seed"]: run for run in theirs}
    pairs = [(run, beside[run["seed"]]) for run in ours if run["seed"] in beside]
    rows = sorted({row for row, _ in pairs[0][0]["right"]})
    place = {row: index for index, row in enumerate(rows)}
    gained, turns = np.zeros((len(pairs), len(rows))), np.zeros(len(rows))
    for row, _ in pairs[0][0]["right"]:
        turns[place[row]] += 1
    for number, (one, other) in enumerate(pairs):
        for sign, run in ((1, one), (-1, other)):
            for row, right in run["right"]:
                gained[number, place[row]] += sign * right
    rng = np.random.default_rng(0)
    seeds = rng.integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    drawn = rng.integers(len(rows), size=(_RESAMPLES, len(rows)))
    found = [gained[some][:, few].mean(axis=0).sum() / turns[few].sum() for some, few in zip(seeds, drawn, strict=True)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(gained.mean(axis=0).sum() / turns.sum()), float(low), float(high)


def student_interval(values: Sequence[float]) -> list[float] | None:
    """The 95% interval of a mean, None for a single value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return [statistics.fmean(values) - half, statistics.fmean(values) + half]


def by_arm(results: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """The runs of each strategy at each budget, in the order of their first."""
    groups: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for run in results:
        groups[run["arm"], run["budget"]].append(run)
    return dict(groups)


def flaw_lines(picked: Sequence[tuple[Any, Sequence[dict[str, Any]]]]) -> str:
    """What each run would train on, one line each."""
    lines = [f"{'run':<24}{'rows':>6}{'kinds':>7}" + "".join(f"{flaw:>16}" for flaw in FLAWS)]
    for run, rows in picked:
        counts, kinds = flaw_counts(rows), len({row["metadata"]["kind"] for row in rows})
        shares = "".join(f"{counts[flaw] / len(rows):>16.1%}" for flaw in FLAWS)
        lines.append(f"{run.name:<24}{len(rows):>6}{kinds:>7}{shares}")
    return "\n".join(lines)


def draw(name: str, path: Path = PICTURE) -> Path:
    """Accuracy by budget, and the share of flawed rows in what was picked, from the result `name`."""
    from matplotlib.ticker import PercentFormatter

    from sage.libs.finetune.agent.reporting.pictures import COLOURS, FAINT, clear_axes, new_figure, save_picture
    from sage.libs.finetune.agent.reporting.pictures import set_title as set_title_of

    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    lines = result["summary"]
    arms = list(dict.fromkeys(line["arm"] for line in lines if line["arm"] != FULL_DATA))
    colours = dict(zip(arms, COLOURS, strict=False))
    figure = new_figure(10.0, 4.8)
    left, right = figure.subplots(1, 2)
    [full] = [line for line in lines if line["arm"] == FULL_DATA]
    left.axhline(full["accuracy"], color=FAINT, linestyle=(0, (4, 2)), label="all rows")
    left.axhspan(*full["wilson_interval"], color=FAINT, alpha=0.12, linewidth=0)
    for number, arm in enumerate(arms):
        own = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["budget"])
        shift = 0.004 * (number - (len(arms) - 1) / 2)  # side by side, so that no interval hides another
        means = [line["accuracy"] for line in own]
        bars = [
            [line["accuracy"] - line["wilson_interval"][0] for line in own],
            [line["wilson_interval"][1] - line["accuracy"] for line in own],
        ]
        left.errorbar(
            [line["budget"] + shift for line in own], means, bars, color=colours[arm], marker="o", markersize=4,
            linewidth=2.2 if arm == "recommended" else 1.3, elinewidth=0.8, capsize=2, label=arm,
        )  # fmt: skip
    left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left.set_xticks(sorted({line["budget"] for line in lines if line["budget"] is not None}))
    left.set_xlabel("share of the pool that is trained on, same number of steps")
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    facts = f"mean of {len(full['seeds'])} seeds; bars: 95% (Wilson) of {result['held_out']['turns']} turns"
    set_title_of(left, "Held-out turns answered right", facts)
    _draw_flaws(right, lines, arms, result["pool"])
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_xlabel("share of the chosen rows")
    set_title_of(right, "What was wrong with the rows chosen", "bars from above: the budgets, the smallest first")
    clear_axes(left)
    clear_axes(right, "x")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    return save_picture(figure, path)


def _draw_flaws(axes: Any, lines: Sequence[dict[str, Any]], arms: Sequence[str], pool: dict[str, Any]) -> None:
    """A group of stacked bars per strategy, a bar per budget, and the pool's own below."""
    bars = [(f"{arm}", line) for arm in arms for line in lines if line["arm"] == arm]
    shares = [line["share_of_flaws"] for _, line in bars]
    shares.append({flaw: count / pool["rows"] for flaw, count in pool["flaws"].items()})
    names = [name for name, _ in bars] + ["the pool"]
    places: list[float] = []
    for number, name in enumerate(names):
        new_group = number > 0 and name != names[number - 1]
        places.append(places[-1] + (1.8 if new_group else 1.0) if places else 0.0)
    begin = np.zeros(len(places))
    for flaw, colour in _COLOURS_OF_FLAWS.items():
        widths = np.array([share[flaw] for share in shares])
        axes.barh(places, widths, left=begin, height=0.85, color=colour, label=flaw.replace("_", " "))
        begin += widths
    middles = {name: statistics.fmean(p for p, n in zip(places, names, strict=True) if n == name) for name in names}
    axes.set_yticks(list(middles.values()), list(middles))
    axes.invert_yaxis()
