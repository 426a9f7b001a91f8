"""A conversation that is too long -> rows that fit, in one of two ways; nothing is ever cut inside a turn.

An exchange is an assistant turn and what answers it. `truncate` drops whole exchanges, oldest first, and gives one
row. `windows` gives several, so that every turn is trained, each of them in one window: at the borders the exchanges
before stand in the next window once more, as context with weight 0. Half of the room is kept for that context, since a
turn that is trained without what led to it trains guessing.

System message, tools and the task (all that comes before the first assistant turn) stand in every row, and so does the
newest later question that a kept turn still answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization.render import IGNORED, Rendered, render
from sage.libs.finetune.agent.types import Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT_SHARE = 0.5
"""The share of a window's room (what system message, tools and task leave free) that earlier exchanges may take."""

_HEADER = 16
"""More tokens than the header of an assistant turn has; a longer one would cost a window some of its context."""


@dataclass(frozen=True)
class Truncated:
    """A rendered sample that fits, and what of the whole is not in it.

    Attributes:
        rendered: The row.
        dropped_messages: Messages of the sample that are not in the row.
        dropped_exchanges: The assistant turns among them.
        dropped_tokens: Tokens by which the row is shorter than the whole.
        trained_tokens_lost: Tokens the whole would train and the row does not; 0 for windows, which lose none together.
        messages: The row's messages, with weight 0 where a window shows a turn as context only.
    """

    rendered: Rendered
    dropped_messages: int
    dropped_exchanges: int = 0
    dropped_tokens: int = 0
    trained_tokens_lost: int = 0
    messages: Sequence[Message] = ()


def truncate(
    sample: Sample, tokenizer: PreTrainedTokenizerBase, max_length: int, rendered: Rendered | None = None
) -> Truncated:
    """Render a sample in at most `max_length` tokens, without its oldest exchanges where need be.

    Args:
        sample: A conversation; not changed.
        tokenizer: Has a chat template, see `prepare_template`.
        max_length: Most tokens the row may have.
        rendered: What `render` gives for the whole sample, where it is known already.

    Raises:
        DataError: Even the last exchange alone does not fit; names the tokens needed and allowed.
    """
    whole = _Whole(sample, tokenizer, rendered)
    if whole.tokens <= max_length:
        return whole.as_row()
    needed, last = whole.tokens, len(whole.turns) - 1
    for first in range(1, last + 1):
        if first < last and whole.tokens_without(first) > max_length:
            continue  # cannot fit, so not worth rendering
        row = whole.row(first, len(sample["messages"]), first)
        needed = len(row.rendered.input_ids)
        if needed <= max_length:
            return replace(row, trained_tokens_lost=_trained(whole.rendered) - _trained(row.rendered))
    raise DataError(
        f"a row needs {needed} tokens with its system message, tools, task and last exchange alone, {max_length} are "
        "allowed; raise max_length or drop the row"
    )


def windows(
    sample: Sample, tokenizer: PreTrainedTokenizerBase, max_length: int, rendered: Rendered | None = None
) -> list[Truncated]:
    """Render a sample as rows of at most `max_length` tokens that together train each of its turns once.

    A window ends with the tool messages that answer its last turn. Turns of weight 0 are context wherever they stand;
    a sample in which nothing is trained gives the one row that `truncate` gives.

    Args:
        sample: A conversation; not changed.
        tokenizer: Has a chat template, see `prepare_template`.
        max_length: Most tokens a row may have.
        rendered: What `render` gives for the whole sample, where it is known already.

    Raises:
        DataError: An exchange alone does not fit; names its message, and the tokens needed and allowed.
    """
    whole = _Whole(sample, tokenizer, rendered)
    if whole.tokens <= max_length:
        return [whole.as_row()]
    waiting = whole.trained_turns()
    if not waiting:
        return [truncate(sample, tokenizer, max_length, whole.rendered)]
    rows: list[Truncated] = []
    while waiting:
        room = max_length - whole.spans[0][0]
        row, last = _window(whole, waiting, room * CONTEXT_SHARE if waiting[0] else room, max_length)
        rows.append(row)
        waiting = [turn for turn in waiting if turn > last]
    return rows


