from __future__ import annotations

import gzip
import json
import logging
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent import DataError
from sage.libs.finetune.agent.sources import values
from sage.libs.finetune.agent.sources.files import read_rows
from sage.libs.finetune.agent.sources.strict import DEEPEST, parse

ROWS = [{"n": 1, "text": "Zürich [{,"}, {"n": 2.5, "list": [1, {"a": None}]}, {"n": 3, "text": 'a "quote" \\ é'}]


def rows_of(path):
    return [row for _, row in read_rows(path)]


def places(path):
    return [where.removeprefix(f"{path}:") for where, _ in read_rows(path)]


def lines(path):
    return ["ok" if isinstance(row, dict) else str(row).removeprefix(f"{path}:") for _, row in read_rows(path)]


FORMS = {
    "lines": ("\n".join(map(json.dumps, ROWS)), ["1", "2", "3"]),
    "lines with blanks and CRLF": ("\n\r\n" + "\r\n \r\n".join(map(json.dumps, ROWS)) + "\r\n", ["3", "5", "7"]),
    "array on one line": (json.dumps(ROWS), ["1", "1, value 2", "1, value 3"]),
    "array printed": (json.dumps(ROWS, indent=2), ["2", "6", "15"]),
    "array, a row a line": ("\n[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", ["3", "4", "5"]),
    "objects printed": ("\n".join(json.dumps(row, indent=2) for row in ROWS), ["1", "5", "14"]),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("form", list(FORMS))
def test_every_json_form_gives_the_same_rows_and_where_each_stands(tmp_path, form, mark, packed):
    text, where = FORMS[form]
    content = mark + text.encode()
    path = tmp_path / "rows.anything"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert rows_of(path) == ROWS
    assert places(path) == where


def test_one_object_on_one_line_or_many_is_a_file_of_one_row(tmp_path):
    path = tmp_path / "trajectory.json"
    for indent in (None, 2):
        path.write_text(json.dumps(ROWS[1], indent=indent))
        assert list(read_rows(path)) == [(f"{path}:1", ROWS[1])]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_where_the_buffer_ends_makes_no_difference(tmp_path, monkeypatch, chunk):
    rows = [
        {"a": -1.5e10, "b": [True, False, None], "c": "\u00e9\U0001f600\\", "d": {}},
        17,
        -2.5,
        "x",
        None,
        {"e": 12},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))  # with escapes, in ASCII
    monkeypatch.setattr(values, "_CHUNK", chunk)
    monkeypatch.setattr("sage.libs.finetune.agent.sources.files._FIRST", chunk)
    found = [row if isinstance(row, dict) else str(row).rsplit(" ", 1)[1] for row in rows_of(path)]
    assert found == [rows[0], "int", "float", "str", "NoneType", rows[5]]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    assert [row for row in rows_of(path) if isinstance(row, dict)] == [rows[0], rows[5]]


