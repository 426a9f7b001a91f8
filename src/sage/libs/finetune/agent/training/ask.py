"""Asking a model for the turns of held-out rows: what it would have said, given what truly came before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.replies import score_reply
from sage.libs.finetune.agent.evaluation.statistics import wilson_interval
from sage.libs.finetune.agent.models.batches import rows_loss
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.sources.resolve import load_samples
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.tokenization.render import IGNORED, render_prompt
from sage.libs.finetune.agent.tokenization.truncate import truncate
from sage.libs.finetune.agent.types import EvalResult, Sample


def ask_turns(
    loaded: LoadedModel,
    data: str | Path | Sequence[dict[str, Any]],
    *,
    max_length: int,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> EvalResult:
    """Generate each assistant turn of each row once, greedily, and score it.

    Turns with weight 0 are context and not asked for. Rows too long for `max_length` lose whole exchanges, as in
    training, for the loss; for the replies they are whole.

    Raises:
        DataError: when there is no row, or none with a turn to ask for; naming the row, when it is too long or the
            chat template cannot show it. Nothing was generated then.
    """
    reference = str(data) if isinstance(data, str | Path) else "evaluation data"
    samples = _samples(data)
    turns = asked_turns(samples)
    if not turns:
        raise DataError(f"{reference}: no row has an assistant turn to ask for; every turn has weight 0")
    rows = _token_rows(samples, loaded, max_length, reference)
    records = ask_and_score(
        loaded, samples, turns, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    right = sum(record["right"] for record in records)
    pad_id = loaded.tokenizer.pad_token_id or 0
    return EvalResult(
        accuracy=right / len(turns),
        accuracy_interval=wilson_interval(right, len(turns)),
        loss=rows_loss(loaded.model, rows, pad_id, batch_size),
        n=len(turns),
        rows=len(samples),
        calls_valid=calls_valid_share(records),
        calls_attempted=sum(record["attempted"] for record in records),
        replies=records,
    )


def asked_turns(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Row and message of each assistant turn that is not mere context (weight 0)."""
    return [
        (row, index)
        for row, sample in enumerate(samples)
        for index, message in enumerate(sample["messages"])
        if message["role"] == "assistant" and message.get("weight", 1)
    ]


def ask_and_score(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    turns: Sequence[tuple[int, int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A reply to each of `turns` and its score, in their order; see `EvalResult.replies` for the fields."""
    replies = _ask(loaded, samples, turns, max_new_tokens, batch_size, progress)
    records = []
    for (row, index), reply in zip(turns, replies, strict=True):
        expected = samples[row]["messages"][index]
        score = score_reply(reply, expected, samples[row].get("tools") or [])
        records.append({"row": row, "turn": index, "expected": expected, "reply": reply, **vars(score)})
    return records


def calls_valid_share(records: Sequence[dict[str, Any]]) -> float | None:
    """Of the replies that attempted a call, the share with valid ones; None when none did."""
    valid = [record["valid"] for record in records if record["attempted"]]
    return sum(valid) / len(valid) if valid else None


def _samples(data: str | Path | Sequence[dict[str, Any]]) -> list[Sample]:
    if isinstance(data, str | Path):
        return load_samples(data)
    if not data:
        raise DataError("evaluation data: there are no rows; give at least one")
    return [read_sample(row, f"evaluation data, row {number}") for number, row in enumerate(data, start=1)]


def _token_rows(samples: Sequence[Sample], loaded: LoadedModel, max_length: int, reference: str) -> list[Any]:
    rows = []
    for number, sample in enumerate(samples, start=1):
        try:
            rows.append(dict(truncate(sample, loaded.tokenizer, max_length).rendered.row()))
        except DataError as error:
            raise DataError(f"{reference}, row {number}: {error}") from None
    if all(label == IGNORED for row in rows for label in row["labels"]):
        raise DataError(f"{reference}: only turns of weight 0 are left in {max_length} tokens; raise max_seq_length")
    return rows


def _ask(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    turns: Sequence[tuple[int, int]],
    max_new_tokens: int,
    batch_size: int,
    progress: Progress,
) -> list[str]:
    """Replies in the order of `turns`: rows in groups, and within a group the first turns, then the second ones ...

    A row's next prompt begins with its last one, so the generator computes only what is new.
    """
    tokenizer = loaded.tokenizer
    generator = Generator.of(loaded, batch_size)
    replies: dict[tuple[int, int], str] = {}
    for start in range(0, len(samples), batch_size):
        waiting: dict[int, list[int]] = {}
        for row, index in turns:
            if start <= row < start + batch_size:
                waiting.setdefault(row, []).append(index)
        while waiting:
            asked = [(row, indices.pop(0)) for row, indices in waiting.items()]
            waiting = {row: indices for row, indices in waiting.items() if indices}
            prompts = [
                render_prompt(samples[row]["messages"][:index], samples[row].get("tools"), tokenizer)
                for row, index in asked
            ]
            found = generator.generate(prompts, max_new_tokens=max_new_tokens, keys=[row for row, _ in asked])
            texts = [str(tokenizer.decode(reply, clean_up_tokenization_spaces=False)) for reply in found]
            replies.update(zip(asked, texts, strict=True))
            progress("evaluate", len(replies), len(turns))
    return [replies[turn] for turn in turns]
