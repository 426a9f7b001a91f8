import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.reporting.curves import CURVE, draw_curve, read_metrics, smooth

STEPS = [{"step": n, "loss": 2.0 / n, "learning_rate": 1e-4 * n, "seconds": n, "tokens": 900 * n} for n in range(1, 41)]
EVALUATIONS = [{"step": n, "eval_loss": 2.5 / n, "eval_accuracy": n / 40, "eval_n": 8} for n in (10, 20, 30, 40)]


def drawn(folder: Path, lines: list[dict[str, Any]], config: str | None = None) -> bytes:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config:
        (folder / "config.yaml").write_text(config)
    assert draw_curve(folder) == folder / CURVE
    return (folder / CURVE).read_bytes()


def test_the_picture_shows_the_metrics(tmp_path: Path) -> None:
    plain = drawn(tmp_path / "run", STEPS)
    assert plain.startswith(b"\x89PNG")
    assert [int.from_bytes(plain[at : at + 4], "big") for at in (16, 20)] == [1200, 750]
    evaluated = drawn(tmp_path / "run", [*STEPS, *EVALUATIONS])
    named = drawn(tmp_path / "run", [*STEPS, *EVALUATIONS], "base_model: org/tiny\ntrain_data: rows.jsonl\n")
    loss_only = drawn(tmp_path / "run", [*STEPS, *({**line, "eval_accuracy": None} for line in EVALUATIONS)])
    assert len({plain, evaluated, named, loss_only}) == 4
    assert drawn(tmp_path / "run", STEPS, "[]") == plain
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", CURVE, "metrics.jsonl"]


@pytest.mark.parametrize(
    "lines",
    [
        [{"step": 1, "loss": 1.5}],
        [{"step": 1, "loss": 0.0, "learning_rate": 0.0}, {"step": 2, "loss": 0.0, "learning_rate": 0.0}],
        [{"step": 1, "loss": None}, {"step": 2, "loss": 3.0}, {"step": 2, "eval_loss": None, "eval_accuracy": None}],
        [{"step": n, "loss": 10.0**-n} for n in range(1, 9)],
    ],
    ids=["one step", "zeros", "nulls", "eight decades"],
)
def test_odd_runs_are_drawn(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    assert len(drawn(tmp_path / "run", lines)) > 10_000


@pytest.mark.filterwarnings("error")
def test_a_name_is_no_formula_and_may_lack_glyphs(tmp_path: Path) -> None:
    for data in ("rows$1_$2.jsonl", "数据.jsonl"):
        assert drawn(tmp_path / "run", STEPS, f"base_model: m\ntrain_data: {data}\n")


def test_a_folder_without_steps_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl: there is no training step to draw"):
        draw_curve(tmp_path)


def test_a_line_that_was_being_written_ends_the_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    for rest in ('{"step": 2, "lo', "2"):
        path.write_text('{"step": 1, "loss": 2.0}\n' + rest)
        assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


def test_smoothing_neither_lags_nor_shifts() -> None:
    assert smooth([5.0] * 7, 3) == [5.0] * 7
    assert smooth([1.0, 2.0, 3.0, 4.0], 1) == [1.0, 2.0, 3.0, 4.0]
    line = [float(n) for n in range(9)]
    assert smooth(line, 5)[2:-2] == line[2:-2]
