"""How long steps tell how far they are: one callable, so that a terminal, a notebook or nothing can listen."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work goes on; `done == total` ends the step called `label`."""

    def __call__(self, label: str, done: int, total: int, detail: str = "") -> None:
        """`detail` is a short text worth showing beside the bar, such as the current loss."""
        ...


def silent(label: str, done: int, total: int, detail: str = "") -> None:
    """Tell nobody."""
