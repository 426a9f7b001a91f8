"""A reply that follows given instructions: what a test item's gold reply is, and what a model is trained on.

Each instruction has its piece of the text (a sentence with the keywords, a title, a postscript) or its way of laying
the text out (bullets, sections, paragraphs). Drafts grow by a sentence at a time until one passes every check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sage.libs.finetune.agent.evaluation.instructions.formats import CONSTRAINED_ANSWERS
from sage.libs.finetune.agent.evaluation.instructions.framing import SEPARATOR
from sage.libs.finetune.agent.evaluation.instructions.known import INSTRUCTIONS
from sage.libs.finetune.agent.evaluation.instructions.length import DIVIDER

_MAX_SENTENCES = 60
_MAX_COUNT = 400  # of words, bullets and the like; nobody wants a longer gold reply
_STOCK = (
    "Many people like {topic}.",
    "It is a good part of the day.",
    "We often talk about it with friends.",
    "There is more to see and to learn.",
    "You can find it in most towns.",
    "Some think of it as a small joy.",
    "Try it again and you will see why.",
)
STOCK_BY_LANGUAGE = {
    "es": ("Me gusta mucho este tema.", "Es muy bueno para todos los días.", "También es una parte de la vida."),
    "fr": ("Je pense que c'est très bien.", "Il est dans la vie de tous les jours.", "Nous en parlons avec des amis."),
    "de": (
        "Ich finde das sehr gut.",
        "Es ist ein Teil von jedem Tag.",
        "Wir sprechen mit Freunden auch über das Haus.",
    ),
    "it": ("Mi piace molto questo tema.", "È una parte della vita di ogni giorno.", "Ne parliamo anche con gli amici."),
    "pt": ("Eu gosto muito disso.", "É uma parte boa do dia para todos.", "Nós também falamos com os amigos."),
}
_PARTS = (
    ("detectable_format:number_bullet_lists", "num_bullets"),
    ("detectable_format:multiple_sections", "num_sections"),
    ("length_constraints:number_paragraphs", "num_paragraphs"),
    ("length_constraints:nth_paragraph_first_word", "num_paragraphs"),
)
_NAMES = ("name", "date", "place", "time", "city", "color")
_LOUD = ("VERY", "GOOD", "GREAT", "FINE", "BEST", "NICE")
_RICH = {"a": "banana", "e": "evergreen", "i": "initial", "o": "common room", "s": "lesson", "t": "street test"}

Instructions = Sequence[tuple[str, Mapping[str, Any]]]


def write_reply(instructions: Instructions, topic: str = "this") -> str | None:
    r"""A reply that follows all of the instructions, None when the writer finds none.

    Args:
        instructions: Type and arguments of each, as the checks read them.
        topic: What the reply is about, a noun phrase.

    Example:
        >>> bullets = ("detectable_format:number_bullet_lists", {"num_bullets": 2})
        >>> write_reply([bullets, ("startend:end_checker", {"end_phrase": "That is all."})], "tea")
        '* Many people like tea.\n* It is a good part of the day. That is all.'
    """
    wanted = dict(instructions)
    if any(isinstance(value, int) and value > _MAX_COUNT for _, given in instructions for value in given.values()):
        return None
    for draft in _drafts(wanted, topic):
        if all(INSTRUCTIONS[kind].follows(draft, arguments) is not False for kind, arguments in instructions):
            return draft
    return None


def _drafts(wanted: Mapping[str, Mapping[str, Any]], topic: str) -> Iterator[str]:
    if "detectable_format:constrained_response" in wanted:
        yield from CONSTRAINED_ANSWERS
    language = wanted.get("language:response_language", {}).get("language", "en")
    stock = STOCK_BY_LANGUAGE.get(language, _STOCK)
    pieces = _pieces(wanted)
    least = max(1, _parts(wanted) - len(pieces))
    for start in range(len(stock)):
        for n in (*range(least, _MAX_SENTENCES), *range(1, least)):
            sentences = [stock[(start + i) % len(stock)].format(topic=topic) for i in range(n)]
            yield _framed(_laid_out([*sentences[:1], *pieces, *sentences[1:]], wanted), wanted, topic)
    if pieces:
        yield _framed(_laid_out(pieces, wanted), wanted, topic)


def _parts(wanted: Mapping[str, Mapping[str, Any]]) -> int:
    """How many parts the text falls into."""
    numbers: list[int] = [wanted.get(kind, {}).get(argument, 0) for kind, argument in _PARTS]
    return max(*numbers, 2 if "combination:two_responses" in wanted else 1)


def _pieces(wanted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The sentences that carry words or marks which must be there."""
    pieces = []
    if keywords := wanted.get("keywords:existence"):
        pieces.append(f"Think of {' and '.join(keywords['keywords'])}.")
    if (frequency := wanted.get("keywords:frequency")) and frequency["relation"] == "at least":
        pieces.append(f"It is {' and '.join([frequency['keyword']] * frequency['frequency'])}.")
    if (letters := wanted.get("keywords:letter_frequency")) and letters["let_relation"] == "at least":
        rich = _RICH.get(letters["letter"], letters["letter"])
        times = -(-letters["let_frequency"] // rich.count(letters["letter"]))
        pieces.append(f"Say {' and '.join([rich] * times)}.")
    if (capitals := wanted.get("change_case:capital_word_frequency")) and capitals["capital_relation"] == "at least":
        pieces.append(f"It is {_some(_LOUD, capitals['capital_frequency'], '{}')}.")
    if highlights := wanted.get("detectable_format:number_highlighted_sections"):
        pieces.append(f"Note {_some(_NAMES, highlights['num_highlights'], '*{}*')}.")
    if placeholders := wanted.get("detectable_content:number_placeholders"):
        pieces.append(f"Ask about {_some(_NAMES, placeholders['num_placeholders'], '[{}]')}.")
    return pieces


def _some(words: Sequence[str], n: int, form: str) -> str:
    return " and ".join(form.format(words[i % len(words)]) for i in range(n))


def _laid_out(sentences: Sequence[str], wanted: Mapping[str, Mapping[str, Any]]) -> str:
    """The sentences in the form that is wanted: bullets, sections, paragraphs, two responses, or one text."""
    if bullets := wanted.get("detectable_format:number_bullet_lists"):
        n = bullets["num_bullets"]
        lead = [" ".join(sentences[:-n])] if len(sentences) > n else []
        return "\n".join([*lead, *(f"* {sentence}" for sentence in sentences[len(sentences) - n if lead else 0 :])])
    if sections := wanted.get("detectable_format:multiple_sections"):
        blocks = _blocks(sentences, sections["num_sections"])
        return "\n".join(f"{sections['section_spliter']} {i}\n{block}" for i, block in enumerate(blocks, 1))
    if paragraphs := wanted.get("length_constraints:number_paragraphs"):
        return f"\n{DIVIDER}\n".join(_blocks(sentences, paragraphs["num_paragraphs"]))
    if first := wanted.get("length_constraints:nth_paragraph_first_word"):
        blocks, place = _blocks(sentences, first["num_paragraphs"]), first["nth_paragraph"]
        if 1 <= place <= len(blocks) and blocks[place - 1]:
            block = blocks[place - 1]
            blocks[place - 1] = f"{first['first_word'].capitalize()} {block[0].lower()}{block[1:]}"
        return "\n\n".join(blocks)
    if "combination:two_responses" in wanted:
        return f"\n{SEPARATOR}\n".join(_blocks(sentences, 2))
    return " ".join(sentences)


def _blocks(sentences: Sequence[str], n: int) -> list[str]:
    """`n` texts of about the same number of sentences, in order."""
    bounds = [len(sentences) * i // n for i in range(n + 1)] if n else [0]
    return [" ".join(sentences[low:high]) for low, high in pairwise(bounds)]


def _framed(body: str, wanted: Mapping[str, Mapping[str, Any]], topic: str) -> str:
    """The body with what comes before, after and around it, and in the case that is wanted."""
    if "detectable_format:title" in wanted:
        body = f"<<{topic.capitalize()}>>\n{body}"
    if repeat := wanted.get("combination:repeat_prompt"):
        body = f"{repeat['prompt_to_repeat']}\n{body}"
    if postscript := wanted.get("detectable_content:postscript"):
        body = f"{body}\n{postscript['postscript_marker']} Do try it."
    if end := wanted.get("startend:end_checker"):
        body = f"{body} {end['end_phrase']}".strip()
    if "punctuation:no_comma" in wanted:
        body = body.replace(",", "")
    if "change_case:english_capital" in wanted:
        body = body.upper()
    if "change_case:english_lowercase" in wanted:
        body = body.lower()
    if "detectable_format:json_format" in wanted:
        body = json.dumps({"topic": topic, "text": body}, ensure_ascii=False)
    return f'"{body}"' if "startend:quotation" in wanted else body