BAD_LINES = [
    (b'{"a": ', "2: not JSON (Expecting value at character 6); expected one JSON object a line"),
    (b"[1]", "2: expected a JSON object, found list"),
    (b'{"a": NaN}', "2: not JSON (NaN is not a JSON number); expected one JSON object a line"),
    (b'{"a": 1e999}', "2: not JSON (1e999 is too large for a number); expected one JSON object a line"),
    (b'{"a": ' + b"1" * 5000 + b"}", "2: not JSON (11111111111111111111... is too large for a number); expected one"),
    (b'{"a": 1, "b": 2, "a": 3}', "2: not JSON (the name 'a' stands twice in one object); expected one JSON object"),
    (b'{"a": ' + b"[" * 200_000, f"2: not JSON (nested deeper than {DEEPEST} levels)"),
    (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", f"2: not JSON (nested deeper than {DEEPEST} levels)"),
    (b'{"a": "\xff"}', "2: not JSON (no UTF-8 text: byte 0xff at 7)"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_broken_line_is_an_error_in_its_place_and_the_rest_is_read(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    first, second, third = lines(path)
    assert (first, third) == ("ok", "ok")
    assert second.startswith(message)


@pytest.mark.parametrize("first", [b'{"a": ', b"{broken", b'{"a": 1]', b"x"])
def test_a_broken_first_line_does_not_make_the_file_one_object(tmp_path, first):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(first + b'\n{"a": 2}\n{"a": 3}\n')
    assert lines(path)[0].startswith("1: not JSON") and lines(path)[1:] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"a": 1},\n{"a": NaN},\n{"a": 2, "a": 3}, 5,\n{}]', ["ok", "2: not JSON (NaN", "3: not JSON (the name 'a'",
         "3, value 2: expected a JSON object, found int", "ok"]),
        ('[{"a": 1},\n{"b": ]}, {}]', ["ok", "2: not JSON (Expecting value, found ']}, {}]'); what follows was"]),
        ('[{"a": 1}\n{"b": 1}]', ["ok", "2: not JSON (expected ',' or ']' after an element, found '{\"b\": 1}]')"]),
        ('[{"a": 1},\n{"b": 1', ["ok", "2: not JSON (the file breaks off here)"]),
        ('[{"a": 1},\n', ["ok", "2: not JSON (the file breaks off here)"]),
        ('[{"a": 1}\n', ["ok", "2: not JSON (expected ',' or ']' after an element, found the end of the file)"]),
        ('[{"a": "x\n"}]', ["1: not JSON (Invalid control character at, found"]),
        ("[{},\n]", ["ok", "2: not JSON (Expecting value, found ']')"]),
        ("[{}]\n\n{}", ["ok", "3: not JSON (expected nothing after the array, found '{}')"]),
        ("[{},\n" + "[" * 5000, ["ok", f"2: not JSON (nested deeper than {DEEPEST} levels"]),
        ("[{},\n" + "[" * 200 + "]" * 200 + ",{}]", ["ok", f"2: not JSON (nested deeper than {DEEPEST}", "ok"]),
        ('{\n "a": 1,\n "b" 2\n}', ["3: not JSON (Expecting ':' delimiter, found '2')"]),
        ('{\n "a": 1}\nno', ["ok", "3: not JSON (expected an object, found 'no')"]),
    ],
)  # fmt: skip
def test_a_broken_array_is_read_as_far_as_it_goes(tmp_path, text, found):
    path = tmp_path / "rows.json"
    path.write_text(text)
    seen = lines(path)
    assert len(seen) == len(found)
    for line, start in zip(seen, found, strict=True):
        assert line.startswith(start)


def test_bytes_that_are_no_text_in_an_array_are_named_after_the_rows_before_them(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1},\n{"a": 2},\n{"a": "\xff"}]')
    assert lines(path) == ["ok", "ok", "3: not JSON (no UTF-8 text: byte 0xff); what follows was not read"]


@pytest.mark.parametrize("array", [False, True])
def test_a_gzip_file_cut_off_gives_the_rows_before_the_cut_and_one_error(tmp_path, array):
    rows = [{"n": n, "text": str(n * 7919 % 1000)} for n in range(20_000)]
    text = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
    path = tmp_path / "rows.gz"
    path.write_bytes(gzip.compress(text.encode())[:-2000])
    *sound, last = rows_of(path)
    assert 10_000 < len(sound) < 20_000 and sound == rows[: len(sound)]
    assert "the file breaks off here" in str(last) and "what follows was not read" in str(last)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty, it holds no rows"),
        (b" \n\n \t\n", "the file is empty, it holds no rows"),
        (gzip.compress(b""), "the file is empty, it holds no rows"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no text (it holds zero bytes); expected JSON"),
        (gzip.compress(b"PAR1\0\0"), "is no text (it holds zero bytes)"),
        (b"PK\x03\x04rows.jsonl", "is a ZIP archive; expected JSON"),
        (b"\x28\xb5\x2f\xfd....", "is compressed with zstd"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16 text"),
        (b"\x1f\x8b\x08\x00garbage", "cannot be read ("),
    ],
)
def test_a_file_that_is_something_else_is_one_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: there is no such file or folder"):
        list(read_rows(tmp_path / "none.jsonl"))
    (tmp_path / "README.md").write_text("no rows")
    with pytest.raises(DataError, match=r"the folder holds no file to read; expected \.jsonl, "):
        list(read_rows(tmp_path))


