"""`stream` from end to end, with a tiny model and one task after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny

STREAM = """\
base_model: ./m
output_dir: out
dtype: float32
lora_r: 4
lora_alpha: 8
learning_rate: 1e-2
max_seq_length: 64
max_new_tokens: 4
batch_size: 2
gradient_accumulation_steps: 1
max_steps: 2
evaluate: loss
tasks:
  - {name: one, train_data: rows.jsonl, eval_data: rows.jsonl}
"""


@pytest.fixture
def stream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    save_tiny(tmp_path / "m")
    capfd.readouterr()  # a progress bar
    rows = [
        {"messages": [{"role": "user", "content": drink}, {"role": "assistant", "content": "12"}]}
        for drink in ("tea", "milk")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "stream.yaml"
    path.write_text(STREAM)
    return path


def test_a_stream_is_told_as_tables_and_goes_on_with_another_task(cli: Any, stream: Path, tmp_path: Path) -> None:
    code, out, err = cli("stream", "--config", stream)
    assert (code, "error" in err) == (0, False), err
    lines = out.splitlines()
    assert lines[0].split() == ["loss", "after", "one"] and lines[2].startswith("(before)")
    assert "average loss" in out and "folder  out (stream.json, stream.png)" in out
    assert (tmp_path / "out" / "stream.png").read_bytes().startswith(b"\x89PNG")
    stream.write_text(STREAM + "  - {name: two, train_data: rows.jsonl, eval_data: rows.jsonl}\n")
    code, out, _ = cli("stream", "--config", stream, "--json")
    data = json.loads(out)
    assert code == 0 and data["tasks"] == ["one", "two"] and len(data["matrix"]) == 2
    assert data["backward_transfer"] == pytest.approx(data["matrix"][0][0] - data["matrix"][1][0])


def test_a_flag_wins_over_the_file(cli: Any, stream: Path, tmp_path: Path) -> None:
    code, out, _ = cli("stream", "--config", stream, "--output-dir", "other", "--no-evaluate-first", "--json")
    assert code == 0 and json.loads(out)["before"] is None
    assert (tmp_path / "other" / "stream.json").exists()


def test_without_a_file_it_says_what_is_missing(cli: Any) -> None:
    code, _, err = cli("stream", "--base-model", "m", "--output-dir", "out")
    assert code == 2 and "give --config FILE" in err


def test_a_misspelt_setting_is_named(cli: Any, stream: Path) -> None:
    stream.write_text(STREAM.replace("lora_r:", "lora_rank:"))
    code, _, err = cli("stream", "--config", stream)
    assert code == 2 and "did you mean 'lora_r'?" in " ".join(err.split())
