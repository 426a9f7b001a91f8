"""Words and letters that a reply must or must not hold (IFEval `keywords:*`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.evaluation.instructions.check import Check, count, holds, letter, relation, text, texts


def _occurrences(words: str, reply: str) -> int:
    return len(re.findall(re.escape(words), reply, re.IGNORECASE))


def _existence(reply: str, arguments: Mapping[str, Any]) -> bool:
    """Every keyword stands somewhere, also inside a longer word; case does not matter."""
    return all(_occurrences(word, reply) for word in arguments["keywords"])


def _frequency(reply: str, arguments: Mapping[str, Any]) -> bool:
    found = _occurrences(arguments["keyword"], reply)
    return holds(found, arguments["relation"], arguments["frequency"])


def _forbidden(reply: str, arguments: Mapping[str, Any]) -> bool:
    """None of the words stands as a whole word: `art` is not in `party`."""
    return not any(re.search(rf"\b{re.escape(w)}\b", reply, re.IGNORECASE) for w in arguments["forbidden_words"])


def _letter_frequency(reply: str, arguments: Mapping[str, Any]) -> bool:
    found = reply.lower().count(arguments["letter"])
    return holds(found, arguments["let_relation"], arguments["let_frequency"])


CHECKS = {
    "keywords:existence": Check(_existence, {"keywords": texts}),
    "keywords:frequency": Check(_frequency, {"keyword": text, "frequency": count, "relation": relation}),
    "keywords:forbidden_words": Check(_forbidden, {"forbidden_words": texts}),
    "keywords:letter_frequency": Check(
        _letter_frequency, {"letter": letter, "let_frequency": count, "let_relation": relation}
    ),
}