def test_a_folder_is_all_its_files_in_order_and_links_out_of_it_are_left_out(tmp_path, caplog):
    folder = tmp_path / "data"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name, n in (("b/c.jsonl.gz", 3), ("a.json", 1), ("b/a.ndjson", 2), (".hidden/x.jsonl", 9), (".x.jsonl", 9)):
        text = json.dumps([{"n": n}]) if name.endswith(".json") else json.dumps({"n": n})
        (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (folder / "notes.txt").write_text("no rows")
    (tmp_path / "secret.jsonl").write_text('{"n": 99}')
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.jsonl")
    with caplog.at_level(logging.WARNING):
        found = list(read_rows(folder))
    assert found == [
        (f"{folder}/a.json:1", {"n": 1}), (f"{folder}/b/a.ndjson:1", {"n": 2}), (f"{folder}/b/c.jsonl.gz:1", {"n": 3})
    ]  # fmt: skip
    assert "link.jsonl: left out, since it is a link out of the folder" in caplog.text
    assert "pipe.jsonl: left out, since it is no file" in caplog.text


@pytest.mark.parametrize("array", [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path, array):
    path = tmp_path / "rows"
    row = json.dumps({"text": "x" * 2000})
    path.write_text("[" + ",".join([row] * 8000) + "]" if array else f"{row}\n" * 8000)  # 16 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 8000
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ['{"a": "' + "x" * 3000 + '"}\n{}', '[{"a": "' + "x" * 9000 + '"}, {}]'])
def test_a_row_without_end_is_not_held_in_memory(tmp_path, monkeypatch, text):
    for module in ("files", "values"):
        monkeypatch.setattr(f"sage.libs.finetune.agent.sources.{module}.LONGEST", 1024)
    monkeypatch.setattr(values, "_CHUNK", 512)
    monkeypatch.setattr("sage.libs.finetune.agent.sources.files._FIRST", 512)
    path = tmp_path / "rows"
    path.write_text(text)
    (line,) = lines(path)
    assert "longer than 0 MiB" in line and "what follows was not read" in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), min_size=1, max_size=4),
    form=st.sampled_from(["lines", "array", "printed array", "printed objects"]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_what_is_written_is_read(tmp_path, rows, form, ascii_only, chunk):
    def text(value, indent=None):
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    written = {
        "lines": "\n".join(map(text, rows)), "array": text(rows), "printed array": text(rows, 1),
        "printed objects": "\n".join(text(row, 1) for row in rows),
    }  # fmt: skip
    assume(rows[0] or form != "printed objects")  # `{}` alone is a whole line, so it says that the file has lines
    path = tmp_path / "rows"
    path.write_bytes(written[form].encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_CHUNK", chunk)
        assert rows_of(path) == rows


def test_numbers_are_read_as_they_are():
    assert parse("[1, 1.0, -0.0, 123456789012345678901234567890, 1e5]") == [
        1,
        1.0,
        -0.0,
        123456789012345678901234567890,
        1e5,
    ]
    assert [type(number) for number in parse("[1, 1.0]")] == [int, float]


def test_a_table_is_told_what_is_read(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n1,2\n")
    with pytest.raises(DataError, match=r"a\.csv: a table has no place for messages and calls; give \.json"):
        next(read_rows(tmp_path / "a.csv"))
