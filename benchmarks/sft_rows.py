"""Rows for the training benchmarks: real conversations through the real chat template, rendered by us once.

Peers get the tokens and labels, our trainer the samples they come from; it must see the same number of tokens.

- `fireact_rows`: FireAct's released episodes, which share little more than the system message of our template.
- `desk_rows`: episodes of the desk under one long system message and a few tool sets: most tokens of a row are a prefix
  that other rows have too, as in any set of episodes of one environment.

`row_tokens` makes rows several times as long by putting conversations one behind the other, for large devices.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.pipeline import collect_and_convert
from sage.libs.finetune.agent.tokenization.render import IGNORED, render
from sage.libs.finetune.agent.training.data import token_rows

Row = dict[str, Any]
"""`sample`, and `input_ids` and `labels` as rendered from it."""

RULES = """You work at the front desk of a small company. Use the tools. Then answer in one word: the value asked for, \
done, or none if no tool fits.
Rules of the desk:
1. Look a thing up before you change it. Names are not ids: find the id first, then use it in the next call.
2. Make one call at a time, wait for what it returns, and read it before you go on.
3. Never guess an argument. If what you need is not in the request, a tool has to tell you.
4. Dates are written year-month-day, times with hours and minutes, amounts without a currency sign.
5. Change only what the request asks for. What is cancelled or moved by mistake cannot be brought back.
6. Leave sums and conversions to the tools, even when they look easy.
7. If a call fails, read the message, correct the call and try once more; do not repeat it as it was.
8. If no tool can do what is asked, say none at once; do not try the nearest one instead.
9. When the work is done, say so in the one word asked for, without an explanation and without a full stop."""
PREFIX_SHARE = 0.75  # of a lengthened desk row


def fireact_rows(file: Path, count: int, tokenizer: Any, row_tokens: int | None, seed: int = 0) -> list[Row]:
    """`count` different rows of a FireAct file, drawn with `seed`; `row_tokens` is their mean length, None as it is."""
    data = token_rows(str(file), tokenizer, max_length=2048)
    order = _shuffled(range(len(data.rows)), seed)
    samples = [data.samples[index] for index in order]
    if row_tokens is not None:
        lengths = [len(data.rows[index]["input_ids"]) for index in order]
        samples = _joined(samples, lengths, _around(row_tokens, 1 / 3, seed))
    return _rendered(samples, count, tokenizer, str(file))


def desk_rows(count: int, tool_sets: int, tokenizer: Any, row_tokens: int | None, seed: int = 0) -> list[Row]:
    """`count` different rows of desk episodes under `RULES`, evenly from the first `tool_sets` sets of tools (1 to 4).

    With `row_tokens` (mean length) the system message holds solved episodes too, and a row several requests.
    """
    instructions = RULES if row_tokens is None else _with_examples(int(PREFIX_SHARE * row_tokens), tokenizer)
    own_tokens = 0.0 if row_tokens is None else (1 - PREFIX_SHARE) * row_tokens
    tasks = desk_tasks("train", min(11_000, count * (8 + int(own_tokens / 10))), seed)
    samples = collect_and_convert(DeskExpert(), tasks, environment=DeskEnvironment, system_prompt=instructions)
    by_tools: dict[str, list[Any]] = defaultdict(list)
    for sample in samples:
        by_tools[json.dumps(sample["tools"])].append(sample)
    chosen: list[Row] = []
    for place, family in enumerate(list(by_tools.values())[:tool_sets]):
        if row_tokens is not None:
            typical = _typical_own_tokens(family[:20], tokenizer)
            family = _joined(family, [typical] * len(family), _around(own_tokens, 1 / 2, seed))
        share = count // tool_sets + (place < count % tool_sets)
        chosen += _rendered(family, share, tokenizer, "the desk")
    return _shuffled(chosen, seed)


def facts(rows: Sequence[Row], batch_size: int) -> dict[str, Any]:
    """What a reader needs to know about the rows.

    `shared_share` is the share of all tokens that stand in a prefix which at least `batch_size` rows begin with: they
    could be together in one batch, and the prefix be computed once in it.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        "rows": len(rows),
        "tokens": sum(lengths),
        "mean_tokens": round(sum(lengths) / len(rows), 1),
        "shortest": min(lengths),
        "longest": max(lengths),
        "trained_tokens": sum(label != IGNORED for row in rows for label in row["labels"]),
        "shared_share": round(_shared_tokens(rows, batch_size) / sum(lengths), 3),
    }


def _shared_tokens(rows: Sequence[Row], group: int) -> int:
    """In sorted order, what the first and the last of `group` neighbours begin with, all between begin with."""
    ids = sorted(row["input_ids"] for row in rows)
    shared = [0] * len(ids)
    for start in range(len(ids) - group + 1):
        count = _common(ids[start], ids[start + group - 1])
        for place in range(start, start + group):
            shared[place] = max(shared[place], count)
    return sum(shared)


def _typical_own_tokens(samples: Sequence[Any], tokenizer: Any) -> float:
    """Mean length of the rows behind what all of them begin with."""
    ids = [render(sample, tokenizer).input_ids for sample in samples]
    return sum(map(len, ids)) / len(ids) - _common(min(ids), max(ids))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _rendered(samples: Sequence[Any], count: int, tokenizer: Any, where: str) -> list[Row]:
    """The first `count` rows that differ: equal rows would be a gift to whoever computes a prefix once."""
    found: dict[tuple[int, ...], Row] = {}
    for sample in samples:
        if len(found) == count:
            break
        rendered = render(sample, tokenizer)
        row = {"sample": sample, "input_ids": rendered.input_ids, "labels": rendered.labels}
        found.setdefault(tuple(rendered.input_ids), row)
    if len(found) < count:
        raise DataError(f"{where} gives {len(found)} different rows of {count}; ask for fewer --steps")
    return list(found.values())


def _joined(samples: Sequence[Any], lengths: Sequence[float], targets: Iterator[float]) -> list[Any]:
    """Conversations one behind the other, each result ended when its parts reach the next target length."""
    joined: list[Any] = []
    messages: list[Any] = []
    size, target = 0.0, next(targets)
    for sample, length in zip(samples, lengths, strict=True):
        messages += [message for message in sample["messages"] if not messages or message["role"] != "system"]
        size += length
        if size >= target:
            joined.append({**sample, "messages": messages})
            messages, size, target = [], 0.0, next(targets)
    return joined


def _around(mean: float, spread: float, seed: int) -> Iterator[float]:
    """Lengths drawn evenly from `mean` minus to plus that share of it."""
    rng = random.Random(f"lengths/{seed}")
    while True:
        yield mean * rng.uniform(1 - spread, 1 + spread)


def _with_examples(tokens: int, tokenizer: Any) -> str:
    """The rules with so many solved episodes of other tasks that the whole has about `tokens` tokens."""
    solved = collect_and_convert(DeskExpert(), desk_tasks("dev", 200), environment=DeskEnvironment)
    text = RULES + "\nSolved before:"
    for sample in solved:
        for message in sample["messages"][1:]:
            said = message["content"] or json.dumps([call["function"] for call in message["tool_calls"]])
            text += f"\n{message['role']}: {said}"
        if len(tokenizer(text)["input_ids"]) >= tokens:
            return text
    raise DataError(f"200 solved episodes are fewer than {tokens} tokens; ask for shorter --row-tokens")


def _shuffled(values: Any, seed: int) -> list[Any]:
    found = list(values)
    random.Random(f"rows/{seed}").shuffle(found)
    return found
