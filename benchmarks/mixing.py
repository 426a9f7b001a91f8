"""How long mixing takes at size, what it costs beside making the samples at all, and that the shares are exact.

mix       8 data sets of a million rows together into a mix of a million, by every strategy; the plain arm makes as many
          samples by one random draw a row (`random.choices`), which keeps shares in expectation only. Arms take turns.
stream    rows a second through `datasets.interleave_datasets`.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from common import memory_gb, report, timed

from sage.libs.finetune.agent.mixing.config import MixerConfig
from sage.libs.finetune.agent.mixing.mixer import MultiTaskMixer
from sage.libs.finetune.agent.types import TaskSample

PARTS = (0.4, 0.2, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02)
WEIGHTS = {f"task{number}": weight for number, weight in enumerate((0.2, 0.2, 0.15, 0.12, 0.1, 0.1, 0.08, 0.05))}
STRATEGIES = ("weighted", "proportional", "temperature", "balanced", "round_robin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="in all data sets together, and of the mix")
    parser.add_argument("--streamed", type=int, default=20_000, help="rows taken from a stream")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report("mixing", {"settings": vars(options), "mix": mix_part(options), "stream": stream_part(options)})


def mix_part(options: argparse.Namespace) -> dict[str, Any]:
    rows = data_sets(options.rows)
    arms: dict[str, Callable[[], list[TaskSample]]] = {"plain": lambda: plain(rows, options.rows, options.seed)}
    errors = {}
    for strategy in STRATEGIES:
        settings = {"seed": options.seed, "total_size": options.rows, "max_repeats": 100.0}
        mixer = MultiTaskMixer(MixerConfig(WEIGHTS, strategy, **settings))
        arms[strategy] = lambda mixer=mixer: mixer.mix(rows)
        errors[strategy] = largest_error(mixer, mixer.mix(rows))
    rounds = [{name: timed(work, 1)["median_s"] for name, work in arms.items()} for _ in range(options.repeats)]
    return {
        "seconds": {name: sorted(turn[name] for turn in rounds) for name in arms},
        "largest_error_rows": {**errors, "plain": plain_error(arms["plain"]())},
        "peak_memory_gb": memory_gb("VmHWM"),
    }


def stream_part(options: argparse.Namespace) -> dict[str, Any]:
    mixer = MultiTaskMixer(MixerConfig(WEIGHTS, seed=options.seed))
    stream = mixer.stream({name: _endless() for name in WEIGHTS})
    found = Counter(sample.task_type for sample in itertools.islice(stream, 100))  # imports and buffers
    begin = time.perf_counter()
    found.update(sample.task_type for sample in itertools.islice(stream, options.streamed))
    seconds, whole = time.perf_counter() - begin, sum(WEIGHTS.values())
    total = sum(found.values())
    off = max(abs(found[name] / total - weight / whole) for name, weight in WEIGHTS.items())
    return {"rows_per_second": options.streamed / seconds, "largest_error_of_a_share": off}


def data_sets(rows: int) -> dict[str, list[dict[str, Any]]]:
    """Data sets of very different sizes, `rows` in all."""
    return {name: [{"row": row} for row in range(int(part * rows))] for name, part in zip(WEIGHTS, PARTS, strict=True)}


def largest_error(mixer: MultiTaskMixer, samples: list[TaskSample]) -> float:
    """How far the worst task is from its share, in rows."""
    found = mixer.get_task_distribution(samples)
    assert mixer.report is not None
    return max(abs(found[task.task] - task.target * len(samples)) for task in mixer.report.tasks)


def plain(rows: dict[str, list[dict[str, Any]]], size: int, seed: int) -> list[TaskSample]:
    """A task and then a row of it, drawn for each place."""
    rng = random.Random(seed)
    tasks = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=size)
    return [TaskSample(task, rng.choice(rows[task])) for task in tasks]


def plain_error(samples: list[TaskSample]) -> float:
    found, whole = Counter(sample.task_type for sample in samples), sum(WEIGHTS.values())
    return max(abs(found[name] - weight / whole * len(samples)) for name, weight in WEIGHTS.items())


def _endless() -> Iterator[dict[str, Any]]:
    for number in itertools.count():
        yield {"messages": [{"role": "user", "content": f"What of {number}?"}, {"role": "assistant", "content": "12"}]}


if __name__ == "__main__":
    main()
