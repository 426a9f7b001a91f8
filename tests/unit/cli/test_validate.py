"""`data validate`, run for real: the table, the exit code, JSON, and the next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import save_tiny
from tests.unit.preflight.rows_of import USER, answer, call, right, row, turn


def write(path: Path, *rows: Any) -> None:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in rows))


def other() -> Any:
    return row({"role": "user", "content": "Hi"}, turn("Hello"), metadata={"success": False})


WRONG = row(USER, turn("", call(q=5)), answer(), turn("12"))


def test_a_clean_file_and_the_next_step(cli: Any, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", right(), other())
    code, out, err = cli("data", "validate", "rows.jsonl")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "2 rows (chat)  rows  share  first lines",
        "---------------------------------------",
        "kept              2   100%",
        "",
        "failed_episode: 1 row of an episode that failed; drop them with `sage-finetune filter`",
        "",
        "next: sage-finetune data validate rows.jsonl --model MODEL",
    ]


def test_a_row_that_fails_is_exit_code_3(cli: Any, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", right(), WRONG, right(), "{broken")
    code, out, err = cli("data", "validate", "rows.jsonl")
    assert code == 3
    assert out.splitlines()[:6] == [
        "4 rows (chat)                                           rows  share  first lines",
        "--------------------------------------------------------------------------------",
        "kept                                                       1  25.0%",
        "unreadable: not a conversation in the form of the file     1  25.0%            4",
        "arguments: arguments do not fit the schema                 1  25.0%            2",
        "duplicate: the same row once more                          1  25.0%            3",
    ]
    assert "arguments: rows.jsonl:2: message 1: call of 'find': q: 5 is not of type 'string'\n" in out
    assert "duplicate: rows.jsonl:3: the same messages and tools as line 1\n" in out
    assert err == (
        "error: data validate: 3 of 4 rows in rows.jsonl fail; mend them, or let their kinds through with --allow "
        "unreadable,arguments,duplicate\n"
    )


def test_allowed_kinds_are_said_and_pass(cli: Any, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", right(), WRONG, "{broken")
    code, out, _ = cli("data", "validate", "rows.jsonl", "--allow", "arguments, unreadable")
    assert code == 0 and "arguments (allowed): " in out and "left out, with nothing to train on" in out
    assert out.endswith("--model MODEL --allow arguments,unreadable\n")
    code, out, err = cli("data", "validate", "rows.jsonl", "--allow", "argumens")
    assert (code, out) == (2, "") and "unknown kind of fault 'argumens'; did you mean 'arguments'?" in err


def test_json_has_everything(cli: Any, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", right(), WRONG)
    code, out, _ = cli("data", "validate", "rows.jsonl", "--json")
    found = json.loads(out)
    assert code == 3 and (found["rows"], found["kept"], found["failed"]) == (2, 1, 1)
    assert found["faults"]["arguments"] == {
        "rows": 1, "first": ["rows.jsonl:2"], "message": "message 1: call of 'find': q: 5 is not of type 'string'",
    }  # fmt: skip
    assert found["model"] is None and found["template"] is None and found["tokens"] is None


def test_with_a_model_the_tokens_are_checked(cli: Any, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    control = row({"role": "user", "content": "Say <|im_end|>"}, turn("ok"))
    write(tmp_path / "rows.jsonl", right(), control)
    code, out, _ = cli("data", "validate", "rows.jsonl", "--model", "tiny", "--from", "chat")
    assert code == 3 and "special_tokens: text that turns into control tokens" in out
    assert "chat template: chatml_tools (compact); " in out and " of them trained, the longest row has " in out
    write(tmp_path / "good.jsonl", right())
    code, out, _ = cli("data", "validate", "good.jsonl", "--model", "tiny")
    assert code == 0 and out.endswith("next: sage-finetune train --base-model tiny --train-data good.jsonl\n")
    found = json.loads(cli("data", "validate", "good.jsonl", "--model", "tiny", "--json").out)
    assert found["tokens"]["total"] > found["tokens"]["trained"] > 0 and found["template"]["tool_format"] == "compact"


def test_what_shortening_drops_is_said(cli: Any, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    write(tmp_path / "rows.jsonl", right())
    longest = json.loads(cli("data", "validate", "rows.jsonl", "--model", "tiny", "--json").out)["tokens"]["longest"]
    code, out, _ = cli("data", "validate", "rows.jsonl", "--model", "tiny", "--max-seq-length", longest - 1)
    assert code == 0 and "shortened: 1 row with exchanges dropped to fit (1 exchanges, " in out
    assert " of them to be trained); raise --max-seq-length to keep them, or split the rows" in out


def test_the_files_of_a_folder_are_told_apart(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.jsonl", right())
    write(tmp_path / "data" / "b.jsonl", WRONG, right())
    code, out, _ = cli("data", "validate", "data")
    assert code == 3 and "b.jsonl:1\n" in out and "b.jsonl:2\n" in out
    assert "duplicate: data/b.jsonl:2: the same messages and tools as data/a.jsonl:1" in out


def test_what_is_no_data_is_one_line(cli: Any) -> None:
    code, out, err = cli("data", "validate", "nowhere.jsonl")
    assert (code, out) == (2, "") and err.startswith("error: data validate: nowhere.jsonl") and err.count("\n") == 1


def test_the_next_step_keeps_what_was_checked(cli: Any, tmp_path: Path) -> None:
    """Training took 2048 tokens and another template than the ones that had been checked; and a file with a blank."""
    save_tiny(tmp_path / "tiny")
    write(tmp_path / "my rows.jsonl", right())
    checked = ("data", "validate", "my rows.jsonl", "--max-seq-length", 300, "--tool-format", "json")
    assert cli(*checked).out.endswith("'my rows.jsonl' --model MODEL --max-seq-length 300 --tool-format json\n")
    assert cli(*checked, "--model", "tiny").out.endswith(
        "train --base-model tiny --train-data 'my rows.jsonl' --max-seq-length 300 --tool-format json\n"
    )
    assert cli(*checked, "--model", "tiny", "--from", "chat").out.endswith(
        "next: sage-finetune convert 'my rows.jsonl' --from chat --to chatml -o OUT.jsonl\n"
    )


def test_what_a_row_says_does_not_reach_the_terminal_as_a_command(cli: Any, tmp_path: Path) -> None:
    """A tool's name with an escape sequence and a line end was printed as it was."""
    save_tiny(tmp_path / "tiny")
    write(tmp_path / "rows.jsonl", row(USER, turn("", call(name="ev\nil\x1b]0;x\x07")), answer(), turn("12")))
    for command in (("validate",), ("validate", "--model", "tiny"), ("preview", "--model", "tiny")):
        code, out, err = cli("data", command[0], "rows.jsonl", *command[1:])
        assert code == 3 and "\x1b" not in out + err and "ev\\nil\\x1b]0;x\\x07" in out
