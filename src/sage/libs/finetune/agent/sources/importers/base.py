"""What an importer is: a foreign row in, a conversation in canonical form out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Importer:
    """How one foreign form is recognised and read.

    Attributes:
        name: What `--from` calls it.
        matches: Whether a row (a parsed JSON object) is plainly of this form; never raises.
        read: The row as `{"messages", "tools", "metadata"}`, given file and line for the error. It may leave to
            `sources.rows.read_sample`, which every result goes through, whatever that checks (roles, texts, calls).
            Raises DataError naming where, field, what was expected and found.
        needs: One line: what a row of this form looks like.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], str], Mapping[str, Any]]
    needs: str
