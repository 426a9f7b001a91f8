"""Several data sets as training rows: each checked and rendered as one alone would be, then mixed by weight.

What is mixed are conversations that are fit to train on, so shares are of what is trained; the windows of a long
conversation stay together. A row that comes twice is rendered once. Its task is the name of its data set, whatever it
said before: replay and quotas go by it, and so does a dry run's table.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.mixing.config import MixerConfig
from sage.libs.finetune.agent.mixing.mixer import MultiTaskMixer
from sage.libs.finetune.agent.mixing.references import WeightedData, names_a_mix, read_references, task_weights
from sage.libs.finetune.agent.mixing.report import MixedTask
from sage.libs.finetune.agent.preflight.faults import KINDS
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.training.data import Row, TokenRows, samples_hash, token_rows, trained_tokens
from sage.libs.finetune.agent.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SUMMED = (
    "rows_read", "rows_left_out", "rows_shortened", "messages_dropped", "exchanges_dropped", "tokens_dropped",
    "trained_tokens_lost",
)  # fmt: skip
"""What a mix's manifest says of all rows that were read."""


def training_rows(
    config: AgentSFTConfig, tokenizer: PreTrainedTokenizerBase, allow: Collection[str], progress: Progress = silent
) -> TokenRows:
    """The rows that `train_data` names, whether that is one data set or several.

    Args:
        config: Of which `train_data`, the `mixing_` settings, `seed`, `max_seq_length` and `truncation` are read.
        tokenizer: With the chat template it is trained with.
        allow: Kinds of faults that do not stop training.
        progress: Told while rows are checked.

    Raises:
        ConfigError: for data sets of one name, or without a weight.
        DataError: as `training.data.token_rows`, for the first data set with a fault.
    """

    def read(reference: str) -> TokenRows:
        return token_rows(reference, tokenizer, config.max_seq_length, allow, progress, config.truncation)

    if not names_a_mix(config.train_data):
        return read(config.train_data)
    items = read_references(config.train_data)
    mixer = _mixer(config, items)  # what is wrong with the weights is said before a million rows are read
    parts = [read(item.reference) for item in items]
    rows = [_conversations(part) for part in parts]
    indices = mixer.mix_indices({item.name: len(found) for item, found in zip(items, rows, strict=True)})
    places = [*zip(indices.tasks.tolist(), indices.rows.tolist(), strict=True)]
    tagged = [
        [_of_task(conversation.sample, item) for conversation in found] for item, found in zip(items, rows, strict=True)
    ]
    chosen = [(rows[task][row], tagged[task][row]) for task, row in places]
    mixed_rows = [row for conversation, _ in chosen for row in conversation.rows]
    samples = [sample for conversation, sample in chosen for _ in conversation.rows]
    where = [conversation.place for conversation, _ in chosen for _ in conversation.rows]
    assert mixer.report is not None
    sources = [
        _source(item, part.manifest, mixed, [rows[task][row] for task, row in places if task == number])
        for number, (item, part, mixed) in enumerate(zip(items, parts, mixer.report.tasks, strict=True))
    ]
    manifest = _manifest(config, parts, mixed_rows, samples, sources, mixer)
    return TokenRows(mixed_rows, samples, manifest, where)


def in_words(manifest: dict[str, Any]) -> str:
    """What a manifest says about its mix, as a line for tables and cards; "" without one.

    Example:
        >>> source = {"name": "tools", "share": 0.75, "epochs": 1.5, "token_share": 0.9}
        >>> in_words({"mix": {"strategy": "weighted", "sources": [source]}})
        'mixed by weighted: tools 75.0% of the rows, 90.0% of the trained tokens, 1.50 passes'
    """
    mix = manifest.get("mix")
    if mix is None:
        return ""
    parts = [
        f"{source['name']} {source['share']:.1%} of the rows, {source['token_share']:.1%} of the trained tokens, "
        f"{source['epochs']:.2f} passes"
        for source in mix["sources"]
    ]
    return f"mixed by {mix['strategy']}: {'; '.join(parts)}"


@dataclass(frozen=True)
class _Conversation:
    """A sample with its token rows: one, or its windows."""

    sample: Sample
    rows: list[Row]
    place: str


def _mixer(config: AgentSFTConfig, items: list[WeightedData]) -> MultiTaskMixer:
    weights = task_weights(items, config.mixing_strategy)
    try:
        settings = MixerConfig(
            weights,
            config.mixing_strategy,
            seed=config.seed,
            total_size=config.mixing_size,
            max_repeats=config.mixing_max_repeats,
            temperature=config.mixing_temperature,
        )
    except ConfigError as error:
        raise ConfigError(f"'train_data': {error}") from None
    return MultiTaskMixer(settings)


def _conversations(data: TokenRows) -> list[_Conversation]:
    """Rows of one sample, which stand together, as one."""
    found: list[_Conversation] = []
    for row, sample, place in zip(data.rows, data.samples, data.places, strict=True):
        if found and found[-1].sample is sample:
            found[-1].rows.append(row)
        else:
            found.append(_Conversation(sample, [row], place))
    return found


def _of_task(sample: Sample, item: WeightedData) -> Sample:
    metadata = {**(sample.get("metadata") or {}), "task_type": item.name, "source": item.reference}
    return {**sample, "metadata": metadata}


def _source(
    item: WeightedData, manifest: dict[str, Any], mixed: MixedTask, taken: Iterable[_Conversation]
) -> dict[str, Any]:
    """A data set in the manifest: what it is, and what one pass over the mix takes of it."""
    rows = [row for conversation in taken for row in conversation.rows]
    return {
        "name": item.name, "reference": item.reference, "weight": mixed.weight, "rows": mixed.rows,
        "rows_read": manifest["rows_read"], "sha256": manifest["sha256"], "taken": mixed.taken, "share": mixed.share,
        "epochs": mixed.epochs, "unused": mixed.unused, "wanted": mixed.wanted, "capped": mixed.capped,
        "tokens": sum(len(row["input_ids"]) for row in rows), "tokens_trained": sum(map(trained_tokens, rows)),
    }  # fmt: skip


def _manifest(
    config: AgentSFTConfig,
    parts: list[TokenRows],
    rows: list[Row],
    samples: list[Sample],
    sources: list[dict[str, Any]],
    mixer: MultiTaskMixer,
) -> dict[str, Any]:
    """As of one data set, with `mix` beside it: rows and tokens are the mix's, faults those of all rows read."""
    report, manifests = mixer.report, [part.manifest for part in parts]
    assert report is not None
    trained = sum(source["tokens_trained"] for source in sources)
    for source in sources:
        source["token_share"] = source["tokens_trained"] / trained
    found: Counter[str] = Counter()
    for manifest in manifests:
        found.update(manifest["found"])
    return {
        "reference": config.train_data,
        "source": ", ".join(dict.fromkeys(manifest["source"] for manifest in manifests)),
        "rows": len(rows),
        **{name: sum(manifest[name] for manifest in manifests) for name in _SUMMED},
        "tokens": sum(source["tokens"] for source in sources),
        "tokens_trained": trained,
        "longest_row": max(len(row["input_ids"]) for row in rows),
        "allowed": manifests[0]["allowed"],
        "found": {kind: found[kind] for kind in KINDS if kind in found},
        "sha256": samples_hash(samples),
        "mix": {
            "strategy": report.strategy, "seed": report.seed, "conversations": report.rows,
            "wanted": report.wanted, "max_repeats": report.max_repeats, "sources": sources,
        },
    }  # fmt: skip
