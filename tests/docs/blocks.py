"""The code blocks of the documentation: where they stand, what is in them, and why some are not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.contract.source_files import ROOT

LANGUAGES = ("bash", "python", "yaml", "")
"""What a block may say it is; one that says nothing holds output."""
_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: File, from the repository's root.
        line: Of its first line of code.
        language: What stands behind the fence.
        text: Its lines.
        not_run: The reason given in a comment above it, None when it is to be run.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Everything that is written for users and contributors."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, text.count("\n", 0, found.start("text")) + 1, found["language"], found["text"], found["reason"])
        for found in _FENCE.finditer(text)
    ]


def command_lines(text: str) -> Iterator[list[str]]:
    """The lines of a shell block as words: continued lines joined, comments gone.

    `...` stands for all the words of the line before it that begins with the same two.

    Example:
        >>> list(command_lines("run it --fast # now\\nrun ... --again"))
        [['run', 'it', '--fast'], ['run', 'it', '--fast', '--again']]
    """
    before: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "..." in words:
            at = words.index("...")
            assert before[:at] == words[:at], f"'{line.strip()}': no line before it begins so"
            words = [*before, *words[at + 1 :]]
        if words:
            yield words
            before = words
