"""What a model keeps of a stream of tasks: figures of the matrix R, R[i][j] = accuracy on task j after task i.

With T tasks done (rows of R), the last row being T:

    average accuracy    mean over j of R[T][j]                                            (Lopez-Paz & Ranzato, 2017)
    backward transfer   mean over j < T of R[T][j] - R[j][j]                              (Lopez-Paz & Ranzato, 2017)
    forward transfer    mean over j > 1 of R[j-1][j] - b[j], b before any training        (Lopez-Paz & Ranzato, 2017)
    forgetting          of task j < T: the most that R[i][j] was for an i < T, minus R[T][j]   (Chaudhry et al., 2018)

Backward transfer compares with the moment a task was learned, forgetting with the best moment: mean forgetting is
never less than minus the backward transfer, and the forgetting of a task that was never better than now is below 0. Any
score will do for which more is better. Rows may be longer than T, and hold None, for tasks that are yet to come: only
what a formula names is looked at, and of the maximum what is known.

Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning"; Chaudhry, Dokania, Ajanthan & Torr, "Riemannian
walk for incremental learning: understanding forgetting and intransigence".
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from sage.libs.finetune.agent.errors import DataError

Matrix = Sequence[Sequence[float | None]]


def average_accuracy(matrix: Matrix) -> float:
    """Mean accuracy on the tasks learned so far.

    Args:
        matrix: One row a task done, in order: the accuracy on each task, None where it was not measured.

    Raises:
        DataError: for no rows, and naming the row and the task of an accuracy that is missing.

    Example:
        >>> average_accuracy([[0.9, 0.1], [0.5, 0.8]])
        0.65
    """
    if not matrix:
        raise DataError("the accuracy matrix has no rows; it needs one for each task that was learned")
    return fmean(_known(matrix, -1, task) for task in range(len(matrix)))


def backward_transfer(matrix: Matrix) -> float | None:
    """Mean change on the earlier tasks since each was learned; below 0 is what was lost.

    Args:
        matrix: As for `average_accuracy`.

    Returns:
        None while there is no earlier task.

    Raises:
        DataError: naming the row and the task of an accuracy that is missing.

    Example:
        >>> round(backward_transfer([[0.9, 0.1], [0.5, 0.8]]), 3)
        -0.4
    """
    return _mean([_known(matrix, -1, task) - _known(matrix, task, task) for task in range(len(matrix) - 1)])


def forgetting(matrix: Matrix) -> list[float]:
    """Of each task but the last: its best accuracy before the last task, minus that of now.

    Args:
        matrix: As for `average_accuracy`.

    Returns:
        One number a task, empty while there is no earlier task; `mean_forgetting` sums them up.

    Raises:
        DataError: naming the row and the task of an accuracy that is missing.

    Example:
        >>> [round(lost, 3) for lost in forgetting([[0.9, 0.1, 0.1], [0.5, 0.8, 0.2], [0.6, 0.3, 0.7]])]
        [0.3, 0.5]
    """
    lost = []
    for task in range(len(matrix) - 1):
        before = [row[task] for row in matrix[:-1] if len(row) > task]
        best = max([_known(matrix, task, task), *(accuracy for accuracy in before if accuracy is not None)])
        lost.append(best - _known(matrix, -1, task))
    return lost


def mean_forgetting(matrix: Matrix) -> float | None:
    """The mean of `forgetting`; None while there is no earlier task.

    Example:
        >>> mean_forgetting([[0.9, 0.1], [0.5, 0.8]])
        0.4
    """
    return _mean(forgetting(matrix))


def forward_transfer(matrix: Matrix, zero_shot: Sequence[float | None]) -> float | None:
    """Mean gain on each task from the tasks before it, before it was learned itself.

    Args:
        matrix: As for `average_accuracy`.
        zero_shot: Accuracy on each task before the first was learned.

    Returns:
        None while there is no later task.

    Raises:
        DataError: naming the row and the task of an accuracy that is missing.

    Example:
        >>> round(forward_transfer([[0.9, 0.3], [0.5, 0.8]], [0.2, 0.1]), 3)
        0.2
    """
    gains = []
    for task in range(1, len(matrix)):
        before = zero_shot[task] if len(zero_shot) > task else None
        if before is None:
            raise DataError(
                f"the accuracy on task {task + 1} before any training is missing; forward transfer needs it"
            )
        gains.append(_known(matrix, task - 1, task) - before)
    return _mean(gains)


def _mean(numbers: Sequence[float]) -> float | None:
    return fmean(numbers) if numbers else None


def _known(matrix: Matrix, row: int, task: int) -> float:
    accuracy = matrix[row][task] if len(matrix[row]) > task else None
    if accuracy is None:
        after = row % len(matrix) + 1
        raise DataError(
            f"the accuracy on task {task + 1} after task {after} is missing; evaluate it, or leave this figure"
        )
    return accuracy
