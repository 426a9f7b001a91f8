"""How fast and how good selection is at size, beside the plain form of each algorithm, arms taking turns.

million            partitioned facility location on rows that no similarity matrix could be made of.
farthest-first     ours against one matrix-vector product a pick in float32. The order is checked twice: against the
                   plain algorithm in float64 on few rows (identical), and at full size by a certificate: by how much
                   any pick falls short of the farthest row, in float64.
facility-location  ours against lazy greedy over the full similarity matrix; apricot-select too where it is installed.
reservoir          which rows of a stream of a million stay in the buffer, against one draw a row (Algorithm R).
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from common import memory_gb, report
from numpy.typing import NDArray
from scipy.stats import chisquare

from sage.libs.finetune.agent.continual.policies import ReservoirPolicy
from sage.libs.finetune.agent.selection.facility_location import coverage, facility_location, unit_rows
from sage.libs.finetune.agent.selection.farthest_first import farthest_first
from sage.libs.finetune.agent.selection.partition import partitioned

Features = NDArray[np.float32]
CERTIFICATE_BLOCK = 64
STREAM_PARTS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of rows and choices")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, part in PARTS.items():
        if name in options.only:
            report(f"selection_{name.replace('-', '_')}", {"settings": vars(options), **part(options)})


def farthest_first_part(options: argparse.Namespace) -> dict[str, Any]:
    n, k = _sizes(options, rows=100_000, choices=2000)
    few, k_of_few = _sizes(options, rows=4000, choices=400)
    features, small = _clusters_and_noise(n, 256, options.seed), _clusters_and_noise(few, 256, options.seed + 1)
    seconds, orders = _in_turn(
        {"ours": lambda: farthest_first(features, k), "plain": lambda: plain_farthest_first(features, k)},
        options.repeats,
    )
    agree = [one == two for one, two in zip(orders["ours"], orders["plain"], strict=True)]
    return {
        "rows": n, "width": 256, "choices": k, "seconds": seconds,
        "times_faster": seconds["plain"]["median_s"] / seconds["ours"]["median_s"],
        "extra_memory_gb": _extra_memory(lambda: farthest_first(features, k)),
        "identical_order": farthest_first(small, k_of_few) == plain_farthest_first(small.astype(np.float64), k_of_few),
        "identical_order_rows": few,
        "largest_shortfall": largest_shortfall(features, orders["ours"]),
        "largest_shortfall_of_plain": largest_shortfall(features, orders["plain"]),
        "agrees_with_float32_for_choices": agree.index(False) if False in agree else k,
    }  # fmt: skip


def plain_farthest_first(features: NDArray[Any], k: int) -> list[int]:
    """One matrix-vector product a pick, in the precision of `features`."""
    squares = np.einsum("ij,ij->i", features, features)
    mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    picks = [int(np.argmin(squares - 2 * (features @ mean)))]
    nearest = np.full(len(features), np.inf, dtype=features.dtype)
    while len(picks) < k:
        np.minimum(nearest, squares + squares[picks[-1]] - 2 * (features @ features[picks[-1]]), out=nearest)
        nearest[picks[-1]] = -np.inf
        picks.append(int(np.argmax(nearest)))
    return picks


def largest_shortfall(features: Features, order: list[int]) -> float:
    """Largest relative difference of a pick's squared distance to the set and that of the farthest row, in float64."""
    rows = features.astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    nearest = np.full(len(rows), np.inf)
    worst = 0.0
    for start in range(0, len(order), CERTIFICATE_BLOCK):
        block = order[start : start + CERTIFICATE_BLOCK]
        distances = squares[block][:, None] + squares - 2 * (rows[block] @ rows.T)
        for pick, to_pick in zip(block, distances, strict=True):
            if pick != order[0]:
                farthest = float(nearest.max())
                worst = max(worst, (farthest - float(nearest[pick])) / farthest)
            np.minimum(nearest, to_pick, out=nearest)
            nearest[pick] = -np.inf
    return worst


def facility_location_part(options: argparse.Namespace) -> dict[str, Any]:
    n, k = _sizes(options, rows=10_000, choices=1000)
    features = _clusters_and_noise(n, 256, options.seed)
    arms = {"ours": lambda: facility_location(features, k), "plain": lambda: plain_lazy_greedy(features, k)}
    if importlib.util.find_spec("apricot") is not None:
        arms["apricot"] = lambda: apricot_lazy_greedy(features, k)
    seconds, orders = _in_turn(arms, options.repeats)
    chance = np.random.default_rng(options.seed).choice(n, k, replace=False).tolist()
    values = {name: coverage(features, order) for name, order in {**orders, "random": chance}.items()}
    return {
        "rows": n, "width": 256, "choices": k, "seconds": seconds,
        "share_of_plain_seconds": seconds["ours"]["median_s"] / seconds["plain"]["median_s"],
        "share_of_plain_value": {name: value / values["plain"] for name, value in values.items()},
        "extra_memory_gb": {name: _extra_memory(arms[name]) for name in ("ours", "plain")},
    }  # fmt: skip


