"""Steps that come to a budget of tokens, checked against what trainings take."""

from __future__ import annotations

import math
import random

import pytest

from sage.benchmark.benchmark_agent.experiments.method_comparison.budget import RowCount, steps_for, stream_steps
from sage.libs.finetune.agent.training.batching import EpochBatches


def tokens_of(lengths: list[int], steps: int, batch_size: int) -> int:
    """Tokens that so many steps take, as the trainer cuts them."""
    rows = [{"input_ids": [number] * length} for number, length in enumerate(lengths)]
    batches = EpochBatches(rows, batch_size, 1, seed=0)
    taken = 0
    while steps:
        for batch in list(batches)[:steps]:
            taken += sum(lengths[number] for number in batch)
            steps -= 1
        batches.epoch += 1
    return taken


@pytest.mark.parametrize("count", [1, 3, 6, 41, 250])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_training_takes_its_budget_whatever_its_rows_are(count: int, batch_size: int) -> None:
    draw = random.Random(count)
    lengths = [draw.randrange(20, 120) for _ in range(count)]
    steps = steps_for(100_000, RowCount(count, sum(lengths)), batch_size)
    assert tokens_of(lengths, steps, batch_size) == pytest.approx(100_000, rel=0.03)


def test_there_is_at_least_one_step() -> None:
    assert steps_for(10, RowCount(4, 4000), 4) == 1
    assert set(stream_steps(10, {"a": RowCount(4, 4000), "b": RowCount(4, 4000)}, 4, 0.25, 10).values()) == {1}


def streamed(tasks: dict[str, list[int]], steps: dict[str, int], batch: int, ratio: float, size: int) -> int:
    """Tokens of a stream: new rows in shuffled epochs, and rows drawn from a buffer of equal shares."""
    draw, buffer, taken, due = random.Random(0), dict[str, list[int]](), 0, 0.0
    for name, lengths in tasks.items():
        order: list[int] = []
        for step in range(steps[name]):
            if not order:
                order = draw.sample(range(len(lengths)), len(lengths))
            new, order = order[:batch], order[batch:]
            stored = [length for part in buffer.values() for length in part]
            due += ratio * len(new)
            replayed = draw.sample(stored, min(math.floor(due), len(stored)))
            due -= math.floor(due)
            taken += sum(lengths[number] for number in new) + sum(replayed)
            if step * batch < len(lengths):
                buffer.setdefault(name, []).extend(lengths[number] for number in new)
            most = size // len(buffer)
            if sum(map(len, buffer.values())) > size:
                buffer = {task: part[:most] for task, part in buffer.items()}
    return taken


@pytest.mark.parametrize("size", [2048, 40])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("means", [(40, 400), (400, 40), (60, 200, 30, 500, 90)])
def test_a_stream_takes_its_budget_with_what_it_replays(means: tuple[int, ...], ratio: float, size: int) -> None:
    draw = random.Random(1)
    tasks = {
        f"task {number}": [draw.randrange(mean // 2, mean * 3 // 2) for _ in range(90)]
        for number, mean in enumerate(means)
    }
    counts = {name: RowCount(len(lengths), sum(lengths)) for name, lengths in tasks.items()}
    steps = stream_steps(200_000, counts, 4, ratio, size)
    assert streamed(tasks, steps, 4, ratio, size) == pytest.approx(200_000, rel=0.04)
