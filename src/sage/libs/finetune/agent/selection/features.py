"""Vectors of texts without a model: what two texts have in common, as a cosine.

A text's terms are its words and its runs of 3 to 5 characters, lower-cased, with white space made single. They are
hashed into 2^20 buckets, counted, and weighed by TF-IDF: (1 + ln count) x (1 + ln((1 + n) / (1 + texts with it))).
Words and characters count half each. A sparse random projection with signs (Achlioptas, 2003; Kane & Nelson, 2014) then
takes the buckets to `dim` numbers, where cosines are off by about 1 / sqrt(dim) between unlike texts and by little
between like ones.

Everything is numpy on whole blocks of texts: scikit-learn's vectorizers build each term as a Python string. Hashes are
integer arithmetic with constants of our own, so that they are the same in every process, on every machine and with
every version of the packages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sage.libs.finetune.agent.errors import ConfigError

BUCKET_BITS = 20
BUCKETS = 2**BUCKET_BITS
SHORTEST, LONGEST = 3, 5
"""Characters of the runs."""
SIGNS = 4
"""How many of the `dim` numbers a bucket is added to or taken from."""
BLOCK_CHARACTERS = 2**19
BASE = 0x9E3779B97F4A7C15  # odd, so that its powers can be divided by, modulo 2^64
BASE_INVERSE = pow(BASE, -1, 2**64)
EDGE = "\x00"
Hashes = NDArray[np.uint64]


def text_features(texts: Sequence[str], dim: int = 256, seed: int = 0) -> NDArray[np.float32]:
    """Features of texts: rows of length 1 whose cosines say how much the texts have in common.

    How much a term counts depends on all the texts given: features of two calls are not to be compared.

    Args:
        texts: Of any length; memory goes with the longest (about 100 bytes a character) and with n x dim.
        dim: Width of the features.
        seed: Of the projection.

    Returns:
        [n, dim] float32; the row of a text without a visible character is 0.

    Raises:
        ConfigError: when `dim` is below 1.

    Example:
        >>> features = text_features(["book a table for two", "Book a table for ten", "cos(0) is 1", ""])
        >>> [round(float(cosine), 1) for cosine in features @ features[0]]
        [1.0, 0.8, 0.0, 0.0]
    """
    if dim < 1:
        raise ConfigError(f"dim is {dim}: expected at least 1")
    features = np.zeros((len(texts), dim), dtype=np.float32)
    texts_with = [np.zeros(BUCKETS, dtype=np.int64), np.zeros(BUCKETS, dtype=np.int64)]
    for _, block in _blocks(texts):
        for known, terms in zip(texts_with, _both_kinds(block), strict=True):
            known += np.bincount(terms.buckets, minlength=BUCKETS)
    projections = [_projection(known, len(texts), dim, seed) for known in texts_with]
    for start, block in _blocks(texts):
        found = np.zeros((len(block), dim))
        for projection, terms in zip(projections, _both_kinds(block), strict=True):
            found += _projected(terms, projection, len(block))
        lengths = np.sqrt((found * found).sum(axis=1, keepdims=True))
        features[start : start + len(block)] = found / np.where(lengths > 0, lengths, 1)
    return features


class _Terms(NamedTuple):
    """Terms of a block of texts, each once a text: the text's number in the block, the bucket, and how often."""

    texts: NDArray[np.int64]
    buckets: NDArray[np.int64]
    counts: NDArray[np.int64]


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Normalised texts in blocks of about `BLOCK_CHARACTERS`, each with the number of its first."""
    block: list[str] = []
    start = characters = 0
    for number, text in enumerate(texts):
        block.append(" ".join(text.lower().split()))
        characters += len(block[-1])
        if characters >= BLOCK_CHARACTERS:
            yield start, block
            block, start, characters = [], number + 1, 0
    if block:
        yield start, block


def _both_kinds(block: Sequence[str]) -> tuple[_Terms, _Terms]:
    """Words, and runs of characters."""
    pieces = [EDGE + text + EDGE for text in block]  # with its edges every text but an empty one has a run
    encoded = "".join(pieces).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(encoded, dtype="<u4").astype(np.uint64)
    owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    return _words(codes, owner), _runs(codes, owner)


def _words(codes: Hashes, owner: NDArray[np.int64]) -> _Terms:
    """Terms of the words: runs of letters, digits and underscores."""
    inside = np.zeros(len(codes) + 1, dtype=bool)
    known, place = np.unique(codes, return_inverse=True)
    inside[:-1] = np.array([chr(int(code)).isalnum() or chr(int(code)) == "_" for code in known], dtype=bool)[place]
    edges = np.flatnonzero(np.diff(inside))  # texts begin with an edge, so these are: before a word, at its end, ...
    starts, ends = edges[::2] + 1, edges[1::2] + 1
    # Sums of code x BASE^place: the difference of two, divided by the power at the start, depends on the word alone.
    powers = np.cumprod(np.full(len(codes), BASE, dtype=np.uint64))
    inverses = np.cumprod(np.full(len(codes), BASE_INVERSE, dtype=np.uint64))
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(codes * powers)])
    return _counted(owner[starts], _mixed((sums[ends] - sums[starts]) * inverses[starts]))


def _runs(codes: Hashes, owner: NDArray[np.int64]) -> _Terms:
    """Terms of the runs of characters, within texts."""
    texts, hashes = [], []
    found = np.zeros(len(codes), dtype=np.uint64)
    for length in range(1, LONGEST + 1):
        found = found[: len(codes) - length + 1] * np.uint64(BASE) + codes[length - 1 :]
        if length >= SHORTEST:
            within = owner[: len(found)] == owner[length - 1 :]
            texts.append(owner[: len(found)][within])
            hashes.append(_mixed(found[within] + np.uint64(length)))
    return _counted(np.concatenate(texts), np.concatenate(hashes))


def _counted(texts: NDArray[np.int64], hashes: Hashes) -> _Terms:
    keys = (texts << BUCKET_BITS) | (hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
    found, counts = np.unique(keys, return_counts=True)
    return _Terms(found >> BUCKET_BITS, found & (BUCKETS - 1), counts)


class _Projection(NamedTuple):
    """Of the buckets that are used: how rare each is, its row in the matrix, and the matrix of signs."""

    rarity: NDArray[np.float64]
    rows: NDArray[np.int32]
    signs: csr_array


def _projection(texts_with: NDArray[np.int64], n: int, dim: int, seed: int) -> _Projection:
    """`SIGNS` places and signs for each bucket that is used, drawn by hashing its number with the seed."""
    used = np.flatnonzero(texts_with)
    stream = _mixed(np.array([seed % 2**64], dtype=np.uint64))
    turns = np.arange(SIGNS, dtype=np.uint64)
    drawn = _mixed((used.astype(np.uint64)[:, None] * np.uint64(SIGNS) + turns) ^ stream).ravel()
    columns = (drawn >> np.uint64(1)) % np.uint64(dim)
    signs = np.where(drawn & np.uint64(1), 1.0, -1.0) / np.sqrt(SIGNS)
    matrix = csr_array((signs, columns.astype(np.int32), np.arange(0, len(signs) + 1, SIGNS)), shape=(len(used), dim))
    rows = np.cumsum(texts_with > 0, dtype=np.int32) - 1
    return _Projection(1 + np.log((1 + n) / (1 + texts_with)), rows, matrix)


def _projected(terms: _Terms, projection: _Projection, n: int) -> NDArray[np.float64]:
    """[n, dim] the texts' terms weighed, made to length 1 and projected."""
    values = (1 + np.log(terms.counts)) * projection.rarity[terms.buckets]
    values /= np.sqrt(np.bincount(terms.texts, weights=values * values, minlength=n))[terms.texts]
    starts = np.searchsorted(terms.texts, np.arange(n + 1))
    shape = (n, projection.signs.shape[0])
    found: NDArray[np.float64] = (
        csr_array((values, projection.rows[terms.buckets], starts), shape=shape) @ projection.signs
    ).toarray()
    return found


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit made to depend on every other (the finalizer of SplitMix64; Steele, Lea & Flood, 2014)."""
    found = hashes + np.uint64(BASE)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))
