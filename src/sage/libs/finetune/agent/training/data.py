"""From a data reference to token rows: where the stages are chained for training.

reference -> samples -> rendered rows that fit, and an account of what was dropped and what is trained.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.resolve import located_samples
from sage.libs.finetune.agent.tokenization.render import IGNORED
from sage.libs.finetune.agent.tokenization.truncate import truncate
from sage.libs.finetune.agent.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass
class TokenRows:
    """A data set as token rows.

    Attributes:
        rows: Each `input_ids`, `labels` and perhaps `weights`; every one has at least one trained token.
        samples: The samples they came from, in the same order.
        manifest: Reference, number of rows, hash of the samples, tokens in all and trained, what was dropped.
    """

    rows: list[Row]
    samples: list[Sample]
    manifest: dict[str, Any]


def token_rows(reference: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenRows:
    """Load, check, render and truncate a data set.

    Rows without a trained token are left out and counted; a row that cannot fit is an error that names it.

    Raises:
        DataError: naming file and line, or when nothing is left to train on.
    """
    samples = located_samples(reference)
    rows: list[Row] = []
    kept: list[Sample] = []
    untrained = shortened = dropped_messages = 0
    for where, sample in samples:
        try:
            fitted = truncate(sample, tokenizer, max_length)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if all(label == IGNORED for label in fitted.rendered.labels):
            untrained += 1
            continue
        shortened += fitted.dropped_messages > 0
        dropped_messages += fitted.dropped_messages
        rows.append(dict(fitted.rendered.row()))
        kept.append(sample)
    if not rows:
        raise DataError(f"{reference}: none of the {len(samples)} rows has a trained token; every turn has weight 0")
    manifest = {
        "reference": reference,
        "rows": len(rows),
        "rows_without_trained_tokens": untrained,
        "rows_shortened": shortened,
        "messages_dropped": dropped_messages,
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "tokens_trained": sum(trained_tokens(row) for row in rows),
        "longest_row": max(len(row["input_ids"]) for row in rows),
        "sha256": samples_hash(kept),
    }
    for count, what in ((untrained, "have no trained token and are left out"), (shortened, "were shortened to fit")):
        if count:
            logger.warning("%s: %d of %d rows %s", reference, count, len(samples), what)
    return TokenRows(rows, kept, manifest)


def trained_tokens(row: Row) -> int:
    """Tokens of a row that carry loss."""
    return sum(label != IGNORED for label in row["labels"])


def samples_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 of the samples as canonical JSON lines: the same rows give the same hash, wherever they came from."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps(sample, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
