"""Conversation -> tokens, with every token marked as the model's own words or not.

`layout` tells where each assistant turn stands in the text; the text is tokenised piece by piece at those borders: a
merge across "prompt | reply" would train on a prompt that generation never sees. Hence, for each assistant message `i`
with the token span `(start, end)`:
`render_prompt(messages[:i], tools, tokenizer) == render(sample, tokenizer).input_ids[:start]`.

The stop token of a turn is trained, the newline a template puts after it is not: the model must learn to stop, and it
never gets to write what follows. No special token is added beside those the template writes; transformers and vLLM
tokenise chat prompts likewise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.errors import DataError, ModelError
from sage.libs.finetune.agent.tokenization.layout import layout
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


def render_after(
    messages: Sequence[Message], tools: Sequence[ToolSpec] | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, list[int]]:
    """What follows the last assistant turn of a conversation that the assistant is to go on with.

    With it a prompt can be made of the very tokens that a model wrote, whatever `render_prompt` would make of its
    words: those tokens, the stop token if they end without one, and then these.

    Returns:
        The stop token that ends the last assistant turn, and the token ids after it: what it was answered, and the
        opening of the next turn.

    Raises:
        DataError: A message cannot be rendered (the error names its index), or there is no assistant turn.
    """
    text, spans = layout(messages, tools, tokenizer, add_generation_prompt=True)
    if not spans:
        raise DataError("there is no assistant turn that anything could follow")
    *_, turn, after = _tokenize(text, spans, tokenizer)
    _require_stop(turn[-1] if turn else None, tokenizer)
    return turn[-1], after


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


def special_tokens_in(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The special tokens that are written out in a text and would become control tokens, in order, each once.

    Tokenising a whole conversation cannot tell the template's `<|im_end|>` from one that a user typed, which then ends
    the turn. Added tokens that are not special (`<tool_call>`, `<think>` in Qwen3) are words of the model's own.
    """
    special = {added.content for added in tokenizer.added_tokens_decoder.values() if added.special}
    found = [token for token in special.union(tokenizer.all_special_tokens) if token in text]
    if not found:
        return []
    ids = set(tokenizer.encode(text, add_special_tokens=False))
    return sorted((token for token in found if tokenizer.convert_tokens_to_ids(token) in ids), key=text.index)
