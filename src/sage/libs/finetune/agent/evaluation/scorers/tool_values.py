"""Whether an argument is one of the values that are right: the rules of BFCL's AST checker for one value.

The rules are those of the Berkeley function-calling leaderboard (Patil et al., 2025; `bfcl-eval` 2026.3.23), in our own
words. A parameter has a kind and a list of allowed values, in which `""` says that it may be left out:

- the value is of the parameter's kind exactly (True is no integer), but for an integer where a float is due; elements
  of a list are of the kind that the list says, one level deep;
- text is compared without case and without blanks and `,./-_*^`, `'` as `"`, and so is text that stands in a list, or
  as a value of an object;
- an object's keys have lists of allowed values of their own; a list of objects has them in order;
- where the allowed values are of another kind than the parameter (its first one tells), a value of that kind is taken
  as well and compared as it is.

What the leaderboard leaves open: a parameter that takes several kinds (JSON schema's `anyOf`, lists of types, or no
type at all) is checked by the kind that the value has, and a list of JSON schema's numbers may hold integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Fault = Literal["type", "value"]
_Kinds = tuple[type, ...]

_KINDS: dict[str, _Kinds] = {
    "string": (str,), "integer": (int,), "number": (float,), "boolean": (bool,), "array": (list,), "object": (dict,),
    "null": (type(None),),
    "float": (float,), "tuple": (list,), "dict": (dict,), "any": (str,),  # BFCL's own words
}  # fmt: skip
_IGNORED = str.maketrans(dict.fromkeys(" ,./-_*^"))


@dataclass(frozen=True)
class Parameter:
    """What a parameter takes.

    Attributes:
        kinds: Types of its values; empty when any will do.
        element: Types of the elements of a list; empty when any will do.
        tuples: Whether a Python tuple counts as a list.
    """

    kinds: _Kinds = ()
    element: _Kinds = ()
    tuples: bool = False

    def kind_for(self, value: object) -> type:
        """The kind by which the value is checked."""
        if len(self.kinds) == 1 or (self.kinds and type(value) not in self.kinds):
            return self.kinds[0]
        return type(value)

    def allowing(self, value: Any) -> list[Any]:
        """The allowed values where `value` alone is right: objects get lists of allowed values for their keys.

        Example:
            >>> parameter_of({"type": "object"}).allowing({"city": "Bonn"})
            [{'city': ['Bonn']}]
        """
        kind = self.kind_for(value)
        if kind is dict and isinstance(value, dict):
            return [_allowing_keys(value)]
        if kind is list and self.element == (dict,) and isinstance(value, list):
            return [[_allowing_keys(item) if isinstance(item, dict) else item for item in value]]
        return [value]


def parameter_of(schema: object) -> Parameter:
    """The parameter that a JSON schema describes, or one in BFCL's words (dict, float, tuple, any).

    Forms that say nothing simple about types (`$ref`, `allOf`, an `enum` alone) take anything: the allowed values
    decide.

    Example:
        >>> parameter_of({"type": ["array", "null"], "items": {"type": "integer"}}).element
        (<class 'int'>,)
    """
    if not isinstance(schema, Mapping):
        return Parameter()
    kinds = _kinds_of(schema)
    element: _Kinds = ()
    if list in kinds and isinstance(items := schema.get("items"), Mapping):
        element = _kinds_of(items)
        if items.get("type") == "number":
            element = (float, int)
    return Parameter(kinds, element, tuples=schema.get("type") == "tuple" or not kinds)


def _kinds_of(schema: Mapping[str, Any]) -> _Kinds:
    kind = schema.get("type")
    if isinstance(kind, str):
        kinds = _KINDS.get(kind, ())
        return (*kinds, type(None)) if kinds and schema.get("nullable") is True else kinds
    if isinstance(kind, list):
        options = [_KINDS.get(word, ()) if isinstance(word, str) else () for word in kind]
    else:
        choices = schema.get("anyOf") or schema.get("oneOf")
        if not isinstance(choices, list):
            return ()
        options = [_kinds_of(choice) if isinstance(choice, Mapping) else () for choice in choices]
    return tuple(dict.fromkeys(kind for kinds in options for kind in kinds)) if all(options) else ()


def value_fault(value: Any, allowed: Sequence[Any], parameter: Parameter) -> Fault | None:
    """What is wrong with an argument: its type, its value, or nothing (None).

    Args:
        value: What the call gives.
        allowed: What is right; `""` in it says that the argument may be left out.
        parameter: What the parameter takes.

    Example:
        >>> value_fault("new-york", ["New York", "NYC"], parameter_of({"type": "string"}))
        >>> value_fault(True, [1], parameter_of({"type": "integer"}))
        'type'
    """
    if parameter.tuples and isinstance(value, tuple):
        value = list(value)
    if type(value) is int and float in parameter.kinds and int not in parameter.kinds:
        try:
            value = float(value)
        except OverflowError:
            return "value"
    kind, first = parameter.kind_for(value), _first_kind(allowed)
    if type(value) is kind:
        if isinstance(value, list) and parameter.element and not _elements_fit(value, allowed, parameter.element):
            return "type"
    elif type(value) is not first:
        return "type"
    if first in (None, kind):
        return None if _is_allowed(value, allowed, kind, parameter.element) else "value"
    return None if value in allowed else "value"


def _first_kind(allowed: Sequence[Any]) -> type | None:
    """The type of the first allowed value, None when there is none but `""`."""
    return next((type(option) for option in allowed if option != ""), None)


def _elements_fit(value: Sequence[Any], allowed: Sequence[Any], element: _Kinds) -> bool:
    """Whether some allowed value has elements of the kinds of these; one that is no list says nothing against them."""
    return any(
        not isinstance(option, list)
        or all(type(item) in element or type(item) is _first_kind(option) for item in value)
        for option in allowed
    )


def _is_allowed(value: Any, allowed: Sequence[Any], kind: type, element: _Kinds) -> bool:
    if kind is str:
        return _standard(value) in [_standard(option) for option in allowed if isinstance(option, str)]
    if kind is dict:
        return any(_keys_allowed(value, option) for option in allowed)
    if kind is list and element == (dict,):
        return any(_objects_allowed(value, option) for option in allowed)
    if kind is list:
        return [*map(_standard, value)] in [[*map(_standard, o)] for o in allowed if isinstance(o, list | str)]
    return value in allowed


def _objects_allowed(value: Sequence[Any], option: Any) -> bool:
    """One after the other; nothing at all where the list may be left out."""
    return (
        isinstance(option, list | str)
        and len(value) == len(option)
        and all(_keys_allowed(item, keys) for item, keys in zip(value, option, strict=True))
    )


def _keys_allowed(value: Any, option: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(option, Mapping):
        return False
    given = all(
        isinstance(options := option.get(key), list) and _standard(item) in [*map(_standard, options)]
        for key, item in value.items()
    )
    return given and all(
        key in value or (isinstance(options, list | str) and "" in options) for key, options in option.items()
    )


def _standard(value: Any) -> Any:
    """Text as it is compared; everything else as it is."""
    return value.translate(_IGNORED).lower().replace("'", '"') if isinstance(value, str) else value


def _allowing_keys(value: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [item] for key, item in value.items()}
