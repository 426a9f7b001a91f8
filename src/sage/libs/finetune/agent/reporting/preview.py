"""A training row, token by token: what the model reads, and which of it it is trained to write.

The ids are those of `truncate`, hence those of training, and the text is what they decode to: what a tokenizer loses
shows. A character that several tokens share is shown once, with the ids of all of them. On a terminal with colours
trained tokens have a green ground and neighbours differ in shade; elsewhere trained turns stand in brackets and a
broken bar parts the tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization.render import IGNORED, is_stop
from sage.libs.finetune.agent.tokenization.truncate import Truncated, truncate
from sage.libs.finetune.agent.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BORDER, NEWLINE = "¦", "↵"
_LONGEST_SHARED = 16
"""Most tokens that are held to share characters; text that decodes to U+FFFD by itself would share without end."""
_HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_TRAINED = ("black on green", "black on bright_green")
_READ = ("", "dim")


@dataclass(frozen=True)
class Piece:
    """One token, or the few that share a character.

    Attributes:
        text: What they decode to.
        ids: Their ids.
        weight: Their weight in the loss; 0 when they are not trained.
        turn: The number of the assistant turn they belong to, counted from 0; None outside.
        special: Whether it is a control token.
    """

    text: str
    ids: list[int]
    weight: float
    turn: int | None
    special: bool


@dataclass(frozen=True)
class RowPreview:
    """One row of training data as tokens; printed by rich, in colour or with marks.

    Attributes:
        where: File and line.
        fitted: The row as `truncate` gave it.
        pieces: All of its tokens.
        max_length: Most tokens it was allowed.
    """

    where: str
    fitted: Truncated
    pieces: list[Piece]
    max_length: int

    @property
    def headline(self) -> str:
        """Where the row is, how many tokens and turns it has and trains, and what was dropped to make it fit."""
        turns = {piece.turn for piece in self.pieces if piece.turn is not None}
        counted = {piece.turn for piece in self.pieces if piece.weight}
        trained = sum(len(piece.ids) for piece in self.pieces if piece.weight)
        tokens = len(self.fitted.rendered.input_ids)
        text = f"{self.where}: {_count(tokens, 'token')}, {trained} trained in {len(counted)} of "
        text += _count(len(turns), "turn")
        row = self.fitted
        if not row.dropped_messages:
            return f"{text}; nothing dropped"
        return (
            f"{text}; dropped to fit {self.max_length}: {_count(row.dropped_exchanges, 'exchange')} "
            f"({_count(row.dropped_messages, 'message')}, {_count(row.dropped_tokens, 'token')}, "
            f"{row.trained_tokens_lost} of them trained)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `tokens`, `input_ids`, `labels` and `weights` have one entry a token."""
        rendered = self.fitted.rendered
        tokens = [text for piece in self.pieces for text in (piece.text, *[""] * (len(piece.ids) - 1))]
        return {
            "where": self.where,
            "tokens": tokens,
            "input_ids": rendered.input_ids,
            "labels": rendered.labels,
            "weights": [piece.weight for piece in self.pieces for _ in piece.ids],
            "turns": [list(turn) for turn in rendered.turns],
            "text": rendered.text,
            "dropped_messages": self.fitted.dropped_messages,
            "dropped_exchanges": self.fitted.dropped_exchanges,
            "dropped_tokens": self.fitted.dropped_tokens,
            "trained_tokens_lost": self.fitted.trained_tokens_lost,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.headline, style="bold")
        shown = _coloured(self.pieces) if has_colour(console) else _marked(self.pieces)
        shown.end = "" if shown.plain.endswith("\n") else "\n"
        yield shown


