"""Do the arguments of a call fit the tool's JSON schema? Asked before the call: a misfit is an answer, not a crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.schemas.tools import UnusableSchema, tool_schema
from sage.libs.finetune.agent.types import ToolSpec


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
            tool_schema(function.get("parameters") or {})
        except UnusableSchema as error:
            raise ConfigError(f"tool '{function['name']}': parameters: no JSON schema: {error}") from None
