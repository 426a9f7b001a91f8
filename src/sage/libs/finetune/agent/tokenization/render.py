"""Conversation -> tokens, with every token marked as the model's own words or not.

Where a turn begins and ends is found by rendering the conversation up to it, with and without the reply ("prefix
difference"), so it works with any chat template that only ever appends. The text is then tokenised piece by piece at
those borders: a merge across "prompt | reply" would train on a prompt that generation never sees. Hence, for each
assistant message `i` with the token span `(start, end)`:
`render_prompt(messages[:i], tools, tokenizer) == render(sample, tokenizer).input_ids[:start]`.

The stop token of a turn is trained, the newline a template puts after it is not: the model must learn to stop, and it
never gets to write what follows. No special token is added beside those the template writes; transformers and vLLM
tokenise chat prompts likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from sage.libs.finetune.agent.errors import DataError, ModelError
from sage.libs.finetune.agent.types import Message, Sample, ToolSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that carries no loss (PyTorch's and transformers' convention)."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Attributes:
        input_ids: All tokens.
        labels: The same, `-100` where the model did not write the token (or the turn's weight is 0).
        weights: Weight of each token in the loss (0 where the label is -100); None when all trained turns count 1.
        text: What the template rendered.
        turns: `(start, end)` of each assistant turn in tokens, `end` exclusive and behind the stop token.
    """

    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None
    text: str
    turns: list[tuple[int, int]]

    def row(self) -> dict[str, list[int] | list[float]]:
        """The training row: `input_ids`, `labels`, and `weights` if there are any."""
        row: dict[str, list[int] | list[float]] = {"input_ids": self.input_ids, "labels": self.labels}
        return row if self.weights is None else {**row, "weights": self.weights}


def render(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Render a sample and label what the model is to learn: each assistant turn with its stop token.

    Args:
        sample: `messages`, optionally `tools`. An assistant message's `weight` (default 1) weighs its tokens.
        tokenizer: Has a chat template, see `prepare_template`.

    Raises:
        DataError: A message cannot be rendered; the error names its index.
        ModelError: The template ends the assistant's turns without a stop token.
    """
    messages = sample["messages"]
    text, spans = layout(messages, sample.get("tools"), tokenizer)
    pieces = _tokenize(text, spans, tokenizer)
    weights = [_weight(i, message) for i, message in enumerate(messages) if message["role"] == "assistant"]
    input_ids: list[int] = []
    labels: list[int] = []
    token_weights: list[float] = []
    turns: list[tuple[int, int]] = []
    for index, piece in enumerate(pieces):
        weight = weights[index // 2] if index % 2 else 0.0
        if index % 2:
            turns.append((len(input_ids), len(input_ids) + len(piece)))
            _require_stop(piece[-1] if piece else None, tokenizer)
        input_ids += piece
        labels += piece if weight else [IGNORED] * len(piece)
        token_weights += [weight] * len(piece)
    plain = all(weight in (0.0, 1.0) for weight in weights)
    return Rendered(input_ids, labels, None if plain else token_weights, text, turns)


def render_prompt(
    messages: Sequence[Message], tools: Sequence[ToolSpec] | None, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Token ids of the prompt the assistant is to continue; the very tokens that `render` puts before that turn.

    Raises:
        DataError: A message cannot be rendered; the error names its index.
    """
    text, spans = layout(messages, tools, tokenizer, add_generation_prompt=True)
    return [token for piece in _tokenize(text, spans, tokenizer) for token in piece]


def layout(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_generation_prompt: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text and the `(start, end)` of each assistant turn in characters, stop token included.

    Raises:
        DataError: The template refuses, loses or rewrites a message; the error names its index.
    """
    if not messages or messages[0]["role"] == "assistant":
        raise DataError("message 0: a conversation begins with a system or user message; add one before the assistant")
    text = _apply(messages, tools, tokenizer, add_generation_prompt)
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _apply(messages[:index], tools, tokenizer, True)
        after = text
        if index < len(messages) - 1 or add_generation_prompt:
            after = _apply(messages[: index + 1], tools, tokenizer, False)
        if not (text.startswith(after) and after.startswith(before)):
            raise DataError(
                f"template is not prefix-preserving at message {index} (it rewrites the turns before a new one); "
                "use prepare_template, or its tool_format 'compact' or 'json' for a template that only appends"
            )
        turn = after[len(before) :].rstrip()
        _require_shown(index, message, turn)
        spans.append((len(before), len(before) + len(turn)))
    return text, spans


def _apply(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool,
) -> str:
    # Many templates add the content to a string, and null beside a call is common, so all get "".
    conversation: Any = [{**message, "content": message.get("content") or ""} for message in messages]

    def text_of(count: int) -> str:
        text: Any = tokenizer.apply_chat_template(
            conversation[:count],
            tools=list(tools) if tools else None,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        return str(text)

    try:
        return text_of(len(messages))
    except TemplateError as error:
        index = _refused(text_of, len(messages))
        raise DataError(
            f"message {index}: the chat template refuses it ({error}); change the message or set tool_format 'json'"
        ) from error


def _refused(text_of: Callable[[int], str], count: int) -> int:
    """Index of the message with which a template that refuses the first `count` messages begins to do so."""
    for shorter in range(count - 1, 0, -1):
        try:
            text_of(shorter)
        except TemplateError:
            continue
        return shorter
    return 0


def _require_shown(index: int, message: Message, turn: str) -> None:
    """A template that drops an assistant's words or calls would train on their absence."""
    if (message.get("content") or "").strip() not in turn:
        raise DataError(f"message {index}: the chat template drops or rewrites its content; use tool_format 'json'")
    for call in message.get("tool_calls") or []:
        if call["function"]["name"] not in turn:
            raise DataError(
                f"message {index}: the chat template drops the call of '{call['function']['name']}'; "
                "use tool_format 'json'"
            )


def _tokenize(text: str, spans: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of the pieces between the borders of `spans`; those with an odd index are the spans.

    Where the pieces together are not the tokens of the whole text (SentencePiece marks the start of a text as it marks
    a space), the whole is cut instead, provided that each prompt in it has the tokens it has alone.
    """
    borders = [0, *(border for span in spans for border in span), len(text)]

    def encode(texts: list[str]) -> list[list[int]]:
        found: Any = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return list(found["input_ids"])

    *pieces, whole = encode([*(text[start:end] for start, end in pairwise(borders)), text])
    if [token for piece in pieces for token in piece] == whole:
        return pieces
    heads = encode([text[:border] for border in borders])
    if any(whole[: len(head)] != head for head in heads):
        return pieces
    return [whole[len(one) : len(other)] for one, other in pairwise(heads)]


def _weight(index: int, message: Message) -> float:
    weight = message.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise DataError(f"message {index}: weight is {weight!r}; expected a number from 0 up")
    return float(weight)


def _require_stop(token: int | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Without a stop token in the loss the model learns to go on for ever."""
    if token is not None and is_stop(token, tokenizer):
        return
    raise ModelError(
        f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} ends an assistant turn without a stop token "
        f"(last token {tokenizer.decode([token]) if token is not None else None!r}); "
        "use a template that writes the end-of-turn token, or prepare_template with tool_format 'json'"
    )


def is_stop(token: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a token can end a turn: eos, or another special one (`<|im_end|>`, `<|eot_id|>`, `<end_of_turn>` ...)."""
    if token == tokenizer.eos_token_id:
        return True
    added = tokenizer.added_tokens_decoder.get(token)
    return added is not None and bool(added.special)
