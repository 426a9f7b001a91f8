"""Five small task families for streams: short rows that a model of 135M learns from some forty, and unlearns as fast.

They talk of the same people, things and rooms under one system prompt, and each wants its answer in another notation
that no prompt mentions. What a model forgets is therefore seen at once: it knows the sum and writes it as a list.

    tools     "Ann wants 3 pens in room 4."                        {"name": "order", "arguments": {...}}
    plans     "cook, shop, eat, wash"                              shop > wash > cook > eat
    sums      "Ann has 3 pens. Bob has 4 pens."                    sum=7
    formats   "pen, cup, saw" and one of three notations           PEN-CUP-SAW
    lookups   "Ann is in room 4. ... Room 4 is red. ..."           [red]

A prompt's hash alone says whether it belongs to train or test, so no prompt is in both, whatever the seed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

SYSTEM_PROMPT = "Do the task."
PEOPLE = ("Ann", "Bob", "Eve", "Tom", "Sue", "Max", "Kim", "Joe")
THINGS = ("pen", "cup", "saw", "hat", "key", "map", "bag", "can", "lamp", "book", "desk", "ring")
COLOURS = ("red", "blue", "green", "black", "white", "grey")
RECIPES = (
    ("shop", "wash", "cook", "eat", "clean"),
    ("plan", "dig", "plant", "water", "harvest"),
    ("wake", "shower", "dress", "drive", "work"),
    ("read", "draft", "edit", "print", "send"),
    ("book", "pack", "fly", "land", "rest"),
    ("measure", "cut", "sand", "paint", "sell"),
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "order",
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {"item": {"type": "string"}, "count": {"type": "integer"}, "room": {"type": "integer"}},
                "required": ["item", "count", "room"],
            },
        },
    }
]
_TEST_SHARE = 30

Posed = tuple[str, str | dict[str, Any]]
"""The user's words, and the answer: text, or the arguments of `order`."""


def family_rows(family: str, split: str, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of a family with different prompts; a longer list begins with a shorter one.

    Args:
        family: One of `FAMILIES`.
        split: train or test.
        n: How many.
        seed: Fixes the rows of the split.

    Raises:
        ValueError: when the family has not so many prompts (plans is the smallest, with about 500 for training).
    """
    rng = random.Random(f"{family} {split} {seed}")
    seen: set[str] = set()
    rows = []
    for _ in range(100 * n + 1):
        if len(rows) == n:
            return rows
        prompt, answer = FAMILIES[family](rng)
        if prompt not in seen and _split_of(prompt) == split:
            seen.add(prompt)
            rows.append(_row(family, prompt, answer))
    raise ValueError(f"{family}: found {len(rows)} different prompts for {split}, and {n} were asked for")


def _split_of(prompt: str) -> str:
    return "test" if hashlib.sha256(prompt.encode()).digest()[0] * 100 // 256 < _TEST_SHARE else "train"


def _row(family: str, prompt: str, answer: str | dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": answer}
    if isinstance(answer, dict):
        call = {"id": "call00001", "type": "function", "function": {"name": "order", "arguments": answer}}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": prompt}, said]
    return {"messages": messages, "tools": TOOLS if family == "tools" else [], "metadata": {"task_type": family}}


def _tools(rng: random.Random) -> Posed:
    person, item, count, room = rng.choice(PEOPLE), rng.choice(THINGS), rng.randint(2, 9), rng.randint(1, 30)
    return f"{person} wants {count} {item}s in room {room}.", {"item": item, "count": count, "room": room}


def _plans(rng: random.Random) -> Posed:
    recipe = rng.choice(RECIPES)
    steps = rng.sample(recipe, 4)
    return f"{', '.join(steps)}\nIn which order?", " > ".join(sorted(steps, key=recipe.index))


def _sums(rng: random.Random) -> Posed:
    (one, other), item = rng.sample(PEOPLE, 2), rng.choice(THINGS)
    first, second = rng.randint(2, 9), rng.randint(2, 9)
    return f"{one} has {first} {item}s. {other} has {second} {item}s.\nHow many together?", f"sum={first + second}"


def _formats(rng: random.Random) -> Posed:
    things = rng.sample(THINGS, 3)
    question, answer = rng.choice((
        ("In capitals.", "-".join(things).upper()),
        ("With numbers.", " ".join(f"{number}:{thing}" for number, thing in enumerate(things, start=1))),
        ("As tags.", "".join(f"<{thing}>" for thing in things)),
    ))  # fmt: skip
    return f"{', '.join(things)}\n{question}", answer


def _lookups(rng: random.Random) -> Posed:
    people, rooms, colours = rng.sample(PEOPLE, 2), rng.sample(range(1, 10), 2), rng.sample(COLOURS, 2)
    facts = [f"{person} is in room {room}." for person, room in zip(people, rooms, strict=True)]
    painted = [f"Room {room} is {colour}." for room, colour in zip(rooms, colours, strict=True)]
    rng.shuffle(painted)
    asked = rng.randrange(2)
    return f"{' '.join(facts + painted)}\nWhich colour is around {people[asked]}?", f"[{colours[asked]}]"


FAMILIES: dict[str, Callable[[random.Random], Posed]] = {
    "tools": _tools, "plans": _plans, "sums": _sums, "formats": _formats, "lookups": _lookups,
}  # fmt: skip
