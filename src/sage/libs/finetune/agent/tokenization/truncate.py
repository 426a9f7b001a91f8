"""A conversation that is too long -> one that fits, by dropping whole exchanges, oldest first.

An exchange is an assistant turn and what answers it. System message, tools and the task (all that comes before the
first assistant turn) stay, and so does the newest later question that a kept turn still answers. Nothing is ever cut
inside a turn: half a call would train broken JSON, and a prompt without its task trains guessing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization.render import Rendered, render
from sage.libs.finetune.agent.types import Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Truncated:
    """A rendered sample that fits, and how many of its messages had to go."""

    rendered: Rendered
    dropped_messages: int


def truncate(sample: Sample, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Truncated:
    """Render a sample in at most `max_length` tokens.

    Args:
        sample: A conversation; not changed.
        tokenizer: Has a chat template, see `prepare_template`.
        max_length: Most tokens the row may have.

    Raises:
        DataError: Even the last exchange alone does not fit; names the tokens needed and allowed.
    """
    whole = render(sample, tokenizer)
    needed = len(whole.input_ids)
    if needed <= max_length:
        return Truncated(whole, 0)
    messages = sample["messages"]
    assistants = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for turn, index in enumerate(assistants[1:], start=1):
        saved_at_most = whole.turns[turn][0] - whole.turns[0][0]
        if turn < len(assistants) - 1 and len(whole.input_ids) - saved_at_most > max_length:
            continue  # cannot fit, so not worth rendering
        kept = _kept(messages, assistants[0], index)
        shorter: Sample = {**sample, "messages": kept}
        rendered = render(shorter, tokenizer)
        needed = len(rendered.input_ids)
        if needed <= max_length:
            return Truncated(rendered, len(messages) - len(kept))
    raise DataError(
        f"a row needs {needed} tokens with its system message, tools, task and last exchange alone, {max_length} are "
        "allowed; raise max_length or drop the row"
    )


def _kept(messages: list[Message], first: int, start: int) -> list[Message]:
    """The messages before the first assistant turn, the newest question asked since, and all from `start` on."""
    question = next((m for m in reversed(messages[first:start]) if m["role"] == "user"), None)
    return [*messages[:first], *([question] if question else []), *messages[start:]]
