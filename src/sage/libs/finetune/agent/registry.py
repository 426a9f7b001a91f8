"""Name -> implementation, for the few places where a string in a config picks one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from sage.libs.finetune.agent.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary that refuses duplicates and lists the known names on a miss.

    Example:
        >>> shapes = Registry[int]("shape")
        >>> shapes.add("square", 4)
        >>> shapes["square"]
        4
        >>> shapes["sqare"]
        Traceback (most recent call last):
        sage.libs.finetune.agent.errors.ConfigError: unknown shape 'sqare'; did you mean 'square'? known: square
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def add(self, name: str, entry: T) -> None:
        """Register `entry`; a name can be taken once."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} '{name}' is registered already")
        self._entries[name] = entry

    def alias(self, other: str, name: str) -> None:
        """Let the entry `name` be asked for as `other` too; lists keep to its name."""
        if other in self or name not in self._entries:
            raise ConfigError(f"{self.kind} '{other}' cannot stand for '{name}'")
        self._aliases[other] = name

    def __getitem__(self, name: str) -> T:
        name = self._aliases.get(name, name)
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} '{name}'; {suggestion(name, self)}known: {', '.join(self)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


def suggestion(name: str, known: object) -> str:
    """`did you mean 'x'? ` when a known name is close, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f"did you mean '{close[0]}'? " if close else ""
