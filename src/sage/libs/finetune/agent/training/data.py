"""From a data reference to token rows: where the stages are chained for training.

reference -> samples -> checked and rendered rows that fit, and an account of what was wrong, dropped and trained.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.preflight.faults import KINDS, in_order
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.tokenization.render import IGNORED
from sage.libs.finetune.agent.types import Sample
from sage.libs.finetune.agent.validation import ValidationReport, check_rows

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
        places: Where each row comes from, as `FILE:NUMBER`.
        manifest: Reference, number of rows, hash of the samples, tokens in all and trained, what was found and dropped.
    """

    rows: list[Row]
    samples: list[Sample]
    manifest: dict[str, Any]
    places: Sequence[str] = ()


def token_rows(
    reference: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    allow: Collection[str] = (),
    progress: Progress = silent,
    truncation: str = "drop",
) -> TokenRows:
    """Load, check, render and truncate a data set.

    Args:
        reference: File or `name:split`.
        tokenizer: With the chat template it is trained with.
        max_length: Longest row in tokens.
        allow: Kinds of faults (`preflight.faults.KINDS`) that do not stop training. A row with one is trained on, or
            left out where there is nothing to train on: it cannot be read or rendered, or no token is trained.
        progress: As for `validation.check_rows`.
        truncation: As for `validation.check_rows`; each window becomes a row.

    Raises:
        DataError: in one line, when a row has a fault that is not allowed, or nothing is left to train on.
    """
    report = ValidationReport(reference, frozenset(allow))
    rows: list[Row] = []
    kept: list[Sample] = []
    places: list[str] = []
    for row in check_rows(reference, "auto", tokenizer, max_length, progress, truncation):
        if report.add(row) and row.sample is not None and row.tokens is not None:
            rows += [dict(fitted.rendered.row()) for fitted in row.tokens.fitted]
            kept += [row.sample] * len(row.tokens.fitted)
            places += [row.where] * len(row.tokens.fitted)
    if report.failed:
        raise DataError(_refusal(report, max_length))
    if not rows:
        found = ", ".join(f"{name} ({tally.rows})" for name, tally in in_order(report.found).items())
        raise DataError(f"{reference}: none of the {report.rows} rows has a trained token: {found or 'it is empty'}")
    _warn(report)
    return TokenRows(rows, kept, _manifest(report, kept), places)


def trained_tokens(row: Row) -> int:
    """Tokens of a row that carry loss."""
    return sum(label != IGNORED for label in row["labels"])


def samples_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 of the samples as canonical JSON lines: the same rows give the same hash, wherever they came from."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps(sample, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _refusal(report: ValidationReport, max_length: int) -> str:
    """The first kind of fault with its first row, the other kinds by name, and the two ways on."""
    (kind, tally), *others = report.fatal.items()
    more = "".join(f", {name} ({other.rows})" for name, other in others)
    return (
        f"{report.failed} of {report.rows} rows are not fit to train on: {kind} ({tally.rows}){more}; first "
        f"{tally.first[0]}: {tally.message}; run `sage-finetune data validate {shlex.quote(report.reference)} --model "
        f"MODEL --max-seq-length {max_length}` for the rest, or let them through with --allow {','.join(report.fatal)}"
    )


def _warn(report: ValidationReport) -> None:
    for kind in sorted(report.allowed & report.found.keys(), key=list(KINDS).index):
        tally = report.found[kind]
        logger.warning(
            "%s: %d of %d rows have the allowed fault %s (%s), first %s: %s",
            report.reference, tally.rows, report.rows, kind, KINDS[kind].meaning, tally.first[0], tally.message,
        )  # fmt: skip
    if report.left_out:
        logger.warning("%s: %d of %d rows are left out: nothing of them can be trained on",
                       report.reference, report.left_out, report.rows)  # fmt: skip
    tokens = report.tokens or {}
    if tokens.get("shortened"):
        logger.warning("%s: %d of %d rows were shortened to fit and lose %d exchanges (%d tokens, %d to be trained)",
                       report.reference, tokens["shortened"], report.rows, tokens["dropped_exchanges"],
                       tokens["dropped_tokens"], tokens["trained_tokens_lost"])  # fmt: skip


def _manifest(report: ValidationReport, kept: Sequence[Sample]) -> dict[str, Any]:
    tokens = report.tokens or {}
    found = {name: tally.rows for name, tally in in_order(report.found).items()}
    return {
        "reference": report.reference,
        "source": report.source,
        "rows": len(kept),
        "rows_read": report.rows,
        "rows_left_out": report.left_out,
        "rows_shortened": tokens["shortened"],
        "messages_dropped": tokens["dropped_messages"],
        "exchanges_dropped": tokens["dropped_exchanges"],
        "tokens_dropped": tokens["dropped_tokens"],
        "trained_tokens_lost": tokens["trained_tokens_lost"],
        "tokens": tokens["total"],
        "tokens_trained": tokens["trained"],
        "longest_row": tokens["longest"],
        "allowed": sorted(report.allowed),
        "found": found,
        "sha256": samples_hash(kept),
    }
