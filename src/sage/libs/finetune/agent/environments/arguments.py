"""Do the arguments of a call fit the tool's JSON schema? Asked before the call: a misfit is an answer, not a crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.types import ToolSpec


def fault_of(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments, in one line; None when they fit.

    Example:
        >>> schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        >>> fault_of({"n": "two"}, schema), fault_of({}, schema), fault_of({"n": 2}, schema)
        ("n: 'two' is not of type 'integer'", "'n' is a required property", None)
    """
    faults = sorted(
        Draft202012Validator(dict(schema)).iter_errors(dict(arguments)), key=lambda e: list(map(str, e.path))
    )
    if not faults:
        return None
    where = ".".join(map(str, faults[0].path))
    return f"{where}: {faults[0].message}" if where else str(faults[0].message)


def whole(value: Any, schema: object) -> Any:
    """The value with `2.0` as `2` where the schema says integer: JSON schema takes both for one, Python does not.

    Example:
        >>> whole({"n": 2.0, "x": 2.0}, {"properties": {"n": {"type": "integer"}, "x": {"type": "number"}}})
        {'n': 2, 'x': 2.0}
    """
    if not isinstance(schema, Mapping):
        return value
    if (
        isinstance(value, float)
        and value.is_integer()
        and "integer" in _types(schema)
        and "number" not in _types(schema)
    ):
        return int(value)
    if isinstance(value, list):
        return [whole(item, schema.get("items")) for item in value]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {name: whole(item, known.get(name, schema.get("additionalProperties"))) for name, item in value.items()}
    return value


def _types(schema: Mapping[str, Any]) -> list[str]:
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]


def check_schemas(tools: list[ToolSpec]) -> None:
    """Refuse parameters that are no JSON schema, before an episode meets them.

    Raises:
        ConfigError: naming the tool.
    """
    for tool in tools:
        function = tool["function"]
        try:
            Draft202012Validator.check_schema(function.get("parameters", {}))
        except SchemaError as error:
            raise ConfigError(f"tool '{function['name']}': parameters: no JSON schema: {error.message}") from None
