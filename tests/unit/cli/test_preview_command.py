from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny, tiny_tokenizer
from tests.unit.cli.conftest import Cli

from sage.libs.finetune.agent.tokenization.render import render

ROWS: list[Any] = [
    {"messages": [{"role": "user", "content": f"Question {n}"}, {"role": "assistant", "content": f"Answer {n}"}]}
    for n in range(5)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def rows(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_the_first_rows_are_shown_with_marks_and_the_template(cli: Cli, model: Path) -> None:
    done = cli("data", "preview", "rows.jsonl", "--model", model, "-n", 2)
    assert done.code == 0, done.err
    assert "rows.jsonl:1: " in done.out and "rows.jsonl:2: " in done.out and "rows.jsonl:3: " not in done.out
    assert "⟦" in done.out and "<|im_end|>⟧↵" in done.out and "\x1b" not in done.out
    assert "chat template: chatml_tools (" in done.out


def test_json_has_the_tokens_of_training(cli: Cli, model: Path) -> None:
    done = cli("data", "preview", "rows.jsonl", "--model", model, "--row", 4, "--json")
    assert done.code == 0, done.err
    [row] = json.loads(done.out)["rows"]
    rendered = render(ROWS[3], tiny_tokenizer())
    assert row["where"] == "rows.jsonl:4"
    assert (row["input_ids"], row["labels"]) == (rendered.input_ids, rendered.labels)
    assert row["weights"] == [float(label != -100) for label in rendered.labels]
    assert "".join(row["tokens"]) == rendered.text


def test_a_page_is_written(cli: Cli, model: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "<script>x</script>"}, {"role": "assistant", "content": "No."}]}]
    write(tmp_path / "rows.jsonl", rows)
    done = cli("data", "preview", "rows.jsonl", "--model", model, "--html", "page.html")
    assert done.code == 0, done.err
    assert "page: page.html" in done.out and "⟦" not in done.out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "<script" not in text and "Preview of rows.jsonl" in text


def test_rows_that_cannot_be_shown_are_told_and_fail(cli: Cli, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [ROWS[0], {"messages": []}, ROWS[1]])
    done = cli("data", "preview", "rows.jsonl", "--model", model, "--from", "chat")
    assert done.code == 3
    assert "rows.jsonl:1: " in done.out and "rows.jsonl:3: " in done.out
    assert "rows.jsonl:2: " in done.out
    assert (
        f"data preview: 1 of 3 rows cannot be shown; run: sage-finetune data validate rows.jsonl --model {model}"
        in (done.err.replace("\n", ""))
    )


def test_a_row_that_is_not_there_is_one_line(cli: Cli, model: Path) -> None:
    done = cli("data", "preview", "rows.jsonl", "--model", model, "--row", 9)
    assert done.code == 2
    assert "rows.jsonl: has 5 rows, so --row 9 is none of them" in done.err


def test_short_rows_lose_exchanges_and_say_so(cli: Cli, model: Path, tmp_path: Path) -> None:
    messages = [message for row in ROWS for message in row["messages"]]
    write(tmp_path / "rows.jsonl", [{"messages": messages}])
    done = cli("data", "preview", "rows.jsonl", "--model", model, "--max-seq-length", 60)
    assert done.code == 0, done.err
    assert "dropped to fit 60: " in done.out
