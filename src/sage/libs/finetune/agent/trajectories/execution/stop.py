"""How a collection ends before its time: start nothing more, give what runs a short grace, then leave it.

The first Ctrl-C only asks; the line that is being written to disk is written whole. The second one acts at once.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds that running episodes get to end by themselves."""


class Stop:
    """Told to by anyone, looked at by an executor.

    Attributes:
        deadline: Until when running episodes may go on (`time.monotonic`); infinity while nobody asked.
        interrupted: Whether Ctrl-C asked.
        wake: Called when asked, so that an executor that waits takes note.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        self.interrupted = False
        self.wake: Callable[[], None] = _nothing
        self._told = False

    @property
    def asked(self) -> bool:
        """Whether no more episodes are to be started."""
        return self.deadline < math.inf

    @property
    def over(self) -> bool:
        """Whether what is still running is to be left."""
        return time.monotonic() >= self.deadline

    def ask(self) -> None:
        """Start nothing more; the grace begins with the first time of asking."""
        if not self.asked:
            self.deadline = time.monotonic() + GRACE
            self.wake()

    def tell(self, running: int) -> None:
        """Say once what is being waited for."""
        if self.interrupted and not self._told:
            self._told = True
            logger.warning(
                "interrupted: waiting up to %g s for %d running episodes to end; Ctrl-C again does not", GRACE, running
            )

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Let the first Ctrl-C ask, and the second raise; a program with its own way with Ctrl-C keeps it."""
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.interrupted = True
            self.ask()

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _nothing() -> None:
    pass
