"""A model's reply -> its words and its tool calls; the inverse of the assistant turn of our chat template.

Four notations are read, all of them JSON inside: Hermes/Qwen `<tool_call>{...}</tool_call>`, Llama 3's
`<|python_tag|>{...}`, Mistral's `[TOOL_CALLS][{...}]`, and bare objects `{"name": ..., "arguments": {...}}` (also
`parameters`, also in a list) anywhere in the text. Where an object ends is asked of the JSON decoder and never guessed,
so braces, quotes and tags inside strings do no harm. A reply that tries to call and fails says why in `error`; it is
never taken for an answer.

The inverse is exact for calls with any arguments, for thoughts without `</think>`, and for words that look like nothing
else. Text has no escapes, so words that themselves look like a call, begin like a list of calls, hold a thought's tags
or end in a stop token are read as what they look like.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

_STOP = re.compile(
    r"(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>|<\|end\|>|</s>|<end_of_turn>|<eos>|<pad>)"
    r"\s*\Z"
)
# A thought, a tag that announces a call, an object, or a list that begins with an object.
_OPENING = re.compile(r"</?think>|<tool_call>|<\|python_tag\|>|\[TOOL_CALLS\]|\{|\[(?=\s*\{)")
_CALL_BEGINS = re.compile(r"(?:\[\s*)?\{\s*['\"](?:name|arguments|parameters)['\"]\s*:")

_NEST = re.compile(r'(?:\[\s*+|\{\s*+(?:"[^"\\]*+"\s*+:\s*+)?+)++')


@dataclass(frozen=True)
class ParsedCall:
    """One call: the tool's name and its arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ParsedReply:
    """What a reply says.

    Attributes:
        content: The words around the calls; the whole reply when `error` is set.
        calls: The calls, in order; empty when there are none or when `error` is set.
        error: Why a call that was attempted cannot be read, None otherwise.
        reasoning: What a reasoning model thought before all else (`<think>...</think>`), "" if nothing.
    """

    content: str
    calls: list[ParsedCall] = field(default_factory=list)
    error: str | None = None
    reasoning: str = ""


class _BrokenCall(Exception):
    """A call was attempted and cannot be read; the message says why."""


class _TooDeep(_BrokenCall):
    """It has more brackets inside each other than the decoder follows."""


def without_stop(text: str) -> str:
    """The text without the stop tokens at its end.

    Example:
        >>> without_stop("4<|im_end|>")
        '4'
    """
    while stop := _STOP.search(text):
        text = text[: stop.start()]
    return text


def parse_reply(text: str) -> ParsedReply:
    r"""Read a reply.

    Stop tokens at the end are dropped. JSON that is plainly no call (`{"total": 5}`) is content. A thought at the
    beginning is `reasoning`, also when only its end is there, since some templates write `<think>` into the prompt;
    one further on is content, and what looks like a call in it is none. Text after or between calls is appended to the
    content on a line of its own.

    Example:
        >>> parse_reply('Look it up.\n{"name": "find", "arguments": {"q": "tea"}}<|im_end|>').calls
        [ParsedCall(name='find', arguments={'q': 'tea'})]
        >>> parse_reply("<think>\n2 + 2\n</think>\n\n4<|im_end|>")
        ParsedReply(content='4', calls=[], error=None, reasoning='2 + 2')
        >>> parse_reply('{"name": "find", "arguments": [1]}').error
        "the arguments of 'find' are a list; expected an object"
    """
    text = without_stop(text)
    try:
        reasoning, calls, gaps = _scan(text)
    except _BrokenCall as broken:
        return ParsedReply(content=text, error=str(broken))
    if not calls:
        return ParsedReply(gaps[0], reasoning=reasoning)
    words = [gaps[0].removesuffix("\n"), *(gap.strip(" \t\r\n;,") for gap in gaps[1:])]
    return ParsedReply("\n".join(filter(None, words)), calls, reasoning=reasoning)


def _scan(text: str) -> tuple[str, list[ParsedCall], list[str]]:
    """The thought, the calls, and the text before, between and after them.

    One pass from left to right, since a call's strings may hold any tag.
    """
    reasoning: str | None = None
    calls: list[ParsedCall] = []
    gaps: list[str] = []
    behind, position = 0, 0
    while opening := _OPENING.search(text, position):
        start, mark = opening.start(), opening.group()
        if mark == "<think>":
            thought_end = text.find("</think>", start)
            position = len(text) if thought_end < 0 else thought_end
        elif mark == "</think>":
            position = opening.end()
            before = text[:start].lstrip()
            if reasoning is None and (before.startswith("<think>") or "<think>" not in before):
                reasoning = before.removeprefix("<think>").removeprefix("\n").removesuffix("\n")
                position += 2 if text.startswith("\n\n", position) else text.startswith("\n", position)
                calls, gaps, behind = [], [], position
        else:
            found = _bare(text, start) if mark in "{[" else _tagged(text, start, mark)
            position = found.end
            if found.calls:
                calls += found.calls
                gaps.append(text[behind:start])
                behind = found.end
    gaps.append(text[behind:])
    return reasoning or "", calls, gaps


