"""The expert's plans: one generator per kind of request.

The first thought is the plan, the later ones name the value that was looked up: both are what the next call needs.
A script yields `(thought, tool, arguments)`, is sent the observation, and returns the final answer. It sees the words
of the request (`slots`) and the observations, nothing else: a model that imitates it can do the same.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

Slots = dict[str, Any]
Script = Generator[tuple[str, str, dict[str, Any]], str, str]

DONE = "done"
NONE = "none"


class MadeUp(str):
    """An observation that nobody made: every value in it is the same invented number."""

    def __new__(cls, number: int) -> MadeUp:
        """Hold the number as text."""
        return super().__new__(cls, number)


def lookup(observation: str, key: str) -> str:
    """The value after `key=` in an observation; KeyError when it is not there.

    Example:
        >>> lookup("desk=842 lamp=137", "lamp")
        '137'
    """
    if isinstance(observation, MadeUp):
        return str(observation)
    return dict(pair.split("=", 1) for pair in observation.split() if "=" in pair)[key]


def _order_of(slots: Slots, then: str) -> Generator[tuple[str, str, dict[str, Any]], str, int]:
    """The id of the order of an item by a customer's name."""
    plan = f"Find {slots['name']}, then the {slots['item']}, then {then}."
    seen = yield plan, "find_customer", {"name": slots["name"]}
    customer = int(lookup(seen, "customer"))
    seen = yield f"Customer is {customer}.", "list_orders", {"customer": customer}
    return int(lookup(seen, slots["item"]))


def order_status(slots: Slots) -> Script:
    """Customer, order, status."""
    order = yield from _order_of(slots, "read its status")
    seen = yield f"The {slots['item']} is {order}: read its status.", "get_order", {"order": order}
    return lookup(seen, "status")


def order_total(slots: Slots) -> Script:
    """Customer, order, price times quantity."""
    order = yield from _order_of(slots, "multiply price and quantity")
    seen = yield f"The {slots['item']} is {order}: read price and quantity.", "get_order", {"order": order}
    price, quantity = int(lookup(seen, "price")), int(lookup(seen, "quantity"))
    seen = yield f"{price} times {quantity}.", "multiply", {"a": price, "b": quantity}
    return lookup(seen, "product")


def order_cancel(slots: Slots) -> Script:
    """Customer, order, cancel."""
    order = yield from _order_of(slots, "cancel it")
    yield f"The {slots['item']} is {order}: cancel it.", "cancel_order", {"order": order}
    return DONE


def order_resize(slots: Slots) -> Script:
    """Change the quantity of a known order, then read its price."""
    order, quantity = slots["order"], slots["quantity"]
    yield f"Set {order} to {quantity}, then read its price.", "update_order", {"order": order, "quantity": quantity}
    seen = yield f"Read {order}.", "get_order", {"order": order}
    return lookup(seen, "price")


def order_resize_by_name(slots: Slots) -> Script:
    """Customer, order, new quantity."""
    order = yield from _order_of(slots, f"set it to {slots['quantity']}")
    arguments = {"order": order, "quantity": slots["quantity"]}
    yield f"The {slots['item']} is {order}: set it to {slots['quantity']}.", "update_order", arguments
    return DONE


def event_book(slots: Slots) -> Script:
    """The first or last free hour of a day, then book it."""
    day, title = slots["day"], slots["title"]
    seen = yield f"Find the {slots['which']} free hour, then book {title}.", "free_slots", {"day": day}
    hour = int(lookup(seen, slots["which"]))
    yield f"The {slots['which']} is {hour}: book {title}.", "add_event", {"day": day, "title": title, "hour": hour}
    return str(hour)


def _hour_of(slots: Slots, then: str) -> Generator[tuple[str, str, dict[str, Any]], str, int]:
    seen = yield f"Find {slots['title']} on {slots['day']}, then {then}.", "list_events", {"day": slots["day"]}
    return int(lookup(seen, slots["title"]))


def _hours_after(slots: Slots, then: str) -> Generator[tuple[str, str, dict[str, Any]], str, int]:
    hour = yield from _hour_of(slots, f"add {slots['hours']} hours, then {then}")
    seen = yield f"The {slots['title']} is at {hour}: add {slots['hours']}.", "add", {"a": hour, "b": slots["hours"]}
    return int(lookup(seen, "sum"))


def event_shift(slots: Slots) -> Script:
    """The event's hour, some hours more, move it there."""
    later = yield from _hours_after(slots, "move it")
    yield f"Move it to {later}.", "move_event", {"day": slots["day"], "title": slots["title"], "hour": later}
    return str(later)


