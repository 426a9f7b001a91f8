"""Calls against tool schemas: the quick yes is jsonschema's, padding is no misfit, nothing is fetched."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator

from sage.libs.finetune.agent.schemas.quick import quick_check
from sage.libs.finetune.agent.schemas.tools import CallFaults, Tools, ToolSchema, UnusableSchema, tools_of

NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -2.0])
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "x", "xyz"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
KEYWORDS = st.sampled_from(
    "type enum minimum exclusiveMaximum anyOf maxLength minItems items properties required additionalProperties title "
    "examples deprecated".split()
)


def schemas(depth: int) -> st.SearchStrategy[Any]:
    part = schemas(depth - 1) if depth else st.just({"type": "string"})
    keywords = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(SCALARS, min_size=1, max_size=3),
        "minimum": NUMBERS, "maximum": NUMBERS, "exclusiveMinimum": NUMBERS, "exclusiveMaximum": NUMBERS,
        "anyOf": st.lists(part, min_size=1, max_size=2),
        "minLength": st.integers(0, 3), "maxLength": st.integers(0, 3),
        "minItems": st.integers(0, 3), "maxItems": st.integers(0, 3),
        "items": part, "properties": st.dictionaries(NAMES, part, max_size=3),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "additionalProperties": st.booleans() | part,
        "description": st.just("words"), "const": SCALARS,
    }  # fmt: skip
    either = st.fixed_dictionaries({"anyOf": st.lists(part, min_size=1, max_size=2)}, optional={"title": st.just("t")})
    return st.fixed_dictionaries({}, optional=keywords) | either


@settings(max_examples=200, deadline=None)
@given(schemas(2), VALUES)
def test_the_quick_yes_is_jsonschemas_yes(schema: Any, value: Any) -> None:
    quick = quick_check(schema)
    if quick is not None and quick(value):
        assert Draft202012Validator(schema).is_valid(value)


LOOSE = st.recursive(
    SCALARS | TYPES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYWORDS, inner, max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(LOOSE)
def test_a_schema_with_a_quick_check_is_valid(schema: Any) -> None:
    if quick_check(schema) is not None:
        for draft in (Draft7Validator, Draft201909Validator, Draft202012Validator):
            draft.check_schema(schema)


@settings(max_examples=150, deadline=None)
@given(schemas(2), st.dictionaries(NAMES, VALUES, max_size=3))
def test_without_nulls_the_verdict_is_jsonschemas(schema: Any, arguments: Any) -> None:
    if "None" in repr(arguments):
        return
    assert (ToolSchema(schema).faults(arguments) is None) == Draft202012Validator(schema).is_valid(arguments)


def test_parts_that_the_quick_way_would_not_read_are_left_to_jsonschema() -> None:
    assert quick_check({"type": "string", "properties": {"a": {"type": "dict"}}}) is None
    assert quick_check({"type": "object", "items": {"type": "dict"}}) is None


def test_the_quick_way_is_taken_for_ordinary_tools() -> None:
    assert quick_check(CITY) is not None and quick_check(CITY)({"city": "Oslo", "days": 3, "tags": ["a"]})


CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Lima"], "description": "where"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 3},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "note": {"type": ["string", "null"]},
        "unit": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "near": {"type": "object", "properties": {"km": {"type": "number"}}, "required": ["km"]},
    },
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("arguments", "padded", "misfit"),
    [
        ({"city": "Oslo", "note": None, "unit": None}, [], None),
        ({"city": "Oslo", "days": None, "query": None}, ["days", "query"], None),
        ({"city": None}, [], "city: None is not of type 'string'"),
        ({"city": "Oslo", "near": {"km": 1, "unit": None}}, ["near.unit"], None),
        ({"city": "Oslo", "near": {"km": None}}, [], "near.km: None is not of type 'number'"),
        ({"city": "Oslo", "tags": [None]}, [], "tags[0]: None is not of type 'string'"),
        ({"city": "Rome", "days": None}, ["days"], "city: 'Rome' is not one of ['Oslo', 'Lima']"),
    ],
)
def test_padding_and_misfits(arguments: Any, padded: list[str], misfit: str | None) -> None:
    expected = CallFaults(padded, misfit) if padded or misfit else None
    assert ToolSchema(CITY).faults(arguments) == expected


def test_a_null_that_a_schema_leaves_open_is_no_padding() -> None:
    assert ToolSchema({"type": "object"}).faults({"a": None}) is None
    assert ToolSchema({"properties": {}, "additionalProperties": True}).faults({"a": None}) is None
    assert ToolSchema({"properties": {}, "patternProperties": {"a": {}}}).faults({"a": None}) is None
    assert ToolSchema({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "null"}}}).faults(
        {"a": None}
    ) is None  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "dict"}, "type: 'dict' is not valid"),
        ({"properties": {"a": {"required": True}}}, r"properties.a.required: True is not of type 'array'"),
        ({"properties": {"a": {"pattern": "("}}}, "pattern: '\\(' is not a 'regex'"),
        ({"$schema": 5}, r"\$schema: expected a text, found 5"),
    ],
)
def test_schemas_that_are_none(schema: Any, message: str) -> None:
    with pytest.raises(UnusableSchema, match=message):
        ToolSchema(schema)


@pytest.mark.parametrize("reference", ["https://example.org/city.json", "#", "#/$defs/gone", "file:///etc/hosts"])
def test_references_are_not_fetched_and_never_hang(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(UnusableSchema):
        ToolSchema({"properties": {"a": {"$ref": reference}}} if reference != "#" else {"$ref": "#"}).faults({"a": 1})


def test_other_dialects_are_followed() -> None:
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"n": {"maximum": 3}}}
    exclusive = {**draft4, "properties": {"n": {"maximum": 3, "exclusiveMaximum": True}}}
    assert ToolSchema(draft4).faults({"n": 3}) is None and ToolSchema(exclusive).faults({"n": 3}) is not None


def test_tools_tell_their_faults_and_keep_the_rest_usable() -> None:
    functions = [{"name": "a", "parameters": {"type": "dict"}}, {"name": "b"}, {"name": "b", "parameters": CITY}]
    tools = Tools([{"type": "function", "function": function} for function in functions])
    assert len(tools.faults) == 2 and "tool 'b' stands there twice" in tools.faults
    assert list(tools) == ["a", "b"] and tools.call_faults("a", {"x": 1}) is None


def test_long_values_are_cut_in_the_message() -> None:
    faults = ToolSchema(CITY).faults({"city": "x" * 500})
    assert faults and faults.misfit and len(faults.misfit) < 200


def test_few_tool_lists_are_remembered() -> None:
    """Each may hold hundreds of compiled tools: with 4096 of them, 5000 rows of 20 tools took 800 MB."""
    assert tools_of.cache_info().maxsize <= 256


def test_parameters_without_properties_around_them_would_check_nothing() -> None:
    with pytest.raises(UnusableSchema, match="holds 'city' where a JSON schema has 'properties'"):
        ToolSchema({"city": {"type": "str", "description": "where"}})
