"""Test items for instruction following: short prompts with one to three verifiable instructions each.

Made up here, small enough for a small model to learn, each with a reply that is known to follow (`gold_reply`), so the
same items serve as training rows. Splits are disjoint by construction: the topic and the instructions of an item are
hashed, and the hash alone decides which split may use them, whatever the seed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.instructions.known import INSTRUCTIONS
from sage.libs.finetune.agent.evaluation.instructions.writer import STOCK_BY_LANGUAGE, write_reply
from sage.libs.finetune.agent.evaluation.score import Item

SPLITS = {"train": range(60), "dev": range(60, 70), "test": range(70, 100)}

_TOPICS = (
    "tea coffee bread soup apples oranges cheese honey rice salad rain snow wind clouds the sun the moon the sea a "
    "river a lake a mountain a forest an island a garden a farm a park a bridge a train a bus a bicycle a boat a "
    "plane a road a market a shop a school a library a museum a hotel a kitchen a window a door a chair a table a "
    "lamp a clock a mirror a letter a book a song a story a film a game a dance a walk a holiday a birthday a party "
    "cats dogs horses birds fish bees trees flowers football tennis chess music painting summer winter spring "
    "autumn breakfast dinner sleep a cup a hat"
)
_OPENERS = ("Write about {}.", "Tell me about {}.", "Say something about {}.", "Describe {} for me.")
_KEYWORDS = "blue morning friend street paper silver warm quiet travel water green simple bright yellow winter ticket"
_LANGUAGE_NAMES = {"es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "pt": "Portuguese"}
_PHRASES = ("That is all.", "Hope this helps.", "Is there anything else?", "Have a nice day.")
_RELATIONS = ("at least", "less than")

Drawn = tuple[dict[str, Any], tuple[str, ...]]
"""The arguments of an instruction and the wordings that ask for it."""


def instruction_items(split: str, n: int, seed: int = 0) -> list[Item]:
    """`n` items of a split; the same (split, n, seed) gives the same items, and a longer list begins with a shorter.

    Args:
        split: train, dev or test.
        n: How many; each of the 25 types leads equally often, with up to two more that go with it.
        seed: Fixes topics, instructions and wordings.

    Returns:
        Items with id, messages (one user turn), tools (none), gold (`instructions`) and metadata (split, topic, types,
        task_type). `gold_reply` of the scorer writes the assistant turn.

    Raises:
        ConfigError: for an unknown split, a negative n, or more items than can be found.

    Example:
        >>> item = instruction_items("train", 3)[2]
        >>> item["id"], item["metadata"]["types"][0] in item["gold"]["instructions"][0].values()
        ('instruction_following-train-0-0002', True)
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split '{split}' of instruction items; known: {', '.join(SPLITS)}")
    if n < 0:
        raise ConfigError(f"the number of items must be 0 or more, not {n}")
    seen: set[str] = set()
    items = []
    for index in range(n):
        rng = random.Random(f"instructions/{split}/{seed}/{index}")
        item = _item(_TYPES[index % len(_TYPES)], split, f"instruction_following-{split}-{seed}-{index:04d}", rng, seen)
        seen.add(item["messages"][0]["content"])
        items.append(item)
    return items


def _item(lead: str, split: str, item_id: str, rng: random.Random, seen: set[str]) -> Item:
    """Draw until the split owns what was drawn, the prompt is new and a reply can be written."""
    topics = _topics()
    for _ in range(10_000):
        topic, opener = rng.choice(topics), rng.choice(_OPENERS)
        request = opener.format(topic)
        drawn = {kind: _DRAW[kind](rng, request) for kind in _companions(lead, rng)}
        instructions = [{"type": kind, **arguments} for kind, (arguments, _) in drawn.items()]
        if _owner(topic, instructions) != split:
            continue
        prompt = " ".join([request, *(rng.choice(wordings) for _, wordings in drawn.values())])
        read = [(kind, INSTRUCTIONS[kind].read(arguments)) for kind, (arguments, _) in drawn.items()]
        if prompt not in seen and write_reply(read, topic) is not None:
            break
    else:
        raise ConfigError(f"no more new {lead} items for {split}; ask for at most {len(seen)} items")
    return {
        "id": item_id,
        "messages": [{"role": "user", "content": prompt}],
        "tools": [],
        "gold": {"instructions": instructions},
        "metadata": {"split": split, "topic": topic, "types": list(drawn), "task_type": "instruction_following"},
    }


