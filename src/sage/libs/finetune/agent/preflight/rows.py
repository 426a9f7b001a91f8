"""What can be seen of a row without a model: its turns, its calls, and whether it was there before.

A turn of weight 0 is a recorded mistake that nobody learns: its words and calls may be wrong. Roles and call ids are
held to everywhere, since templates and servers refuse the whole row for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from sage.libs.finetune.agent.preflight.faults import Fault
from sage.libs.finetune.agent.schemas.tools import Tools, UnusableSchema, canonical, tools_of
from sage.libs.finetune.agent.tokenization.parse import parse_reply
from sage.libs.finetune.agent.types import Message, Sample

REMEMBERED = 1_000_000
"""Rows among which duplicates are looked for; about 250 bytes of memory each."""

_TAG = re.compile(r"<tool_call>|<\|python_tag\|>")
_ACTION = re.compile(r"^[\s#>*]*action\b", re.IGNORECASE | re.MULTILINE)
_OBSERVATION = re.compile(r"^[\s#>*]*observation\b[^\n:.]{0,40}[:.]", re.IGNORECASE | re.MULTILINE)


class RowChecks:
    """Checks rows one after another; remembers them to find duplicates.

    Example:
        >>> row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]}
        >>> [fault.kind for fault in RowChecks().check("a.jsonl:1", row)]
        ['empty_turn', 'no_tools']
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    @property
    def full(self) -> bool:
        """Whether duplicates of later rows can go unseen."""
        return len(self._seen) >= REMEMBERED

    def check(self, where: str, sample: Sample) -> list[Fault]:
        """All faults and notes of a row, each kind once.

        Args:
            where: File and line.
            sample: In canonical form, see `sources.rows.read_sample`.
        """
        messages, text = sample["messages"], canonical(sample.get("tools") or [])
        tools = tools_of(text)
        found: dict[str, list[str]] = {
            "roles": list(_roles(messages)),
            "call_ids": list(_call_ids(messages)),
            "bad_tool": list(tools.faults),
        }
        for index, message in enumerate(messages):
            if message["role"] == "assistant" and message.get("weight", 1):
                _look_at_turn(index, message, tools, found)
        if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
            found["untrained"] = ["every assistant turn has weight 0"]
        if earlier := self._earlier(where, messages, text):
            found["duplicate"] = [f"the same messages and tools as {_near(earlier, where)}"]
        found.update(_notes(sample, messages, tools))
        return [Fault(kind, where, _joined(said)) for kind, said in found.items() if said]

    def _earlier(self, where: str, messages: Sequence[Message], tools: str) -> str | None:
        """Where the same row stood before; this one is remembered if it is new."""
        plain = [_without_weight_1(message) if "weight" in message else message for message in messages]
        digest = blake2b(f"{canonical(plain)}\n{tools}".encode(), digest_size=16).digest()
        earlier = self._seen.get(digest)
        if earlier is None and not self.full:
            self._seen[digest] = where
        return earlier


def _without_weight_1(message: Message) -> Mapping[str, Any]:
    """A weight of 1 says nothing; other weights are compared as numbers, 0.0 being 0."""
    rest = {name: value for name, value in message.items() if name != "weight"}
    return rest if message["weight"] == 1 else {**rest, "weight": float(message["weight"])}


def _roles(messages: Sequence[Message]) -> Iterator[str]:
    """Turns that stand where no chat has them. Trailing turns nobody answers are harmless, and so not among them."""
    if messages[0]["role"] == "assistant":
        yield "message 0: the assistant speaks first; a system or user message must come before it"
    before, called = "", False
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system" and before not in ("", "system"):
            yield f"message {index}: a system message after the {before}'s; it belongs at the beginning"
        elif role == "tool" and not called:
            yield f"message {index}: an answer of a tool that no call comes before"
        elif role == "assistant" and before == "assistant" and not called:
            yield f"messages {index - 1} and {index}: two assistant turns in a row"
        called = bool(message.get("tool_calls")) if role == "assistant" else called and role == "tool"
        before = role


