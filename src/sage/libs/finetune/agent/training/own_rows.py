"""Replay without stored data: rows that the model writes itself.

Forgetting on a new task goes with the distance of the tuned model from the one before it (RL's Razor,
arXiv:2509.04259), so what holds a model back best is what it would say anyway. Two ways to get such rows:

- **Self-generated rows** (arXiv:2605.26097): before training the base model writes them. Without prompts it writes the
  user's turn too, from the bare opening of its chat template, as in Magpie (Xu et al. 2024, arXiv:2406.08464): a model
  tuned on chats goes on there with what users say. Magpie filters by quality; here nothing is judged, only what is
  empty, cut off, unreadable or a repetition is left out and counted.
- **On-policy replay** (OPR, arXiv:2605.29495): after a task the tuned model answers the prompts of buffered rows at a
  low temperature, and its own reply takes the place of the stored one where it is right. The paper drops rows below
  a score; here they keep their stored reply, since a wrong reply replayed is worse than an old one.

Every reply has a random stream of its own (see `models/sampling.py`), so rows do not depend on `batch_size`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.evaluation.replies import score_reply
from sage.libs.finetune.agent.models.generate import Generator
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.models.sampling import Sampler
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.sources.rows import read_sample
from sage.libs.finetune.agent.tokenization.layout import layout
from sage.libs.finetune.agent.tokenization.parse import ParsedReply, parse_reply
from sage.libs.finetune.agent.tokenization.render import render_prompt, special_tokens_in
from sage.libs.finetune.agent.tokenization.template import stop_ids
from sage.libs.finetune.agent.types import Message, Sample, call_id

SELF = "self"
"""The task of rows that the base model wrote."""

_DRAWS_PER_ROW = 4
"""User turns drawn for each row asked for, before fewer rows are accepted."""
_PLACE = "theuserspeakshere"


@dataclass(frozen=True)
class OwnRows:
    """Rows in a model's own words, and what became of the others.

    Attributes:
        rows: Canonical samples.
        counts: How often each thing happened, by its name; which names there are is said where the rows are made.
    """

    rows: list[Sample]
    counts: dict[str, int]


def self_rows(
    loaded: LoadedModel,
    size: int,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> OwnRows:
    """Rows of which the model wrote both the user's turn and the reply.

    Args:
        loaded: A model tuned on chats; one that never was has no idea of what users say.
        size: Rows wanted. User turns are drawn until there are so many rows, at most four for each.
        temperature: Of both turns; 1 draws as the model says.
        max_new_tokens: Longest turn, in tokens.
        batch_size: Turns generated together.
        seed: The same seed gives the same rows.
        progress: Told under the label "own rows".

    Returns:
        At most `size` rows with the task `self` in `metadata["task_type"]`. Counted: `drawn`, `kept`, and those left
        out: `empty`, `unfinished` (cut off), `unreadable` (control tokens or a broken call in it), `repeated`.

    Raises:
        ConfigError: `size` below 1, or a temperature that is not above 0.
        ModelError: when the chat template has no place for a user's turn.

    Example:
        >>> self_rows(load_model("smollm2-135m-instruct"), 64).counts  # doctest: +SKIP
        {'drawn': 96, 'kept': 64, 'unfinished': 29, 'repeated': 3}
    """
    if size < 1:
        raise ConfigError(f"size is {size}; ask for at least one row")
    opening = _opening_of_a_user_turn(loaded)
    generator = Generator.of(loaded, batch_size)
    counts: Counter[str] = Counter(drawn=0, kept=0)
    kept: list[Sample] = []
    known: set[str] = set()
    while len(kept) < size and counts["drawn"] < _DRAWS_PER_ROW * size:
        first = counts["drawn"]
        wanted = min(batch_size, 2 * (size - len(kept)), _DRAWS_PER_ROW * size - first)
        names = [f"{seed} user {number}" for number in range(first, first + wanted)]
        said = _sampled(loaded, generator, [opening] * wanted, names, temperature, max_new_tokens)
        counts["drawn"] += wanted
        prompts = []
        for name, reply in zip(names, said, strict=True):
            fault = _fault(reply, loaded)
            words = " ".join(reply.text.split()).casefold()
            if fault or words in known:
                counts[fault or "repeated"] += 1
            else:
                known.add(words)
                prompts.append((name.replace("user", "reply"), _prompt(reply.text.strip())))
        answered = _answered(loaded, generator, prompts, temperature, max_new_tokens, counts)
        kept += answered[: size - len(kept)]
        progress("own rows", min(len(kept), size), size)
    counts["kept"] = len(kept)
    return OwnRows(kept, dict(counts))


def self_replies(
    loaded: LoadedModel,
    prompts: Sequence[str | Sample],
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> OwnRows:
    """A row for each prompt, with the model's own reply.

    Args:
        loaded: The model.
        prompts: What the user says; or conversations, of which the last assistant turn and what follows is left out.
        temperature: Of the replies.
        max_new_tokens: Longest reply, in tokens.
        batch_size: Replies generated together.
        seed: The same seed gives the same rows.
        progress: Told under the label "own rows".

    Returns:
        Rows and counts as `self_rows`. Prompts that were given twice are asked once.

    Raises:
        ConfigError: a temperature that is not above 0.
        DataError: naming the prompt that is empty or no conversation.

    Example:
        >>> rows = self_replies(load_model("smollm2-135m-instruct"), ["What is tea?"]).rows  # doctest: +SKIP
        >>> [message["role"] for message in rows[0]["messages"]]  # doctest: +SKIP
        ['user', 'assistant']
    """
    generator = Generator.of(loaded, batch_size)
    counts: Counter[str] = Counter(drawn=len(prompts), kept=0)
    unique: dict[str, tuple[str, Sample]] = {}
    for number, prompt in enumerate(prompts):
        sample = _read_prompt(prompt, f"prompts[{number}]")
        unique.setdefault(json.dumps(sample, sort_keys=True), (f"{seed} reply {number}", sample))
    counts["repeated"] = len(prompts) - len(unique)
    asked, rows = list(unique.values()), []
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        rows += _answered(loaded, generator, part, temperature, max_new_tokens, counts)
        progress("own rows", start + len(part), len(asked))
    counts["kept"] = len(rows)
    return OwnRows(rows, {name: count for name, count in counts.items() if count or name in ("drawn", "kept")})


def on_policy_rows(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    *,
    temperature: float = 0.1,
    max_new_tokens: int = 128,
    max_length: int = 2048,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> OwnRows:
    """The samples with the model's own words in their last assistant turns, where these are right.

    Args:
        loaded: The model as it is now.
        samples: Canonical samples; not changed.
        temperature: Of the replies; low, so that they are what the model would most likely say.
        max_new_tokens: Longest reply, in tokens.
        max_length: Rows whose prompt is longer, in tokens, keep what they have.
        batch_size: Replies generated together.
        seed: The same seed gives the same rows.
        progress: Told under the label "on-policy replay".

    Returns:
        As many rows as samples, in their order. Counted: `replaced`; and those that kept the stored reply: `wrong`
        (by `evaluation.replies.score_reply`), `empty`, `unfinished` (cut off), `unreadable` (control tokens in it),
        `too long`, `not asked` (the last turn is not the assistant's, or one of weight 0).

    Raises:
        ConfigError: a temperature that is not above 0.

    Example:
        >>> on_policy_rows(trainer.loaded, samples).counts  # doctest: +SKIP
        {'replaced': 41, 'wrong': 7, 'unfinished': 2}
    """
    counts: Counter[str] = Counter(replaced=0)
    asked: list[tuple[int, list[int]]] = []
    for number, sample in enumerate(samples):
        last = sample["messages"][-1]
        if last["role"] != "assistant" or not last.get("weight", 1):
            counts["not asked"] += 1
            continue
        prompt = render_prompt(sample["messages"][:-1], sample.get("tools"), loaded.tokenizer)
        if len(prompt) > max_length:
            counts["too long"] += 1
        else:
            asked.append((number, prompt))
    rows = list(samples)
    generator = Generator.of(loaded, batch_size)
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        names = [f"{seed} {number}" for number, _ in part]
        prompts = [prompt for _, prompt in part]
        replies = _sampled(loaded, generator, prompts, names, temperature, max_new_tokens)
        for (number, _), reply in zip(part, replies, strict=True):
            rows[number], outcome = _replaced(samples[number], reply, loaded)
            counts[outcome] += 1
        progress("on-policy replay", start + len(part), len(asked))
    return OwnRows(rows, dict(counts))


@dataclass(frozen=True)
class _Reply:
    """What was generated: the text without its stop token, and whether it had one."""

    text: str
    finished: bool


def _replaced(sample: Sample, reply: _Reply, loaded: LoadedModel) -> tuple[Sample, str]:
    """The sample with the reply as its last turn, and "replaced"; or as it was, and why."""
    *before, stored = sample["messages"]
    fault = _fault(reply, loaded)
    if fault:
        return sample, fault
    if not score_reply(reply.text, stored, sample.get("tools") or []).right:
        return sample, "wrong"
    said = _message(parse_reply(reply.text), before)
    if "weight" in stored:
        said["weight"] = stored["weight"]
    return cast(Sample, {**sample, "messages": [*before, said]}), "replaced"


def _answered(
    loaded: LoadedModel,
    generator: Generator,
    prompts: Sequence[tuple[str, Sample]],
    temperature: float,
    max_new_tokens: int,
    counts: Counter[str],
) -> list[Sample]:
    """Each named conversation with the model's reply at its end; those without a usable one are counted."""
    tokens = [render_prompt(prompt["messages"], prompt.get("tools"), loaded.tokenizer) for _, prompt in prompts]
    replies = _sampled(loaded, generator, tokens, [name for name, _ in prompts], temperature, max_new_tokens)
    rows = []
    for (_, prompt), reply in zip(prompts, replies, strict=True):
        parsed = parse_reply(reply.text)
        fault = "unreadable" if parsed.error is not None and reply.finished else _fault(reply, loaded)
        if fault:
            counts[fault] += 1
            continue
        messages = [*prompt["messages"], _message(parsed, prompt["messages"])]
        rows.append(cast(Sample, {**prompt, "messages": messages, "metadata": {"task_type": SELF}}))
    return rows


def _sampled(
    loaded: LoadedModel,
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    temperature: float,
    max_new_tokens: int,
) -> list[_Reply]:
    """A reply to each prompt, drawn from the random stream of that name."""
    choose = Sampler(temperature, names)
    if not prompts:
        return []
    stops = frozenset(stop_ids(loaded.tokenizer, loaded.model.generation_config))
    replies = []
    for tokens in generator.generate(prompts, max_new_tokens=max_new_tokens, choose=choose):
        finished = bool(tokens) and tokens[-1] in stops
        text = loaded.tokenizer.decode(tokens[:-1] if finished else tokens, clean_up_tokenization_spaces=False)
        replies.append(_Reply(str(text), finished))
    return replies


def _fault(reply: _Reply, loaded: LoadedModel) -> str:
    """Why a turn is not used, "" where nothing is wrong with it."""
    if not reply.finished:
        return "unfinished"
    if not reply.text.strip():
        return "empty"
    return "unreadable" if special_tokens_in(reply.text, loaded.tokenizer) else ""


def _message(parsed: ParsedReply, before: Sequence[Message]) -> dict[str, Any]:
    """A reply as an assistant message; its calls are numbered on from those before it."""
    message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
    if parsed.reasoning:
        message["reasoning_content"] = parsed.reasoning
    if parsed.calls:
        made = sum(len(earlier.get("tool_calls") or []) for earlier in before)
        message["tool_calls"] = [
            {
                "id": call_id(made + number), "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(parsed.calls, start=1)
        ]  # fmt: skip
    return message


def _prompt(text: str) -> Sample:
    return {"messages": [{"role": "user", "content": text}], "tools": []}


def _read_prompt(prompt: str | Sample, where: str) -> Sample:
    """The conversation before the reply that is asked for."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError(f"{where}: is empty; give what the user says")
        return _prompt(prompt)
    sample = read_sample(cast(dict[str, Any], prompt), where)
    last = max(at for at, message in enumerate(sample["messages"]) if message["role"] == "assistant")
    if last == 0:
        raise DataError(f"{where}: messages[0] is the assistant's, so there is nothing to reply to; add a user's turn")
    return {"messages": sample["messages"][:last], "tools": sample["tools"]}


def _opening_of_a_user_turn(loaded: LoadedModel) -> list[int]:
    """The tokens that the chat template writes before the first words of a user."""
    text, _ = layout([{"role": "user", "content": _PLACE}], None, loaded.tokenizer)
    opening, found, _ = text.partition(_PLACE)
    if not (found and opening):
        raise ModelError(
            f"the chat template of {loaded.location} writes nothing before a user's turn, so the model cannot be made "
            "to write one; give prompts (self_replies)"
        )
    tokens: list[int] = loaded.tokenizer.encode(opening, add_special_tokens=False)
    return tokens
