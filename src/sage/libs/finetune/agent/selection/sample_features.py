"""Features of samples: of their text, by an encoder, given, or hidden states of a model; and distances of all.

Wanted examples are looked at together with the pool, since the weight of a word is how rare it is in all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.selection.features import text_features
from sage.libs.finetune.agent.selection.texts import sample_text

ENCODER = "sentence-transformers:"
MOST_DISTANCES = 20_000
"""Rows up to which all distances fit in 1.6 GB."""

_BLOCK = 1024


def sample_features(
    samples: Sequence[Any], wanted: Sequence[Any] = (), kind: str = "text"
) -> tuple[np.ndarray, np.ndarray]:
    """Unit features of samples and of wanted examples, [n, d] and [m, d] in float32.

    Args:
        samples: In any form that `texts.sample_text` reads.
        wanted: The same.
        kind: `text`, or `sentence-transformers:NAME` with a path or hub id.

    Raises:
        ConfigError: when sentence-transformers is not installed.
        DataError: naming the sample that cannot be read.
    """
    texts = [sample_text(sample, f"sample {number}").text for number, sample in enumerate(samples)]
    texts += [sample_text(sample, f"wanted {number}").text for number, sample in enumerate(wanted)]
    found = text_features(texts) if kind == "text" else _encoded(texts, kind.removeprefix(ENCODER))
    return found[: len(samples)], found[len(samples) :]


def given_features(n: int, features: np.ndarray, wanted: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The arrays, once they fit the samples and each other.

    Raises:
        DataError: when they are not [n, d] and [m, d] of finite numbers.
    """
    given = np.asarray(features, dtype=np.float32)
    if given.ndim != 2 or len(given) != n:
        raise DataError(f"features: expected an array of {n} rows, one a sample; found shape {given.shape}")
    asked = np.asarray(wanted, dtype=np.float32) if len(wanted) else np.empty((0, given.shape[1]), np.float32)
    if asked.ndim != 2 or asked.shape[1] != given.shape[1]:
        raise DataError(f"wanted: expected rows of {given.shape[1]} features like the samples'; found {asked.shape}")
    for name, array in (("features", given), ("wanted", asked)):
        if not (sound := np.isfinite(array).all(axis=1)).all():
            raise DataError(f"{name}: row {int(np.argmin(sound))} holds a value that is not finite")
    return given, asked


def centred(features: np.ndarray, wanted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Unit features less the mean of the pool, [n, d] and [m, d], as unit rows again.

    Hidden states of a language model all point nearly the same way (Ethayarajh 2019, arXiv:1909.00512): of 240 rows of
    office tasks 238 had a cosine of 0.95 or more with an earlier one. What sets them apart is the rest.

    Example:
        >>> features, _ = centred(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), None)
        >>> np.sign(features).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return _unit(features - mean), None if wanted is None else _unit(wanted - mean)


def check_distances(n: int) -> None:
    """Refuse to hold all distances of so many rows.

    Raises:
        ConfigError: for more than 20,000 rows, whose matrix would take over 1.6 GB.
    """
    if n > MOST_DISTANCES:
        raise ConfigError(
            f"{n} samples have {n * n * 4 / 1e9:.1f} GB of distances, {MOST_DISTANCES} is the most; use select(), or "
            "farthest_first() on the features, which never hold them all"
        )


def distances(features: np.ndarray, *, cosine: bool) -> np.ndarray:
    """All distances, [n, n] float32, symmetric with a zero diagonal: 1 minus the cosine, or Euclidean.

    Raises:
        ConfigError: as `check_distances`.

    Example:
        >>> distances(np.array([[3.0, 0.0], [0.0, 4.0]], dtype=np.float32), cosine=False).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    n = len(features)
    check_distances(n)
    if cosine:
        features = _unit(features)
    found = np.asarray(features @ features.T, dtype=np.float32)
    squares = np.einsum("ij,ij->i", features, features)
    for start in range(0, n, _BLOCK):  # block by block, since a second matrix may not fit
        block = found[start : start + _BLOCK]
        if cosine:
            np.subtract(1, block, out=block)
        else:
            np.subtract(squares[start : start + _BLOCK, None] + squares[None, :], 2 * block, out=block)
        np.maximum(block, 0, out=block)
    np.fill_diagonal(found, 0)
    return found if cosine else np.sqrt(found, out=found)


def _unit(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, np.finfo(np.float32).tiny))


def _encoded(texts: Sequence[str], name: str) -> np.ndarray:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError(
            f"features '{ENCODER}{name}' needs sentence-transformers; run: pip install 'sage-libs[embeddings]'"
        ) from None
    found = SentenceTransformer(name).encode(
        list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    )
    return np.asarray(found, dtype=np.float32)
