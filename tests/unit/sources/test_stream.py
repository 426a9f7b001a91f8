from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.sources.foreign import ANTHROPIC_ROW as ANTHROPIC
from tests.unit.sources.foreign import TRAJECTORY_ROW as TRAJECTORY

from sage.libs.finetune.agent import ConfigError, DataError
from sage.libs.finetune.agent.sources.resolve import imported, load_samples
from sage.libs.finetune.agent.sources.stream import import_rows

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
ALPACA = {"instruction": "Say hi", "input": "", "output": "Hi"}
REACT = {
    "instruction": "Where?",
    "output": "Thought: hm\nAction: search[Louvre]\nObservation: Paris\nFinal Answer: Paris",
}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}
TOOLS = [{"name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}]


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def sources(path, **options):
    return [
        row.source if row.sample else str(row.error).removeprefix(f"{path}:") for row in import_rows(path, **options)
    ]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (CHAT, "chat"), (SHAREGPT, "sharegpt"), (ALPACA, "alpaca"), (REACT, "react"), (TRAJECTORY, "trajectory"),
        (ANTHROPIC, "anthropic"), ({"conversations": CHAT["messages"]}, "chat"),
        ({**CHAT, "system": "Be."}, "chat"), ({**CHAT, "system": [{"type": "text", "text": "Be."}]}, "anthropic"),
        ({"messages": [*CHAT["messages"], CALLED]}, "chat"), ({"messages": json.dumps(CHAT["messages"])}, "chat"),
    ],
)  # fmt: skip
def test_the_form_is_found_by_the_rows(tmp_path, row, name):
    assert sources(write(tmp_path / "rows.jsonl", row, row)) == [name, name]


def test_rows_that_tell_less_go_with_those_that_tell_more(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert sources(write(path, CHAT, ANTHROPIC)) == ["anthropic", "anthropic"]
    spoken = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Action: search[x]"}]}
    first, second = sources(write(path, spoken, CHAT))  # neither are the others calls, nor is its call plain text
    assert "looks like react, others like chat" in first and second == "chat"


def test_rows_of_several_forms_name_two_that_differ(tmp_path):
    path = write(tmp_path / "rows.jsonl", CHAT, CHAT, SHAREGPT)
    with pytest.raises(DataError) as caught:
        list(import_rows(path))
    assert str(caught.value) == (
        f"{path}:1: the row looks like chat, {path}:3 like sharegpt; "
        "put rows of one form in a file, or give --from NAME"
    )
    spoken = {"messages": [CHAT["messages"][0], {"role": "assistant", "content": "Action: search[x]"}]}
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the row looks like react, .*rows\.jsonl:3 like sharegpt"):
        list(import_rows(write(path, spoken, CHAT, SHAREGPT)))
    write(path, CHAT, CHAT, SHAREGPT)
    assert sources(path, source="chat")[:2] == ["chat", "chat"]
    first, _, third = sources(path, source="sharegpt")
    assert first.startswith("1: messages[0].from: expected one of human, user, gpt") and third == "sharegpt"


def test_rows_of_no_form_list_the_known_ones(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"text": "x"})
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: a row of no known form \(it has text\); known are trajectory: "
    ) as caught:
        list(import_rows(path))
    for name in ("chat", "anthropic", "sharegpt", "alpaca", "react", "fireact", "atif"):
        assert f"; {name}: " in str(caught.value)
    with pytest.raises(ConfigError, match="unknown form of rows 'sharegtp'; did you mean 'sharegpt'"):
        list(import_rows(path, "sharegtp"))


def test_a_bad_row_is_an_error_in_its_place_wherever_it_stands(tmp_path):
    path = write(tmp_path / "rows.jsonl", "{broken", {"text": "x"}, {"messages": []}, *[CHAT] * 70, SHAREGPT, "{", CHAT)
    found = sources(path)
    assert found[3:73] == ["chat"] * 70 and found[75] == "chat"
    assert found[0].startswith("1: not JSON")
    assert found[1].startswith("2: field 'messages': expected a non-empty list of chat messages (the row has text)")
    assert found[2].startswith("3: field 'messages'")
    assert found[73].startswith("74: conversations[0].role: expected one of")
    assert found[74].startswith("75: not JSON")


