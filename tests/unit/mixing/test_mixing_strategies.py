"""Share rules, orders and draws; numbers only."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.mixing.strategies import (
    STRATEGIES,
    balanced,
    draw,
    in_turn,
    one_after_another,
    passes,
    proportional,
    tempered,
    weighted,
)


def test_shares_of_three_sizes() -> None:
    counts, weights = [8000, 1000, 125], [5.0, 3.0, 2.0]
    assert weighted(counts, weights) == [Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)]
    assert proportional(counts, weights) == [Fraction(64, 73), Fraction(8, 73), Fraction(1, 73)]
    assert tempered(counts, weights, 3.0) == [Fraction(4, 7), Fraction(2, 7), Fraction(1, 7)]
    assert balanced(counts, weights) == [Fraction(1, 3)] * 3


def test_temperature_lies_between_proportional_and_balanced() -> None:
    counts, weights = [900, 90, 10], [1.0] * 3
    assert tempered(counts, weights, 1.0) == proportional(counts, weights)
    flat = tempered(counts, weights, 1e9)
    assert [round(float(share), 6) for share in flat] == [round(1 / 3, 6)] * 3
    smallest = [float(tempered(counts, weights, temperature)[2]) for temperature in (1, 2, 4, 8)]
    assert smallest == sorted(smallest)


@pytest.mark.parametrize("name", [*STRATEGIES])
def test_a_weight_of_zero_leaves_a_task_out(name: str) -> None:
    shares = STRATEGIES[name].shares([10, 10, 0], [1.0, 3.0, 0.0], 2.0)
    assert shares[2] == 0 and sum(shares) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any))
def test_taking_turns_keeps_the_shares_at_every_place(taken: list[int]) -> None:
    tasks = in_turn(taken, None)
    total, present = sum(taken), sum(count > 0 for count in taken)
    for task, count in enumerate(taken):
        so_far = np.cumsum(tasks == task)
        assert so_far[-1] == count
        quota = count / total * np.arange(1, total + 1)
        assert (np.abs(so_far - quota) <= 0.5 + count / total * present / 2 + 1e-9).all()


def test_equal_tasks_take_turns_one_by_one() -> None:
    assert in_turn([3, 3], None).tolist() == [0, 1, 0, 1, 0, 1]
    assert in_turn([2, 0, 4], None).tolist() == [2, 0, 2, 2, 0, 2]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 100), st.booleans(), st.integers(0, 9))
def test_every_row_comes_once_before_any_comes_twice(count: int, taken: int, shuffle: bool, seed: int) -> None:
    rows = passes(count, taken, shuffle, np.random.default_rng(seed)).tolist()
    assert len(rows) == taken
    for start in range(0, taken, count):
        part = rows[start : start + count]
        assert len(set(part)) == len(part) and set(part) <= set(range(count))
        assert shuffle or part == sorted(part)


def test_a_draw_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    def drawn(seed: int) -> tuple[list[int], list[int]]:
        found = draw([5, 3], [[4, 4]], one_after_another, True, np.random.default_rng(seed))
        return found.tasks.tolist(), found.rows.tolist()

    assert drawn(0) == drawn(0) != drawn(1)


def test_a_later_stage_goes_on_with_the_rows_that_are_left() -> None:
    found = draw([4, 2], [[2, 0], [2, 2]], one_after_another, False, np.random.default_rng(0))
    assert found.tasks.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.rows.tolist() == [0, 1, 2, 3, 0, 1]


def test_stages_keep_their_order_when_rows_are_shuffled() -> None:
    found = draw([50, 50], [[20, 5], [5, 20]], one_after_another, True, np.random.default_rng(3))
    assert Counter(found.tasks[:25].tolist()) == {0: 20, 1: 5}
    assert found.tasks[:25].tolist() != sorted(found.tasks[:25].tolist())