def _companions(lead: str, rng: random.Random) -> list[str]:
    """The leading type and up to two more that contradict neither it nor each other."""
    kinds = [lead]
    others = rng.sample(_TYPES, len(_TYPES))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        kinds += next(([other] for other in others if all(_compatible(other, kind) for kind in kinds)), [])
    return kinds


def _compatible(one: str, other: str) -> bool:
    if one == other or any(one in group and other in group for group in _RIVALS):
        return False
    return all(mine not in _ONLY_WITH or yours in _ONLY_WITH[mine] for mine, yours in ((one, other), (other, one)))


def _owner(topic: str, instructions: Sequence[Mapping[str, Any]]) -> str:
    """The one split that may use this topic with these instructions, in any order."""
    asked = sorted(json.dumps(one, sort_keys=True) for one in instructions)
    digest = hashlib.sha256(json.dumps([topic, asked]).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 100
    return next(split for split, buckets in SPLITS.items() if bucket in buckets)


def _topics() -> list[str]:
    """The nouns, each with its article."""
    words, topics = iter(_TOPICS.split()), []
    for word in words:
        topics.append(f"{word} {next(words)}" if word in ("a", "an", "the") else word)
    return topics


def _existence(rng: random.Random, request: str) -> Drawn:
    words = rng.sample(_KEYWORDS.split(), rng.choice((1, 2)))
    named = " and ".join(f'"{word}"' for word in words)
    return {"keywords": words}, (f"Use the words: {named}.", f"Include {named} in your reply.")


def _frequency(rng: random.Random, request: str) -> Drawn:
    word, times, relation = rng.choice(_KEYWORDS.split()), rng.choice((2, 3, 4)), rng.choice(_RELATIONS)
    wordings = (f'Use the word "{word}" {relation} {times} times.', f'"{word}" must appear {relation} {times} times.')
    return {"keyword": word, "frequency": times, "relation": relation}, wordings


def _forbidden(rng: random.Random, request: str) -> Drawn:
    words = rng.sample((*_KEYWORDS.split(), "good", "people", "friends", "joy", "towns"), rng.choice((1, 2)))
    named = " or ".join(f'"{word}"' for word in words)
    return {"forbidden_words": words}, (f"Do not use {named}.", f"Never say {named}.")


def _letter(rng: random.Random, request: str) -> Drawn:
    relation = rng.choice(_RELATIONS)
    letter, times = rng.choice("aeiost" if relation == "at least" else "jkqvxz"), rng.randint(2, 9)
    wordings = (
        f'The letter "{letter}" should appear {relation} {times} times.',
        f'Use the letter "{letter}" {relation} {times} times.',
    )
    return {"letter": letter, "let_frequency": times, "let_relation": relation}, wordings


def _words(rng: random.Random, request: str) -> Drawn:
    number, relation = rng.choice((12, 15, 20, 25, 30, 40)), rng.choice(_RELATIONS)
    wordings = (f"Answer with {relation} {number} words.", f"Your reply must have {relation} {number} words.")
    return {"num_words": number, "relation": relation}, wordings


def _sentences(rng: random.Random, request: str) -> Drawn:
    number, relation = rng.randint(2, 5), rng.choice(_RELATIONS)
    wordings = (f"Write {relation} {number} sentences.", f"Your reply must have {relation} {number} sentences.")
    return {"num_sentences": number, "relation": relation}, wordings


def _first_word(rng: random.Random, request: str) -> Drawn:
    number, word = rng.choice((2, 3)), rng.choice(("today", "then", "first", "later", "here"))
    place = rng.randint(1, number)
    asked = f'Write {number} paragraphs with a blank line between them. Paragraph {place} must begin with "{word}".'
    return {"num_paragraphs": number, "nth_paragraph": place, "first_word": word}, (asked,)


def _sections(rng: random.Random, request: str) -> Drawn:
    number, word = rng.choice((2, 3)), rng.choice(("Section", "SECTION"))
    asked = f"Write {number} sections. Mark each with {word} and its number: {word} 1 and so on."
    return {"section_spliter": word, "num_sections": number}, (asked,)


def _repeat(rng: random.Random, request: str) -> Drawn:
    asked = ("First repeat the request above word for word. Then answer.",)
    return {"prompt_to_repeat": request}, asked


def _capitals(rng: random.Random, request: str) -> Drawn:
    number, relation = rng.randint(2, 4), rng.choice(_RELATIONS)
    return {"capital_frequency": number, "capital_relation": relation}, (
        f"Use {relation} {number} words in all capital letters.",
        f"Words in all capital letters should appear {relation} {number} times.",
    )


def _language(rng: random.Random, request: str) -> Drawn:
    code = rng.choice(sorted(STOCK_BY_LANGUAGE))
    name = _LANGUAGE_NAMES[code]
    return {"language": code}, (f"Answer in {name}.", f"Your whole reply must be in {name}.")


def _counted(argument: str, low: int, high: int, *wordings: str) -> Callable[[random.Random, str], Drawn]:
    """An instruction whose only argument is a number."""

    def draw(rng: random.Random, request: str) -> Drawn:
        number = rng.randint(low, high)
        return {argument: number}, tuple(wording.format(number) for wording in wordings)

    return draw


def _chosen(argument: str, values: Sequence[str], *wordings: str) -> Callable[[random.Random, str], Drawn]:
    """An instruction whose only argument is one of some texts."""

    def draw(rng: random.Random, request: str) -> Drawn:
        value = rng.choice(values)
        return {argument: value}, tuple(wording.format(value) for wording in wordings)

    return draw


def _plain(*wordings: str) -> Callable[[random.Random, str], Drawn]:
    """An instruction without arguments."""
    return lambda rng, request: ({}, wordings)


_DRAW: dict[str, Callable[[random.Random, str], Drawn]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letter,
    "length_constraints:number_words": _words,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _counted(
        "num_paragraphs", 2, 4, "Write {} paragraphs and put *** between them.", "Divide {} paragraphs with ***."
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _counted(
        "num_placeholders",
        1,
        4,
        "Use at least {} placeholders in square brackets such as [name].",
        "Put in {} [blanks].",
    ),
    "detectable_content:postscript": _chosen(
        "postscript_marker", ("P.S.", "P.P.S"), "Add a postscript that starts with {}", "End with a note after {}"
    ),
    "detectable_format:number_bullet_lists": _counted(
        "num_bullets", 2, 5, "Use exactly {} bullet points that start with *", "Give {} bullets: * like this"
    ),
    "detectable_format:constrained_response": _plain(
        "Is it good? Answer with: My answer is yes. My answer is no. My answer is maybe."
    ),
    "detectable_format:number_highlighted_sections": _counted(
        "num_highlights", 1, 4, "Highlight at least {} parts *like this*.", "Mark {} words or more with *stars*."
    ),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _plain("Reply in JSON only.", "Wrap your whole reply in JSON."),
    "detectable_format:title": _plain("Give it a title in <<double angular brackets>>.", "Add a <<title>>."),
    "combination:two_responses": _plain("Give two different replies. Put ****** between them."),
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _chosen("end_phrase", _PHRASES, 'End with this phrase: "{}"', 'Finish with "{}"'),
    "startend:quotation": _plain("Wrap your whole reply in double quotation marks.", 'Put your reply in "quotes".'),
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": _plain("Use capital letters only.", "Write all in capital letters."),
    "change_case:english_lowercase": _plain("Use small letters only.", "Write all in lowercase."),
    "punctuation:no_comma": _plain("Do not use any commas.", "Use no commas."),
    "language:response_language": _language,
}
_TYPES = tuple(_DRAW)

_RIVALS = (
    {
        "length_constraints:number_paragraphs",
        "length_constraints:nth_paragraph_first_word",
        "detectable_format:number_bullet_lists",
        "detectable_format:multiple_sections",
        "combination:two_responses",
        "combination:repeat_prompt",
    },
    {"change_case:capital_word_frequency", "change_case:english_capital", "change_case:english_lowercase"},
    {"length_constraints:number_words", "length_constraints:number_sentences"},
    {"startend:end_checker", "detectable_content:postscript"},
    {"startend:quotation", "detectable_format:title", "combination:repeat_prompt"},
)
"""Of each group an item has one at most: they lay out the same text, or one would undo the other."""

_ONLY_WITH = {
    "detectable_format:constrained_response": {"punctuation:no_comma", "keywords:forbidden_words"},
    "detectable_format:json_format": {"keywords:existence", "keywords:forbidden_words"},
    "combination:two_responses": {"keywords:existence", "keywords:forbidden_words", "punctuation:no_comma"},
    "combination:repeat_prompt": {"keywords:existence", "punctuation:no_comma", "startend:end_checker"},
    "language:response_language": {"punctuation:no_comma", "startend:quotation", "length_constraints:number_words"},
}
"""Types that go with few others."""
