"""What a desk user can ask about: a random world around a request, and the right outcome.

Each function draws the words of one request and a world, and computes the answer and the expected world *from that
world*, without running any tool. The expert's plans (`scripts.py`) see only the words and what the tools say: written
apart, each checks the other.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

from sage.libs.finetune.agent.environments.desk.store import World
from sage.libs.finetune.agent.environments.desk.tools import DAYS, FACTORS, WORK_HOURS

NAMES = (
    "Ana Ben Carla Dan Eva Finn Grace Hugo Iris Jon Kim Leo Mia Nora Omar Paul Rosa Sam Tara Uma Vera Will Yara Zoe"
).split()
ITEMS = (
    "desk lamp chair sofa table shelf mirror carpet clock stool bench cabinet "
    "pillow blanket vase frame kettle toaster fan heater radio printer basket ladder"
).split()
STATUSES = "shipped packed delayed delivered waiting returned".split()
TITLES = "review standup lunch demo training interview planning workshop call briefing dinner audit".split()
FOLDERS = "docs sales legal archive inbox plans travel budget".split()
FILES = "report notes invoice agenda contract letter minutes summary draft survey quote manual".split()


@dataclass
class Posed:
    """One concrete request: the words that fill the wording, the world, and what counts as success.

    `answer` None means that only the state counts.
    """

    slots: dict[str, Any]
    world: World = field(default_factory=dict)
    expected: World | None = None
    answer: str | None = None


def _shop(rng: random.Random) -> tuple[World, dict[str, Any], dict[str, Any]]:
    """Three customers with two or three orders each; returns the world, one customer and one of their orders."""
    names, ids = rng.sample(NAMES, 3), rng.sample(range(11, 100), 3)
    numbers = iter(rng.sample(range(101, 1000), 9))
    customers = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
    orders = [
        {
            "id": next(numbers),
            "customer": customer["id"],
            "item": item,
            "status": rng.choice(STATUSES),
            "price": rng.randint(11, 99),
            "quantity": rng.randint(2, 9),
        }
        for customer in customers
        for item in rng.sample(ITEMS, rng.randint(2, 3))
    ]
    order = rng.choice(orders)
    customer = next(c for c in customers if c["id"] == order["customer"])
    return {"customers": customers, "orders": orders}, customer, order


def _changed(world: World, table: str, row: dict[str, Any], **values: Any) -> World:
    """A copy of the world in which that row has other values."""
    after = copy.deepcopy(world)
    after[table][world[table].index(row)].update(values)
    return after


def order_status(rng: random.Random) -> Posed:
    world, customer, order = _shop(rng)
    return Posed({"name": customer["name"], "item": order["item"]}, world, answer=order["status"])


def order_total(rng: random.Random) -> Posed:
    world, customer, order = _shop(rng)
    total = order["price"] * order["quantity"]
    return Posed({"name": customer["name"], "item": order["item"]}, world, answer=str(total))


def order_cancel(rng: random.Random) -> Posed:
    world, customer, order = _shop(rng)
    after = _changed(world, "orders", order, status="cancelled")
    return Posed({"name": customer["name"], "item": order["item"]}, world, after)


def order_resize(rng: random.Random) -> Posed:
    world, _, order = _shop(rng)
    quantity = rng.choice([n for n in range(2, 20) if n != order["quantity"]])
    after = _changed(world, "orders", order, quantity=quantity)
    return Posed({"order": order["id"], "quantity": quantity}, world, after, answer=str(order["price"]))


def order_resize_by_name(rng: random.Random) -> Posed:
    world, customer, order = _shop(rng)
    quantity = rng.choice([n for n in range(2, 20) if n != order["quantity"]])
    slots = {"name": customer["name"], "item": order["item"], "quantity": quantity}
    return Posed(slots, world, _changed(world, "orders", order, quantity=quantity))


def _week(rng: random.Random) -> tuple[World, dict[str, Any], str, str]:
    """Two to four events a day; returns the world, one event, another day, and a title that is on no day."""
    titles = rng.sample(TITLES, len(TITLES))
    new = titles.pop()
    events = []
    for day in DAYS:
        hours = rng.sample(WORK_HOURS, rng.randint(2, 4))
        for title, hour in zip(rng.sample(titles, len(hours)), sorted(hours), strict=True):
            events.append({"day": day, "title": title, "hour": hour})
    event = rng.choice(events)
    return {"events": events}, event, rng.choice([day for day in DAYS if day != event["day"]]), new


def _free(world: World, day: str) -> list[int]:
    taken = {event["hour"] for event in world["events"] if event["day"] == day}
    return [hour for hour in WORK_HOURS if hour not in taken]


def _with_event(world: World, day: str, title: str, hour: int) -> World:
    return {"events": [*world["events"], {"day": day, "title": title, "hour": hour}]}


def event_book(rng: random.Random) -> Posed:
    world, event, _, title = _week(rng)
    day, which = event["day"], rng.choice(("first", "last"))
    hour = _free(world, day)[0 if which == "first" else -1]
    slots = {"day": day, "title": title, "which": which}
    return Posed(slots, world, _with_event(world, day, title, hour), answer=str(hour))


def event_shift(rng: random.Random) -> Posed:
    while True:
        world, event, _, _ = _week(rng)
        hours = rng.randint(2, 3)
        if event["hour"] + hours in _free(world, event["day"]):
            break
    later = event["hour"] + hours
    slots = {"day": event["day"], "title": event["title"], "hours": hours}
    return Posed(slots, world, _changed(world, "events", event, hour=later), answer=str(later))


def event_copy(rng: random.Random) -> Posed:
    while True:
        world, event, other, title = _week(rng)
        if event["hour"] in _free(world, other):
            break
    slots = {"day": event["day"], "title": event["title"], "new": title, "other": other}
    return Posed(slots, world, _with_event(world, other, title, event["hour"]), answer=str(event["hour"]))


def event_after(rng: random.Random) -> Posed:
    while True:
        world, event, other, title = _week(rng)
        hours = rng.randint(2, 3)
        if event["hour"] + hours in _free(world, other):
            break
    later = event["hour"] + hours
    slots = {"day": event["day"], "title": event["title"], "new": title, "other": other, "hours": hours}
    return Posed(slots, world, _with_event(world, other, title, later), answer=str(later))


def _cabinet(rng: random.Random) -> tuple[World, dict[str, Any]]:
    """Three folders with two or three files each; returns the world and one file."""
    ids = iter(rng.sample(range(101, 1000), 9))
    files = [
        {
            "id": next(ids),
            "name": name,
            "folder": folder,
            "pages": rng.randint(11, 99),
            "owner": rng.choice(NAMES),
        }
        for folder in rng.sample(FOLDERS, 3)
        for name in rng.sample(FILES, rng.randint(2, 3))
    ]
    return {"files": files}, rng.choice(files)


def file_owner(rng: random.Random) -> Posed:
    world, file = _cabinet(rng)
    return Posed({"file": file["name"], "folder": file["folder"]}, world, answer=file["owner"])


def file_pages(rng: random.Random) -> Posed:
    world, file = _cabinet(rng)
    others = [f for f in world["files"] if f["folder"] == file["folder"] and f["name"] != file["name"]]
    other = rng.choice(others)
    slots = {"file": file["name"], "second": other["name"], "folder": file["folder"]}
    return Posed(slots, world, answer=str(file["pages"] + other["pages"]))


def file_move(rng: random.Random) -> Posed:
    world, file = _cabinet(rng)
    target = rng.choice([folder for folder in FOLDERS if folder != file["folder"]])
    slots = {"file": file["name"], "folder": file["folder"], "target": target}
    return Posed(slots, world, _changed(world, "files", file, folder=target))


def file_to_owner(rng: random.Random) -> Posed:
    world, file = _cabinet(rng)
    slots = {"file": file["name"], "folder": file["folder"]}
    return Posed(slots, world, _changed(world, "files", file, folder=file["owner"]))


def _units(rng: random.Random) -> dict[str, Any]:
    (unit, to), value = rng.choice(list(FACTORS)), rng.randint(2, 12)
    return {"value": value, "unit": unit, "to": to}


def unit_sum(rng: random.Random) -> Posed:
    slots = {**_units(rng), "extra": rng.randint(2, 40)}
    total = slots["value"] * FACTORS[slots["unit"], slots["to"]] + slots["extra"]
    return Posed(slots, answer=str(total))


def unit_rest(rng: random.Random) -> Posed:
    slots = _units(rng)
    whole = slots["value"] * FACTORS[slots["unit"], slots["to"]]
    less = rng.randint(2, min(20, whole - 1))
    return Posed({**slots, "less": less}, answer=str(whole - less))


def unit_times(rng: random.Random) -> Posed:
    slots = {**_units(rng), "times": rng.randint(2, 9)}
    return Posed(slots, answer=str(slots["value"] * FACTORS[slots["unit"], slots["to"]] * slots["times"]))


def unit_times_sum(rng: random.Random) -> Posed:
    slots = {**_units(rng), "times": rng.randint(2, 9), "extra": rng.randint(2, 40)}
    total = slots["value"] * FACTORS[slots["unit"], slots["to"]] * slots["times"] + slots["extra"]
    return Posed(slots, answer=str(total))


def tool_missing(rng: random.Random) -> Posed:
    world, customer, order = _shop(rng)
    return Posed({"name": customer["name"], "item": order["item"]}, world, answer="none")


def no_tool_needed(rng: random.Random) -> Posed:
    world, customer, order = _shop(rng)
    slots = {"name": customer["name"], "item": order["item"], "code": rng.randint(101, 999)}
    return Posed(slots, world, answer=str(slots["code"]))
