"""Test items for tool use: the next call of an episode, several calls at once, typed arguments, and no call at all.

Of ten items four are turns of the desk's expert, asked for with the true history before them, two want several calls
at once, two a call with typed arguments, and two none, because no tool fits, none is needed or all is done (never to
call is worth 0.2). A turn is asked for only where one call is right: a sum or product may be called with its numbers in
either order and of two files either may be read first, which the gold allows; a request that two different tools can
begin is asked for later on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.libs.finetune.agent.capabilities.office_requests import (
    Request,
    check_split,
    draw_parallel,
    draw_typed,
)
from sage.libs.finetune.agent.chatml import to_messages
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.environments.desk.scripts import NONE, lookup
from sage.libs.finetune.agent.environments.desk.tools import FAMILY_TOOLS, TOOLS
from sage.libs.finetune.agent.evaluation.score import Item
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.types import Message, ToolSpec, call_id

SYSTEM_PROMPT = "Make the calls that the request needs, all of them at once."
NO_CALL_KINDS = ("tool_missing", "no_tool_needed")
OPEN_KINDS = ("order_resize", "unit_times")
"""Requests that may begin with another tool: read the price and then set the quantity, multiply and then convert."""
ELSEWHERE = {"orders": ("calendar", "files"), "calendar": ("orders", "files"), "files": ("orders", "calendar")}
"""Families whose tools are of no use for a request of this family."""
_WORDINGS = 240
"""The desk has so many tasks in wordings that nothing else uses (see `desk_tasks`)."""
_COMMUTATIVE = ("add", "multiply")


def desk_stream(split: str, n: int, seed: int) -> Iterator[dict[str, Any]]:
    """`n` tasks of the desk for a split of ours; every fourth of test has a wording that no other split knows."""
    if split != "test":
        yield from desk_tasks(split, n, seed)
        return
    unseen = min(n // 4, _WORDINGS)
    known, reworded = iter(desk_tasks("test_iid", n - unseen, seed)), iter(desk_tasks("test_wording", unseen, seed))
    for index in range(n):
        yield next(reworded) if index % 4 == 3 and index // 4 < unseen else next(known)


@dataclass(frozen=True)
class Turn:
    """One turn of an expert's episode: the conversation before it, and what the expert says."""

    task: Mapping[str, Any]
    step: int
    messages: list[Message]
    reply: Message

    @property
    def call(self) -> dict[str, Any] | None:
        """Name and arguments of the call the turn makes, None when it answers."""
        calls = self.reply.get("tool_calls")
        return dict(calls[0]["function"]) if calls else None


def desk_turns(task: Mapping[str, Any]) -> list[Turn]:
    """All turns of the expert's episode on a task.

    Example:
        >>> turns = desk_turns(desk_tasks("train", 1)[0])
        >>> [turn.call["name"] if turn.call else turn.reply["content"] for turn in turns]
        ['find_customer', 'list_orders', 'get_order', 'waiting']
    """
    collector = TrajectoryCollector(DeskExpert(), CollectorConfig(require_success=True), DeskEnvironment)
    [episode] = collector.collect([dict(task)])
    messages = to_messages(episode)
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return [Turn(task, step, messages[:place], messages[place]) for step, place in enumerate(places)]


def tool_use_items(split: str, n: int, seed: int = 0) -> list[Item]:
    """Test items for `tool_use`; a longer list begins with a shorter one.

    Args:
        split: train, dev or test; no request is in two of them.
        n: How many.
        seed: Fixes what is drawn.

    Returns:
        Items with gold `{"calls": [...]}` (see `evaluation.scorers.tool_use`). `metadata` has `category`, `kind`,
        `split` and `turn`, the assistant's message that an expert gives.

    Raises:
        ConfigError: for an unknown split, or more tasks than the desk has.

    Example:
        >>> [item["metadata"]["category"] for item in tool_use_items("test", 4)]
        ['later_call', 'parallel', 'finished', 'typed']
    """
    check_split(split)
    tasks = list(desk_stream(split, n + _SPARE, seed))
    drawn = {
        "desk": _called(tasks, seed),
        "none": _not_called(tasks, seed),
        "parallel": _drawn_items("parallel", split, seed),
        "typed": _drawn_items("typed", split, seed),
    }
    seen: set[str] = set()
    items: list[Item] = []
    while len(items) < n:
        item = next(drawn[_ROUND[len(items) % len(_ROUND)]])
        prompt = json.dumps(item["messages"])
        if prompt not in seen:
            seen.add(prompt)
            items.append({"id": f"tool_use-{split}-{seed}-{len(items):04d}", **item})
    return items


