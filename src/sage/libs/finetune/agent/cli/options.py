"""A Config dataclass as command-line flags, and flags plus a YAML file as a Config.

Every flag starts out as "not given", so that a value from the YAML file stands unless a flag was typed. Values pass
through as text: the Config reads and checks them, wherever they came from, so there is one set of rules and messages.
Field metadata that is read here, besides that of `option`: `positional` (an argument rather than a flag; a list takes
one or more), `short` (a one-letter flag), `flag` (the flag's name, where it is not the field's: Python has no field
called `from`), `file_only` (no flag: what a command line cannot hold, such as a list of tasks).
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal

import typer

from sage.libs.finetune.agent.config import Config, read_yaml
from sage.libs.finetune.agent.errors import ConfigError

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def parameters(config: type[Config]) -> list[inspect.Parameter]:
    """What typer needs to know of a config: a parameter per field, and a hidden one per alias."""
    hints = typing.get_type_hints(config)
    found = []
    for spec in _fields(config):
        if spec.metadata.get("file_only"):
            continue
        choices = _choices(hints[spec.name])
        several = spec.metadata.get("positional") and any(typing.get_origin(choice) is list for choice in choices)
        found.append(_parameter(spec.name, choices, _declared(spec, choices), list[str] if several else str))
        for alias in [name for name in spec.metadata.get("aliases", ()) if name != spec.metadata.get("flag")]:
            found.append(_parameter(alias, choices, typer.Option(None, *_flags(alias, choices), hidden=True)))
    return found


def flags_given(config: type[Config], parsed: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, by field name.

    Raises:
        ConfigError: when a field was given under two names.
    """
    given: dict[str, Any] = {}
    names = _names(config)
    for typed, value in parsed.items():
        if typed not in names or value is None or value == []:  # a list of nothing typed
            continue
        if names[typed] in given:
            raise ConfigError(f"{_flag(typed)} and {_flag(names[typed])} are the same setting; give one of them")
        given[names[typed]] = value
    return given


def build_config(config: type[Config], file: Path | None, given: Mapping[str, Any]) -> Config:
    """The settings of a command: those of the file, and over them those that were typed.

    Raises:
        ConfigError: naming the file (or the flags that are missing), every faulty setting, and what was expected.
    """
    if file is None:
        required = [spec for spec in _fields(config) if spec.default is MISSING and spec.name not in given]
        missing = [_shown(spec) for spec in required if not spec.metadata.get("file_only")]
        if len(missing) < len(required):
            raise ConfigError("some of its settings fit into no flag: give --config FILE (configs/ has an example)")
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be given, here or in a file (--config FILE)")
        return config.from_dict(given, where="command line")
    names = _names(config)
    kept = {name: value for name, value in read_yaml(file).items() if names.get(name) not in given}
    return config.from_dict({**kept, **given}, where=f"{file} and flags" if given else str(file))


def _parameter(name: str, choices: tuple[Any, ...], declared: Any, text: Any = str) -> inspect.Parameter:
    annotation = bool | None if bool in choices else text | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=annotation)


def _declared(spec: Field[Any], choices: tuple[Any, ...]) -> Any:
    if spec.metadata.get("positional"):
        return typer.Argument(None, metavar=_shown(spec), help=_help(spec), show_default=False)
    short = [f"-{spec.metadata['short']}"] if "short" in spec.metadata else []
    metavar = None if bool in choices else _metavar(choices)
    flags = [*short, *_flags(_flag_name(spec), choices)]
    return typer.Option(None, *flags, metavar=metavar, help=_help(spec), show_default=False)


def _help(spec: Field[Any]) -> str:
    if spec.default is MISSING:
        note = "" if spec.metadata.get("positional") else " [required]"
    elif spec.default is None or spec.default is False:
        note = ""
    else:
        note = f" [{'yes' if spec.default is True else spec.default}]"
    return f"{spec.metadata['help']}{note}"


def _flags(name: str, choices: tuple[Any, ...]) -> list[str]:
    flag = _flag(name)
    return [f"{flag}/--no-{flag[2:]}"] if bool in choices else [flag]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(spec: Field[Any]) -> str:
    return spec.name.upper() if spec.metadata.get("positional") else _flag(_flag_name(spec))


def _flag_name(spec: Field[Any]) -> str:
    return str(spec.metadata.get("flag", spec.name))


def _choices(hint: Any) -> tuple[Any, ...]:
    """The types a field may have, without None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(choice for choice in typing.get_args(hint) if choice is not types.NoneType)
    return (hint,)


def _metavar(choices: tuple[Any, ...]) -> str:
    words: list[str] = []
    for choice in choices:
        choice = str if typing.get_origin(choice) is list else choice  # separated by commas
        words += typing.get_args(choice) if typing.get_origin(choice) is Literal else [_METAVARS[choice]]
    return "|".join(words)


def _names(config: type[Config]) -> dict[str, str]:
    """Field names and aliases, each with the field it stands for."""
    return {name: spec.name for spec in _fields(config) for name in (spec.name, *spec.metadata.get("aliases", ()))}


def _fields(config: type[Config]) -> Iterator[Field[Any]]:
    yield from fields(config)  # type: ignore[arg-type]
