"""How a reply begins, ends and is put together (IFEval `startend:*`, `combination:*`, `punctuation:*`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.evaluation.instructions.check import Check, text

SEPARATOR = "******"


def _two_responses(reply: str, arguments: Mapping[str, Any]) -> bool:
    """Two different responses with six asterisks between; the asterisks may also open or close the reply."""
    parts = [part.strip() for part in reply.split(SEPARATOR)]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def _repeat_prompt(reply: str, arguments: Mapping[str, Any]) -> bool:
    return reply.strip().lower().startswith(arguments["prompt_to_repeat"].lower())


def _ends(reply: str, arguments: Mapping[str, Any]) -> bool:
    """The phrase comes last; case, space and closing double quotes do not matter."""
    return reply.strip().strip('"').lower().endswith(arguments["end_phrase"].lower())


def _quotation(reply: str, arguments: Mapping[str, Any]) -> bool:
    inner = reply.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


def _no_comma(reply: str, arguments: Mapping[str, Any]) -> bool:
    return "," not in reply


CHECKS = {
    "combination:two_responses": Check(_two_responses),
    "combination:repeat_prompt": Check(_repeat_prompt, {"prompt_to_repeat": text}),
    "startend:end_checker": Check(_ends, {"end_phrase": text}),
    "startend:quotation": Check(_quotation),
    "punctuation:no_comma": Check(_no_comma),
}
