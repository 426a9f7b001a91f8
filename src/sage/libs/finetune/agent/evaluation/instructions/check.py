"""What an instruction check is, and how the arguments of one are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

RELATIONS = ("less than", "at least")


class BadArgument(ValueError):
    """An argument of an instruction that cannot be used; the message names it and says what was expected."""


Reader = Callable[[Any], Any]
"""A foreign value -> the value a check works with; a ValueError says what was expected."""


@dataclass(frozen=True)
class Check:
    """One verifiable instruction.

    Attributes:
        follows: `(reply, arguments) -> bool`, pure; arguments as `read` gives them. None when it cannot be told, which
            depends on the arguments alone (a language that is not known here).
        arguments: The reader of each argument, all of them required.
    """

    follows: Callable[[str, Mapping[str, Any]], bool | None]
    arguments: Mapping[str, Reader] = field(default_factory=dict)

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the check takes them; entries that are None count as left out.

        Raises:
            BadArgument: when one is missing, unknown, or not what it should be.
        """
        present = {name: value for name, value in given.items() if value is not None}
        if unknown := sorted(str(name) for name in present if name not in self.arguments):
            raise BadArgument(f"argument '{unknown[0]}' is not known; known: {', '.join(self.arguments) or 'none'}")
        values = {}
        for name, reader in self.arguments.items():
            if name not in present:
                raise BadArgument(f"argument '{name}' is missing")
            try:
                values[name] = reader(present[name])
            except ValueError as expected:
                raise BadArgument(f"argument '{name}' is {_short(present[name])}; expected {expected}") from None
        return values


def count(value: Any) -> int:
    """A whole number, 0 or more; 3.0 is 3, as tables with gaps store it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and value == value // 1:
        return int(value)
    raise ValueError("a whole number, 0 or more")


def text(value: Any) -> str:
    """Text that is not blank, stripped."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ValueError("text that is not blank")


def texts(value: Any) -> list[str]:
    """A list of texts, at least one."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) and one.strip() for one in value):
        return list(value)
    raise ValueError("a list of texts that are not blank")


def letter(value: Any) -> str:
    """One character that is no space, in lower case."""
    if isinstance(value, str) and len(value.strip()) == 1:
        return value.strip().lower()
    raise ValueError("one letter")


def relation(value: Any) -> str:
    """`less than` or `at least`."""
    if value in RELATIONS:
        return str(value)
    raise ValueError(" or ".join(f"'{known}'" for known in RELATIONS))


def holds(found: int, wanted: str, bound: int) -> bool:
    """Whether `found` is less than, or at least, `bound`."""
    return found < bound if wanted == "less than" else found >= bound


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
