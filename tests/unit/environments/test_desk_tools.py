from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent.environments.desk import DeskEnvironment
from sage.libs.finetune.agent.environments.desk.tools import FACTORS, TOOLS
from sage.libs.finetune.agent.types import StepResult

WORLD: dict[str, Any] = {
    "customers": [{"id": 42, "name": "Ana"}, {"id": 17, "name": "Ben"}],
    "orders": [
        {"id": 842, "customer": 42, "item": "desk", "status": "packed", "price": 35, "quantity": 3},
        {"id": 137, "customer": 42, "item": "lamp", "status": "shipped", "price": 12, "quantity": 2},
    ],
    "events": [
        {"day": "Monday", "title": "lunch", "hour": 12},
        {"day": "Monday", "title": "review", "hour": 9},
        {"day": "Friday", "title": "demo", "hour": 17},
    ],
    "files": [
        {"id": 301, "name": "report", "folder": "docs", "pages": 20, "owner": "Mia"},
        {"id": 302, "name": "notes", "folder": "docs", "pages": 11, "owner": "Leo"},
    ],
}

VALID: list[tuple[str, dict[str, Any], str]] = [
    ("find_customer", {"name": "Ana"}, "customer=42"),
    ("find_customer", {"name": "ana"}, "customer=42"),
    ("list_orders", {"customer": 42}, "lamp=137 desk=842"),
    ("get_order", {"order": 842}, "status=packed price=35 quantity=3"),
    ("cancel_order", {"order": 842}, "cancelled=842"),
    ("update_order", {"order": 842, "quantity": 7}, "quantity=7"),
    ("list_events", {"day": "Monday"}, "review=9 lunch=12"),
    ("list_events", {"day": "Tuesday"}, "no events"),
    ("free_slots", {"day": "Monday"}, "first=10 last=17"),
    ("free_slots", {"day": "Friday"}, "first=9 last=16"),
    ("add_event", {"day": "Monday", "title": "audit", "hour": 10}, "audit=10"),
    ("move_event", {"day": "Monday", "title": "lunch", "hour": 13}, "lunch=13"),
    ("list_files", {"folder": "docs"}, "report=301 notes=302"),
    ("read_file", {"file": 301}, "pages=20 owner=Mia"),
    ("move_file", {"file": 301, "folder": "legal"}, "moved=301"),
    ("convert", {"value": 3, "unit": "hours", "to": "minutes"}, "minutes=180"),
    ("add", {"a": 2, "b": 3}, "sum=5"),
    ("subtract", {"a": 2, "b": 3}, "difference=-1"),
    ("multiply", {"a": 2, "b": 3}, "product=6"),
]

IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("find_customer", {"name": "Zoe"}, "error: no customer Zoe"),
    ("list_orders", {"customer": 99}, "error: no orders of customer 99"),
    ("get_order", {"order": 999}, "error: no order 999"),
    ("cancel_order", {"order": 999}, "error: no order 999"),
    ("update_order", {"order": 999, "quantity": 1}, "error: no order 999"),
    ("list_events", {"day": "Sunday"}, "error: no day Sunday"),
    ("free_slots", {"day": "Sunday"}, "error: no day Sunday"),
    ("add_event", {"day": "Monday", "title": "audit", "hour": 12}, "error: 12 is taken on Monday"),
    ("add_event", {"day": "Monday", "title": "lunch", "hour": 14}, "error: lunch is on Monday already"),
    ("add_event", {"day": "Sunday", "title": "audit", "hour": 12}, "error: no day Sunday"),
    ("move_event", {"day": "Monday", "title": "audit", "hour": 14}, "error: no audit on Monday"),
    ("move_event", {"day": "Monday", "title": "lunch", "hour": 9}, "error: 9 is taken on Monday"),
    ("list_files", {"folder": "attic"}, "error: no folder attic"),
    ("read_file", {"file": 999}, "error: no file 999"),
    ("move_file", {"file": 999, "folder": "legal"}, "error: no file 999"),
    ("convert", {"value": 3, "unit": "minutes", "to": "hours"}, "error: cannot convert minutes to hours"),
]

