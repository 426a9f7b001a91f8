"""`convert`, run for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.jsonl import read_jsonl, write_jsonl

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "loss": 0.5}]}
GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
BAD = {"messages": [{"role": "user", "content": "Hi"}]}
REACT = {"instruction": "Q", "input": "", "output": "Action: search[a]\nObservation: b\nAction: finish[c]"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def test_react_text_becomes_rows_to_train_on(cli: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [REACT])
    code, out, err = cli("convert", "a.jsonl", "-o", "rows.jsonl")
    assert (code, err) == (0, "")
    assert out == (
        "rows    1\nfrom    react\nformat  chatml\noutput  rows.jsonl\n\n"
        "next: sage-finetune data validate rows.jsonl --model MODEL\n"
    )
    [row] = rows_of(tmp_path / "rows.jsonl")
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["metadata"]["tools_inferred"] is True


def test_what_gets_lost_is_shown(cli: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [GOOD, CHAT, CHAT])
    code, out, _ = cli("convert", "a.jsonl", "-o", "t.jsonl", "--from", "chat", "--to", "trajectory")
    assert code == 0
    table = [line.split() for line in out.splitlines() if line.startswith("messages.")]
    assert table == [["messages.weight", "2", "2,", "3"]]
    assert "trajectory has no place for" in out and out.endswith("next: sage-finetune filter t.jsonl -o kept.jsonl\n")
    data = json.loads(cli("convert", "a.jsonl", "-o", "t.jsonl", "--to", "trajectory", "--json").out)
    assert data == {
        "rows": 3, "read": 3, "bad": 0, "from": "chat", "format": "trajectory", "output": "t.jsonl",
        "lost": {"messages.weight": {"rows": 2, "first": ["a.jsonl:2", "a.jsonl:3"]}}, "failed": [],
    }  # fmt: skip


def test_bad_rows(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [GOOD, BAD, BAD])) + "\n{")
    code, out, err = cli("convert", "a.jsonl", "-o", "r.jsonl")
    assert code == 3 and not (tmp_path / "r.jsonl").exists()
    assert err == "error: convert: 3 of 4 rows cannot be converted; mend them, or leave them out with --skip-bad\n"
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "messages: no assistant turn, so there is nothing to train on or to score 2 2, 3" in lines
    assert any(line.startswith("not JSON (") and line.endswith(" 1 4") for line in lines)
    assert "bad rows 3" in lines and "output nothing was written" in lines

    code, out, err = cli("convert", "a.jsonl", "-o", "r.jsonl", "--skip-bad")
    assert (code, err) == (0, "") and "left out  3\n" in out and len(rows_of(tmp_path / "r.jsonl")) == 1
    code, _, err = cli("convert", "a.jsonl", "-o", "x.jsonl", "--json")
    assert code == 3 and err.startswith("error: convert: 3 of 4 rows")


def test_flags(cli: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [REACT])
    tool = {"name": "search", "parameters": {"type": "object", "properties": {"input": {"type": "string"}}}}
    (tmp_path / "tools.json").write_text(json.dumps([tool]))
    (tmp_path / "c.yaml").write_text("from: react\ntools: tools.json\narguments: json\ninclude_observation: false\n")
    assert cli("convert", "a.jsonl", "-o", "r.jsonl", "-c", "c.yaml", "--system-prompt", "Be brief.").code == 0
    [row] = rows_of(tmp_path / "r.jsonl")
    assert row["messages"][0] == {"role": "system", "content": "Be brief."} and row["messages"][3]["content"] == ""
    assert row["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"input": "a"}'
    assert row["tools"] == [{"type": "function", "function": tool}] and "tools_inferred" not in row["metadata"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "charm"], "error: convert: unknown form of rows 'charm'; did you mean 'chat'? known: "),
        (["--from", "alpaca"], "error: convert: 1 of 1 rows cannot be converted\n"),
        (
            ["--to", "atif", "--arguments", "json"],
            "error: convert: command line: 'arguments' json is for chatml, not atif",
        ),
        (["--tools", "gone.json"], "error: convert: gone.json: cannot be read"),
        (["-o", "a.jsonl"], "error: convert: command line: 'output' is the input file; give another name"),
    ],
)
def test_what_cannot_be_done_is_one_line(cli: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    output = [] if "-o" in arguments else ["-o", "r.jsonl"]
    code, _, err = cli("convert", "a.jsonl", *output, *arguments)
    assert code in (2, 3) and err.startswith(message) and err.count("\n") == 1
    assert not (tmp_path / "r.jsonl").exists()


def test_a_file_of_unknown_rows(cli: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"x": 1}])
    code, out, err = cli("convert", "a.jsonl", "-o", "r.jsonl")
    assert (code, out) == (2, "") and err.startswith("error: convert: a.jsonl:1: a row of no known form (it has x)")


def test_the_form_is_given_by_from(cli: Any) -> None:
    code, out, _ = cli("convert", "--help")
    assert code == 0 and "--from TEXT" in out and "--source" not in out
    code, _, err = cli("convert", "a.jsonl", "-o", "r.jsonl", "--source", "chat")
    assert code == 2 and "--source" in err


def test_a_harbor_trajectory_file(cli: Any, tmp_path: Path) -> None:
    steps = [{"step_id": 1, "source": "user", "message": "Go."}, {"step_id": 2, "source": "agent", "message": "Done."}]
    row = {"schema_version": "ATIF-v1.2", "session_id": "s", "agent": {"name": "a", "version": "1"}, "steps": steps}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trajectory.json").write_text(json.dumps(row, indent=2))
    assert cli("convert", "run", "-o", "r.jsonl").code == 0
    [made] = rows_of(tmp_path / "r.jsonl")
    assert [message["content"] for message in made["messages"]] == ["Go.", "Done."]
    assert made["metadata"]["atif"]["missing"] == ["system"]
