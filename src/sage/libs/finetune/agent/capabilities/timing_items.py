"""Test items for timing: half want a call now, half want words, so never to call is worth 0.5.

A call is due when the request says all that a tool needs: at once, after the result of an earlier call, or after the
user has answered a question. Words are due when the result already answers, when something is missing and must be asked
for, when no tool fits, when the request holds its own answer, and in small talk. Turns that only do a sum are not
asked for, since a model that adds up by itself is not wrong.
"""

from __future__ import annotations

import json
import random
from typing import Any

from sage.libs.finetune.agent.capabilities.desk_items import (
    ELSEWHERE,
    NO_CALL_KINDS,
    OPEN_KINDS,
    Turn,
    calling,
    desk_stream,
    desk_turns,
    misplaced,
)
from sage.libs.finetune.agent.capabilities.office_requests import check_split, draw_gap, draw_typed, split_of
from sage.libs.finetune.agent.environments.desk.requests import ITEMS, NAMES, TITLES
from sage.libs.finetune.agent.environments.desk.tools import DAYS, FAMILY_TOOLS, TOOLS
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.types import Message, ToolSpec

SYSTEM_PROMPT = (
    "Call a tool as soon as one is needed and all it needs is known. Otherwise reply in words: answer, or ask for what "
    "is missing."
)
_NO_TOOL = "I have no tool for that."
_SUMS = ("add", "subtract", "multiply", "convert")
_SMALL_TALK = (
    ("Hi, I am {name} and I share a room with {other}.", "Hi {name}, nice to meet you."),
    ("{name} and {other} say hello to you.", "Please say hello to {name} and {other} from me."),
    ("Thanks again for the {item} and the {second}, both work well.", "You are welcome."),
    ("That is all for {day}, thank you. {name} will write to you next time.", "You are welcome. Until then."),
    ("Have a nice {day}, and good luck with the {title}!", "Thank you, the same to you."),
    ("The {title} with {name} was a lot of fun.", "I am glad to hear that."),
    ("I really like the new {item} next to the {second}.", "I am glad that you like it."),
    ("Sorry for the late reply, I was at the {title} with {name}.", "No problem."),
    ("{name} told me that you are a great help with the {title}.", "That is kind of {name}."),
    ("What a long {day}! First the {title}, and then {name} was late.", "I hope that you can rest now."),
)
"""What wants no call, with a reply; each has two values or more, so that there are hundreds of it."""
_DUE = ("first_call", "complete", "later_call", "answered_question")
_NOT_DUE = ("answered", "missing", "no_tool", "small_talk", "answered", "missing", "no_tool", "said")


