"""Capital and small letters, and the language of a reply (IFEval `change_case:*`, `language:*`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.evaluation.instructions.check import Check, count, holds, relation, text
from sage.libs.finetune.agent.evaluation.instructions.language import LANGUAGES, language_of

# Words are told apart as in the Penn Treebank: at spaces, brackets, quotes and marks, and before `'s`, `n't` and such.
_APART = re.compile(r"""[\s;@#$%&?!*()\[\]{}<>"“”„«»‘’`‒-―]|--|''|(?<!\w)'(?=\w)|\.{2,}|[,:](?!\d)""")
_CLITIC = re.compile(r"(.*[^'])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T|'[sSmMdD])")
_FUSED = re.compile(r"(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na)", re.IGNORECASE)


def count_capital_words(reply: str) -> int:
    """How many words stand in capital letters; `I` is one, `WELL-KNOWN` is one, and `DON'T` is two.

    Example:
        >>> count_capital_words("I said NO, and DON'T ask: U.S. rules.")
        5
    """
    return sum(part.isupper() for word in _APART.split(reply) if word and not word.islower() for part in _parts(word))


def _parts(word: str) -> tuple[str, ...]:
    word = word.rstrip(".") if word.endswith(".") else word
    split = _CLITIC.fullmatch(word) or _FUSED.fullmatch(word)
    return tuple(part for part in split.groups() if part) if split else (word,)


def _capital_words(reply: str, arguments: Mapping[str, Any]) -> bool:
    return holds(count_capital_words(reply), arguments["capital_relation"], arguments["capital_frequency"])


def _english_capital(reply: str, arguments: Mapping[str, Any]) -> bool:
    return reply.isupper() and language_of(reply) == "en"


def _english_lowercase(reply: str, arguments: Mapping[str, Any]) -> bool:
    return reply.islower() and language_of(reply) == "en"


def _language(reply: str, arguments: Mapping[str, Any]) -> bool | None:
    """By the published rule, a reply without a letter follows; what no language is seen in does not."""
    wanted = arguments["language"].lower()
    if wanted not in LANGUAGES:
        return None
    return language_of(reply) == wanted or not any(map(str.isalpha, reply))


CHECKS = {
    "change_case:capital_word_frequency": Check(
        _capital_words, {"capital_frequency": count, "capital_relation": relation}
    ),
    "change_case:english_capital": Check(_english_capital),
    "change_case:english_lowercase": Check(_english_lowercase),
    "language:response_language": Check(_language, {"language": text}),
}
