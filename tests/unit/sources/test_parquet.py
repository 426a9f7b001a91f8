from __future__ import annotations

import datetime
import sys

import pytest

from sage.libs.finetune.agent import ConfigError, DataError
from sage.libs.finetune.agent.sources.files import read_rows
from sage.libs.finetune.agent.sources.stream import import_rows

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'parquet')")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra 'parquet')")


def write(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def called(name, **arguments):
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "ok", "tool_call_id": "c1"},
        ]
    }


def test_arguments_that_arrow_padded_with_nulls_come_out_as_they_went_in(tmp_path):
    """https://github.com/huggingface/datasets/issues/7617: each call gets the arguments of every other tool."""
    path = write(tmp_path / "rows.parquet", [called("search", query="x"), called("book", seats=2, day={"name": "Mon"})])
    padded = parquet.read_table(path).to_pylist()[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert padded == {"query": "x", "seats": None, "day": None}
    found = [row.sample["messages"][1]["tool_calls"][0]["function"]["arguments"] for row in import_rows(path)]
    assert found == [{"query": "x"}, {"seats": 2, "day": {"name": "Mon"}}]
    assert [where for where, _ in read_rows(path)] == [f"{path}:row 1", f"{path}:row 2"]


def test_a_map_is_an_object(tmp_path):
    kind = pyarrow.map_(pyarrow.string(), pyarrow.int64())
    table = pyarrow.table({"a": pyarrow.array([[("x", 1), ("y", None)], []], kind)})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert [row for _, row in read_rows(tmp_path / "a.parquet")] == [{"a": {"x": 1}}, {"a": {}}]


def test_dates_become_text_and_what_json_cannot_hold_is_an_error_in_its_place(tmp_path):
    rows = [{"at": datetime.date(2026, 1, 2), "x": 1.5, "raw": None}, {"at": None, "x": float("nan"), "raw": None}]
    path = write(tmp_path / "a.parquet", [*rows, {"at": None, "x": 1.0, "raw": b"\0"}])
    (_, first), (_, second), (_, third) = read_rows(path)
    assert first == {"at": "2026-01-02", "x": 1.5}
    assert str(second) == f"{path}:row 2: x: nan is not a JSON number"
    assert str(third) == f"{path}:row 3: raw: expected text, numbers, lists or objects, found bytes"


def test_rows_in_several_groups_are_counted_through(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"n": list(range(300))}), path, row_group_size=70)
    found = list(read_rows(path))
    assert [row["n"] for _, row in found] == list(range(300)) and found[-1][0] == f"{path}:row 300"


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + b"garbage\n" * 20)
    with pytest.raises(DataError, match=r"rows\.parquet:row 1: the Parquet file is damaged \(") as caught:
        list(read_rows(path))
    assert "\n" not in str(caught.value)


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.parquet", [{"n": 1}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow, which is missing; run pip install 'sage-libs\[parquet\]'"):
        list(read_rows(path))
