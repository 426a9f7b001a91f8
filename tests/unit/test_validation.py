"""Whole data sets: bad, good, allowed and left-out rows add up, and the report names the first of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer
from tests.unit.preflight.rows_of import USER, answer, call, right, row, turn

from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.preflight.faults import KINDS
from sage.libs.finetune.agent.validation import ValidationReport, check_rows, validate


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in rows))
    return path


def numbered(number: int) -> Any:
    return row({"role": "user", "content": f"Find {number}."}, turn("", call()), answer(), turn("12"))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    wrong = row(USER, turn("", call(q=5)), answer(), turn("12"))
    silent = row(USER, turn("12", weight=0))
    rows = [right(), wrong, "{broken\n", right(), silent, *map(numbered, range(8))]
    rows += [row(USER, turn("", call(q=n)), answer(), turn("")) for n in range(6)]
    return write(tmp_path / "rows.jsonl", *rows)


def test_kinds_are_counted_with_their_first_lines(mixed: Path) -> None:
    report = validate(mixed)
    counts = {kind: tally.rows for kind, tally in report.found.items()}
    assert counts == {"arguments": 7, "unreadable": 1, "duplicate": 1, "untrained": 1, "empty_turn": 6}
    assert report.found["arguments"].first == [f"{mixed}:{line}" for line in (2, 14, 15, 16, 17)]
    assert report.found["arguments"].message == "message 1: call of 'find': q: 5 is not of type 'string'"
    assert report.found["unreadable"].message.startswith("not JSON")
    assert (report.rows, report.failed, report.left_out, report.kept) == (19, 10, 0, 9)
    assert report.source == "chat" and report.tokens is None


def test_allowed_kinds_fail_nothing_but_what_cannot_be_trained_on_is_left_out(mixed: Path) -> None:
    report = validate(mixed, allow=["arguments", "unreadable", "untrained"])
    assert (report.failed, report.left_out, report.kept) == (7, 2, 10)
    assert list(report.fatal) == ["empty_turn", "duplicate"]
    everything = validate(mixed, allow=[kind.name for kind in KINDS.values() if kind.severity == "fault"])
    assert (everything.failed, everything.left_out, everything.kept, everything.fatal) == (0, 2, 17, {})


def test_an_unknown_kind_is_a_configuration_error(mixed: Path) -> None:
    with pytest.raises(ConfigError, match="unknown kind of fault 'argument'; did you mean 'arguments'"):
        validate(mixed, allow=["argument"])
    with pytest.raises(ConfigError, match="unknown kind of fault 'shortened'"):  # a note needs no leave
        validate(mixed, allow=["shortened"])


def test_with_a_tokenizer_tokens_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *map(numbered, range(5)))
    whole = validate(path, tokenizer=tiny_tokenizer(), max_length=2048)
    assert whole.kept == 5 and whole.tokens and whole.tokens["shortened"] == 0
    assert 0 < whole.tokens["trained"] < whole.tokens["total"] <= 5 * whole.tokens["longest"]
    cut = validate(path, tokenizer=tiny_tokenizer(), max_length=whole.tokens["longest"] - 1)
    assert cut.tokens and cut.tokens["dropped_exchanges"] == cut.tokens["shortened"] == cut.found["shortened"].rows > 0
    assert cut.tokens["total"] + cut.tokens["dropped_tokens"] == whole.tokens["total"]
    assert cut.failed == 0 and cut.kept == 5
    tight = validate(path, tokenizer=tiny_tokenizer(), max_length=16, allow=["too_long"])
    assert (tight.kept, tight.left_out, tight.tokens) == (0, 5, None)


def test_the_report_is_plain_json_and_complete(mixed: Path) -> None:
    record = validate(mixed, allow=["duplicate"]).to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["rows"] == record["kept"] + record["failed"] + record["left_out"] == 19
    assert list(record["faults"]) == ["unreadable", "arguments", "empty_turn", "untrained", "duplicate"]
    assert record["allowed"] == ["duplicate"] and record["notes"] == {} and record["all_compared"] is True


def test_rows_come_one_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *map(numbered, range(70)), "{broken\n")
    rows = check_rows(path)
    assert next(rows).where == f"{path}:1"
    assert [checked.sample is None for checked in rows] == [*[False] * 69, True]


def test_files_that_hold_nothing_or_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        validate(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        validate(tmp_path / "nowhere.jsonl")


def test_other_forms_are_read_and_can_be_named(tmp_path: Path) -> None:
    alpaca = {"instruction": "Say hi.", "input": "", "output": "Hi."}
    path = write(tmp_path / "rows.json", json.dumps([alpaca, {**alpaca, "output": ""}]))
    for source in ("auto", "alpaca"):
        report = validate(path, source)
        assert (report.source, report.rows, report.kept) == ("alpaca", 2, 1)
        assert set(report.found) == {"empty_turn", "no_tools"}


def test_progress_tells_the_line_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.libs.finetune.agent.validation._PACE", 2)
    told: list[tuple[int, int]] = []
    validate(
        write(tmp_path / "rows.jsonl", *map(numbered, range(5))),
        progress=lambda label, done, total, detail="": told.append((done, total)),
    )
    assert told == [(2, 5), (4, 5)]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_embedded_data_set_is_without_fault(split: str) -> None:
    report = validate(f"agent_sft:{split}", tokenizer=tiny_tokenizer(), max_length=2048)
    assert report.found == {} and report.kept == report.rows > 30


def test_a_report_of_many_rows_says_that_duplicates_can_be_missed() -> None:
    assert ValidationReport("a", rows=1_000_000).all_compared and not ValidationReport("a", rows=1_000_001).all_compared
