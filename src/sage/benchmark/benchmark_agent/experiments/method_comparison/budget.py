"""How many optimiser steps a budget of tokens is.

Every method trains on the same number of tokens, whatever its rows are like: a coreset of long rows gets fewer steps
than one of short rows, and a stream pays for the rows it replays. An epoch of n rows is ceil(n / b) steps of b rows,
the last of which may be short; so a step counts as n / ceil(n / b) rows of mean length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RowCount:
    """Rows of a file.

    Attributes:
        rows: How many.
        tokens: All of theirs.
    """

    rows: int
    tokens: int

    @property
    def mean(self) -> float:
        """Tokens of a row."""
        return self.tokens / self.rows

    def of_a_step(self, rows_a_step: int) -> float:
        """Rows that a step takes on average."""
        return self.rows / math.ceil(self.rows / rows_a_step)


def steps_for(budget: float, counted: RowCount, rows_a_step: int) -> int:
    """Steps that come nearest to the budget, at least one.

    Args:
        budget: Tokens.
        counted: The rows that are trained on.
        rows_a_step: Rows of a whole step.

    Example:
        >>> steps_for(10_000, RowCount(rows=100, tokens=10_000), rows_a_step=4)
        25
        >>> steps_for(10_000, RowCount(rows=6, tokens=600), rows_a_step=4)  # steps of 4 and 2 rows in turn
        33
    """
    return max(1, round(budget / (counted.of_a_step(rows_a_step) * counted.mean)))


def stream_steps(
    budget: float, tasks: Mapping[str, RowCount], rows_a_step: int, replay_ratio: float, buffer_size: int
) -> dict[str, int]:
    """Steps of each task of a stream, so that all together come to the budget, replayed tokens included.

    The tasks get equal parts of the budget. What a step replays is as long as the rows in the buffer are on average:
    those of earlier tasks, and of this one as it goes; each task's part of a full buffer is the same. The first step
    of a stream replays nothing. What rounding leaves over or takes goes to the tasks that are left.

    Args:
        budget: Tokens.
        tasks: The rows of each, in order.
        rows_a_step: New rows of a whole step.
        replay_ratio: Replayed rows for each new one.
        buffer_size: Rows that the buffer holds.

    Example:
        >>> short, long = RowCount(100, 10_000), RowCount(100, 50_000)
        >>> stream_steps(40_000, {"a": short, "b": short}, 4, 0.25, 2048)
        {'a': 40, 'b': 40}
        >>> stream_steps(40_000, {"b": long, "a": short}, 4, 0.25, 2048)  # the short task replays long rows
        {'b': 8, 'a': 31}
    """
    kept: dict[str, float] = {}
    found: dict[str, int] = {}
    left = budget
    for place, (name, counted) in enumerate(tasks.items()):
        share, steps, taken = left / (len(tasks) - place), 0, 0.0
        new = counted.of_a_step(rows_a_step)
        while True:
            step = new * (counted.mean + replay_ratio * _mean_kept(kept, tasks, buffer_size))
            if steps and taken + step / 2 > share:
                break
            steps, taken = steps + 1, taken + step
            kept[name] = min(float(counted.rows), kept.get(name, 0.0) + new)
        found[name] = steps
        left -= taken
    return found


def _mean_kept(kept: Mapping[str, float], tasks: Mapping[str, RowCount], buffer_size: int) -> float:
    """Mean tokens of a row in the buffer, 0 while it is empty."""
    most = buffer_size / max(1, len(kept))
    parts = {name: min(rows, most) if sum(kept.values()) > buffer_size else rows for name, rows in kept.items()}
    total = sum(parts.values())
    return sum(rows * tasks[name].mean for name, rows in parts.items()) / total if total else 0.0
