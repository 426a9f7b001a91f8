"""The tools of a row as compiled JSON schemas, and what is wrong with a call by them.

Data sets repeat their tools row after row, and checking a schema costs a hundred times what checking a call does, so
both whole tool lists and single tools are remembered (a bounded number of them). Schemas are foreign data: a `$ref` to
another document is refused rather than fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing.exceptions import CannotDetermineSpecification, Unresolvable

from sage.libs.finetune.agent.schemas.quick import quick_check
from sage.libs.finetune.agent.types import ToolSpec

_REMEMBERED = 4096
_LISTS = 256  # fewer, since one may hold hundreds of tools
_LONGEST = 160
_UNUSABLE = (Unresolvable, CannotDetermineSpecification, re.error, ArithmeticError, ValueError, RecursionError)
_RECENT = (Draft7Validator, Draft201909Validator, Draft202012Validator)
_KEYWORDS = Draft202012Validator.VALIDATORS.keys() | {"$id", "$schema", "$defs", "definitions", "title", "description"}
canonical: Callable[[object], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""JSON text that is the same for equal values."""


class UnusableSchema(Exception):
    """A schema cannot be applied; the message says why."""


@dataclass(frozen=True)
class CallFaults:
    """What is wrong with the arguments of a call.

    Attributes:
        padded: Paths of arguments that are null where the schema knows no null and does not ask for them.
        misfit: What the rest of them has against the schema, None when nothing.
    """

    padded: list[str] = field(default_factory=list)
    misfit: str | None = None


