from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection import features as module
from sage.libs.finetune.agent.selection.features import text_features

TEXTS = [
    "book a table for two",
    "Book  a table\nfor TWO",
    "book a table for ten",
    "what is the weather in Oslo",
    "!",
    "",
]


def test_likeness_follows_the_words() -> None:
    found = text_features(TEXTS)
    same, near, far, mark, empty = (found @ found[0])[1:]
    assert same == pytest.approx(1, abs=1e-6)  # case and white space do not count
    assert 0.5 < near < 0.95 and abs(far) < 0.25 and abs(mark) < 0.25 and empty == 0
    assert np.linalg.norm(found, axis=1).round(5).tolist() == [1, 1, 1, 1, 1, 0]
    assert found.dtype == np.float32 and found.shape == (6, 256)


def test_the_projection_keeps_cosines() -> None:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghij"), 6)) for _ in range(300)]
    texts = [" ".join(draw.choice(words, 30)) for _ in range(60)]
    narrow, wide = text_features(texts, dim=256), text_features(texts, dim=8192)
    off = (narrow @ narrow.T - wide @ wide.T)[np.triu_indices(60, 1)]
    assert np.sqrt(np.mean(off**2)) < 1.2 / np.sqrt(256) and abs(off.mean()) < 0.02


def test_common_terms_count_little() -> None:
    texts = [f"you are a helpful assistant with tools. {word}" for word in ("apples", "apples", "harbour", "violin")]
    found = text_features(texts * 20)
    assert found[0] @ found[1] == pytest.approx(1, abs=1e-5)
    assert found[0] @ found[2] < 0.85


def test_neither_blocks_nor_processes_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text_features(TEXTS * 5)
    monkeypatch.setattr(module, "BLOCK_CHARACTERS", 50)
    np.testing.assert_array_equal(text_features(TEXTS * 5), whole)
    code = (
        f"from {module.__name__} import text_features; from hashlib import sha256;"
        f"print(sha256(text_features({TEXTS!r}).round(4).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == sha256(text_features(TEXTS).round(4).tobytes()).hexdigest()


def test_the_seed_changes_the_projection_only() -> None:
    one, two = text_features(TEXTS, seed=1), text_features(TEXTS, seed=2)
    assert not np.allclose(one, two)
    np.testing.assert_allclose(one @ one.T, two @ two.T, atol=0.3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=6), st.integers(1, 40))
def test_any_text_has_features(texts: list[str], dim: int) -> None:
    found = text_features(texts, dim=dim)
    assert found.shape == (len(texts), dim) and np.isfinite(found).all()
    for text, row in zip(texts, found, strict=True):
        assert row.any() or not text.split() or dim < 40


def test_no_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="dim is 0"):
        text_features(["a"], dim=0)
