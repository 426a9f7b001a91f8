import json
from importlib.metadata import EntryPoint

import pytest

from sage.libs.finetune.agent import ConfigError, DataError
from sage.libs.finetune.agent.sources.resolve import known_data, load_samples
from sage.libs.finetune.agent.sources.rows import read_sample

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def test_agent_sft_splits_are_disjoint_and_convert():
    rows = {split: load_samples(f"agent_sft:{split}") for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in rows.items()}["test"] == 64
    asked = {
        split: {next(m["content"] for m in row["messages"] if m["role"] == "user") for row in found}
        for split, found in rows.items()
    }
    assert len(asked["train"]) > 150
    assert not asked["train"] & asked["test"] and not asked["train"] & asked["dev"] and not asked["dev"] & asked["test"]


def test_an_unknown_split_or_name_lists_the_known_ones():
    with pytest.raises(DataError, match="train, dev, test"):
        load_samples("agent_sft:valid")
    with pytest.raises(ConfigError, match="did you mean 'agent_sft'"):
        load_samples("agent_stf:train")


def test_a_yaml_file_registers_data_sets_relative_to_itself(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "data.yaml").write_text("mine:\n  train: rows.jsonl\n")
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data.yaml"))
    assert load_samples("mine:train")[0]["messages"][1]["content"] == "Hello"
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        load_samples("mine:test")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + '\n\n{"messages": []}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:3: field 'messages'"):
        load_samples("mine:train")
    (tmp_path / "data.yaml").write_text("mine: rows.jsonl\n")
    with pytest.raises(DataError, match="expected a mapping of split to file"):
        known_data()


def test_a_file_that_is_missing_empty_or_broken_is_one_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        load_samples(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        load_samples(path)
    path.write_text((json.dumps(ROW) + "\n") * 6 + "{broken\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:7: not JSON"):
        load_samples(path)


def test_a_row_of_an_entry_point_is_named_by_number(monkeypatch):
    point = EntryPoint(name="mine", value="builtins:list", group="sage.finetune.data")  # the rows are 'a' and 'b'
    monkeypatch.setattr("sage.libs.finetune.agent.sources.resolve.entry_points", lambda group: [point])
    with pytest.raises(DataError, match="mine:ab, row 1: expected an object with 'messages', found str"):
        load_samples("mine:ab")


def call(arguments):
    return {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}]}


def tool(**fields):
    return {**ROW, "tools": [{"type": "function", "function": {"name": "f", **fields}}]}


def weighted(weight):
    return {"messages": [{"role": "assistant", "content": "Hi", "weight": weight}]}


def test_arguments_may_be_json_text_and_come_out_as_a_dict():
    row = read_sample({"messages": [{"role": "user", "content": "Hi"}, call('{"q": 1}')]}, "f:1")
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"q": 1}
    assert row["messages"][1]["content"] == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "field 'messages': expected a non-empty list"),
        ({"messages": []}, "field 'messages'"),
        ({"instruction": "x", "steps": []}, r"the row has instruction, steps"),
        ({"messages": ["Hi"]}, r"messages\[0\]: expected an object"),
        ({"messages": [{"role": "bot", "content": ""}]}, r"messages\[0\].role: expected one of"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\].content: expected text or null, found int"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no assistant turn"),
        ({"messages": [call("{broken")]}, r"messages\[0\].tool_calls\[0\].function.arguments: is not valid JSON"),
        ({"messages": [call([1])]}, r"arguments: expected an object, found list"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f"}]}]}, r"tool_calls\[0\]: expected"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [1]}]}, "only the assistant calls tools"),
        ({**ROW, "tools": {"f": 1}}, "tools: expected a list"),
        ({**ROW, "tools": [{"name": "f"}]}, r"tools\[0\]: expected"),
        (tool(name=["f"]), r"tools\[0\].function.name: expected the tool's name, found \['f'\]"),
        (tool(parameters=["q"]), r"tools\[0\].function.parameters: expected a JSON schema object, found list"),
        (tool(parameters={"properties": ["q"]}), r"parameters.properties: expected an object, found list"),
        ({"messages": [call('{"q": 1e999}')]}, r"arguments: is not valid JSON: 1e999 is too large"),
        ({"messages": [{"role": "assistant", "content": "\ud83d!"}]}, r"messages\[0\].content: holds half a character"),
        ({**ROW, "metadata": {"\ud83d": [1]}}, r"metadata, names of its fields\[0\]: holds half a character"),
        (weighted(True), r"messages\[0\].weight: expected a finite number from 0 up, found True"),
        (weighted(-0.5), r"messages\[0\].weight: .*found -0.5"),
        (weighted("1"), r"messages\[0\].weight: .*found '1'"),
        (weighted(float("nan")), r"messages\[0\].weight: .*found nan"),
        (["messages"], "expected an object with 'messages', found list"),
    ],
)
def test_a_faulty_row_names_file_line_and_field(row, message):
    with pytest.raises(DataError, match=rf"f\.jsonl:3: .*{message}"):
        read_sample(row, "f.jsonl:3")