def _window(whole: _Whole, waiting: Sequence[int], room: float, max_length: int) -> tuple[Truncated, int]:
    """The next window and the last turn it trains: as many of those waiting as fit in `room`, then context."""
    begin = whole.spans[waiting[0]][0]
    chosen = [turn for turn in waiting if whole.spans[turn][1] - begin <= room] or [waiting[0]]
    needed = 0
    for last in reversed(chosen):
        end = whole.end_of(last)
        for first in range(waiting[0] + 1):
            if first < waiting[0] and whole.tokens_between(first, last) > max_length:
                continue  # cannot fit, so not worth rendering
            row = whole.row(first, end, waiting[0])
            needed = len(row.rendered.input_ids)
            if needed <= max_length:
                return row, last
    raise DataError(
        f"message {whole.turns[waiting[0]]}: its exchange needs {needed} tokens with system message, tools and task "
        f"alone, {max_length} are allowed; raise max_length or drop the row"
    )


class _Whole:
    """A sample, its rendering, and rows made of some of its exchanges."""

    def __init__(self, sample: Sample, tokenizer: PreTrainedTokenizerBase, rendered: Rendered | None = None) -> None:
        self.sample = sample
        self.messages = sample["messages"]
        self.rendered = rendered or render(sample, tokenizer)
        self.tokens = len(self.rendered.input_ids)
        self.spans = self.rendered.turns
        self.turns = [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]
        self._tokenizer = tokenizer

    def as_row(self) -> Truncated:
        """All of it."""
        return Truncated(self.rendered, 0, messages=self.messages)

    def trained_turns(self) -> list[int]:
        """The turns that carry loss, by their number."""
        return [turn for turn, index in enumerate(self.turns) if self.messages[index].get("weight", 1) != 0]

    def end_of(self, turn: int) -> int:
        """Index behind a turn and the tool messages that answer it."""
        end = self.turns[turn] + 1
        while end < len(self.messages) and self.messages[end]["role"] == "tool":
            end += 1
        return end

    def tokens_without(self, first: int) -> int:
        """The fewest tokens a row can have that begins with the exchange `first`."""
        return self.tokens - (self.spans[first][0] - self.spans[0][0])

    def tokens_between(self, first: int, last: int) -> int:
        """The fewest tokens a row can have that holds the exchanges `first` to `last`."""
        end = self.spans[last][1]
        if last + 1 < len(self.turns) and self.end_of(last) == self.turns[last + 1]:
            end = max(end, self.spans[last + 1][0] - _HEADER)
        return self.spans[0][0] + end - self.spans[first][0]

    def row(self, first: int, end: int, trained_from: int) -> Truncated:
        """The row from the exchange `first` to the message before `end`; turns before `trained_from` are context."""
        head, start, trained = self.turns[0], self.turns[first], self.turns[trained_from]
        messages: list[Message] = [*self.messages[:head], *self._question(head, start)]
        for index in range(start, end):
            message = self.messages[index]
            context = message["role"] == "assistant" and index < trained
            messages.append({**message, "weight": 0.0} if context else message)
        rendered = render({**self.sample, "messages": messages}, self._tokenizer)
        return Truncated(
            rendered,
            dropped_messages=len(self.messages) - len(messages),
            dropped_exchanges=len(self.turns) - len(rendered.turns),
            dropped_tokens=self.tokens - len(rendered.input_ids),
            messages=messages,
        )

    def _question(self, head: int, start: int) -> Sequence[Message]:
        """The newest question between two messages; it may be several user turns in a row."""
        roles = [message["role"] for message in self.messages[head:start]]
        if "user" not in roles:
            return []
        end = len(roles) - roles[::-1].index("user")
        begin = end - 1
        while begin and roles[begin - 1] == "user":
            begin -= 1
        return self.messages[head + begin : head + end]


def _trained(rendered: Rendered) -> int:
    return sum(label != IGNORED for label in rendered.labels)