class Legend:
    """What the colours or marks mean, in one line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        newline = f"   {NEWLINE} line end   ×0.5 weight"
        if has_colour(console):
            yield Text.assemble(
                *((word, _TRAINED[index % 2]) for index, word in enumerate(("trai", "ned"))), "   ",
                *((word, _READ[index % 2]) for index, word in enumerate(("only ", "read"))), "   ",
                ("control token", "bold magenta"), newline,
            )  # fmt: skip
        else:
            yield Text(f"⟦trained⟧   ⟨×0 turn of weight 0⟩   {BORDER} token border{newline}")


def preview_row(where: str, sample: Sample, tokenizer: PreTrainedTokenizerBase, max_length: int) -> RowPreview:
    """A sample as training would see it.

    Args:
        where: File and line.
        sample: A conversation in canonical form.
        tokenizer: With the chat template it is trained with (see `models.load.load_tokenizer`).
        max_length: Most tokens a row may have; longer ones lose whole exchanges, oldest first.

    Raises:
        DataError: naming `where`, when the template cannot show the sample or it cannot fit.
    """
    try:
        fitted = truncate(sample, tokenizer, max_length)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return RowPreview(where, fitted, list(_pieces(fitted, tokenizer)), max_length)


def visible(text: str) -> str:
    r"""Text whose line ends are seen, and whose other control characters are spelled out.

    A terminal would obey them, and signs that turn the direction of writing would show another text than there is.

    Example:
        >>> visible("a\tb\n\x1b[2J")
        'a\\tb↵\n\\x1b[2J'
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text).replace("\n", f"{NEWLINE}\n")


def has_colour(console: Console) -> bool:
    """Whether colours would be seen: on a terminal that has them, unless `NO_COLOR` is set."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def _pieces(fitted: Truncated, tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    """The tokens, each decoded with those before it, since some tokenizers drop the blank a text begins with."""
    rendered = fitted.rendered
    ids, labels = rendered.input_ids, rendered.labels
    weights = rendered.weights or [float(label != IGNORED) for label in labels]
    turn_of = {token: turn for turn, span in enumerate(rendered.turns) for token in range(*span)}

    def decoded(start: int, end: int) -> str:
        return str(tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    context = begin = 0
    for end in range(1, len(ids) + 1):
        text = decoded(context, end)
        more_to_come = end < len(ids) and turn_of.get(end) == turn_of.get(begin) and end - begin < _LONGEST_SHARED
        if text.endswith("\ufffd") and more_to_come:
            continue  # the rest of the character is in the next token
        text = text[len(decoded(context, begin)) :]
        special = end - begin == 1 and is_stop(ids[begin], tokenizer)
        yield Piece(text, ids[begin:end], weights[begin], turn_of.get(begin), special)
        context, begin = begin, end


def _coloured(pieces: Sequence[Piece]) -> Text:
    shown = Text()
    turn = None
    for index, piece in enumerate(pieces):
        if piece.turn is not None and piece.turn != turn and piece.weight != 1:
            shown.append(f"×{piece.weight:g} ", "bold yellow")
        turn = piece.turn
        style = (_TRAINED if piece.weight else _READ)[index % 2]
        if piece.special:
            style = f"bold {style}" if piece.weight else "bold magenta"
        shown.append(_drawn(piece.text), style)
    return shown


def _marked(pieces: Sequence[Piece]) -> Text:
    parts: list[str] = []
    turn, closing = None, ""
    for piece in pieces:
        begins = piece.turn != turn
        if begins:
            parts.append(closing)
            opening, closing = ("", "") if piece.turn is None else ("⟦", "⟧") if piece.weight else ("⟨", "⟩")
            parts.append(opening if piece.weight == 1 or not opening else f"{opening}×{piece.weight:g} ")
        elif parts and parts[-1].endswith("\n"):
            parts[-1] = f"{parts[-1][:-1]}{BORDER}\n"
        elif parts:
            parts.append(BORDER)
        turn = piece.turn
        parts.append(_drawn(piece.text))
    return Text("".join([*parts, closing]))


def _drawn(text: str) -> str:
    """Visible text; an accent alone gets a circle to stand on, rather than the border before it."""
    return f"◌{visible(text)}" if text and unicodedata.combining(text[0]) else visible(text)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