def event_copy(slots: Slots) -> Script:
    """The event's hour, then book another at that hour on another day."""
    hour = yield from _hour_of(slots, f"book {slots['new']} on {slots['other']}")
    arguments = {"day": slots["other"], "title": slots["new"], "hour": hour}
    yield f"The {slots['title']} is at {hour}: book {slots['new']} on {slots['other']}.", "add_event", arguments
    return str(hour)


def event_after(slots: Slots) -> Script:
    """The event's hour, some hours more, then book another there on another day."""
    later = yield from _hours_after(slots, f"book {slots['new']} on {slots['other']}")
    yield f"Book it at {later}.", "add_event", {"day": slots["other"], "title": slots["new"], "hour": later}
    return str(later)


def _file_of(slots: Slots, then: str) -> Generator[tuple[str, str, dict[str, Any]], str, int]:
    seen = yield f"Find {slots['file']} in {slots['folder']}, then {then}.", "list_files", {"folder": slots["folder"]}
    return int(lookup(seen, slots["file"]))


def file_owner(slots: Slots) -> Script:
    """Folder, file, owner."""
    file = yield from _file_of(slots, "read its owner")
    seen = yield f"The {slots['file']} is {file}: read its owner.", "read_file", {"file": file}
    return lookup(seen, "owner")


def file_pages(slots: Slots) -> Script:
    """Folder, two files, sum of their pages."""
    plan = f"Read {slots['file']} and {slots['second']} in {slots['folder']}, then add."
    listing = yield plan, "list_files", {"folder": slots["folder"]}
    pages = []
    for name in (slots["file"], slots["second"]):
        file = int(lookup(listing, name))
        seen = yield f"The {name} is {file}: read its pages.", "read_file", {"file": file}
        pages.append(int(lookup(seen, "pages")))
    seen = yield f"{pages[0]} plus {pages[1]}.", "add", {"a": pages[0], "b": pages[1]}
    return lookup(seen, "sum")


def file_move(slots: Slots) -> Script:
    """Folder, file, move it."""
    file = yield from _file_of(slots, f"move it to {slots['target']}")
    yield (
        f"The {slots['file']} is {file}: move it to {slots['target']}.",
        "move_file",
        {"file": file, "folder": slots["target"]},
    )
    return DONE


def file_to_owner(slots: Slots) -> Script:
    """Folder, file, owner, move it to the owner's folder."""
    file = yield from _file_of(slots, "read its owner, then move it there")
    seen = yield f"The {slots['file']} is {file}: read its owner.", "read_file", {"file": file}
    owner = lookup(seen, "owner")
    yield f"The owner is {owner}: move it to {owner}.", "move_file", {"file": file, "folder": owner}
    return DONE


def _converted(slots: Slots, then: str) -> Generator[tuple[str, str, dict[str, Any]], str, int]:
    arguments = {"value": slots["value"], "unit": slots["unit"], "to": slots["to"]}
    seen = yield f"Convert {slots['value']} {slots['unit']}, then {then}.", "convert", arguments
    return int(lookup(seen, slots["to"]))


def unit_sum(slots: Slots) -> Script:
    """Convert, then add."""
    value = yield from _converted(slots, f"add {slots['extra']}")
    seen = yield f"{value} plus {slots['extra']}.", "add", {"a": value, "b": slots["extra"]}
    return lookup(seen, "sum")


def unit_rest(slots: Slots) -> Script:
    """Convert, then subtract."""
    value = yield from _converted(slots, f"subtract {slots['less']}")
    seen = yield f"{value} minus {slots['less']}.", "subtract", {"a": value, "b": slots["less"]}
    return lookup(seen, "difference")


def unit_times(slots: Slots) -> Script:
    """Convert, then multiply."""
    value = yield from _converted(slots, f"multiply by {slots['times']}")
    seen = yield f"{value} times {slots['times']}.", "multiply", {"a": value, "b": slots["times"]}
    return lookup(seen, "product")


def unit_times_sum(slots: Slots) -> Script:
    """Convert, multiply, add."""
    value = yield from _converted(slots, f"multiply by {slots['times']}, then add {slots['extra']}")
    seen = yield f"{value} times {slots['times']}.", "multiply", {"a": value, "b": slots["times"]}
    product = int(lookup(seen, "product"))
    seen = yield f"{product} plus {slots['extra']}.", "add", {"a": product, "b": slots["extra"]}
    return lookup(seen, "sum")


def tool_missing(_: Slots) -> Script:
    """No tool fits: say so at once."""
    return NONE
    yield  # what makes this function a generator


def no_tool_needed(slots: Slots) -> Script:
    """The request holds its own answer."""
    return str(slots["code"])
    yield  # what makes this function a generator
