"""Whole numbers of rows by exact shares."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.mixing.shares import (
    apportion,
    apportion_in_parts,
    cap,
    capped_size,
    covering_size,
    normalised,
    rounded,
)

WEIGHTS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=9)


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, st.integers(0, 10**6))
def test_every_task_is_within_one_row_of_its_share(weights: list[float], total: int) -> None:
    shares = normalised(weights)
    counts = apportion(shares, total)
    assert sum(counts) == total
    assert all(abs(count - share * total) < 1 for count, share in zip(counts, shares, strict=True))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.001, 1000), st.booleans()), min_size=1, max_size=9), st.integers(0, 10**5))
def test_both_parts_and_every_task_in_them_are_within_one_row(tasks: list[tuple[float, bool]], total: int) -> None:
    shares = normalised([weight for weight, _ in tasks])
    found = sorted({part for _, part in tasks})
    parts = [found.index(part) for _, part in tasks]
    counts = apportion_in_parts(shares, parts, total)
    assert sum(counts) == total
    assert all(abs(count - share * total) < 1 for count, share in zip(counts, shares, strict=True))
    for part in set(parts):
        members = [task for task, of in enumerate(parts) if of == part]
        assert abs(sum(counts[task] for task in members) - sum(shares[task] for task in members) * total) < 1


def test_decimals_mean_what_is_written() -> None:
    """0.35 as a float is a little less, and 1000 rows of it would be 349."""
    assert apportion(normalised([0.35, 0.30, 0.20, 0.15]), 1000) == [350, 300, 200, 150]
    assert normalised([0.1] * 10) == [Fraction(1, 10)] * 10


def test_the_largest_remainders_are_rounded_up_and_ties_go_to_the_first() -> None:
    assert apportion(normalised([1, 1, 1]), 4) == [2, 1, 1]
    assert apportion(normalised([47, 16, 15.8, 12, 6.1, 3.1]), 10) == [5, 2, 1, 1, 1, 0]
    assert rounded([Fraction(5, 2), Fraction(1, 2)], 3) == [3, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0.01, 100)), min_size=1, max_size=8), st.floats(1, 8))
def test_sizes_are_what_they_promise(tasks: list[tuple[int, float]], repeats: float) -> None:
    counts, shares = [count for count, _ in tasks], normalised([weight for _, weight in tasks])
    covering = apportion(shares, covering_size(counts, shares))
    assert all(taken >= count for taken, count in zip(covering, counts, strict=True))
    capped = capped_size(counts, shares, repeats)
    limits = [cap(count, repeats) for count in counts]
    assert all(taken <= most for taken, most in zip(apportion(shares, capped), limits, strict=True))
    assert any(math.floor(share * (capped + 1)) >= most - 1 for share, most in zip(shares, limits, strict=True))
