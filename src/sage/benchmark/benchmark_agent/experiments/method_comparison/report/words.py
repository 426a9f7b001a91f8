"""What the numbers say, in sentences that claim no more than they do; all three forms of the report have them."""

from __future__ import annotations

import math

from sage.benchmark.benchmark_agent.experiments.method_comparison.contrasts import OVERALL, Contrast
from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import BASELINE
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import GridResults
from sage.libs.finetune.agent.capabilities.report import title_of
from sage.libs.finetune.agent.reporting.comparison import p_value, points

_SEEDS_FOR_A_CLAIM = 5


def verdict(grid: GridResults) -> list[str]:
    """The result in a few sentences: who is better than the baseline overall, who is not, and on what capabilities."""
    found = [one for one in (grid.contrast(method.method_id) for method in grid.methods) if one is not None]
    if not found:
        return [_nothing_to_compare(grid)]
    said = []
    for kind in ("better", "worse"):
        named = [f"{one.method_id} ({difference(one)})" for one in found if one.verdict == kind]
        if named:
            said.append(f"{kind.capitalize()} than {BASELINE} overall: {', '.join(named)}.")
    unshown = [one.method_id for one in found if one.verdict == "no difference shown"]
    if len(unshown) == len(found):
        one = "the other method" if len(found) == 1 else f"any of the {len(found)} other methods"
        said.append(f"No difference from {BASELINE} was shown for {one} overall: {', '.join(unshown)}.")
    elif unshown:
        said.append(f"No difference shown overall: {', '.join(unshown)}.")
    single = [
        f"{one.method_id} {one.verdict} on {title_of(one.capability)} ({difference(one)})"
        for one in grid.contrasts
        if len(grid.capabilities) > 1 and one.capability in grid.capabilities and one.verdict != "no difference shown"
    ]
    if single:
        said.append(f"On single capabilities: {'; '.join(single)}.")
    return said


def difference(contrast: Contrast) -> str:
    """A difference in points, with interval and p-value."""
    low, high = points(contrast.interval.low), points(contrast.interval.high)
    return f"{points(contrast.difference)} points, 95% interval {low} to {high}, p {p_value(contrast.adjusted_p)}"


def notes(grid: GridResults) -> list[str]:
    """What one has to know to read the numbers: what was compared, what could have been shown, what is missing."""
    return [*_compared(grid), *_unscored(grid), *_power(grid), *_seeds(grid), *_missing(grid)]


def _nothing_to_compare(grid: GridResults) -> str:
    finished = [method.method_id for method in grid.finished]
    if not finished:
        return "No run has finished, so there is nothing to compare yet."
    if BASELINE not in finished:
        return f"{BASELINE} has no finished run, so there is nothing to compare with yet; scores are shown as they are."
    if len(finished) == 1:
        return f"Only {BASELINE} has finished, so there is nothing to compare it with yet."
    return f"No capability has two items that the runs of {BASELINE} and of another method all have a value of."


def _compared(grid: GridResults) -> list[str]:
    found = [one for one in (grid.contrast(method.method_id) for method in grid.methods) if one is not None]
    if not found:
        return []
    items = _range([one.items for one in found])
    parts = [
        sum(one.method_id == method.method_id and one.capability != OVERALL for one in grid.contrasts)
        for method in found
    ]
    said = [
        f"Each method is compared with {BASELINE} item by item, on {items} held-out items of {_range(parts)} "
        f"{'capability' if max(parts) == 1 else 'capabilities, which weigh the same overall'}. p-values "
        f"are Holm-adjusted over {len(found)} {'method' if len(found) == 1 else 'methods'}, for each capability by "
        "itself; intervals are not adjusted, so one may leave out 0 where no difference is shown."
    ]
    left_out = max(one.left_out for one in found)
    if left_out:
        said.append(f"Up to {left_out} items are left out of a comparison: some run has no value of them.")
    return said


def _unscored(grid: GridResults) -> list[str]:
    lacking = [
        f"{run.method_id} seed {run.seed} on {title_of(name)}"
        for method in grid.finished
        for run in method.runs
        for name in grid.capabilities
        if run.metrics.get(name, {}).get("score") is None
    ]
    if not lacking:
        return []
    return [f"No score: {', '.join(lacking)}. The overall score of such a run is the mean of fewer capabilities."]


def forgetting(grid: GridResults) -> str:
    """What the matrices of streams show, which is not what the scores do."""
    return (
        "Not the capability scores above, but the share of turns answered as the row does (the same calls, or the same "
        f"answer), on at most {grid.settings.get('stream_items', '?')} rows of each task that no method trains on: one "
        "turn more or less moves a figure by many points."
    )


def _power(grid: GridResults) -> list[str]:
    found = [one for one in (grid.contrast(method.method_id) for method in grid.methods) if one is not None]
    able = [one.detectable for one in found if one.detectable <= 1]
    if not found:
        return []
    if len(able) < len(found):
        unable = ", ".join(one.method_id for one in found if one.detectable > 1)
        said = [f"There are too few items to show any difference of: {unable}."]
    else:
        said = []
    if able:
        size = _range([math.ceil(100 * one) for one in able])
        said.append(
            f"“No difference shown” does not mean that there is none: overall, a difference of {size} points would "
            "have been shown 4 times in 5, a smaller one more rarely."
        )
    return said


def _seeds(grid: GridResults) -> list[str]:
    counts = [len(method.runs) for method in grid.finished]
    if not counts:
        return []
    fewest = min(counts)
    many = f"Seeds a method: {_range(counts)}."
    if fewest == 1:
        return [
            f"{many} With one seed each the luck of training is not in the intervals: another seed may reverse them."
        ]
    if fewest < _SEEDS_FOR_A_CLAIM:
        return [f"{many} Intervals from fewer than {_SEEDS_FOR_A_CLAIM} seeds are too narrow where seeds differ much."]
    return [many]


def _missing(grid: GridResults) -> list[str]:
    total = sum(len(method.runs) + len(method.unfinished) for method in grid.methods)
    said = []
    for state in ("failed", "cancelled", "missing"):
        named = [f"{run.method_id} seed {run.seed}" for run in grid.unfinished if run.state == state]
        if named:
            said.append(f"{len(named)} of {total} runs {state}: {', '.join(named)}.")
    return said


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
