"""The tables and the picture of a stream, from a record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.stream import draw_stream, stream_tables
from sage.libs.finetune.agent.training.stream_record import read_stream


def cell(accuracy: float, loss: float = 1.0) -> dict[str, Any]:
    return {"accuracy": accuracy, "low": 0.1, "high": 0.9, "n": 24, "right": 1, "loss": loss, "eval_sha256": "x"}


def write(folder: Path, evaluate: str = "generate", done: int = 2) -> None:
    scores = [
        {"after": None, "of": {"tools": cell(0.0, 3.0), "plans": cell(0.25, 2.0)}},
        {"after": "tools", "of": {"tools": cell(1.0, 0.5), "plans": cell(0.375, 2.5)}},
        {"after": "plans", "of": {"tools": cell(0.5, 1.0), "plans": cell(0.75, 0.25)}},
    ]
    tasks = [{"name": name, "result": {"rows_replayed": 7}} for name in ("tools", "plans")[:done]]
    record = {"stream": {"evaluate": evaluate}, "tasks": tasks, "scores": scores[: done + 1]}
    jsonl.write_json(folder / "stream.json", record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def shown(folder: Path) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(*stream_tables(read_stream(folder)), sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_the_tables_say_what_was_learned_and_what_was_lost(folder: Path) -> None:
    assert (
        shown(folder)
        == """\
accuracy after  tools  plans
----------------------------
(before)         0.0%  25.0%
tools            100%  37.5%
plans           50.0%  75.0%

task   learned    now  95% CI   n     forgotten
-----------------------------------------------
tools     100%  50.0%  10-90%  24  +50.0 points
plans    75.0%  75.0%  10-90%  24             -

average accuracy   62.5%
backward transfer  -50.0 points
forgetting         +50.0 points
forward transfer   +12.5 points
rows replayed      14"""
    )


def test_losses_are_in_nats_and_worse_is_still_below_nothing(folder: Path) -> None:
    write(folder, "loss")
    text = shown(folder)
    assert "loss after" in text and "average loss       0.625" in text
    assert "backward transfer  -0.500 nats" in text and "forward transfer   -0.500 nats" in text


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_picture_comes_at_any_time(folder: Path, done: int) -> None:
    write(folder, "generate", done)
    assert shown(folder).startswith("accuracy after")
    assert draw_stream(folder).read_bytes().startswith(b"\x89PNG")


def test_without_a_record_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stream\.json: cannot be read"):
        draw_stream(tmp_path)
