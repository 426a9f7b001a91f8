"""A quick yes for the plain schemas of most tools.

Checking a call with jsonschema costs tens of microseconds for each argument and checking a schema most of a
millisecond, and nearly all of both are right. So the keywords that tools are made of are compiled into closures that
say yes only where jsonschema would; for everything else (no, another keyword, a keyword used wrongly) jsonschema is
asked, which also has the words for what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

_CLASSES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
    "array": (list,), "object": (dict,),
}  # fmt: skip


def quick_check(schema: object) -> Check | None:
    """A function that is true only for JSON values that fit the schema; None when the schema is not a plain one.

    A schema for which there is one is valid JSON schema (of draft 7 and later).

    Example:
        >>> fits = quick_check({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}})
        >>> fits({"n": 2}), fits({"n": 0}), fits({"n": True})
        (True, False, False)
        >>> quick_check({"oneOf": [{"type": "string"}]}) is None, quick_check({"type": "text"}) is None
        (True, True)
    """
    if not isinstance(schema, Mapping):
        return None
    if not all(name in _KEYWORDS and _KEYWORDS[name](value) for name, value in schema.items()):
        return None
    if "anyOf" in schema:  # how many languages write an argument that may be null
        return _any_of(schema["anyOf"]) if schema.keys() - _ANNOTATIONS.keys() == {"anyOf"} else None
    if "type" not in schema:  # any value, unless a keyword says more
        return None if schema.keys() - _ANNOTATIONS.keys() else lambda value: True
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    classes = frozenset(c for kind in kinds for c in _CLASSES[kind])
    if ("properties" in schema and dict not in classes) or ("items" in schema and list not in classes):
        return None  # would go unread here, valid or not
    tests: dict[type, Check] = {}
    for kind, make in _MAKERS.items():
        if kind in classes and not schema.keys().isdisjoint(_TESTED[kind]):
            test = make(schema)
            if test is None:
                return None
            tests[kind] = test

    def check(value: Any) -> bool:
        kind = type(value)
        return kind in classes and (kind not in tests or tests[kind](value))

    if "enum" in schema:
        values = frozenset(value for value in schema["enum"] if type(value) is str)
        return lambda value: type(value) is str and value in values and check(value)
    return check


def _any_of(schemas: list[object]) -> Check | None:
    checks = [check for check in map(quick_check, schemas) if check is not None]
    return (lambda value: any(check(value) for check in checks)) if len(checks) == len(schemas) else None


def _text(schema: Mapping[str, Any]) -> Check | None:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    return lambda value: len(value) >= least and (most is None or len(value) <= most)


def _number(schema: Mapping[str, Any]) -> Check | None:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    return lambda value: low <= value <= high and above < value < below


def _array(schema: Mapping[str, Any]) -> Check | None:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    item = quick_check(schema.get("items", {}))
    if item is None:
        return None
    return lambda value: len(value) >= least and (most is None or len(value) <= most) and all(map(item, value))


def _object(schema: Mapping[str, Any]) -> Check | None:
    checks: dict[str, Check] = {}
    for name, part in schema.get("properties", {}).items():
        test = _remembered(part)
        if test is None:
            return None
        checks[name] = test
    required, open_to_others = schema.get("required", ()), schema.get("additionalProperties", True)

    def check(value: dict[str, Any]) -> bool:
        for name, item in value.items():
            test = checks.get(name)
            if not (open_to_others if test is None else test(item)):
                return False
        return all(name in value for name in required)

    return check


_parts: dict[str, Check | None] = {}
_MOST_PARTS = 4096


def _remembered(part: object) -> Check | None:
    """`quick_check` of a parameter's schema; tools that differ have many of these in common."""
    text = repr(part)
    if text not in _parts:
        if len(_parts) >= _MOST_PARTS:
            _parts.clear()
        _parts[text] = quick_check(part)
    return _parts[text]


_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MAKERS: dict[type, Callable[[Mapping[str, Any]], Check | None]] = {
    str: _text, int: _number, float: _number, list: _array, dict: _object,
}  # fmt: skip
_TESTED: dict[type, tuple[str, ...]] = {
    str: ("minLength", "maxLength"), int: _BOUNDS, float: _BOUNDS,
    list: ("minItems", "maxItems", "items"), dict: ("properties", "required", "additionalProperties"),
}  # fmt: skip


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_list(value: object) -> bool:
    return type(value) is list


def _is_filled_list(value: object) -> bool:
    return type(value) is list and bool(value)


def _is_object(value: object) -> bool:
    return type(value) is dict


def _is_type(value: object) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and _are_names(kinds) and _CLASSES.keys() >= set(kinds)


def _are_names(value: object) -> bool:
    if not isinstance(value, list) or not all(type(name) is str for name in value):
        return False
    return len(set(value)) == len(value)


_ANNOTATIONS: dict[str, Check] = {
    "title": _is_text, "description": _is_text, "format": _is_text, "examples": _is_list, "deprecated": _is_flag,
    "default": lambda value: True, "nullable": lambda value: True, "strict": lambda value: True,
}  # fmt: skip
_KEYWORDS: dict[str, Check] = {
    **_ANNOTATIONS, **dict.fromkeys(_BOUNDS, _is_number),
    "type": _is_type, "enum": _is_filled_list, "anyOf": _is_filled_list, "required": _are_names, "items": _is_object,
    "properties": _is_object, "additionalProperties": _is_flag, "minLength": _is_size, "maxLength": _is_size,
    "minItems": _is_size, "maxItems": _is_size,
}  # fmt: skip
"""What each keyword's value must be, to be valid and to be understood here."""
