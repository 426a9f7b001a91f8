"""Conversation -> text, and where in it each assistant turn stands.

Where a turn begins and ends is found by rendering the conversation up to it, with and without the reply ("prefix
difference"), so it works with any chat template that only ever appends. That takes two renderings a turn. Our own
template is known to append, so one rendering with marks around the turns tells all; the tests hold the two ways
against each other.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jinja2 import TemplateError

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.types import Message, ToolSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ToolFormat = Literal["compact", "json"]
TOOL_FORMATS: tuple[ToolFormat, ...] = ("compact", "json")

_TEMPLATE = Path(__file__).parent / "templates" / "chatml_tools.jinja"
_DEFAULT = 'set tool_format = tool_format | default("{}")'
"""The one line of our template that a format is written into."""

Span = tuple[int, int]
_TURN_MARK = f"turn-{secrets.token_hex(16)}"  # drawn anew in each process, so that no text can hold it
_Result = TypeVar("_Result")
REFUSALS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What a chat template can raise: it is foreign code, which adds numbers to texts, divides and looks up as it likes."""


@cache
def own_template(tool_format: ToolFormat = "compact") -> str:
    """The text of our chat template with a tool format written into it."""
    template = _TEMPLATE.read_text(encoding="utf-8")
    return template.replace(_DEFAULT.format("compact"), _DEFAULT.format(tool_format))


def baked_format(template: str) -> ToolFormat | None:
    """The tool format that is written into a template of ours, older editions included."""
    return next((name for name in TOOL_FORMATS if _DEFAULT.format(name) in template), None)


def layout(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_generation_prompt: bool = False,
) -> tuple[str, list[Span]]:
    """The rendered text and the `(start, end)` of each assistant turn in characters, stop token included.

    Raises:
        DataError: The template refuses, loses or rewrites a message; the error names its index.
    """
    if not messages or messages[0]["role"] == "assistant":
        raise DataError("message 0: a conversation begins with a system or user message; add one before the assistant")
    marked = tokenizer.chat_template in [own_template(name) for name in TOOL_FORMATS]
    find = _by_marks if marked else _by_prefixes
    text, spans = find(messages, tools, tokenizer, add_generation_prompt)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for index, (start, end) in zip(turns, spans, strict=True):
        _require_shown(index, messages[index], text[start:end])
    return text, spans


def _by_marks(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool,
) -> tuple[str, list[Span]]:
    """One rendering of our template with a mark on either side of each turn, which is taken out again.

    transformers can track the `{% generation %}` blocks itself, but not in two threads at once.
    """
    template = str(tokenizer.chat_template).replace("{%- generation -%}", "{{- turn_mark -}}")
    template = template.replace("{%- endgeneration -%}", "{{- turn_mark -}}")
    marked = _apply(messages, tools, tokenizer, add_generation_prompt, chat_template=template, turn_mark=_TURN_MARK)
    pieces = marked.split(_TURN_MARK)
    borders = list(accumulate(map(len, pieces)))[:-1]
    return "".join(pieces), list(zip(borders[::2], borders[1::2], strict=True))


def _by_prefixes(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool,
) -> tuple[str, list[Span]]:
    text = _apply(messages, tools, tokenizer, add_generation_prompt)
    spans: list[Span] = []
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
        spans.append((len(before), len(before) + len(turn)))
    return text, spans


def generation_mask(
    messages: Sequence[Message], tools: Sequence[ToolSpec] | None, tokenizer: PreTrainedTokenizerBase
) -> list[int] | None:
    """What the template itself marks as the model's own words: 1 for each such token of the rendered conversation.

    Other trainers take their loss mask from these `{% generation %}` markers; `render` does not, so the two can be
    held against each other. The tokens are those of the whole text (`apply_chat_template(tokenize=True)`).
    transformers keeps its marks on the template, so this is for one thread at a time.

    Returns:
        The mask, or None when the template has no markers.

    Raises:
        DataError: The template refuses a message; the error names its index.
    """
    template = tokenizer.get_chat_template(tools=list(tools) if tools else None)
    if "endgeneration" not in template:
        return None

    def marked(count: int) -> list[int]:
        found: Any = tokenizer.apply_chat_template(
            _without_null(messages[:count]),
            tools=list(tools) if tools else None,
            return_assistant_tokens_mask=True,
            return_dict=True,
        )
        return list(found["assistant_masks"])

    return _naming_the_refused(marked, len(messages))


