"""Every row of the API reference, checked against the package."""

from __future__ import annotations

import builtins
import importlib
import inspect
import typing
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from tests.contract.reference import REFERENCE, REQUIRED, UNSTATED, Entry, Method, Parameter

PARAMETERS = [
    pytest.param(entry, parameter, id=f"{entry.name}-{parameter.name}")
    for entry in REFERENCE
    for parameter in entry.parameters
]
METHODS = [
    pytest.param(entry, method, id=f"{entry.name}-{method.name}") for entry in REFERENCE for method in entry.methods
]
ATTRIBUTES = [
    pytest.param(entry, attribute, id=f"{entry.name}-{attribute.name}")
    for entry in REFERENCE
    for attribute in entry.attributes
]
ENTRIES = [pytest.param(entry, id=entry.name) for entry in REFERENCE]


def find(entry: Entry) -> Any:
    return getattr(importlib.import_module(entry.module), entry.name)


def hints(thing: Any) -> dict[str, Any]:
    """Annotations of a function or dataclass, with those of an undecorated class's constructor."""
    found = typing.get_type_hints(thing)
    if isinstance(thing, type) and "__init__" in vars(thing):
        found = typing.get_type_hints(vars(thing)["__init__"]) | found
    return found


class Names(dict[str, Any]):
    """The names that the reference's types are made of."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return getattr(importlib.import_module("sage.libs.finetune.agent"), name)


def fits(stated: Any, ours: Any) -> bool:
    """Whether our type takes whatever the reference's does: `int | None` fits `int | str | None`, `list` `list[X]`."""
    if get_origin(stated) in (Union, UnionType):
        return all(fits(choice, ours) for choice in get_args(stated))
    if get_origin(ours) in (Union, UnionType):
        return any(fits(stated, choice) for choice in get_args(ours))
    if ours is Any or stated == ours:
        return True
    if (get_origin(stated) or stated) is not (get_origin(ours) or ours):
        return False
    return all(fits(one, other) for one, other in zip(get_args(stated), get_args(ours), strict=False))


def stated_type(text: str) -> Any:
    stated = eval(text, {}, Names(Path=Path))
    return type(None) if stated is None else stated


def check_positions(signature: inspect.Signature, stated: tuple[Parameter, ...]) -> None:
    """The reference's parameters come first, in its order, by position or name; all others can be left out."""
    ours = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    assert [parameter.name for parameter in ours[: len(stated)]] == [parameter.name for parameter in stated]
    for parameter in ours[: len(stated)]:
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    for parameter in ours[len(stated) :]:
        assert parameter.default is not inspect.Parameter.empty, f"{parameter.name} must have a default"


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_name_exists_and_takes_the_parameters_in_order(entry: Entry) -> None:
    thing = find(entry)
    if entry.parameters:
        check_positions(inspect.signature(thing), entry.parameters)


@pytest.mark.parametrize(("entry", "parameter"), PARAMETERS)
def test_parameter(entry: Entry, parameter: Parameter) -> None:
    thing = find(entry)
    ours = inspect.signature(thing).parameters[parameter.name]
    if parameter.default is REQUIRED:
        assert ours.default is inspect.Parameter.empty
    elif parameter.default is not UNSTATED:
        assert ours.default == parameter.default
        assert type(ours.default) is type(parameter.default)
    if parameter.type:
        assert fits(stated_type(parameter.type), hints(thing)[parameter.name])


@pytest.mark.parametrize(("entry", "attribute"), ATTRIBUTES)
def test_attribute(entry: Entry, attribute: Parameter) -> None:
    assert fits(stated_type(attribute.type), hints(find(entry))[attribute.name])


@pytest.mark.parametrize(("entry", "method"), METHODS)
def test_method(entry: Entry, method: Method) -> None:
    function = getattr(find(entry), method.name)
    check_positions(inspect.signature(function), method.parameters)
    if method.returns:
        returned = typing.get_type_hints(function)["return"]
        assert fits(stated_type(method.returns), returned)


@pytest.mark.parametrize(
    ("stated", "ours", "expected"),
    [
        (int, int | None, True),
        (int | None, int, False),
        (stated_type("list[dict]"), list[dict[str, Any]], True),
        (stated_type("list[dict]"), list[str], False),
        (dict, list, False),
        (float, Any, True),
        (type(None), type(None), True),
    ],
)
def test_fits(stated: Any, ours: Any, expected: bool) -> None:
    assert fits(stated, ours) is expected
