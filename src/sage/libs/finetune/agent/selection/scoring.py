"""Losses and features of samples, as a model sees them.

The loss of a row is what training would minimise on it: the mean over its N supervised tokens of w_t * -log p(token t |
tokens before it), in nats, with the weights w_t of its turns (1 where none are given). N counts tokens, whatever their
weight, and a row's first token is never among them, since nothing comes before it. Adapters count, dropout does not.

`alone` is the same for the response without its prompt, which instruction-following difficulty needs (Li et al., 2024:
IFD = exp(loss - alone)). They score one question and one answer; rows of agents have many turns, so here a row
without its prompt is: each of its supervised stretches behind the tokens with which the chat template opens a reply,
one stretch after the other, and nothing else. The model still sees its own earlier replies, but no question, no schema
and no observation.

Batches, shards and workers are in `shards.py`, what is kept on disk in `score_cache.py`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.models.kv_cache import common_prefix
from sage.libs.finetune.agent.models.load import SMALL_MODEL, LoadedModel, load_model, load_tokenizer
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.selection.score_cache import RowScore, ScoreCache, row_key
from sage.libs.finetune.agent.selection.shards import Row, Scorer, ScorerHere, ScorerOnCluster
from sage.libs.finetune.agent.selection.texts import conversation, sample_text
from sage.libs.finetune.agent.tokenization.layout import layout
from sage.libs.finetune.agent.tokenization.render import IGNORED, render_prompt
from sage.libs.finetune.agent.tokenization.template import prepare_template
from sage.libs.finetune.agent.tokenization.truncate import truncate
from sage.libs.finetune.agent.types import Message

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class SampleScores:
    """What a model makes of n samples.

    Attributes:
        losses: [n] float64, mean negative log-likelihood of the supervised tokens, nats; all finite.
        tokens: [n] int64, supervised tokens; -1 for all where only the model itself could count them
            (`sample_losses`).
        alone: [n] float64, the same mean without the prompt; None when it was not asked for.
        features: [n, width] float32 of unit rows; None when they were not asked for.
    """

    losses: np.ndarray
    tokens: np.ndarray
    alone: np.ndarray | None = None
    features: np.ndarray | None = None


def score_samples(
    samples: Sequence[Any],
    model: Any,
    *,
    tokenizer: Any = None,
    max_length: int = 2048,
    batch_size: int = 32,
    alone: bool = False,
    features: bool = False,
    cache: str | Path | None = None,
    executor: str = "local",
    workers: int | None = None,
    dtype: str = "auto",
    progress: Progress = silent,
) -> SampleScores:
    """Score samples: their losses, and what else is asked for, from one forward pass.

    Args:
        samples: Chat rows, Alpaca rows, texts ...: see `selection.texts`. Of a text every token is supervised.
        model: Its name (folder, run folder, hub id, `smollm2-135m-instruct`), a trainer or anything else with
            `loaded`, a `LoadedModel`, a model of transformers together with `tokenizer`, or an object with
            `sample_losses(samples) -> list[float]`, which gives losses only.
        tokenizer: Instead of the model's own; for a model of transformers it is given the chat template that
            `load_model` would choose (a copy of it is).
        max_length: Tokens a row may have; longer conversations lose their oldest exchanges, texts their end.
        batch_size: Most rows computed together.
        alone: Whether to score responses without their prompts, too.
        features: Whether to pool the hidden states, too.
        cache: Folder for what was computed; None keeps nothing. A call that was killed goes on where it was.
        executor: "local", or "ray": on a cluster, whose workers load the model by its name.
        workers: With "ray", shards in flight; default as many as the cluster has devices.
        dtype: Of a model given by name; see `load_model`.
        progress: Told how many rows are scored.

    Returns:
        Scores in the order of the samples.

    Raises:
        ConfigError: for a model of no known kind, an unknown executor, or features or `alone` of a model that has only
            `sample_losses`.
        DataError: naming the sample by its number (from 0), when it cannot be read or rendered, does not fit, or
            nothing of it is supervised.
        ModelError: for an unusable model, or one whose loss is no finite number; naming the sample.

    Example:
        >>> rows = [{"messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}]}]
        >>> score_samples(rows, "smollm2-135m-instruct").losses  # doctest: +SKIP
        array([1.78...])
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"executor '{executor}' is unknown; expected {' or '.join(EXECUTORS)}")
    if _gives_losses_itself(model):
        return _own_losses(samples, model, alone or features, executor)
    names = [f"sample {number}" for number in range(len(samples))]
    if isinstance(model, torch.nn.Module) and tokenizer is not None:
        tokenizer = _with_template(tokenizer, model, zip(samples, names, strict=True))
    with _opened(model, tokenizer, executor, workers, dtype) as (scorer, tokenizer):
        rows = [_token_row(*pair, tokenizer, max_length) for pair in zip(samples, names, strict=True)]
        header = assistant_header(tokenizer) if alone and tokenizer.chat_template else ()
        with nullcontext() if cache is None else ScoreCache(cache, scorer.facts().fingerprint) as kept:
            return _Scoring(scorer, batch_size, kept, progress).scores(rows, names, header, alone, features)


def score_rows(
    model: Any,
    pad_id: int,
    rows: Sequence[Row],
    *,
    batch_size: int = 32,
    alone: bool = False,
    features: bool = False,
    header: Sequence[int] = (),
    progress: Progress = silent,
) -> SampleScores:
    """Score token rows with a model in hand, which is left in the mode it was in.

    Args:
        model: A causal language model of transformers, or a PeftModel around one.
        pad_id: Any valid token.
        rows: Each has `input_ids` and `labels` of one length (-100 where nothing is supervised), optionally `weights`.
        batch_size: Most rows computed together.
        alone: Whether to score the supervised stretches without the rest, too.
        features: Whether to pool the hidden states, too.
        header: For `alone`: the tokens that open a reply, see `assistant_header`; without them the first token of a row
            without its prompt is not counted.
        progress: Told how many rows are scored.

    Raises:
        DataError: naming the row by its number (from 0), when nothing of it is supervised.
        ModelError: when the loss of a row is no finite number; naming it.
    """
    names = [f"row {number}" for number in range(len(rows))]
    scoring = _Scoring(ScorerHere(model, pad_id), batch_size, None, progress)
    return scoring.scores(rows, names, header, alone, features)


def assistant_header(tokenizer: Any) -> list[int]:
    """The tokens that a chat template writes to have a reply begin, such as those of `<|im_start|>assistant`.

    Args:
        tokenizer: Has a chat template.

    Returns:
        Token ids; none for templates that write nothing there (Mistral's).
    """
    question: list[Message] = [{"role": "user", "content": "Hi"}]
    text, _ = layout(question, None, tokenizer)
    asked = tokenizer.encode(text, add_special_tokens=False)
    prompt = render_prompt(question, None, tokenizer)
    return prompt[common_prefix(prompt, asked) :]


def without_prompt(row: Row, header: Sequence[int]) -> dict[str, Any]:
    """The token row of the supervised stretches alone, each behind `header`.

    A stretch at the very beginning of a row has no prompt, and gets no header.

    Example:
        >>> row = {"input_ids": [1, 2, 3, 4, 5, 6], "labels": [-100, 2, 3, -100, -100, 6]}
        >>> without_prompt(row, [9])
        {'input_ids': [9, 2, 3, 9, 6], 'labels': [-100, 2, 3, -100, 6]}
    """
    ids, labels, weights = row["input_ids"], row["labels"], row.get("weights")
    found: dict[str, Any] = {"input_ids": [], "labels": []}
    if weights is not None:
        found["weights"] = []
    for place, label in enumerate(labels):
        if label == IGNORED:
            continue
        if place and labels[place - 1] == IGNORED:
            found["input_ids"] += header
            found["labels"] += [IGNORED] * len(header)
            if weights is not None:
                found["weights"] += [0.0] * len(header)
        found["input_ids"].append(ids[place])
        found["labels"].append(label)
        if weights is not None:
            found["weights"].append(weights[place])
    return found


@dataclass
class _Scoring:
    """How rows are scored, whichever they are; of equal rows one is computed."""

    scorer: Scorer
    batch_size: int
    cache: ScoreCache | None
    progress: Progress

    def scores(
        self, rows: Sequence[Row], names: Sequence[str], header: Sequence[int], alone: bool, features: bool
    ) -> SampleScores:
        tokens = _supervised_tokens(rows, names)
        losses, pooled = self._computed("score", rows, names, features)
        bare = None
        if alone:
            stripped = [without_prompt(row, header) for row in rows]
            bare_names = [f"{name} without its prompt" for name in names]
            _supervised_tokens(stripped, bare_names)
            bare, _ = self._computed("score without prompts", stripped, bare_names, False)
        return SampleScores(losses, tokens, bare, pooled)

    def _computed(
        self, label: str, rows: Sequence[Row], names: Sequence[str], features: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        keys = [row_key(row) for row in rows]
        times = Counter(keys)
        first: dict[str, int] = {}
        for number, key in enumerate(keys):
            first.setdefault(key, number)
        known = {} if self.cache is None else self.cache.find(first, features)
        done = sum(times[key] for key in known)
        self.progress(label, done, len(rows))
        asked = [number for key, number in first.items() if key not in known]
        for places, losses, pooled in self.scorer.scored([rows[number] for number in asked], self.batch_size, features):
            shard = [asked[place] for place in places]
            _require_finite(losses, pooled, [names[number] for number in shard])
            if self.cache is not None:
                self.cache.append([keys[number] for number in shard], losses, pooled)
            for place, number in enumerate(shard):
                known[keys[number]] = RowScore(float(losses[place]), None if pooled is None else pooled[place])
                done += times[keys[number]]
            self.progress(label, done, len(rows))
        scores = [known[key] for key in keys]
        losses_in_order = np.array([score.loss for score in scores], dtype=np.float64)
        if not features:
            return losses_in_order, None
        vectors = [score.features for score in scores if score.features is not None]
        return losses_in_order, np.stack(vectors) if vectors else np.empty((0, 0), dtype=np.float32)


def _supervised_tokens(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    """How many tokens of each row have a loss: those with a label, but for the row's first."""
    counts = np.array([sum(label != IGNORED for label in row["labels"][1:]) for row in rows], dtype=np.int64)
    for name, count in zip(names, counts, strict=True):
        if not count:
            raise DataError(f"{name}: no token of it is supervised, so it has no loss; leave it out")
    return counts


def _require_finite(losses: np.ndarray, pooled: np.ndarray | None, names: Sequence[str]) -> None:
    sound = np.isfinite(losses) if pooled is None else np.isfinite(losses) & np.isfinite(pooled).all(axis=1)
    if not sound.all():
        place = int(np.argmin(sound))
        raise ModelError(
            f"{names[place]}: the model's loss is {losses[place]:g} or its hidden states are no numbers; check its "
            "weights, or load it in float32"
        )


def _gives_losses_itself(model: Any) -> bool:
    plain = not isinstance(model, str | Path | LoadedModel) and not hasattr(model, "loaded")
    return plain and callable(getattr(model, "sample_losses", None))


def _own_losses(samples: Sequence[Any], model: Any, more: bool, executor: str) -> SampleScores:
    if more:
        raise ConfigError(
            "model: an object with sample_losses gives losses only; features and losses without prompts need a model "
            "by name, a LoadedModel, a trainer, or a model of transformers with its tokenizer"
        )
    _require_local(executor)
    losses = np.array(list(model.sample_losses(samples)), dtype=np.float64)
    if losses.shape != (len(samples),):
        raise ModelError(f"sample_losses gave {losses.shape} numbers for {len(samples)} samples; give one for each")
    _require_finite(losses, None, [f"sample {number}" for number in range(len(samples))])
    return SampleScores(losses, np.full(len(samples), -1, dtype=np.int64))


@contextmanager
def _opened(model: Any, tokenizer: Any, executor: str, workers: int | None, dtype: str) -> Iterator[tuple[Scorer, Any]]:
    """Who computes, and the tokenizer that reads."""
    if isinstance(model, str | Path) and executor == "ray":
        folder = Path(model).expanduser()
        name = str(folder.resolve()) if folder.is_dir() else str(model)  # workers may run elsewhere
        reader = tokenizer or load_tokenizer(name)[0]
        with ScorerOnCluster(name, dtype, reader.pad_token_id or 0, workers) as cluster:
            yield cluster, reader
        return
    _require_local(executor)
    if isinstance(model, torch.nn.Module):
        if tokenizer is None:
            raise ConfigError("model: a model of transformers needs its tokenizer beside it; give tokenizer=...")
        yield ScorerHere(model, tokenizer.pad_token_id or 0), tokenizer
        return
    loaded = load_model(str(model), dtype=dtype) if isinstance(model, str | Path) else getattr(model, "loaded", model)
    if not isinstance(loaded, LoadedModel):
        raise ConfigError(
            f"model: expected a name, a trainer, a LoadedModel, a model of transformers with its tokenizer, or an "
            f"object with sample_losses; found {type(model).__name__}"
        )
    reader = tokenizer or loaded.tokenizer
    yield ScorerHere(loaded.model, reader.pad_token_id or 0), reader


def _require_local(executor: str) -> None:
    if executor != "local":
        raise ConfigError(
            f"executor '{executor}': workers load the model by its name; give model as a folder or hub id, or use "
            "executor 'local'"
        )


def _with_template(tokenizer: Any, model: Any, samples: Iterable[tuple[Any, str]]) -> Any:
    """A tokenizer that can render what is to be rendered as `load_model` would have it."""
    if all(conversation(sample, name) is None for sample, name in samples):
        return tokenizer
    prepared = copy.deepcopy(tokenizer)
    prepare_template(prepared, small_model=model.num_parameters() < SMALL_MODEL)
    return prepared


def _token_row(sample: Any, name: str, tokenizer: Any, max_length: int) -> dict[str, Any]:
    turns = conversation(sample, name)
    if turns is not None:
        try:
            return dict(truncate(turns, tokenizer, max_length).rendered.row())
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    ids = tokenizer.encode(sample_text(sample, name).response)[:max_length]
    return {"input_ids": ids, "labels": ids}
