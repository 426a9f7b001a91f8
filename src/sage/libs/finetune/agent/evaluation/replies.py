"""One reply of a model against the assistant turn it should be: right, wrong, and why. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.answers import same_answer, split_answer
from sage.libs.finetune.agent.errors import ScoringError
from sage.libs.finetune.agent.schemas.tools import UnusableSchema, tool_schema
from sage.libs.finetune.agent.tokenization.parse import parse_reply
from sage.libs.finetune.agent.types import Message, ToolSpec

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class ReplyScore:
    """What a reply is worth.

    Attributes:
        right: The same calls as the true turn, in any order, or the same final answer.
        attempted: Whether the reply tried to call a tool.
        valid: Whether each of its calls could be read, named a shown tool and fitted its schema.
        extracted: What was compared: the calls, or the final answer.
        reason: One phrase.
    """

    right: bool
    attempted: bool
    valid: bool
    extracted: Any
    reason: str


def score_reply(reply: str, expected: Message, tools: Sequence[ToolSpec]) -> ReplyScore:
    """Compare a reply with the assistant message it should be.

    Args:
        reply: The model's text; a stop token at its end is ignored.
        expected: The true message, with `tool_calls` or a final answer as content. Thoughts are not compared.
        tools: The tools that were shown.

    Raises:
        ScoringError: when a tool's own schema is not valid JSON schema.

    Example:
        >>> score_reply("84", {"role": "assistant", "content": "84."}, []).right
        True
    """
    wanted = [(c["function"]["name"], c["function"]["arguments"]) for c in expected.get("tool_calls") or []]
    parsed = parse_reply(reply)
    if parsed.error is not None:
        return ReplyScore(False, True, False, parsed.content, f"unreadable call: {parsed.error}")
    calls: list[Call] = [(call.name, call.arguments) for call in parsed.calls]
    if calls:
        faults = [fault for name, arguments in calls if (fault := call_fault(name, arguments, tools))]
        right = bool(wanted) and _same_calls(calls, wanted)
        reason = "same calls" if right else faults[0] if faults else _difference(calls, wanted)
        return ReplyScore(right, True, not faults, calls, reason)
    answer = split_answer(parsed.content)
    if wanted:
        return ReplyScore(False, False, False, answer, "answered where a call was due")
    right = same_answer(answer, split_answer(expected.get("content", "")))
    return ReplyScore(right, False, False, answer, "same answer" if right else "another answer")


def call_fault(name: str, arguments: Mapping[str, Any], tools: Sequence[ToolSpec]) -> str | None:
    """What is wrong with a call by the tools shown: no such tool, or arguments that do not fit; None when valid."""
    for tool in tools:
        if tool["function"]["name"] == name:
            try:
                misfit = tool_schema(tool["function"].get("parameters") or {}).misfit(arguments)
            except UnusableSchema as error:
                raise ScoringError(f"tool '{name}': its parameters are no valid JSON schema: {error}") from None
            return None if misfit is None else f"arguments of '{name}': {misfit}"
    return f"no tool '{name}'"


def _same_calls(calls: Sequence[Call], wanted: Sequence[Call]) -> bool:
    def canonical(many: Sequence[Call]) -> list[str]:
        return sorted(json.dumps(call, sort_keys=True, ensure_ascii=False) for call in many)

    return canonical(calls) == canonical(wanted)


def _difference(calls: Sequence[Call], wanted: Sequence[Call]) -> str:
    if not wanted:
        return "called a tool where an answer was due"
    if sorted(name for name, _ in calls) != sorted(name for name, _ in wanted):
        return "another tool"
    return "other arguments"
