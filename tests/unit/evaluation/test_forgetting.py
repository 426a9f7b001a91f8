"""Figures of an accuracy matrix: golden numbers, worked out by hand."""

import pytest

from sage.libs.finetune.agent import DataError
from sage.libs.finetune.agent.evaluation.forgetting import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    mean_forgetting,
)

MATRIX = [
    [0.80, 0.20, 0.10],
    [0.85, 0.70, 0.30],
    [0.50, 0.75, 0.90],
]
ZERO_SHOT = [0.05, 0.10, 0.15]


def test_golden_numbers():
    assert average_accuracy(MATRIX) == pytest.approx((0.50 + 0.75 + 0.90) / 3)
    assert backward_transfer(MATRIX) == pytest.approx(((0.50 - 0.80) + (0.75 - 0.70)) / 2)
    assert forgetting(MATRIX) == pytest.approx([0.85 - 0.50, 0.70 - 0.75])
    assert mean_forgetting(MATRIX) == pytest.approx((0.35 - 0.05) / 2)
    assert forward_transfer(MATRIX, ZERO_SHOT) == pytest.approx(((0.20 - 0.10) + (0.30 - 0.15)) / 2)


def test_while_a_stream_goes_on_only_its_finished_tasks_count():
    begun = [[*row, None, 0.4] for row in MATRIX[:2]]
    assert average_accuracy(begun) == pytest.approx((0.85 + 0.70) / 2)
    assert backward_transfer(begun) == pytest.approx(0.05)
    assert forgetting(begun) == pytest.approx([-0.05])


def test_one_task_has_nothing_to_forget():
    assert average_accuracy([[0.8]]) == 0.8
    assert backward_transfer([[0.8]]) is None
    assert forgetting([[0.8]]) == []
    assert mean_forgetting([[0.8]]) is None
    assert forward_transfer([[0.8]], []) is None


def test_rows_may_end_with_the_tasks_learned_so_far():
    triangle = [row[: number + 1] for number, row in enumerate(MATRIX)]
    assert (average_accuracy(triangle), forgetting(triangle)) == (average_accuracy(MATRIX), forgetting(MATRIX))
    with pytest.raises(DataError, match="the accuracy on task 2 after task 1 is missing"):
        forward_transfer(triangle, ZERO_SHOT)


def test_forgetting_looks_at_every_moment_before_the_last_task():
    assert forgetting([[0.5, 0.9], [0.5, 0.8], [0.5, 0.6, 0.1]])[1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([], "no rows"),
        ([[0.5], [None, 0.5]], "on task 1 after task 2 is missing"),
        ([[None, 0.1], [0.5, 0.5]], "on task 1 after task 1 is missing"),
    ],
)
def test_what_is_missing_is_named(matrix, message):
    with pytest.raises(DataError, match=message):
        average_accuracy(matrix)
        backward_transfer(matrix)


def test_a_missing_zero_shot_accuracy_is_named():
    with pytest.raises(DataError, match="task 3 before any training"):
        forward_transfer(MATRIX, ZERO_SHOT[:2])
