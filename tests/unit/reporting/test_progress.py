from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from sage.libs.finetune.agent.reporting.progress import TerminalProgress, clock_time, rate_text


def seconds(*moments: float) -> Iterator[float]:
    yield from moments


def lines_of(calls: list[tuple[float, tuple[str, int, int, str]]], interval: float = 10.0) -> list[str]:
    moments = seconds(*(moment for moment, _ in calls))
    out = io.StringIO()
    with TerminalProgress(Console(file=out), interval=interval, clock=lambda: next(moments)) as progress:
        for _, call in calls:
            progress(*call)
    return out.getvalue().splitlines()


def test_plain_lines_come_now_and_then_and_at_the_end() -> None:
    calls = [(float(second), ("train", second * 2, 120, f"loss {second}")) for second in range(61)]
    assert lines_of(calls)[:2] == ["train 20/120 2.0/s 0:50 left loss 10", "train 40/120 2.0/s 0:40 left loss 20"]
    assert lines_of(calls)[-1] == "train 120/120 2.0/s 1:00 in all loss 60"
    assert len(lines_of(calls)) == 6


def test_a_resumed_label_counts_from_where_it_began() -> None:
    calls = [(0.0, ("train", 100, 180, "")), (10.0, ("train", 120, 180, "")), (40.0, ("train", 180, 180, ""))]
    assert lines_of(calls) == ["train 120/180 2.0/s 0:30 left", "train 180/180 2.0/s 0:40 in all"]


def test_each_label_has_its_own_pace_and_may_start_again() -> None:
    calls = [
        (0.0, ("a", 0, 2, "")),
        (1.0, ("b", 1, 1, "")),
        (2.0, ("a", 2, 2, "")),
        (50.0, ("a", 0, 2, "")),
        (54.0, ("a", 2, 2, "")),
    ]
    assert lines_of(calls) == ["b 1/1", "a 2/2 1.0/s 0:02 in all", "a 2/2 30.0/min 0:04 in all"]


def test_a_terminal_gets_one_bar_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with TerminalProgress(console) as progress:
        for done in range(4):
            progress("collect", done, 3)
            progress("train", done, 3, f"loss [{done}]")
    shown = out.getvalue().rsplit("\x1b[2K", 1)[-1]
    assert (shown.count("collect"), shown.count("train"), shown.count("3/3")) == (1, 1, 2)
    assert "loss [3]" in shown and "━" in shown


def test_nothing_is_drawn_without_progress() -> None:
    out = io.StringIO()
    with TerminalProgress(Console(file=out, force_terminal=True)):
        pass
    assert out.getvalue() == ""


def test_units() -> None:
    assert [clock_time(s) for s in (0, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]
    assert [rate_text(r) for r in (1000, 1.0, 0.5, 0.01)] == ["1000/s", "1.0/s", "30.0/min", "36.0/h"]
