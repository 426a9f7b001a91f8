"""Log records on stderr, above the progress bars, one line each."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        say(self._console, record.levelname.lower(), record.getMessage(), _STYLES.get(record.levelname, "dim"))


@contextmanager
def logging_to(console: Console, level: int) -> Iterator[None]:
    """Show the records of this package from `level` on, for as long as the block runs."""
    logger, handler = logging.getLogger("sage"), _ConsoleHandler(console)
    level_before, propagate_before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
        logger.propagate = propagate_before


def say(console: Console, kind: str, text: str, style: str = "bold red") -> None:
    """One line `kind: text`, whatever line ends and brackets the text holds."""
    console.print(f"{kind}:", style=style, end=" ", markup=False, highlight=False)
    console.print(" ".join(text.split()), markup=False, highlight=False, soft_wrap=True)


def quiet_transformers() -> None:
    """Import transformers without its own progress bars and advice; the commands show progress themselves."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