def _call_ids(messages: Sequence[Message]) -> Iterator[str]:
    """Calls and answers that do not pair. Those without an id pair in their order."""
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    waiting: list[Any] = []  # ids of calls without an answer so far
    turn = -1
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if turn < 0:
                continue  # a matter of roles
            answered = message.get("tool_call_id") or None
            if answered in waiting:
                waiting.remove(answered)
            elif None in waiting:
                waiting.remove(None)
            elif answered is None and waiting:
                waiting.pop(0)
            else:
                called = "more answers than calls" if answered is None else f"an answer to {_quoted(answered)}"
                yield f"message {index}: {called}, which message {turn} did not call or has its answer already"
            continue
        if waiting and turn != last:
            yield f"message {turn}: nothing answers {', '.join(map(_quoted, waiting))}"
        calls = message.get("tool_calls") if message["role"] == "assistant" else None
        waiting, turn = [call.get("id") or None for call in calls or ()], index if calls else -1
        twice = [one for number, one in enumerate(waiting) if one is not None and one in waiting[:number]]
        if twice:
            yield f"message {index}: two calls have the id {_quoted(twice[0])}"
    if waiting and turn != last:
        yield f"message {turn}: nothing answers {', '.join(map(_quoted, waiting))}"


def _look_at_turn(index: int, message: Message, tools: Tools, found: dict[str, list[str]]) -> None:
    """Add what is wrong with the words and calls of one trained turn."""

    def tell(kind: str, what: str) -> None:
        found.setdefault(kind, []).append(f"message {index}: {what}")

    content, calls = message.get("content") or "", message.get("tool_calls") or ()
    if not calls and not content.strip():
        tell("empty_turn", "neither words nor calls")
    if observed := _observation(content):
        tell("observation_in_turn", f"holds {observed!r}")
    # Without tools, JSON in a text is no attempt at a call: it is code, or an example.
    if _TAG.search(content) or ("{" in content and any(tools)):
        said = parse_reply(content)
        if said.error is not None:
            tell("half_call", said.error)
        elif said.calls and not calls:
            tell("call_in_text", f"calls '{said.calls[0].name}' in its words")
    for call in calls:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if name not in tools:
            tell("unknown_tool", f"calls '{name}', the row shows {_shown(tools)}")
            continue
        try:
            faults = tools.call_faults(name, arguments)
        except UnusableSchema as error:
            found["bad_tool"].append(f"tool '{name}', parameters: {error}")
            continue
        if faults is None:
            continue
        if faults.padded:
            tell("null_arguments", f"call of '{name}': {', '.join(faults.padded)}")
        if faults.misfit:
            tell("arguments", f"call of '{name}': {faults.misfit}")


def _observation(text: str) -> str | None:
    """What an environment answered, in words that the model would be trained to write; None if nothing."""
    if "<tool_response>" in text:
        return "<tool_response>"
    if "bserv" not in text and "BSERV" not in text:
        return None
    action = _ACTION.search(text)
    found = _OBSERVATION.search(text, action.end()) if action else None
    return found[0].strip() if found else None


def _notes(sample: Sample, messages: Sequence[Message], tools: Tools) -> Iterator[tuple[str, list[str]]]:
    metadata = sample.get("metadata")
    if isinstance(metadata, Mapping):
        if metadata.get("success") is False:
            yield "failed_episode", ["metadata.success is false"]
        if metadata.get("tools_inferred"):
            yield "tools_inferred", ["metadata.tools_inferred is set"]
    if not any(tools) and not any(message.get("tool_calls") for message in messages):
        yield "no_tools", ["no tools and no calls"]


def _shown(tools: Iterable[str]) -> str:
    first, *more = [*tools] or ["no tools"]
    return f"{', '.join((first, *more[:7]))}{' ...' if more[7:] else ''}"


def _joined(said: Sequence[str]) -> str:
    first, *more = said
    return f"{first} (and {len(more)} more in this row)" if more else first


def _near(earlier: str, where: str) -> str:
    """The place as seen from another: `line 3` for one in the same file."""
    file, _, line = earlier.rpartition(":")
    return f"line {line}" if line.isdecimal() and where.rpartition(":")[0] == file else earlier


def _quoted(call_id: object) -> str:
    return "a call without an id" if call_id is None else f"'{call_id}'"
