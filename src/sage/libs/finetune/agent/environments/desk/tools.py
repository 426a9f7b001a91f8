"""The desk's sixteen tools: a JSON schema and a function on the store each.

Observations put the key first (`desk=842`), keep lists short and ids at two or three digits: a small model then looks
a value up by copying what follows the key, which it does far more reliably than searching backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jsonschema import Draft202012Validator

from sage.libs.finetune.agent.environments.desk.store import Store
from sage.libs.finetune.agent.types import ToolSpec

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
WORK_HOURS = range(9, 18)
FACTORS: dict[tuple[str, str], int] = {
    ("hours", "minutes"): 60,
    ("minutes", "seconds"): 60,
    ("days", "hours"): 24,
    ("weeks", "days"): 7,
    ("feet", "inches"): 12,
    ("dozens", "pieces"): 12,
    ("yards", "feet"): 3,
    ("metres", "centimetres"): 100,
}


class ToolFault(Exception):
    """The call is well-formed but the desk cannot do it (no such order, hour taken ...)."""


@dataclass(frozen=True)
class Tool:
    """A tool: what the model is shown, and what runs."""

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, Any]]
    run: Callable[..., str]

    @cached_property
    def spec(self) -> ToolSpec:
        """The OpenAI function schema; every parameter is required and nothing else is allowed."""
        schema = {
            "type": "object",
            "properties": {name: dict(kind) for name, kind in self.parameters.items()},
            "required": list(self.parameters),
            "additionalProperties": False,
        }
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}

    @cached_property
    def _validator(self) -> Draft202012Validator:
        return Draft202012Validator(self.spec["function"]["parameters"])

    def fault(self, arguments: Mapping[str, Any]) -> str | None:
        """What is wrong with the arguments, None when they fit the schema."""
        faults = sorted(self._validator.iter_errors(dict(arguments)), key=lambda e: list(map(str, e.path)))
        if not faults:
            return None
        where = ".".join(map(str, faults[0].path))
        return f"{where}: {faults[0].message}" if where else faults[0].message


def _find_customer(store: Store, name: str) -> str:
    rows = store.rows("SELECT id FROM customers WHERE name = ? COLLATE NOCASE", name)
    if not rows:
        raise ToolFault(f"no customer {name}")
    return f"customer={rows[0]['id']}"


def _list_orders(store: Store, customer: int) -> str:
    rows = store.rows("SELECT id, item FROM orders WHERE customer = ? ORDER BY id", customer)
    if not rows:
        raise ToolFault(f"no orders of customer {customer}")
    return " ".join(f"{row['item']}={row['id']}" for row in rows)


def _get_order(store: Store, order: int) -> str:
    rows = store.rows("SELECT status, price, quantity FROM orders WHERE id = ?", order)
    if not rows:
        raise ToolFault(f"no order {order}")
    return " ".join(f"{key}={value}" for key, value in rows[0].items())


def _cancel_order(store: Store, order: int) -> str:
    if not store.change("UPDATE orders SET status = 'cancelled' WHERE id = ?", order):
        raise ToolFault(f"no order {order}")
    return f"cancelled={order}"


def _update_order(store: Store, order: int, quantity: int) -> str:
    if not store.change("UPDATE orders SET quantity = ? WHERE id = ?", quantity, order):
        raise ToolFault(f"no order {order}")
    return f"quantity={quantity}"


def _require_day(day: str) -> None:
    if day not in DAYS:
        raise ToolFault(f"no day {day}")


def _list_events(store: Store, day: str) -> str:
    _require_day(day)
    rows = store.rows("SELECT title, hour FROM events WHERE day = ? ORDER BY hour", day)
    return " ".join(f"{row['title']}={row['hour']}" for row in rows) or "no events"


def _free_slots(store: Store, day: str) -> str:
    _require_day(day)
    taken = {row["hour"] for row in store.rows("SELECT hour FROM events WHERE day = ?", day)}
    free = [hour for hour in WORK_HOURS if hour not in taken]
    return f"first={free[0]} last={free[-1]}" if free else "no free hour"


def _require_free(store: Store, day: str, hour: int) -> None:
    _require_day(day)
    if store.rows("SELECT title FROM events WHERE day = ? AND hour = ?", day, hour):
        raise ToolFault(f"{hour} is taken on {day}")


def _add_event(store: Store, day: str, title: str, hour: int) -> str:
    _require_free(store, day, hour)
    if store.rows("SELECT hour FROM events WHERE day = ? AND title = ?", day, title):
        raise ToolFault(f"{title} is on {day} already")
    store.change("INSERT INTO events (day, title, hour) VALUES (?, ?, ?)", day, title, hour)
    return f"{title}={hour}"


def _move_event(store: Store, day: str, title: str, hour: int) -> str:
    _require_free(store, day, hour)
    if not store.change("UPDATE events SET hour = ? WHERE day = ? AND title = ?", hour, day, title):
        raise ToolFault(f"no {title} on {day}")
    return f"{title}={hour}"


def _list_files(store: Store, folder: str) -> str:
    rows = store.rows("SELECT id, name FROM files WHERE folder = ? ORDER BY id", folder)
    if not rows:
        raise ToolFault(f"no folder {folder}")
    return " ".join(f"{row['name']}={row['id']}" for row in rows)


def _read_file(store: Store, file: int) -> str:
    rows = store.rows("SELECT pages, owner FROM files WHERE id = ?", file)
    if not rows:
        raise ToolFault(f"no file {file}")
    return f"pages={rows[0]['pages']} owner={rows[0]['owner']}"


def _move_file(store: Store, file: int, folder: str) -> str:
    if not store.change("UPDATE files SET folder = ? WHERE id = ?", folder, file):
        raise ToolFault(f"no file {file}")
    return f"moved={file}"


def _convert(_: Store, value: int, unit: str, to: str) -> str:
    if (unit, to) not in FACTORS:
        raise ToolFault(f"cannot convert {unit} to {to}")
    return f"{to}={value * FACTORS[unit, to]}"


def _add(_: Store, a: int, b: int) -> str:
    return f"sum={a + b}"


def _subtract(_: Store, a: int, b: int) -> str:
    return f"difference={a - b}"


def _multiply(_: Store, a: int, b: int) -> str:
    return f"product={a * b}"


_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_HOUR = {"type": "integer", "minimum": 0, "maximum": 23}

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("find_customer", "customer id", {"name": _TEXT}, _find_customer),
        Tool("list_orders", "order ids by item", {"customer": _WHOLE}, _list_orders),
        Tool("get_order", "status, price, quantity", {"order": _WHOLE}, _get_order),
        Tool("cancel_order", "", {"order": _WHOLE}, _cancel_order),
        Tool(
            "update_order",
            "",
            {"order": _WHOLE, "quantity": {"type": "integer", "minimum": 1}},
            _update_order,
        ),
        Tool("list_events", "hours by title", {"day": _TEXT}, _list_events),
        Tool("free_slots", "first and last free hour", {"day": _TEXT}, _free_slots),
        Tool("add_event", "", {"day": _TEXT, "title": _TEXT, "hour": _HOUR}, _add_event),
        Tool("move_event", "", {"day": _TEXT, "title": _TEXT, "hour": _HOUR}, _move_event),
        Tool("list_files", "file ids by name", {"folder": _TEXT}, _list_files),
        Tool("read_file", "pages, owner", {"file": _WHOLE}, _read_file),
        Tool("move_file", "", {"file": _WHOLE, "folder": _TEXT}, _move_file),
        Tool("convert", "to a smaller unit", {"value": _WHOLE, "unit": _TEXT, "to": _TEXT}, _convert),
        Tool("add", "", {"a": _WHOLE, "b": _WHOLE}, _add),
        Tool("subtract", "", {"a": _WHOLE, "b": _WHOLE}, _subtract),
        Tool("multiply", "", {"a": _WHOLE, "b": _WHOLE}, _multiply),
    )
}

FAMILY_TOOLS: dict[str, tuple[str, ...]] = {
    "orders": ("find_customer", "list_orders", "get_order", "cancel_order", "update_order", "multiply"),
    "calendar": ("list_events", "free_slots", "add_event", "move_event", "add"),
    "files": ("list_files", "read_file", "move_file", "add"),
    "units": ("convert", "add", "subtract", "multiply"),
}
"""The tools a task shows, by the family of its request."""
