"""What a strategy decides: the shares of the tasks, and the order in which they come. Pure functions, numbers only.

A share rule takes the tasks' numbers of rows and their weights. Of the rows of a task every one comes once before any
comes twice (whole passes, the rest a draw without replacement), so copies of a row lie a pass apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sage.libs.finetune.agent.mixing.config import STRATEGIES as NAMES
from sage.libs.finetune.agent.mixing.shares import Shares, normalised
from sage.libs.finetune.agent.registry import Registry

Integers = NDArray[np.int64]
ShareRule = Callable[[Sequence[int], Sequence[float], float], Shares]
"""Rows per task, weights and temperature to shares that sum to 1; tasks without a weight get none."""

Order = Callable[[Sequence[int], np.random.Generator | None], Integers]
"""Rows to take per task to the task of each place; a generator for an order at random."""


class Indices(NamedTuple):
    """The rows of a mix in their order: [n] number of the task, [n] number of the row in it."""

    tasks: Integers
    rows: Integers


@dataclass(frozen=True)
class Strategy:
    """How shares come about, and in which order tasks come.

    Attributes:
        shares: The rule.
        order: Of the tasks in a stage.
        reads_weights: Whether weights say more than which tasks take part.
    """

    shares: ShareRule
    order: Order
    reads_weights: bool = True


def weighted(counts: Sequence[int], weights: Sequence[float], temperature: float = 2.0) -> Shares:
    """Shares are the weights.

    Example:
        >>> weighted([1000, 50], [3.0, 1.0])
        [Fraction(3, 4), Fraction(1, 4)]
    """
    return normalised(weights)


def proportional(counts: Sequence[int], weights: Sequence[float], temperature: float = 2.0) -> Shares:
    """Shares are those of the rows there are.

    Example:
        >>> proportional([30, 10, 60], [1.0, 1.0, 0.0])
        [Fraction(3, 4), Fraction(1, 4), Fraction(0, 1)]
    """
    return normalised([Fraction(count if weight else 0) for count, weight in zip(counts, weights, strict=True)])


def tempered(counts: Sequence[int], weights: Sequence[float], temperature: float = 2.0) -> Shares:
    """Shares are those of `rows ** (1 / temperature)`: between proportional (1) and balanced (infinity).

    Example:
        >>> tempered([900, 100], [1.0, 1.0], temperature=2.0)
        [Fraction(3, 4), Fraction(1, 4)]
    """
    sizes = [count if weight else 0 for count, weight in zip(counts, weights, strict=True)]
    largest = max(sizes)  # of shares of the largest, so that no temperature overflows
    powers = [(size / largest) ** (1 / temperature) for size in sizes]
    return normalised([Fraction(power).limit_denominator(10**12) or Fraction(power) for power in powers])  # 1/3 is 1/3


def balanced(counts: Sequence[int], weights: Sequence[float], temperature: float = 2.0) -> Shares:
    """Shares are equal.

    Example:
        >>> balanced([30, 10, 60], [1.0, 0.2, 0.0])
        [Fraction(1, 2), Fraction(1, 2), Fraction(0, 1)]
    """
    return normalised([Fraction(weight > 0) for weight in weights])


def one_after_another(taken: Sequence[int], rng: np.random.Generator | None) -> Integers:
    """Tasks in their order, or with a generator in random order.

    Example:
        >>> one_after_another([2, 1], None).tolist()
        [0, 0, 1]
    """
    tasks = np.repeat(np.arange(len(taken)), taken)
    return tasks if rng is None else rng.permutation(tasks)


def in_turn(taken: Sequence[int], rng: np.random.Generator | None) -> Integers:
    """Tasks taking turns, each evenly spread over the whole; nothing is drawn.

    The j-th of t rows stands at (j + 1/2) / t of the way. Of K tasks, a beginning of n rows differs from a task's share
    s of them by at most 1/2 + s K / 2 rows.

    Example:
        >>> in_turn([4, 2], None).tolist()
        [0, 1, 0, 0, 1, 0]
    """
    tasks = np.repeat(np.arange(len(taken)), taken)
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in taken if count])
    return tasks[np.argsort(places, kind="stable")]


def passes(count: int, taken: int, shuffle: bool, rng: np.random.Generator) -> Integers:
    """Which rows of a task are taken, in their order: whole passes, then a draw without replacement.

    Args:
        count: Rows of the task.
        taken: Rows to take.
        shuffle: Whether each pass has an order of its own; else it is that of the rows.
        rng: Draws.

    Example:
        >>> passes(3, 7, False, np.random.default_rng(0)).tolist()
        [0, 1, 2, 0, 1, 2, 2]
    """
    if not taken:
        return np.empty(0, dtype=np.int64)
    whole, rest = divmod(taken, count)
    parts = [rng.permutation(count) if shuffle else np.arange(count) for _ in range(whole)]
    if rest:
        drawn = rng.permutation(count)[:rest]
        parts.append(drawn if shuffle else np.sort(drawn))
    return np.concatenate(parts)


def draw(
    counts: Sequence[int], table: Sequence[Sequence[int]], order: Order, shuffle: bool, rng: np.random.Generator
) -> Indices:
    """The rows of a mix, stage after stage.

    A later stage goes on in the pass over a task where the one before it stopped.

    Args:
        counts: Rows per task.
        table: Rows to take, by stage and task.
        order: Of the tasks in a stage.
        shuffle: Whether rows, and where `order` lets them tasks, come in random order.
        rng: Draws.
    """
    tasks = np.concatenate([order(taken, rng if shuffle else None) for taken in table])
    rows = np.empty(len(tasks), dtype=np.int64)
    for task, count in enumerate(counts):
        places = np.flatnonzero(tasks == task)
        rows[places] = passes(count, len(places), shuffle, rng)
    return Indices(tasks, rows)


STRATEGIES: Registry[Strategy] = Registry("mixing strategy")
STRATEGIES.add("weighted", Strategy(weighted, one_after_another))
STRATEGIES.add("proportional", Strategy(proportional, one_after_another, reads_weights=False))
STRATEGIES.add("temperature", Strategy(tempered, one_after_another, reads_weights=False))
STRATEGIES.add("balanced", Strategy(balanced, one_after_another, reads_weights=False))
STRATEGIES.add("round_robin", Strategy(weighted, in_turn))
STRATEGIES.add("curriculum", Strategy(weighted, one_after_another))
STRATEGIES.add("eta", Strategy(weighted, one_after_another))
assert sorted(NAMES) == list(STRATEGIES), "a config and the registry know the same strategies"
