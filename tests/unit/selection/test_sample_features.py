from __future__ import annotations

import sys

import numpy as np
import pytest
from tests.unit.selection.told import ROWS, TURNED

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.selection.coreset import CoresetSelector


@pytest.mark.parametrize(
    ("features", "wanted", "message"),
    [
        (TURNED[:39], TURNED[:1], r"features: expected an array of 40 rows, one a sample; found shape \(39, 2\)"),
        (TURNED[:, 0], TURNED[:1], "features: expected an array of 40 rows"),
        (TURNED, TURNED[:1, :1], r"wanted: expected rows of 2 features like the samples'; found \(1, 1\)"),
        (np.where(TURNED[3] == TURNED, np.nan, TURNED), TURNED[:1], "features: row 3 holds a value that is not finite"),
    ],
)
def test_arrays_must_fit(features: np.ndarray, wanted: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CoresetSelector("rds", 3, features=features, wanted=wanted).select(ROWS)


def test_distances_are_those_diversity_goes_by() -> None:
    samples = ROWS[:8]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 5)).astype(np.float32)
    cosine = CoresetSelector(features=features).compute_diversity(samples)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert np.allclose(cosine, 1 - unit @ unit.T, atol=1e-6) and (np.diag(cosine) == 0).all()
    euclidean = CoresetSelector("kcenter", features=features).compute_diversity(samples)
    plain = np.sqrt(((features[:, None] - features[None]) ** 2).sum(-1))
    assert np.allclose(euclidean, plain, atol=1e-3) and (euclidean == euclidean.T).all()
    assert np.allclose(CoresetSelector().compute_diversity([ROWS[0], ROWS[0]]), 0, atol=1e-6)


def test_distances_of_too_many_are_refused_before_the_work() -> None:
    with pytest.raises(ConfigError, match=r"30000 samples have 3.6 GB of distances, 20000 is the most; use select\(\)"):
        CoresetSelector().compute_diversity(["x"] * 30_000)
    with pytest.raises(ConfigError, match="compute_diversity has no model"):
        CoresetSelector(features="model").compute_diversity(ROWS)


def test_a_missing_encoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"needs sentence-transformers; run: pip install 'sage-libs\[embeddings\]'"):
        CoresetSelector("diversity", 2, features="sentence-transformers:any").select(ROWS)
