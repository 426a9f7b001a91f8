"""select, run for real with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.cli import main
from sage.libs.finetune.agent.cli.commands import select
from sage.libs.finetune.agent.jsonl import read_jsonl, write_jsonl
from sage.libs.finetune.agent.sources.resolve import load_samples

TASKS = {"tea": 12, "price": 6, "order": 2}


def row(number: int, task: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What of the {task} number {number}?"},
            {"role": "assistant", "content": f"The {task} is {number * 7}" + " and more" * (number % 3)},
        ],
        "metadata": {"task_type": task, "number": number},
    }


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    names = [task for task, count in TASKS.items() for _ in range(count)]
    made = [row(number, task) for number, task in enumerate(names)]
    write_jsonl(tmp_path / "rows.jsonl", made)
    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def with_select(monkeypatch: pytest.MonkeyPatch) -> None:
    if select.COMMAND not in main.COMMANDS:
        monkeypatch.setattr(main, "COMMANDS", (*main.COMMANDS, select.COMMAND))


def written(path: Path) -> list[dict[str, Any]]:
    return [value for _, value in read_jsonl(path)]


def test_rows_of_the_pool_a_table_and_a_picture(cli: Any, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    code, out, err = cli("select", "rows.jsonl", "--strategy", "diversity", "--size", 5, "-o", "out/c.jsonl")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "rows pool share chosen share"
    assert lines[2] == "all 20 100% 5 100%"
    assert lines[3] == "task" and lines[4].startswith("tea 12 60.0% ")
    assert any(line == "characters of reply" for line in lines)
    assert lines[-2:] == [
        "out/c.jsonl has the rows, the first choice first; out/c.png shows where they lie in the pool",
        "next: sage-finetune train --base-model MODEL --train-data out/c.jsonl",
    ]
    chosen = written(tmp_path / "out/c.jsonl")
    pool = load_samples(tmp_path / "rows.jsonl")
    assert len(chosen) == 5 and all(sample in pool for sample in chosen)
    assert len({sample["metadata"]["number"] for sample in chosen}) == 5
    assert (tmp_path / "out/c.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c.jsonl", "c.png"]
    again = cli("select", "rows.jsonl", "--strategy", "diversity", "--size", 5, "-o", "d.jsonl")
    assert again.code == 0 and written(tmp_path / "d.jsonl") == chosen


def test_losses_of_a_model_are_the_measure(cli: Any, tmp_path: Path, tiny: Path, rows: list[dict[str, Any]]) -> None:
    told = cli("select", "rows.jsonl", "--strategy", "loss_topk", "--size", "25%", "--model", tiny, "-o", "c.jsonl",
               "--cache", "scores", "--json")  # fmt: skip
    assert told.code == 0, told.err
    data = json.loads(told.out)
    assert (data["rows"], data["chosen"], data["strategy"]) == (20, 5, "loss_topk")
    pool = load_samples(tmp_path / "rows.jsonl")
    assert written(tmp_path / "c.jsonl") == [pool[index] for index in data["indices"]]
    assert set(data["by"]) == {"task", "supervised tokens", "loss, nats a token"}
    for parts in data["by"].values():
        assert sum(part["pool"] for part in parts) == 20 and sum(part["chosen"] for part in parts) == 5
    highest = data["by"]["loss, nats a token"][-1]
    assert highest["chosen"] == highest["pool"] > 0
    assert list((tmp_path / "scores").iterdir())


def test_guards_are_told(cli: Any, tmp_path: Path, tiny: Path, rows: list[dict[str, Any]]) -> None:
    write_jsonl(tmp_path / "twice.jsonl", [*rows, *rows])
    guards = ("--hybrid-mode", "product", "--near-duplicates", 0.999, "--loss-band", "0,0.9")
    code, out, err = cli("select", "twice.jsonl", "--size", "0.1", *guards, "--model", tiny, "-o", "c.jsonl")
    assert code == 0, err
    assert "rows could not be chosen: near_duplicates" in out
    assert f"next: sage-finetune train --base-model {tiny} --train-data c.jsonl" in out
    assert len(written(tmp_path / "c.jsonl")) == 4


def test_what_is_like_wanted_rows(cli: Any, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_jsonl(tmp_path / "wanted.jsonl", [row(90, "order")])
    code, _, err = cli("select", "rows.jsonl", "--strategy", "rds", "--size", 2, "--wanted", "wanted.jsonl",
                       "-o", "c.jsonl")  # fmt: skip
    assert code == 0, err
    assert [sample["metadata"]["task_type"] for sample in written(tmp_path / "c.jsonl")] == ["order", "order"]


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--strategy", "diversty"), "unknown coreset strategy 'diversty'; did you mean 'diversity'?"),
        ((), "strategy hybrid: a model has to read the rows; give --model, or take one of "),
        (("--strategy", "random", "--loss-band", "0,0.9"), "loss_band: a model has to read the rows; give --model"),
        (("--strategy", "random", "--size", 21), "'size': 21 rows cannot be chosen from the 20 in rows.jsonl"),
        (("--strategy", "random", "--size", "110%"), "found '110%'"),
        (("--strategy", "random", "--size", "many"), "expected a number of rows, or a share such as 10% or 0.1"),
        (("--strategy", "random", "--size", 0), "found '0'"),
        (("--strategy", "random", "--loss-band", "0.9,0.1"), "'loss_band': expected two quantiles from 0 to 1"),
        (("--strategy", "rds"), "wanted"),
        (("--strategy", "random", "-o", "rows.jsonl"), "'output' is the input file"),
        (("--strategy", "random", "-o", "none.txt/c.jsonl"), "is no folder"),
        (("--strategy", "random", "-o", "c.png"), "the picture would overwrite the rows"),
        (("--strategy", "rds", "--wanted", "c.jsonl", "-o", "c.jsonl"), "'output' is the file of 'wanted'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(cli: Any, tmp_path: Path, rows: Any, flags: tuple[Any, ...], fault: str) -> None:
    (tmp_path / "none.txt").write_text("")
    given = {"--size": 5, "-o": "c.jsonl", **dict(zip(flags[::2], flags[1::2], strict=True))}
    code, out, err = cli("select", "rows.jsonl", *[part for pair in given.items() for part in pair])
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert fault in err
    assert not (tmp_path / "c.jsonl").exists() and not (tmp_path / "c.png").exists()


def test_a_row_that_cannot_be_read_names_its_line(cli: Any, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps(rows[0]) + "\n{]\n")
    code, _, err = cli("select", "bad.jsonl", "--strategy", "random", "--size", 1, "-o", "c.jsonl")
    assert code == 2 and "bad.jsonl:2" in err


def test_a_row_that_cannot_be_scored_names_its_line(cli: Any, tmp_path: Path, tiny: Path, rows: Any) -> None:
    idle = {"messages": [rows[0]["messages"][0], {**rows[0]["messages"][1], "weight": 0}]}
    write_jsonl(tmp_path / "idle.jsonl", [*rows, idle])
    code, _, err = cli("select", "idle.jsonl", "--size", 1, "--model", tiny, "-o", "c.jsonl")
    assert code == 2 and err.startswith("error: select: idle.jsonl:21: no token of it is supervised")


def test_settings_may_stand_in_a_file(cli: Any, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "select.yaml").write_text("input: rows.jsonl\noutput: c.jsonl\nstrategy: random\nsize: 0.5\nseed: 3\n")
    assert cli("select", "--config", "select.yaml").code == 0
    first = written(tmp_path / "c.jsonl")
    assert len(first) == 10
    assert cli("select", "--config", "select.yaml", "--size", 4).code == 0
    assert written(tmp_path / "c.jsonl") == first[:4]