def test_a_file_of_broken_lines_is_an_error_a_line_or_one_when_there_is_no_end_of_them(tmp_path):
    path = write(tmp_path / "rows.jsonl", "x", "y")
    assert [(row.source, row.sample) for row in import_rows(path)] == [("", None)] * 2
    write(path, *["a,b"] * 1000)
    with pytest.raises(
        DataError, match=r"none of the first 1000 rows is a JSON object; the first: .*rows\.jsonl:1: not JSON"
    ):
        list(import_rows(path))


def test_tools_given_beside_the_file_serve_rows_that_have_none_or_inferred_ones(tmp_path):
    own = [{"type": "function", "function": {"name": "f"}}]
    path = write(tmp_path / "rows.jsonl", CHAT, {**CHAT, "tools": own})
    first, second = (row.sample["tools"] for row in import_rows(path, tools=TOOLS))
    assert first == [{"type": "function", "function": TOOLS[0]}] and second == own
    (row,) = import_rows(write(path, REACT))
    assert row.sample["metadata"]["tools_inferred"] is True
    (row,) = import_rows(path, tools=TOOLS)
    assert "tools_inferred" not in row.sample["metadata"]
    assert row.sample["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"query": "Louvre"}
    assert row.sample["tools"] == first
    with pytest.raises(DataError, match=r"tools: tools\[0\]: expected"):
        list(import_rows(path, tools=[{"description": "no name"}]))


def test_an_error_is_one_line_whatever_the_row_holds(tmp_path):
    path = write(tmp_path / "rows.jsonl", {**TRAJECTORY, "a\nb\ud800\x1b[31m": 1})
    (row,) = import_rows(path)
    assert str(row.error).startswith(f"{path}:1: unknown field 'a\\nb\\ud800\\x1b[31m'; known are ")


def test_a_row_nested_deep_in_text_within_text_is_an_error(tmp_path):
    deep = '{"a": ' + "[" * 5000 + "]" * 5000 + "}"
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": deep}}],
    }
    (row,) = import_rows(write(tmp_path / "rows.jsonl", {"messages": [call]}))
    assert "messages[0].tool_calls[0].arguments: is not valid JSON: nested deeper than 100 levels" in str(row.error)


def test_references_of_both_kinds_come_with_their_bad_rows(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.jsonl", SHAREGPT, "{broken")
    (tmp_path / "data.yaml").write_text("mine:\n  train: rows.jsonl\n")
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data.yaml"))
    for reference in (path, "mine:train"):
        good, bad = imported(reference)
        assert good.sample["messages"][1]["content"] == "Hello" and bad.where == f"{path}:2"
        with pytest.raises(DataError, match=r"rows\.jsonl:2: not JSON"):
            load_samples(reference)
    assert [row.source for row in imported("agent_sft:dev")][:2] == ["chat", "chat"]


def test_a_file_of_trajectories_can_be_trained_on(tmp_path):
    (sample,) = load_samples(write(tmp_path / "rows.jsonl", TRAJECTORY))
    assert sample["metadata"]["task_id"] == "t" and sample["messages"][0]["content"] == "Where?"


def test_detection_holds_few_rows_in_memory(tmp_path):
    path = write(tmp_path / "rows.jsonl", *[CHAT] * 500)
    rows = import_rows(path)
    next(rows)
    assert sum(1 for _ in rows) == 499


@pytest.mark.parametrize("at", [0, 3, 100])
def test_react_text_among_plain_rows_is_an_error_wherever_it_stands(tmp_path: Path, at: int) -> None:
    plain = {"instruction": "Q", "input": "", "output": "A"}
    rows = [plain] * 100
    rows.insert(at, {**plain, "output": "Action: search[x]\nObservation: y\nAction: finish[z]"})
    (path := tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [bad] = [row for row in import_rows(path) if row.error]
    assert str(bad.error).startswith(f"{path}:{at + 1}: the row looks like react, others like alpaca; ")
