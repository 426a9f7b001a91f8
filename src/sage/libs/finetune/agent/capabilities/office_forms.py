"""Office tools with arguments of every type, some of them optional, and how each is asked for.

The desk's tools take text and whole numbers, all of them required; these also take fractions, flags, closed choices,
lists, objects and lists of objects. Each form draws the values of a request, says them, and knows all right values of
each argument of the call, so a request and what is right come from one place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from sage.libs.finetune.agent.environments.desk.requests import FILES, FOLDERS, ITEMS, NAMES, TITLES
from sage.libs.finetune.agent.environments.desk.tools import DAYS, WORK_HOURS
from sage.libs.finetune.agent.types import ToolSpec

Said = dict[str, Any]
"""The values that a request names, by parameter."""


def listed(words: Sequence[object]) -> str:
    """Words as a list in a sentence.

    Example:
        >>> listed(["Ana"]), listed(["Ana", "Leo"]), listed([1, 2, 3])
        ('Ana', 'Ana and Leo', '1, 2 and 3')
    """
    *head, last = map(str, words)
    return f"{', '.join(head)} and {last}" if head else last


@dataclass(frozen=True)
class Form:
    """A tool with typed arguments, and how it is asked for.

    Attributes:
        description: Names what the types do not: defaults, the fields of objects.
        parameters: JSON schema of each parameter.
        draw: Values for a request; an optional parameter that is not asked for is left out.
        say: Words for what is drawn, also when a required value is missing.
        ask: Required parameter -> the question that asks for it.
        tell: Required parameter -> the words that give it in answer to the question.
        defaults: Optional parameter -> what it is when nobody says.
    """

    description: str
    parameters: dict[str, dict[str, Any]]
    draw: Callable[[random.Random], Said]
    say: Callable[[Said], str]
    ask: dict[str, str]
    tell: dict[str, str]
    defaults: dict[str, Any]

    def spec(self, name: str) -> ToolSpec:
        """The tool as it is shown."""
        required = [parameter for parameter in self.parameters if parameter in self.ask]
        schema = {"type": "object", "properties": self.parameters, "required": required, "additionalProperties": False}
        function = {"name": name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}

    def gold(self, said: Said) -> dict[str, list[Any]]:
        """All right values of each argument of the call."""
        allowed = {name: _right_values(value) for name, value in said.items()}
        return allowed | {name: [value, ""] for name, value in self.defaults.items() if name not in said}


def _right_values(value: Any) -> list[Any]:
    """Several names in a list may come in any order; of an object each field, of a list of objects each in turn."""
    if isinstance(value, list) and isinstance(value[0], str):
        return [list(order) for order in permutations(value)]
    if isinstance(value, list):
        return [[{key: [field] for key, field in entry.items()} for entry in value]]
    if isinstance(value, dict):
        return [{key: [field] for key, field in value.items()}]
    return [value]


def _maybe(rng: random.Random, **values: Any) -> Said:
    """Each of the optional values with probability one half."""
    return {name: value for name, value in values.items() if rng.random() < 0.5}


def _piece(said: Said, name: str, words: str) -> str:
    """Words for a value that may be missing."""
    return words.format(said[name]) if name in said else ""


_TEXT, _WHOLE, _REAL, _FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))
_TEXTS = {"type": "array", "items": _TEXT}
_CITIES = "Rome Oslo Paris Berlin Madrid Vienna Lisbon Dublin".split()
_MESSAGES = tuple(
    f"{what} {when}"
    for what in ("The meeting starts", "Lunch is", "The delivery comes", "The door closes", "The bus leaves")
    for when in ("at noon", "at ten", "on Friday", "tomorrow", "in an hour")
)


def _draw_order(rng: random.Random) -> Said:
    items = rng.sample(ITEMS, rng.choice((1, 2, 2)))
    lines = [{"item": item, "quantity": rng.randint(2, 9)} for item in items]
    return {"customer": rng.choice(NAMES), "lines": lines}


def _draw_contact(rng: random.Random) -> Said:
    changes = {"phone": f"0{rng.randint(101, 999)}-{rng.randint(1001, 9999)}", "city": rng.choice(_CITIES)}
    kept = rng.choice((("phone",), ("city",), ("phone", "city")))
    return {"name": rng.choice(NAMES), "changes": {key: changes[key] for key in kept}}


def _say_message(said: Said) -> str:
    way = "an urgent" if "urgent" in said else "a"
    to = f" to {listed(said['to'])}" if "to" in said else ""
    return f"send {way} message{to}" + _piece(said, "text", ': "{}"')


def _say_order(said: Said) -> str:
    lines = "; ".join(f"{line['item']}, {line['quantity']} pieces" for line in said.get("lines", []))
    return "place an order" + _piece(said, "customer", " for {}") + (f": {lines}" if lines else "")


def _say_contact(said: Said) -> str:
    changes = ", ".join(f"{key} {value}" for key, value in said.get("changes", {}).items())
    whose = _piece(said, "name", "the contact of {}") or "a contact"
    return f"change {whose}" + (f": {changes}" if changes else "")


def _say_search(said: Said) -> str:
    words = said.get("words", [])
    what = f" for the word{'s' * (len(words) > 1)} {listed(words)}" if words else ""
    return "search the files" + _piece(said, "folder", " in {}") + what + _piece(said, "limit", ", at most {} hits")


FORMS: dict[str, Form] = {
    "book_room": Form(
        "60 minutes and no projector by default",
        {"title": _TEXT, "day": _TEXT, "hour": _WHOLE, "minutes": _WHOLE, "projector": _FLAG},
        lambda rng: {
            "title": rng.choice(TITLES), "day": rng.choice(DAYS), "hour": rng.choice(WORK_HOURS),
            **_maybe(rng, minutes=rng.choice((15, 30, 45, 90, 120)), projector=True),
        },
        lambda said: "book a room" + _piece(said, "title", " for the {}") + _piece(said, "day", " on {}")
        + _piece(said, "hour", " at {}") + _piece(said, "minutes", " for {} minutes")
        + _piece(said, "projector", " with a projector"),
        {"title": "What is the room for?", "day": "On which day?", "hour": "At what hour?"},
        {"title": "For the {}.", "day": "On {}.", "hour": "At {}."},
        {"minutes": 60, "projector": False},
    ),
    "send_message": Form(
        "not urgent by default",
        {"to": _TEXTS, "text": _TEXT, "urgent": _FLAG},
        lambda rng: {
            "to": rng.sample(NAMES, rng.choice((1, 2, 2))), "text": rng.choice(_MESSAGES), **_maybe(rng, urgent=True),
        },
        _say_message,
        {"to": "To whom?", "text": "What is the message?"},
        {"to": "To {}.", "text": '"{}"'},
        {"urgent": False},
    ),
    "set_price": Form(
        "in EUR by default",
        {"item": _TEXT, "price": _REAL, "currency": {"type": "string", "enum": ["EUR", "USD"]}},
        lambda rng: {
            "item": rng.choice(ITEMS), "price": rng.randint(2, 99) + rng.choice((0, 0.25, 0.5, 0.75)),
            **_maybe(rng, currency="USD"),
        },
        lambda said: "set the price" + _piece(said, "item", " of the {}") + _piece(said, "price", " to {}")
        + _piece(said, "currency", " {}" if "price" in said else " in {}"),
        {"item": "The price of which item?", "price": "What is the new price?"},
        {"item": "Of the {}.", "price": "{}."},
        {"currency": "EUR"},
    ),
    "place_order": Form(
        "each line has item and quantity",
        {
            "customer": _TEXT,
            "lines": {
                "type": "array",
                "items": {"type": "object", "properties": {"item": _TEXT, "quantity": _WHOLE},
                          "required": ["item", "quantity"]},
            },
        },
        _draw_order,
        _say_order,
        {"customer": "For which customer?", "lines": "Which items, and how many of each?"},
        {"customer": "For {}."},
        {},
    ),
    "change_contact": Form(
        "changes may have phone and city",
        {"name": _TEXT, "changes": {"type": "object", "properties": {"phone": _TEXT, "city": _TEXT}}},
        _draw_contact,
        _say_contact,
        {"name": "Whose contact?", "changes": "What is to be changed?"},
        {"name": "{}'s."},
        {},
    ),
    "search_files": Form(
        "10 hits in all folders by default",
        {"words": _TEXTS, "folder": _TEXT, "limit": _WHOLE},
        lambda rng: {
            "words": rng.sample(FILES, rng.choice((1, 2))), **_maybe(rng, folder=rng.choice(FOLDERS)),
            **_maybe(rng, limit=rng.randint(2, 9)),
        },
        _say_search,
        {"words": "Which words?"},
        {"words": "{}."},
        {"limit": 10},
    ),
    "add_reminder": Form(
        "for the whole day without an hour",
        {"text": _TEXT, "day": _TEXT, "hour": _WHOLE},
        lambda rng: {
            "text": f"{rng.choice(('call', 'write to', 'meet', 'thank'))} {rng.choice(NAMES)}",
            "day": rng.choice(DAYS), **_maybe(rng, hour=rng.choice(WORK_HOURS)),
        },
        lambda said: "add a reminder" + _piece(said, "day", " for {}") + _piece(said, "hour", " at {}")
        + _piece(said, "text", ': "{}"'),
        {"text": "What shall the reminder say?", "day": "For which day?"},
        {"text": '"{}"', "day": "For {}."},
        {},
    ),
    "print_file": Form(
        "one copy in black by default",
        {"file": _WHOLE, "copies": _WHOLE, "colour": _FLAG},
        lambda rng: {"file": rng.randint(101, 999), **_maybe(rng, copies=rng.randint(2, 40), colour=True)},
        lambda said: (_piece(said, "file", "print file {}") or "print a file")
        + _piece(said, "colour", " in colour") + _piece(said, "copies", ", {} copies"),
        {"file": "Which file?"},
        {"file": "File {}."},
        {"copies": 1, "colour": False},
    ),
    "set_heating": Form(
        "degrees Celsius",
        {"room": _WHOLE, "degrees": _REAL},
        lambda rng: {"room": rng.randint(101, 999), "degrees": rng.randint(16, 24) + rng.choice((0, 0.5))},
        lambda said: "set the heating" + _piece(said, "room", " in room {}")
        + _piece(said, "degrees", " to {} degrees"),
        {"room": "In which room?", "degrees": "To how many degrees?"},
        {"room": "In room {}.", "degrees": "To {}."},
        {},
    ),
}  # fmt: skip
