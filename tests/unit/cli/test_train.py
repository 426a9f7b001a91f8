"""`train --dry-run` from end to end, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny
from tests.unit.training.conftest import conversation


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> tuple[str, ...]:
    save_tiny(tmp_path / "m")
    capfd.readouterr()  # a progress bar
    rows = [conversation(word, str(index)) for index, word in enumerate(["desk", "lamp", "chair", "sofa"])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "train", "--base-model", "./m", "--train-data", "rows.jsonl", "--dry-run", "--batch-size", "2"


def test_a_dry_run_tells_and_does_nothing(cli: Any, command: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = cli(*command, "--learning-rate", "auto")
    assert code == 0 and err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "rows.jsonl"]
    assert [line for line in out.splitlines() if len(line) > 80] == []
    for piece in (
        "batch_size     2\n", "4 from 4 read, 0 left out", "packed, prefixes shared", "all rows", "0.001 (auto)",
        "run folder     .sage/finetune/run-0001\n", "gradient checkpointing off", "nothing was trained",
    ):  # fmt: skip
        assert piece in out, piece
    assert "num_epochs" not in out


def test_its_json_has_everything(cli: Any, command: tuple[str, ...]) -> None:
    code, out, err = cli(*command, "--json", "--max-steps", 1)
    data = json.loads(out)
    assert (code, err, data["steps"]) == (0, "", 1)
    assert data["config"]["num_epochs"] == 3 and data["changed"]["max_steps"] == 1
    assert data["memory"]["total_without"] == sum(data["memory"]["without_checkpointing"].values())


def test_verbose_lists_all_settings(cli: Any, command: tuple[str, ...]) -> None:
    assert "num_epochs: 3" in cli(*command, "--verbose").err


def test_faulty_rows_end_it_as_training(cli: Any, command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{broken\n")
    dry = cli(*command)
    assert dry == cli(*[flag for flag in command if flag != "--dry-run"])
    assert dry.code == 2 and dry.err.startswith("error: train: 1 of 1 rows are not fit to train on: unreadable (1)")


def test_quantisation_without_a_gpu_is_refused_first(
    cli: Any, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = cli(*command, "--load-in-4bit")
    assert code == 2 and err.startswith("error: train: 'load_in_4bit' needs a CUDA device")


def test_the_rate_is_that_of_the_run_and_not_of_the_call_that_resumed_it(cli: Any, command: tuple[str, ...]) -> None:
    train = [flag for flag in command if flag != "--dry-run"] + ["--output-dir", "run", "--num-epochs", "1"]
    said = [
        next(line for line in cli(*train, *more).out.splitlines() if "tokens" in line) for more in ((), ("--resume",))
    ]
    assert said[0] == said[1] and said[0].endswith("/s)")
