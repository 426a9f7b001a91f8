from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection import near_duplicates as module
from sage.libs.finetune.agent.selection.near_duplicates import near_duplicates


def some_repeated(n: int, noise: float) -> NDArray[np.float64]:
    """`n` rows and then `n` that are like one of them."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((n, 64))
    return np.concatenate([rows, rows[draw.integers(0, n, n)] + noise * draw.standard_normal((n, 64))])


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.99, 1.0])
def test_every_pair_is_looked_at(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    rows = some_repeated(300, 0.2)
    rows[400] = 3 * rows[17]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.tril(units @ units.T, -1).max(axis=1) >= threshold - 1e-6
    assert near_duplicates(rows, threshold).tolist() == expected.tolist()
    monkeypatch.setattr(module, "BLOCK_SIMILARITIES", 600 * 7)  # many blocks
    assert near_duplicates(rows, threshold).tolist() == expected.tolist()
    assert expected[400] and 0 < expected.sum() < 600


def test_the_first_is_kept_and_a_chain_is_cut() -> None:
    angles = np.radians([0, 15, 30, 90, 0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert near_duplicates(rows, 0.95).tolist() == [False, True, True, False, True]


def test_rows_of_zeros_are_like_nothing() -> None:
    assert not near_duplicates(np.zeros((3, 2)), 0.01).any()
    assert near_duplicates(np.zeros((0, 2))).tolist() == []


def test_hashing_marks_nothing_wrongly_and_misses_little(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_repeated(1500, 0.3)  # cosines of about 0.958
    exact = near_duplicates(rows, 0.95)
    equal = np.tile(np.random.default_rng(1).standard_normal((700, 3)), (2, 1))
    monkeypatch.setattr(module, "EXACT_ROWS", 100)
    monkeypatch.setattr(module, "BUCKET_ROWS", 20)
    hashed = near_duplicates(rows, 0.95)
    assert not (hashed & ~exact).any()
    assert exact.sum() > 1000 and hashed.sum() >= 0.99 * exact.sum()
    assert near_duplicates(rows, 0.95).tolist() == hashed.tolist()
    assert near_duplicates(equal, 1.0).tolist() == [False] * 700 + [True] * 700


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="expected a cosine above 0 and at most 1"):
        near_duplicates(np.eye(2), threshold)


def test_many_equal_rows_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    rows[500:2000] = rows[5]
    rows[2500] = rows[2501] = 0
    exact = near_duplicates(rows)
    monkeypatch.setattr(module, "EXACT_ROWS", 1000)
    assert (near_duplicates(rows) == exact).all()