CALLS = {name: arguments for name, arguments, _ in reversed(VALID)}


def desk() -> DeskEnvironment:
    """A desk that shows all tools on a small world."""
    environment = DeskEnvironment()
    tools = [tool.spec for tool in TOOLS.values()]
    environment.reset({"world": WORLD, "tools": tools, "answer": None, "expected": None})
    return environment


def name_of(value: object) -> str | None:
    return value if isinstance(value, str) and value in TOOLS else None


@pytest.mark.parametrize(("tool", "arguments", "observation"), VALID, ids=name_of)
def test_valid_calls(tool: str, arguments: dict[str, Any], observation: str) -> None:
    assert desk().step(tool, arguments) == StepResult(observation, 0.1)


@pytest.mark.parametrize(("tool", "arguments", "observation"), IMPOSSIBLE, ids=name_of)
def test_calls_that_the_desk_cannot_do(tool: str, arguments: dict[str, Any], observation: str) -> None:
    environment = desk()
    assert environment.step(tool, arguments) == StepResult(observation, error="failed")
    assert environment.step("finish", {"answer": ""}).success  # nothing has changed


@pytest.mark.parametrize("tool", TOOLS)
def test_calls_that_do_not_fit_the_schema(tool: str) -> None:
    right = CALLS[tool]
    for name, value in right.items():
        wrong_type: Any = "12" if isinstance(value, int) else 12
        without = {other: kept for other, kept in right.items() if other != name}
        for faulty, fault in (
            ({**right, name: wrong_type}, f"error: {name}: {wrong_type!r} is not of type"),
            ({**right, name: None}, f"error: {name}: None is not of type"),
            ({**right, name: 1.5}, f"error: {name}: 1.5 is not of type"),
            ({**right, name: True}, f"error: {name}: True is not of type"),
            (without, f"error: '{name}' is a required property"),
            ({**right, "colour": "red"}, "error: Additional properties are not allowed ('colour' was unexpected)"),
        ):
            result = desk().step(tool, faulty)
            assert (result.error, result.reward, result.done) == ("bad_arguments", 0.0, False)
            assert result.observation.startswith(fault)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("update_order", {"order": 842, "quantity": 0}),
        ("add_event", {"day": "Monday", "title": "audit", "hour": 24}),
        ("move_event", {"day": "Monday", "title": "lunch", "hour": -1}),
    ],
)
def test_numbers_out_of_range(tool: str, arguments: dict[str, Any]) -> None:
    assert desk().step(tool, arguments).error == "bad_arguments"


def test_every_tool_is_covered_here() -> None:
    assert set(CALLS) == set(TOOLS)
    with_state = set(TOOLS) - {"add", "subtract", "multiply"}
    assert {name for name, _, _ in IMPOSSIBLE} == with_state


@pytest.mark.parametrize(("unit", "to"), FACTORS)
def test_conversions_go_to_the_smaller_unit(unit: str, to: str) -> None:
    assert desk().step("convert", {"value": 2, "unit": unit, "to": to}).observation == f"{to}={2 * FACTORS[unit, to]}"


@pytest.mark.parametrize(
    ("tool", "arguments"), [("get_order", {"order": 10**30}), ("find_customer", {"name": "\ud800"})]
)
def test_what_the_database_cannot_hold_is_refused(tool: str, arguments: dict[str, Any]) -> None:
    """Models do write such numbers and half characters; they must not break the episode."""
    result = desk().step(tool, arguments)
    assert result.error == "failed"
    assert result.observation.startswith("error: ")


VALUES = st.one_of(st.integers(-(10**40), 10**40), st.floats(allow_nan=False), st.text(), st.none(), st.booleans())


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), tool=st.sampled_from(sorted(TOOLS)))
def test_no_call_breaks_the_desk(data: st.DataObject, tool: str) -> None:
    arguments = {
        name: data.draw(VALUES if data.draw(st.booleans()) else st.just(value)) for name, value in CALLS[tool].items()
    }
    result = desk().step(tool, arguments)
    assert result.error in (None, "bad_arguments", "failed")
    assert result.observation.startswith("error: ") == (result.error is not None)
