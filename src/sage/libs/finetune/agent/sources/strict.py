"""Strict JSON, for rows that others wrote: what a lenient reader would change without a word is refused.

Refused are NaN and infinities (no JSON), numbers too large for a float, a name that stands twice in one object (the
last one would win), and nesting deeper than `DEEPEST` (whatever walks the row later would run out of stack).
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

DEEPEST = 100
"""Levels of lists and objects inside each other; tool schemas rarely have ten."""


def parse(text: str) -> Any:
    """One JSON value.

    Raises:
        ValueError: saying what is wrong and at which character.

    Example:
        >>> parse('{"city": "Bergen"}')
        {'city': 'Bergen'}
        >>> parse('{"city": "Bergen", "city": "Oslo"}')
        Traceback (most recent call last):
        ValueError: the name 'city' stands twice in one object
    """
    try:
        value = STRICT.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(reason(error)) from None
    check_depth(value, text.count("[") + text.count("{"))
    return value


def reason(error: Exception) -> str:
    """A fault of the decoder in words, with the character it is at (counted from 1) where there is one."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return _TOO_DEEP if isinstance(error, RecursionError) else str(error)


def check_depth(value: Any, brackets: int) -> None:
    """Refuse a value nested deeper than `DEEPEST`; `brackets`, how many its text has, spares most values the walk.

    Raises:
        ValueError: when it is.
    """
    if brackets <= DEEPEST:
        return
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = f"nested deeper than {DEEPEST} levels"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r:.80} stands twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.40} is too large for a number")
    return number


def _whole(text: str) -> int:
    if len(text) > 4000:  # Python refuses to read these, and says so in words about its own settings
        raise ValueError(f"{text[:20]}... is too large for a number")
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite, parse_int=_whole, parse_constant=_refuse_constant
)
"""Its faults: `json.JSONDecodeError` where the text is broken, ValueError where it is refused, RecursionError."""
LENIENT = json.JSONDecoder(parse_float=str, parse_int=str)
"""Finds where a refused value ends."""