def _apply(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool,
    **variables: Any,
) -> str:
    conversation = _without_null(messages)

    def text_of(count: int) -> str:
        text: Any = tokenizer.apply_chat_template(
            conversation[:count],
            tools=list(tools) if tools else None,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **variables,
        )
        return str(text)

    return _naming_the_refused(text_of, len(messages))


def _without_null(messages: Sequence[Message]) -> Any:
    """Many templates add the content to a string, and null beside a call is common, so all get ""."""
    return [{**message, "content": message.get("content") or ""} for message in messages]


def _naming_the_refused(render_first: Callable[[int], _Result], count: int) -> _Result:
    """What rendering the first `count` messages gives; a template's refusal becomes an error that names the message."""
    try:
        return render_first(count)
    except REFUSALS as error:
        index = _refused(render_first, count)
        place = f"message {index}" if index else "message 0 or the tools"
        raise DataError(
            f"{place}: the chat template refuses it ({error}); change the message or set tool_format 'json'"
        ) from error


def _refused(render_first: Callable[[int], object], count: int) -> int:
    """Index of the message with which a template that refuses the first `count` messages begins to do so."""
    for shorter in range(count - 1, 0, -1):
        try:
            render_first(shorter)
        except REFUSALS:
            continue
        return shorter
    return 0


def written_as(value: object) -> set[str]:
    """How a template may write a value: as it is, as JSON (with or without escapes, or JSON within JSON), as Python.

    Example:
        >>> sorted(written_as("tea")), sorted(written_as(True))
        (['tea'], ['True', 'true'])
    """
    if not isinstance(value, str):
        return {json.dumps(value), str(value)}
    texts = {text := value.strip()}
    for _ in range(2):
        texts |= {json.dumps(written, ensure_ascii=ascii)[1:-1] for written in texts for ascii in (False, True)}
    return texts | {repr(text)[1:-1]}


def _require_shown(index: int, message: Message, turn: str) -> None:
    """A template that drops an assistant's words, thoughts, calls or arguments would train on their absence.

    They are counted, since a name can stand in the words too, and parallel calls often name one tool.
    """
    words = {name: str(message.get(name) or "").strip() for name in ("content", "reasoning_content")}
    calls = [call["function"] for call in message.get("tool_calls") or []]
    said: list[str] = [*words.values(), *(call["name"] for call in calls)]
    given = [value for call in calls for value in _scalars(call["arguments"])]

    def is_dropped(text: str) -> bool:
        plain = len(written_as(text)) == 1  # else it may stand otherwise in an argument
        parts = said + [value for value in given if plain and isinstance(value, str)]
        return turn.count(text) < sum(part.count(text) for part in parts)

    for field, text in words.items():
        if text and is_dropped(text):
            raise DataError(f"message {index}: the chat template drops or rewrites its {field}; use tool_format 'json'")
    for call in calls:
        if is_dropped(call["name"]):
            raise DataError(
                f"message {index}: the chat template drops the call of '{call['name']}'; use tool_format 'json'"
            )
        for value in _scalars(call["arguments"]):
            if not any(written in turn for written in written_as(value)):
                raise DataError(
                    f"message {index}: the chat template drops or rewrites {value!r:.60} in the call of "
                    f"'{call['name']}'; use tool_format 'json'"
                )


def _scalars(value: object) -> Iterator[object]:
    """Names and values in a call's arguments; not null, which some templates leave out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield name
            yield from _scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    elif value is not None:
        yield value