_ROUND = ("desk", "parallel", "none", "typed", "desk")
_SPARE = 60  # of ten tasks seven go to calls and three to items without, which take turns, so few lists need as many


def _called(tasks: Sequence[dict[str, Any]], seed: int) -> Iterator[Item]:
    for task in tasks:
        if not _wants_none(task, rng := _rng_of(task, seed)):
            turn = _asked(desk_turns(task), task["metadata"]["kind"], rng)
            yield _item(turn, "later_call" if turn.step else "first_call", [gold_call(turn)])


def _not_called(tasks: Sequence[dict[str, Any]], seed: int) -> Iterator[Item]:
    for task in tasks:
        if _wants_none(task, rng := _rng_of(task, seed)):
            kind, family = task["metadata"]["kind"], task["metadata"]["family"]
            turns = desk_turns(task)
            if kind not in NO_CALL_KINDS and rng.random() < 0.5:
                yield _item(turns[-1], "finished", [])
                continue
            # Who is asked for a refund may well look for the order, so there the tools for orders are not shown.
            fits = kind == "no_tool_needed" or (kind == "tool_missing" and family != "orders")
            yield _item(turns[0] if fits else misplaced(turns[0], rng), "irrelevance", [])


def _rng_of(task: Mapping[str, Any], seed: int) -> random.Random:
    return random.Random(f"tool_use/{seed}/{task['task_id']}")


def _wants_none(task: Mapping[str, Any], rng: random.Random) -> bool:
    """Whether a task becomes an item without a call: by its kind, with the wrong tools, or at its end."""
    kind, family = task["metadata"]["kind"], task["metadata"]["family"]
    return kind in NO_CALL_KINDS or (family in ELSEWHERE and kind != "event_shift" and rng.random() < 0.25)


def misplaced(turn: Turn, rng: random.Random) -> Turn:
    """The first turn of a request with the tools of another family, none of which fits."""
    family = rng.choice(ELSEWHERE[turn.task["metadata"]["family"]])
    tools = [TOOLS[name].spec for name in FAMILY_TOOLS[family]]
    return Turn({**turn.task, "tools": tools}, 0, turn.messages, {"role": "assistant", "content": NONE})


def _asked(turns: list[Turn], kind: str, rng: random.Random) -> Turn:
    """The turn to ask for: the first in half the cases."""
    calls = [turn for turn in turns if turn.call is not None]
    later = rng.random() < 0.5 or kind in OPEN_KINDS
    return rng.choice(calls[1:]) if later else calls[0]


def gold_call(turn: Turn) -> dict[str, Any]:
    """The call of a turn with all right values of its arguments."""
    call = turn.call
    assert call is not None, "only turns that call are asked for"
    gold = {name: [value] for name, value in call["arguments"].items()}
    if call["name"] in _COMMUTATIVE:
        gold = {"a": [*gold["a"], *gold["b"]], "b": [*gold["b"], *gold["a"]]}
    if turn.task["metadata"]["kind"] == "file_pages" and turn.step == 1:
        listing, slots = turn.messages[-1]["content"], turn.task["metadata"]["slots"]
        gold = {"file": [int(lookup(listing, slots[name])) for name in ("file", "second")]}
    return {"name": call["name"], "arguments": gold}


def _drawn_items(what: str, split: str, seed: int) -> Iterator[Item]:
    rng = random.Random(f"tool_use/{what}/{split}/{seed}")
    while True:
        request = draw_parallel(split, rng) if what == "parallel" else draw_typed(split, rng)
        category = request.kind if what == "parallel" else what
        yield {
            "messages": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": request.text}],
            "tools": request.tools,
            "gold": {"calls": request.calls},
            "metadata": {"category": category, "kind": request.kind, "split": split, "turn": calling(request)},
        }


def calling(request: Request) -> Message:
    """The assistant's turn that makes a request's calls."""
    calls = [
        {"id": call_id(number), "type": "function", "function": call}
        for number, call in enumerate(request.plain, start=1)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}  # type: ignore[typeddict-item]


def _item(turn: Turn, category: str, calls: list[dict[str, Any]]) -> Item:
    meta = turn.task["metadata"]
    tools: list[ToolSpec] = turn.task["tools"]
    return {
        "messages": turn.messages,
        "tools": tools,
        "gold": {"calls": calls},
        "metadata": {"category": category, "kind": meta["kind"], "split": meta["split"], "turn": turn.reply},
    }
