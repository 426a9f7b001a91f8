"""How long a reply is, in words, sentences and paragraphs (IFEval `length_constraints:*`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.evaluation.instructions.check import Check, count, holds, relation, text
from sage.libs.finetune.agent.evaluation.instructions.sentences import count_sentences

_WORD = re.compile(r"\w+")
_WORD_ENDS = re.compile("[.,?!'\"]")
DIVIDER = "***"


def _words(reply: str, arguments: Mapping[str, Any]) -> bool:
    """A word is a run of letters, digits and underscores, so `don't` is two."""
    found = sum(1 for _ in _WORD.finditer(reply))
    return holds(found, arguments["relation"], arguments["num_words"])


def _sentences(reply: str, arguments: Mapping[str, Any]) -> bool:
    return holds(count_sentences(reply), arguments["relation"], arguments["num_sentences"])


def _paragraphs(reply: str, arguments: Mapping[str, Any]) -> bool:
    """Exactly so many, divided by `***`; a divider may open or close the reply, but an empty one between is a fault."""
    blank = [not paragraph.strip() for paragraph in reply.split(DIVIDER)]
    ends = blank[0] + blank[-1] if len(blank) > 1 else blank[0]
    return not any(blank[1:-1]) and len(blank) - ends == arguments["num_paragraphs"]


def _first_word(reply: str, arguments: Mapping[str, Any]) -> bool:
    """Exactly so many paragraphs, divided by a blank line, and the n-th begins with the word.

    Blank paragraphs do not count, yet they take a place: the n-th is the n-th of all.
    """
    paragraphs = [paragraph.strip() for paragraph in reply.split("\n\n")]
    found, place = sum(map(bool, paragraphs)), arguments["nth_paragraph"]
    if found != arguments["num_paragraphs"] or not 1 <= place <= found or not paragraphs[place - 1]:
        return False
    word = paragraphs[place - 1].split(maxsplit=1)[0].lstrip("'").lstrip('"')
    wanted: str = arguments["first_word"]
    return _WORD_ENDS.split(word, maxsplit=1)[0].lower() == wanted.lower()


CHECKS = {
    "length_constraints:number_words": Check(_words, {"num_words": count, "relation": relation}),
    "length_constraints:number_sentences": Check(_sentences, {"num_sentences": count, "relation": relation}),
    "length_constraints:number_paragraphs": Check(_paragraphs, {"num_paragraphs": count}),
    "length_constraints:nth_paragraph_first_word": Check(
        _first_word, {"num_paragraphs": count, "nth_paragraph": count, "first_word": text}
    ),
}