def timing_items(split: str, n: int, seed: int = 0) -> list[Item]:
    """Test items for `timing`; a longer list begins with a shorter one.

    Args:
        split: train, dev or test; no request is in two of them.
        n: How many; every second one wants a call.
        seed: Fixes what is drawn.

    Returns:
        Items with gold `{"call": True, "name": ...}` or `{"call": False}`. `metadata` has `category`, `split` and
        `turn`, an assistant's message that is right.

    Raises:
        ConfigError: for an unknown split, or more tasks than the desk has.

    Example:
        >>> items = timing_items("test", 4)
        >>> [item["gold"]["call"] for item in items]
        [True, False, True, False]
    """
    check_split(split)
    desk = _DeskTurns(split, n, seed)
    rng = random.Random(f"timing/{split}/{seed}")
    seen: set[str] = set()
    items: list[Item] = []
    while len(items) < n:
        categories = _NOT_DUE if len(items) % 2 else _DUE
        category = categories[len(items) // 2 % len(categories)]
        item = _drawn(category, split, rng) or desk.item(category)
        prompt = json.dumps(item["messages"])
        if prompt not in seen:
            seen.add(prompt)
            items.append({"id": f"timing-{split}-{seed}-{len(items):04d}", **item})
    return items


def _drawn(category: str, split: str, rng: random.Random) -> Item | None:
    """An item that needs no episode of the desk, None where the category does."""
    if category == "complete":
        request = draw_typed(split, rng)
        return _item(category, split, [_user(request.text)], request.tools, calling(request))
    if category in ("missing", "answered_question"):
        gap = draw_gap(split, rng, answered=category == "answered_question")
        request, question = gap.whole, _assistant(gap.question)
        if category == "missing":
            return _item(category, split, [_user(gap.text)], request.tools, question)
        assert gap.answer is not None, "it was drawn as one that is answered"
        talk = [_user(gap.text), question, _user(gap.answer)]
        return _item(category, split, talk, request.tools, calling(request))
    if category == "small_talk":
        words, reply = _small_talk(split, rng)
        tools = [TOOLS[name].spec for name in FAMILY_TOOLS[rng.choice(list(ELSEWHERE))]]
        return _item(category, split, [_user(words)], tools, _assistant(reply))
    return None


def _small_talk(split: str, rng: random.Random) -> tuple[str, str]:
    while True:
        words, reply = rng.choice(_SMALL_TALK)
        name, other = rng.sample(NAMES, 2)
        item, second = rng.sample(ITEMS, 2)
        values = {"name": name, "other": other, "item": item, "second": second, "day": rng.choice(DAYS)}
        values["title"] = rng.choice(TITLES)
        said = words.format(**values)
        if split_of("small_talk", said) == split:
            return said, reply.format(**values)


class _DeskTurns:
    """Turns of the expert's episodes by category; each task gives one turn to whoever can use it first."""

    def __init__(self, split: str, n: int, seed: int) -> None:
        self._split = split
        self._rng = random.Random(f"timing/desk/{split}/{seed}")
        self._tasks = desk_stream(split, n + 60, seed)  # of ten items at most nine take a task
        self._waiting: dict[str, list[Turn]] = {}

    def item(self, category: str) -> Item:
        """The next turn of a category."""
        while not self._waiting.get(category):
            turns = self._usable(next(self._tasks))
            wanted = [name for name in turns if name == category] or sorted(turns, key=self._have)
            if wanted:
                self._waiting.setdefault(wanted[0], []).append(turns[wanted[0]])
        turn = self._waiting[category].pop(0)
        said = turn.messages[1:]  # without the desk's own system prompt
        return _item(category, self._split, said, turn.task["tools"], turn.reply)

    def _have(self, category: str) -> int:
        return len(self._waiting.get(category, []))

    def _usable(self, task: dict[str, Any]) -> dict[str, Turn]:
        """What a task can be asked for."""
        kind, family = task["metadata"]["kind"], task["metadata"]["family"]
        turns = desk_turns(task)
        first, last = turns[0], turns[-1]
        if kind in NO_CALL_KINDS:
            if kind == "no_tool_needed":
                return {"said": first}
            return {"no_tool": _declined(misplaced(first, self._rng) if family == "orders" else first)}
        if family not in ELSEWHERE or kind in OPEN_KINDS:
            return {"answered": last}
        later = [turn for turn in turns[1:-1] if turn.call is not None and turn.call["name"] not in _SUMS]
        usable = {"first_call": first, "answered": last}
        if later:
            usable["later_call"] = self._rng.choice(later)
        if kind != "event_shift":
            usable["no_tool"] = _declined(misplaced(first, self._rng))
        return usable


def _declined(turn: Turn) -> Turn:
    return Turn(turn.task, turn.step, turn.messages, _assistant(_NO_TOOL))


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _item(category: str, split: str, said: list[Message], tools: list[ToolSpec], turn: Message) -> Item:
    calls = turn.get("tool_calls")
    gold = {"call": True, "name": calls[0]["function"]["name"]} if calls else {"call": False}
    return {
        "messages": [{"role": "system", "content": SYSTEM_PROMPT}, *said],
        "tools": tools,
        "gold": gold,
        "metadata": {"category": category, "split": split, "turn": turn},
    }
