"""Requests whose right calls are known: several calls at once, and arguments of every type, some of them optional.

The desk's tasks need one call after another and only text and whole numbers; these add what else a caller must get
right. A request is put together from values that are drawn, and the hash of what it says decides which split may use
it, as with the desk's tasks: no request can stand in two splits, whatever the seed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.capabilities.office_forms import FORMS, Said, listed
from sage.libs.finetune.agent.environments.desk.requests import FOLDERS, NAMES, TITLES
from sage.libs.finetune.agent.environments.desk.tools import DAYS, FACTORS, TOOLS, WORK_HOURS
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.registry import suggestion
from sage.libs.finetune.agent.types import ToolSpec

SPLITS = ("train", "dev", "test")
_ENDS = {"train": 60, "dev": 70, "test": 100}


@dataclass(frozen=True)
class Request:
    """What is asked for, and what is right.

    Attributes:
        kind: What sort of request it is.
        text: The user's words.
        tools: The tools shown.
        calls: The right calls; each argument with all its right values, "" among them where it may be left out.
        plain: The same calls with one value an argument, optional ones only where the words name them.
    """

    kind: str
    text: str
    tools: list[ToolSpec]
    calls: list[dict[str, Any]]
    plain: list[dict[str, Any]]


def check_split(split: str) -> None:
    """Refuse a split that nothing is drawn for.

    Raises:
        ConfigError: listing the known ones.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split '{split}'; {suggestion(split, SPLITS)}known: {', '.join(SPLITS)}")