def plain_lazy_greedy(features: Features, k: int) -> list[int]:
    """Minoux's lazy greedy with a heap, over the full similarity matrix."""
    units = unit_rows(features)
    similarities = np.maximum(units @ units.T, 0)
    covered = np.zeros(len(units), dtype=np.float32)
    bounds = [(-float(gain), row) for row, gain in enumerate(similarities.sum(axis=1))]
    heapq.heapify(bounds)
    computed_at = [0] * len(units)
    order: list[int] = []
    while len(order) < k:
        _, row = heapq.heappop(bounds)
        if computed_at[row] == len(order):
            order.append(row)
            np.maximum(covered, similarities[row], out=covered)
            continue
        computed_at[row] = len(order)
        heapq.heappush(bounds, (-float(np.maximum(similarities[row] - covered, 0).sum()), row))
    return order


def apricot_lazy_greedy(features: Features, k: int) -> list[int]:
    """The same by apricot-select."""
    from apricot import FacilityLocationSelection

    units = unit_rows(features)
    selection = FacilityLocationSelection(k, metric="precomputed", optimizer="lazy")
    selection.fit(np.maximum(units @ units.T, 0).astype(np.float64))
    return [int(row) for row in selection.ranking]


def million_part(options: argparse.Namespace) -> dict[str, Any]:
    n, k = _sizes(options, rows=1_000_000, choices=10_000)
    features = _clusters_and_noise(n, 128, options.seed, clusters=2000)
    before = memory_gb("VmRSS")
    begin = time.perf_counter()
    order = partitioned(features, k, facility_location, seed=options.seed)
    seconds = time.perf_counter() - begin
    highest = memory_gb("VmHWM")  # of the whole process, making the rows included: this part comes first
    chance = np.random.default_rng(options.seed).choice(n, k, replace=False).tolist()
    return {
        "rows": n, "width": 128, "choices": k, "seconds": seconds,
        "different_rows": len(set(order)),
        "memory_before_gb": before,
        "highest_memory_gb": highest,
        "coverage_per_row": coverage(features, order) / n,
        "coverage_per_row_random": coverage(features, chance) / n,
    }  # fmt: skip


def reservoir_part(options: argparse.Namespace) -> dict[str, Any]:
    n, slots = _sizes(options, rows=1_000_000, choices=2048)
    tasks = [""] * n
    seconds, _ = _in_turn(
        {
            "ours": lambda: held_rows(ReservoirPolicy(slots, random.Random(options.seed)), tasks),
            "plain": lambda: algorithm_r(n, slots, random.Random(options.seed)),
        },
        options.repeats,
    )
    parts = np.zeros(STREAM_PARTS)
    for seed in range(20):
        held = held_rows(ReservoirPolicy(slots, random.Random(seed)), tasks)
        parts += np.bincount(np.array(held) * STREAM_PARTS // n, minlength=STREAM_PARTS)
    return {
        "stream": n, "slots": slots, "seconds": seconds,
        "times_faster": seconds["plain"]["median_s"] / seconds["ours"]["median_s"],
        "p_value_of_uniformity": float(chisquare(parts).pvalue),
    }  # fmt: skip


def held_rows(policy: ReservoirPolicy, tasks: list[str]) -> list[int]:
    """The rows in the slots after the stream."""
    slots: dict[int, int] = {}
    for row, slot in policy.offer(tasks):
        slots[slot] = row
    return list(slots.values())


def algorithm_r(n: int, slots: int, draw: random.Random) -> list[int]:
    """One draw a row."""
    held = list(range(min(slots, n)))
    for row in range(slots, n):
        slot = draw.randrange(row + 1)
        if slot < slots:
            held[slot] = row
    return held


def _sizes(options: argparse.Namespace, rows: int, choices: int) -> tuple[int, int]:
    return int(rows * options.scale), int(choices * options.scale)


def _clusters_and_noise(n: int, width: int, seed: int, clusters: int = 200) -> Features:
    """Unit rows: four in five about one of the centres, one in five anywhere."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((clusters, width), dtype=np.float32)
    rows = draw.standard_normal((n, width), dtype=np.float32)
    clustered = draw.random(n) < 0.8
    rows[clustered] *= 0.7
    rows[clustered] += centres[draw.integers(0, clusters, int(clustered.sum()))]
    rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows


def _in_turn(
    arms: dict[str, Callable[[], list[int]]], repeats: int
) -> tuple[dict[str, dict[str, float]], dict[str, list[int]]]:
    """Median, lowest and highest seconds of each arm, and what it gave."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, list[int]] = {}
    for _ in range(repeats):
        for name, work in arms.items():
            begin = time.perf_counter()
            found[name] = work()
            seconds[name].append(time.perf_counter() - begin)
    spread = {
        name: {"median_s": statistics.median(runs), "min_s": min(runs), "max_s": max(runs)}
        for name, runs in seconds.items()
    }
    return spread, found


def _extra_memory(work: Callable[[], Any]) -> float:
    """GB that numpy and Python allocate at the most during a run, beside what was there."""
    tracemalloc.start()
    work()
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return highest / 1e9


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "million": million_part,
    "farthest-first": farthest_first_part,
    "facility-location": facility_location_part,
    "reservoir": reservoir_part,
}

if __name__ == "__main__":
    main()