class _Found(NamedTuple):
    calls: list[ParsedCall]
    end: int


def _tagged(text: str, start: int, tag: str) -> _Found:
    """The calls that a tag at `start` announces; anything else behind it is a broken call."""
    value, end = _decode(text, start + len(tag))
    calls = _calls(value)
    if tag == "<tool_call>":
        return _Found(calls, _end_of_tag(text, end))
    while text[end:].lstrip().startswith(";"):  # Llama 3 separates parallel calls so
        value, end = _decode(text, text.index(";", end) + 1)
        calls += _calls(value)
    return _Found(calls, end)


def _end_of_tag(text: str, end: int) -> int:
    """Where the tag of a call that was read up to `end` is closed; the end of the reply closes it as well."""
    rest = text[end:].lstrip()
    if not rest:
        return len(text)
    if not rest.startswith("</tool_call>"):
        raise _BrokenCall(f"expected </tool_call> after the call, found {_quote(rest)}")
    return text.index("</tool_call>", end) + len("</tool_call>")


def _bare(text: str, start: int) -> _Found:
    """The calls of the JSON at `start`, none when it is no JSON or says something else."""
    try:
        value, end = _decode(text, start)
    except _BrokenCall as broken:
        # An inline "[" may be prose that a call follows, so only one that begins a line is held to be a list.
        if _CALL_BEGINS.match(text, start) and (text[start] == "{" or _begins_line(text, start)):
            raise
        # All brackets of such a nest are left at once: to try each of them would take quadratic time.
        nest = _NEST.match(text, start) if isinstance(broken, _TooDeep) else None
        return _Found([], max(start + 1, nest.end() if nest else 0))
    if _is_call(value) or (isinstance(value, list) and any(map(_is_call, value))):
        return _Found(_calls(value), end)
    return _Found([], end)


def _is_call(value: object) -> bool:
    return isinstance(value, dict) and ("arguments" in value or ("name" in value and "parameters" in value))


def _begins_line(text: str, position: int) -> bool:
    return not text[text.rfind("\n", 0, position) + 1 : position].strip()


def _calls(value: object) -> list[ParsedCall]:
    """The decoded JSON as calls: one object, or a list of them."""
    if isinstance(value, list) and value:
        return [_call(item) for item in value]
    return [_call(value)]


def _call(value: object) -> ParsedCall:
    if not isinstance(value, dict):
        raise _BrokenCall(f"a call is {_kind(value)}; expected an object with name and arguments")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise _BrokenCall("a call lacks its name")
    if "arguments" not in value and "parameters" not in value:
        raise _BrokenCall(f"the call of '{name}' lacks its arguments")
    arguments = value["arguments"] if "arguments" in value else value["parameters"]
    if isinstance(arguments, str):
        arguments, end = _decode(whole := arguments.strip(), 0)
        if end != len(whole):
            raise _BrokenCall(f"the arguments of '{name}' go on after their JSON: {_quote(whole[end:])}")
    if not isinstance(arguments, dict):
        raise _BrokenCall(f"the arguments of '{name}' are {_kind(arguments)}; expected an object")
    try:
        json.dumps([name, arguments], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone: JSON can say it, no file or tokenizer can hold it
        half = error.object[error.start]
        raise _BrokenCall(f"the call of {name!a} holds half a character ({half!a}), no valid Unicode") from None
    return ParsedCall(name, arguments)


def _decode(text: str, position: int) -> tuple[Any, int]:
    """The JSON value that begins at `position` (blanks skipped), and where it ends."""
    while position < len(text) and text[position].isspace():
        position += 1
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        where = (
            f" at {_quote(text[error.pos : error.pos + 25])}" if error.pos < len(text) else " at the end of the reply"
        )
        raise _BrokenCall(f"the call is no valid JSON: {error.msg}{where}") from None
    except RecursionError:
        raise _TooDeep("the call is no valid JSON: too many brackets inside each other") from None
    except ValueError as error:  # NaN, a number of thousands of digits
        raise _BrokenCall(f"the call is no valid JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large for a number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 24 else text[:24] + "…")


def _kind(value: object) -> str:
    names = {str: "a string", list: "a list", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), "an object")