def split_of(kind: str, said: object) -> str:
    """The one split that may use these words.

    Example:
        >>> split_of("print_file", {"file": 412}) in SPLITS
        True
    """
    digest = hashlib.sha256(json.dumps([kind, said], sort_keys=True).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 100
    return next(split for split, end in _ENDS.items() if bucket < end)


_FRAMES = ("{}.", "{}.", "Please {}.", "Can you {}?", "I would like you to {}.")


def framed(words: str, rng: random.Random) -> str:
    """An imperative as a sentence, with more or less politeness."""
    sentence = rng.choice(_FRAMES).format(words)
    return sentence[0].upper() + sentence[1:]


@dataclass(frozen=True)
class _Desk:
    """One way to use a tool of the desk in a request: `each` are the words of one use, `one` and `many` go around."""

    tool: str
    one: str
    many: str
    each: str
    draw: Callable[[random.Random], Said]


def _conversion(rng: random.Random) -> Said:
    unit, to = rng.choice(list(FACTORS))
    return {"value": rng.randint(2, 40), "unit": unit, "to": to}


def _number(rng: random.Random) -> int:
    return rng.randint(101, 999)


_DESK = (
    _Desk("find_customer", "find the customer {}", "find the customers {}", "{name}",
          lambda rng: {"name": rng.choice(NAMES)}),
    _Desk("get_order", "look up order {}", "look up orders {}", "{order}", lambda rng: {"order": _number(rng)}),
    _Desk("cancel_order", "cancel order {}", "cancel orders {}", "{order}", lambda rng: {"order": _number(rng)}),
    _Desk("update_order", "change the quantity of {}", "change the quantity of {}", "order {order} to {quantity}",
          lambda rng: {"order": _number(rng), "quantity": rng.randint(2, 19)}),
    _Desk("list_events", "list the events of {}", "list the events of {}", "{day}",
          lambda rng: {"day": rng.choice(DAYS)}),
    _Desk("add_event", "add the event {}", "add the events {}", "{title} on {day} at {hour}",
          lambda rng: {"title": rng.choice(TITLES), "day": rng.choice(DAYS), "hour": rng.choice(WORK_HOURS)}),
    _Desk("list_files", "list the files in {}", "list the files in {}", "{folder}",
          lambda rng: {"folder": rng.choice(FOLDERS)}),
    _Desk("read_file", "read file {}", "read files {}", "{file}", lambda rng: {"file": _number(rng)}),
    _Desk("move_file", "move {}", "move {}", "file {file} to {folder}",
          lambda rng: {"file": _number(rng), "folder": rng.choice(FOLDERS)}),
    _Desk("convert", "convert {}", "convert {}", "{value} {unit} to {to}", _conversion),
)  # fmt: skip


def draw_parallel(split: str, rng: random.Random) -> Request:
    """Two or three calls that do not depend on each other: of one tool, or of different ones.

    Example:
        >>> request = draw_parallel("train", random.Random(0))
        >>> len(request.calls) in (2, 3)
        True
    """
    while True:
        count = rng.choice((2, 2, 3))
        uses = [rng.choice(_DESK)] * count if rng.random() < 0.5 else rng.sample(_DESK, count)
        kind = "parallel" if uses[0] is uses[-1] else "parallel_multiple"
        said = [use.draw(rng) for use in uses]
        plain = [{"name": use.tool, "arguments": values} for use, values in zip(uses, said, strict=True)]
        calls_told = sorted(json.dumps(call, sort_keys=True) for call in plain)
        if _separate(said) and split_of(kind, calls_told) == split:
            break
    each = [use.each.format(**values) for use, values in zip(uses, said, strict=True)]
    if kind == "parallel":
        words = uses[0].many.format(listed(each))
    else:
        words = listed([use.one.format(text) for use, text in zip(uses, each, strict=True)])
    names = {use.tool for use in uses}
    others = rng.sample([use.tool for use in _DESK if use.tool not in names], 4 - len(names))
    shown = [TOOLS[name].spec for name in sorted({*names, *others})]
    return Request(kind, framed(words, rng), shown, [_single(call) for call in plain], plain)


def _separate(said: Sequence[Said]) -> bool:
    """Whether no two calls are about the same thing: then none can depend on the other."""
    things = [values[key] for values in said for key in ("name", "order", "day", "file", "folder") if key in values]
    return len(things) == len(set(things)) and len({json.dumps(values) for values in said}) == len(said)


def _single(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": call["name"], "arguments": {key: [value] for key, value in call["arguments"].items()}}


@dataclass(frozen=True)
class Gap:
    """A request that lacks what a call needs: the question to ask, and the words that answer it (None: no short one).

    `whole` is the request as it stands once the question is answered.
    """

    text: str
    question: str
    answer: str | None
    whole: Request


def draw_typed(split: str, rng: random.Random) -> Request:
    """One call with typed arguments; optional ones are asked for or not.

    Example:
        >>> request = draw_typed("train", random.Random(1))
        >>> request.calls[0]["name"] == request.kind
        True
    """
    while True:
        name = rng.choice(list(FORMS))
        said = FORMS[name].draw(rng)
        if split_of(name, said) == split:
            return _typed(name, said, rng)


def draw_gap(split: str, rng: random.Random, answered: bool = False) -> Gap:
    """A request without one of the arguments its call needs.

    Args:
        split: Whose words.
        rng: What is drawn.
        answered: Only such as have an answer to the question.

    Example:
        >>> gap = draw_gap("train", random.Random(2))
        >>> gap.question.endswith("?")
        True
    """
    while True:
        name = rng.choice(list(FORMS))
        form, said = FORMS[name], FORMS[name].draw(rng)
        missing = rng.choice(list(form.tell if answered else form.ask))
        heard = {key: value for key, value in said.items() if key != missing}
        if split_of(f"{name} without {missing}", heard) == split:
            break
    value = listed(said[missing]) if isinstance(said[missing], list) else said[missing]
    answer = form.tell[missing].format(value) if missing in form.tell else None
    return Gap(framed(form.say(heard), rng), form.ask[missing], answer, _typed(name, said, rng))


def _typed(name: str, said: Said, rng: random.Random) -> Request:
    shown = sorted([name, *rng.sample([other for other in FORMS if other != name], 2)])
    specs = [FORMS[each].spec(each) for each in shown]
    gold, plain = {"name": name, "arguments": FORMS[name].gold(said)}, {"name": name, "arguments": said}
    return Request(name, framed(FORMS[name].say(said), rng), specs, [gold], [plain])
