"""What a command is: its settings, and a function from these to a report. It neither parses nor prints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage.libs.finetune.agent.config import Config
from sage.libs.finetune.agent.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass
class Report:
    """What a command has to say when it is done.

    Attributes:
        data: All of it for machines (`--json`), plain JSON types.
        tables: What people see of it.
        notes: Lines below the tables: where things are, what to do next.
        problem: One line for stderr when the exit code is not 0.
        exit_code: 0 ok, 1 runtime, 3 a check failed, 130 interrupted.
    """

    data: dict[str, Any]
    tables: list[RenderableType] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Command:
    """One command of `sage-finetune`.

    Attributes:
        name: What the user types; `data validate` is the command `validate` of the group `data`.
        help: One line, then details, as shown by `--help`.
        example: A command line that works as it is or with one name changed.
        config: Its settings.
        run: Does the work. On Ctrl-C it may raise `KeyboardInterrupt(how to go on)`.
        talks: Whether it writes to stdout while it runs, unless `--json` wants that for the report.
    """

    name: str
    help: str
    example: str
    config: type[Config]
    run: Callable[[Any, Progress], Report]
    talks: bool = False


def finite(number: float | None) -> float | None:
    """The number, None for NaN and infinities: JSON has no form for them."""
    return number if number is not None and math.isfinite(number) else None
