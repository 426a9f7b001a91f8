from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)  # each example is synced to disk
@given(rows=st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=4))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    jsonl.write_jsonl(path, rows)
    assert list(jsonl.read_jsonl(path)) == list(enumerate(rows, start=1))
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_golden_bytes(tmp_path: Path) -> None:
    jsonl.write_jsonl(tmp_path / "a.jsonl", [{"city": "Zürich", "n": 1}, {"line": "a\u2028b"}])
    assert (tmp_path / "a.jsonl").read_bytes() == '{"city": "Zürich", "n": 1}\n{"line": "a\u2028b"}\n'.encode()
    jsonl.write_json(tmp_path / "new" / "a.json", {"n": [1]})
    assert (tmp_path / "new" / "a.json").read_text() == '{\n  "n": [\n    1\n  ]\n}\n'
    jsonl.write_text(tmp_path / "a.txt", "ä\r\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\r\n"
    assert jsonl.sha256(tmp_path / "a.txt") == hashlib.sha256(b"\xc3\xa4\r\n").hexdigest()


def test_blank_lines_are_skipped_but_counted_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert list(jsonl.read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', "not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is too large for a number"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": ' + b"[" * 200_000, "not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        list(jsonl.read_jsonl(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read") as caught:
            list(jsonl.read_jsonl(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, "\ud800"])
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path, value: object) -> None:
    path = tmp_path / "rows.jsonl"
    jsonl.write_jsonl(path, [{"old": 1}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: cannot be written"):
        jsonl.write_jsonl(path, [{"new": 1}, {"new": value}])
    with pytest.raises(DataError, match="cannot be written"):
        jsonl.write_json(path, {"new": value})
    assert list(jsonl.read_jsonl(path)) == [(1, {"old": 1})]
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_is_named_before_and_while_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path, "is a directory; give a file"),
        (tmp_path / "file" / "a.json", "file is no folder"),
    ):
        for write in (jsonl.check_output, lambda path: jsonl.write_json(path, {})):
            with pytest.raises(DataError, match=message) as caught:
                write(path)
            assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be written"):
        jsonl.JsonlAppender(tmp_path)
    jsonl.check_output(tmp_path / "new" / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_while_writing_names_the_file_and_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl.write_json(tmp_path / "a.json", 1)
    monkeypatch.setattr(jsonl.os, "access", lambda *_: False)
    with pytest.raises(DataError, match=r"a\.json: cannot be written \(no permission to write in "):
        jsonl.write_json(tmp_path / "a.json", 2)
    monkeypatch.undo()
    monkeypatch.setattr(jsonl.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match=r"a\.json: cannot be written \(No space left on device\)"):
        jsonl.write_json(tmp_path / "a.json", 2)
    assert jsonl.read_json(tmp_path / "a.json") == 1 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("cut", range(1, 12))
def test_the_appender_drops_what_a_killed_writer_left(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + b'{"n": "zw\xc3\xb6lf"}'[:cut])
    with jsonl.JsonlAppender(path) as rows:
        assert rows.dropped == cut
        rows.append({"n": 3})
    assert list(jsonl.read_jsonl(path)) == [(1, {"n": 1}), (2, {"n": 3})]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b'{"n": 9}\n'),
        (b"\n", b'\n{"n": 9}\n'),
        (b'{"n": 1}', b'{"n": 1}\n{"n": 9}\n'),  # whole, only its line end is missing
        (b'{"n": ', b'{"n": 9}\n'),
        (b'{"n": "' + b"x" * 200_000, b'{"n": 9}\n'),  # longer than one block read backwards
        (b'{"n": 1}\n{"n": "' + b"x" * 200_000, b'{"n": 1}\n{"n": 9}\n'),
    ],
)
def test_the_appender_continues_a_file(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before)
    kept = len(after) - len(b'{"n": 9}\n')
    with jsonl.JsonlAppender(path) as rows:
        assert rows.dropped == max(len(before) - kept, 0)
        rows.append({"n": 9})
        assert path.read_bytes() == after  # on disk before the file is closed
    assert path.read_bytes() == after


def test_a_row_that_cannot_be_written_leaves_no_part_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with jsonl.JsonlAppender(path) as rows:
        rows.append({"n": 1})
        with pytest.raises(DataError):
            rows.append({"n": math.nan})
        rows.append({"n": 2})
    assert [row["n"] for _, row in jsonl.read_jsonl(path)] == [1, 2]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (link := tmp_path / "rows.jsonl").symlink_to(tmp_path / "elsewhere" / "rows.jsonl")
    jsonl.write_jsonl(link, [{"n": 1}])
    assert link.is_symlink() and list(jsonl.read_jsonl(tmp_path / "elsewhere" / "rows.jsonl")) == [(1, {"n": 1})]