class ToolSchema:
    """One tool's parameters, ready to check calls.

    Raises:
        UnusableSchema: when they are no valid JSON schema.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        dialect = parameters.get("$schema", "")
        if not isinstance(dialect, str):
            raise UnusableSchema(f"$schema: expected a text, found {dialect!r:.40}")
        self._parameters = parameters
        self._takes_null: dict[int, bool] = {}  # by identity of the argument's schema
        if parameters and not parameters.keys() & _KEYWORDS and all(map(_is_mapping, parameters.values())):
            raise UnusableSchema(
                f"holds {next(iter(parameters))!r:.40} where a JSON schema has 'properties'; write "
                "{'type': 'object', 'properties': {...}}"
            )
        plain = {name: value for name, value in parameters.items() if name != "$schema"}
        try:
            kind = validator_for(parameters, default=Draft202012Validator)
            quick = quick_check(plain) if kind in _RECENT else None
            if quick is None:
                kind.check_schema(dict(parameters))
            self._fits = quick or _unsure
            self._kind = kind
        except SchemaError as error:
            raise UnusableSchema(f"{_path(error)}{_short(error.message)}") from None
        except _UNUSABLE as error:
            raise UnusableSchema(_short(str(error))) from None

    def faults(self, arguments: Mapping[str, Any]) -> CallFaults | None:
        """What is wrong with a call's arguments; None when they fit.

        Raises:
            UnusableSchema: when the schema cannot be applied (it refers to another document, or to itself for ever).

        Example:
            >>> city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
            >>> ToolSchema(city).faults({"city": "Bonn", "day": None})
            CallFaults(padded=['day'], misfit=None)
            >>> ToolSchema(city).faults({"city": 5}).misfit
            "city: 5 is not of type 'string'"
        """
        padded: list[str] = []
        if _holds_null(arguments):
            with _usable():
                arguments = self._without_padding(arguments, self._parameters, "", padded)
        misfit = self.misfit(arguments)
        return CallFaults(padded, misfit) if padded or misfit is not None else None

    def misfit(self, arguments: Mapping[str, Any]) -> str | None:
        """What a call's arguments, nulls included, have against the schema, in one line; None when they fit.

        Raises:
            UnusableSchema: as `faults`.
        """
        with _usable():
            if self._fits(arguments):
                return None
            error = next(iter(self._validator.iter_errors(arguments)), None)
        return None if error is None else f"{_path(error)}{_short(error.message)}"

    @cached_property
    def _validator(self) -> Validator:
        validator: Validator = self._kind(self._parameters, registry=REGISTRY)
        return validator

    def _without_padding(self, value: Any, schema: object, path: str, padded: list[str]) -> Any:
        """The value without nulls that nothing allows and nothing requires; their paths are added to `padded`."""
        if not isinstance(schema, Mapping):
            return value
        if isinstance(value, list):
            return [
                self._without_padding(item, schema.get("items"), f"{path}[{index}]", padded)
                for index, item in enumerate(value)
            ]
        properties = schema.get("properties")
        if not isinstance(value, Mapping) or not isinstance(properties, Mapping):
            return value
        kept = {}
        for name, item in value.items():
            place = f"{path}.{name}" if path else name
            if item is None and name not in schema.get("required", ()) and not self._allows_null(name, schema):
                padded.append(place)
            else:
                kept[name] = self._without_padding(item, properties.get(name), place, padded)
        return kept

    def _allows_null(self, name: str, schema: Mapping[str, Any]) -> bool:
        """Whether the schema speaks of this argument and takes null for it; one it does not mention is padding."""
        properties = schema["properties"]
        if name not in properties:
            return "patternProperties" in schema or bool(schema.get("additionalProperties", False))
        known = id(properties[name])
        if known not in self._takes_null:
            self._takes_null[known] = self._validator.evolve(schema=properties[name]).is_valid(None)
        return self._takes_null[known]


class Tools:
    """The tools of a row by name.

    Attributes:
        faults: What is wrong with the tools themselves.
    """

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self.faults: list[str] = []
        self._schemas: dict[str, ToolSchema | None] = {}
        for tool in tools:
            name, parameters = tool["function"]["name"], tool["function"].get("parameters")
            if name in self._schemas:
                self.faults.append(f"tool '{name}' stands there twice")
                continue
            schema = _schema(canonical(parameters)) if parameters else None
            if isinstance(schema, str):
                self.faults.append(f"tool '{name}', parameters: {schema}")
                schema = None
            self._schemas[name] = schema

    def __contains__(self, name: object) -> bool:
        return name in self._schemas

    def __iter__(self) -> Iterator[str]:
        return iter(self._schemas)

    def call_faults(self, name: str, arguments: Mapping[str, Any]) -> CallFaults | None:
        """As `ToolSchema.faults`; None for a tool without a usable schema."""
        schema = self._schemas[name]
        return None if schema is None else schema.faults(arguments)


@lru_cache(maxsize=_LISTS)
def tools_of(text: str) -> Tools:
    """The tools whose canonical JSON this is."""
    return Tools(json.loads(text))


@lru_cache(maxsize=_REMEMBERED)
def _schema(text: str) -> ToolSchema | str:
    """The compiled parameters, or why they are none."""
    try:
        return ToolSchema(json.loads(text))
    except UnusableSchema as error:
        return str(error)


def tool_schema(parameters: Mapping[str, Any]) -> ToolSchema:
    """The compiled parameters of a tool; those of equal schemas are made once.

    Raises:
        UnusableSchema: when they are no valid JSON schema.

    Example:
        >>> tool_schema({"properties": {"n": {"type": "integer"}}, "required": ["n"]}).misfit({"n": "two"})
        "n: 'two' is not of type 'integer'"
    """
    schema = _schema(canonical(parameters))
    if isinstance(schema, str):
        raise UnusableSchema(schema)
    return schema


@contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except _UNUSABLE as fault:
        raise UnusableSchema(_short(str(fault) or type(fault).__name__)) from None


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _unsure(arguments: object) -> bool:
    return False


def _holds_null(value: object) -> bool:
    if isinstance(value, dict):
        return any(item is None or _holds_null(item) for item in value.values() if not isinstance(item, str))
    return isinstance(value, list) and any(map(_holds_null, value))


def _path(error: ValidationError | SchemaError) -> str:
    path = error.json_path.removeprefix("$").removeprefix(".")
    return f"{path}: " if path else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 30]} ... {text[-25:]}"
