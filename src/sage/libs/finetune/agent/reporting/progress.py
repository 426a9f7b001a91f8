"""Progress on stderr: one bar a label on a terminal, a plain line now and then everywhere else (CI, a log file)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn


@dataclass
class _Pace:
    """When a label began, from where, and when it last had a line."""

    began: float
    first: int
    spoke: float = field(init=False)

    def __post_init__(self) -> None:
        self.spoke = self.began

    def text(self, now: float, done: int, total: int) -> str:
        """Rate, and the time that is left or, at the end, was taken; empty while nothing can be said."""
        taken = now - self.began
        if done <= self.first or taken <= 0:
            return ""
        rate = (done - self.first) / taken
        ahead = f"{clock_time(taken)} in all" if done >= total else f"{clock_time((total - done) / rate)} left"
        return f"{rate_text(rate)} {ahead}"


class TerminalProgress:
    """Shows progress on stderr; implements `sage.libs.finetune.agent.progress.Progress`.

    A label that starts again from a smaller count starts its bar, rate and remaining time again.

    Args:
        console: Where to; stderr by default.
        interval: Seconds between two plain lines of a label where stderr is no terminal.
        clock: Seconds that only go up.

    Example:
        >>> import sys
        >>> with TerminalProgress(Console(file=sys.stdout)) as progress:
        ...     progress("collect", 0, 4)
        ...     progress("collect", 4, 4, "3 successful")  # doctest: +ELLIPSIS
        collect 4/4 ... 3 successful
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._interval = interval
        self._clock = clock
        self._paces: dict[str, _Pace] = {}
        self._last: dict[str, int] = {}
        self._rows: dict[str, TaskID] = {}
        self._bars: Progress | None = _bars(self._console) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, label: str, done: int, total: int, detail: str = "") -> None:
        """Take note that `done` of `total` is done; `detail` is shown beside it."""
        now = self._clock()
        if label not in self._paces or done < self._last[label]:
            self._paces[label] = _Pace(now, done)
        self._last[label] = done
        pace = self._paces[label]
        if self._bars is not None:
            self._draw(self._bars, label, done, total, pace.text(now, done, total), detail)
        elif done >= total or now - pace.spoke >= self._interval:
            pace.spoke = now
            words = [label, f"{done}/{total}", pace.text(now, done, total), detail]
            self._console.print(" ".join(filter(None, words)), markup=False, highlight=False, soft_wrap=True)

    def _draw(self, bars: Progress, label: str, done: int, total: int, pace: str, detail: str) -> None:
        bars.start()  # at the first call rather than before, so that a command without progress draws nothing
        if label not in self._rows:
            self._rows[label] = bars.add_task(label, total=total, pace="", detail="")
        bars.update(self._rows[label], completed=done, total=total, pace=pace, detail=detail)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", style="progress.remaining", markup=False),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
        refresh_per_second=4,
    )


def clock_time(seconds: float) -> str:
    """Minutes and seconds, with hours from one hour on.

    Example:
        >>> clock_time(55.4), clock_time(3725)
        ('0:55', '1:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def rate_text(rate: float) -> str:
    """Things per second, or per minute or hour where that would be below one.

    Example:
        >>> rate_text(1.1), rate_text(250.0), rate_text(0.05)
        ('1.1/s', '250/s', '3.0/min')
    """
    unit = "s"
    for slower in ("min", "h"):
        if rate < 1:
            rate, unit = rate * 60, slower
    return f"{rate:.0f}/{unit}" if rate >= 100 else f"{rate:.1f}/{unit}"
