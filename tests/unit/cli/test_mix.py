"""mix, run for real."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.cli import main
from sage.libs.finetune.agent.cli.commands import mix
from sage.libs.finetune.agent.jsonl import read_jsonl, write_jsonl
from sage.libs.finetune.agent.sources.resolve import load_samples

SIZES = {"tools": 12, "plans": 6, "chat": 30}


@pytest.fixture(autouse=True)
def with_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    if mix.COMMAND not in main.COMMANDS:
        monkeypatch.setattr(main, "COMMANDS", (*main.COMMANDS, mix.COMMAND))


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    for name, size in SIZES.items():
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"What of {name} {number}?"},
                    {"role": "assistant", "content": str(number) + " and more" * len(name)},
                ],
                "metadata": {"task_type": "before", "number": number},
            }
            for number in range(size)
        ]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)


def written(path: Path) -> list[dict[str, Any]]:
    return [value for _, value in read_jsonl(path)]


def test_rows_with_task_and_source_a_table_and_the_next_step(cli: Any, tmp_path: Path) -> None:
    code, out, _ = cli("mix", "tools.jsonl:0.5", "p=plans.jsonl:0.5", "-o", "out/m.jsonl")
    assert code == 0
    assert [" ".join(line.split()) for line in out.splitlines() if line.strip("-")] == [
        "task weight rows taken share epochs",
        "tools 0.5 12 12 50.0% 1.00",
        "p 0.5 6 12 50.0% 2.00",
        "all 18 24",
        "out/m.jsonl has 24 rows; epochs are passes over a data set",
        "rows that come more than once are meant to, which training is told by --allow duplicate",
        "next: sage-finetune train --base-model MODEL --train-data out/m.jsonl --allow duplicate",
    ]
    rows = written(tmp_path / "out/m.jsonl")
    found = Counter((row["metadata"]["task_type"], row["metadata"]["source"]) for row in rows)
    assert found == {("tools", "tools.jsonl"): 12, ("p", "plans.jsonl"): 12}
    numbers = Counter(row["metadata"]["number"] for row in rows if row["metadata"]["task_type"] == "p")
    assert set(numbers.values()) == {2}
    assert load_samples(tmp_path / "out/m.jsonl") == rows, "canonical rows are read back as they were written"


def test_a_cap_that_binds_and_rows_left_out(cli: Any) -> None:
    code, out, err = cli("mix", "tools.jsonl:1", "plans.jsonl:1", "-o", "m.jsonl", "--size", 40, "--max-repeats", 2)
    assert code == 0
    assert "plans: its share of 40 rows is 20, 3.33 passes over its 6; max_repeats allows 2" in " ".join(err.split())
    assert "so the mix has 24 rows" in " ".join(err.split()) and "m.jsonl has 24 rows" in out


def test_agent_tuning(cli: Any, tmp_path: Path) -> None:
    arguments = ("tools.jsonl:1", "plans.jsonl:1", "chat.jsonl:1", "--eta", "0.2", "--general", "chat", "--size", "60")
    code, out, _ = cli("mix", *arguments, "-o", "m.jsonl", "--json")
    assert code == 0
    tasks = {task["task"]: task for task in json.loads(out)["tasks"]}
    assert {name: task["taken"] for name, task in tasks.items()} == {"tools": 6, "plans": 6, "chat": 48}
    assert tasks["chat"]["source"] == "chat.jsonl" and tasks["chat"]["epochs"] == 1.6


def test_a_curriculum_comes_from_a_file(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(
        "data: [tools.jsonl:1, chat.jsonl:1]\noutput: m.jsonl\nstrategy: curriculum\nsize: 16\n"
        "stages:\n- {weights: {tools: 1}, share: 0.25}\n- {weights: {chat: 1}, share: 0.75}\n"
    )
    code, _, _ = cli("mix", "--config", "mix.yaml")
    assert code == 0
    assert [row["metadata"]["task_type"] for row in written(tmp_path / "m.jsonl")] == ["tools"] * 4 + ["chat"] * 12


def test_tokens_that_carry_loss_are_counted(cli: Any, tmp_path: Path) -> None:
    from tests.tiny import save_tiny

    save_tiny(tmp_path / "tiny")
    code, out, _ = cli("mix", "tools.jsonl", "chat.jsonl", "--strategy", "balanced", "--model", "tiny", "-o", "m.jsonl")
    assert code == 0
    header, _, *lines = [line.split() for line in out.splitlines()]
    assert header == ["task", "weight", "rows", "taken", "share", "epochs", "tokens", "of", "all"]
    assert lines[0][4] == lines[1][4] == "50.0%" and float(lines[0][7][:-1]) > 52, "longer replies, more of the loss"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tools.jsonl", "plans.jsonl"], "a weight is missing"),
        (["tools.jsonl:1", "tools.jsonl:2"], "both called 'tools'"),
        (["tools.jsonl:0"], "no weight is above 0"),
        (["tools.jsonl:1", "nope.jsonl:1"], "nope.jsonl: there is no such file"),
        (["tools.jsonl:1", "--strategy", "balance"], "did you mean 'balanced'"),
        ([], "DATA must be given"),
    ],
)
def test_what_is_refused(cli: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = cli("mix", *arguments, "-o", "m.jsonl")
    assert (code, out) == (2, "") and message in " ".join(err.split())
    assert not (tmp_path / "m.jsonl").exists()


def test_no_input_is_overwritten(cli: Any, tmp_path: Path) -> None:
    before = (tmp_path / "plans.jsonl").read_bytes()
    code, _, err = cli("mix", "tools.jsonl:1", "plans.jsonl:1", "-o", "plans.jsonl")
    assert code == 2 and "'output' is the input file" in err
    assert (tmp_path / "plans.jsonl").read_bytes() == before
