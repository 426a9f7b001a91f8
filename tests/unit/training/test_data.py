"""Rows are checked before they are trained on: one line that stops, or a count of what was let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTTrainer, ConfigError, DataError
from sage.libs.finetune.agent.tokenization import render as render_module
from sage.libs.finetune.agent.training.data import TokenRows, token_rows, trained_tokens
from sage.libs.finetune.agent.validation import validate

WORDS = ["desk", "lamp", "chair", "sofa"]


def rows(*extra: Any) -> list[Any]:
    return [*(conversation(word, str(index)) for index, word in enumerate(WORDS)), *extra]


def misfit() -> Any:
    row = conversation("bed", "9")
    row["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"q": 5}
    return row


def untrained() -> Any:
    row = conversation("door", "9")
    for message in row["messages"]:
        message["weight"] = 0
    return row


@pytest.fixture
def load(tmp_path: Path):
    def read(data: list[Any], max_length: int = 512, allow: Any = (), truncation: str = "drop") -> TokenRows:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in data))
        return token_rows(str(path), tiny_tokenizer(), max_length, frozenset(allow), truncation=truncation)

    return read


def test_right_rows_are_all_taken(load: Any) -> None:
    data = load(rows())
    assert len(data.rows) == len(data.samples) == data.manifest["rows"] == data.manifest["rows_read"] == 4
    assert data.manifest["found"] == {} and data.manifest["allowed"] == [] and data.manifest["rows_left_out"] == 0
    assert data.manifest["tokens"] == sum(len(row["input_ids"]) for row in data.rows)
    assert data.manifest["longest_row"] == max(len(row["input_ids"]) for row in data.rows)


def test_a_faulty_row_stops_with_one_line(load: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(rows(misfit(), misfit(), "{broken"))
    path = tmp_path / "rows.jsonl"
    first, _, rest = str(caught.value).partition("; first ")
    fault, _, remedy = rest.partition("; run ")
    assert first == "3 of 7 rows are not fit to train on: unreadable (1), arguments (2), duplicate (1)"
    assert fault.startswith(f"{path}:7: not JSON (Expecting property name enclosed in double quotes at character 2)")
    assert remedy == (
        f"`sage-finetune data validate {path} --model MODEL --max-seq-length 512` for the rest, or let them through "
        "with --allow "
        "unreadable,arguments,duplicate"
    )


def test_an_allowed_kind_is_trained_on_and_warned_about_once(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    second = misfit()
    second["messages"][0]["content"] = "Find another."
    data = load(rows(misfit(), second), allow=["arguments"])
    assert len(data.rows) == 6 and data.manifest["found"] == {"arguments": 2}
    assert data.manifest["allowed"] == ["arguments"]
    [line] = [record.getMessage() for record in caplog.records]
    assert "2 of 6 rows have the allowed fault arguments (arguments do not fit the schema), first" in line
    assert "rows.jsonl:5: message 1: call of 'find': q: 5 is not of type 'string'" in line


def test_allowed_rows_that_train_nothing_are_left_out(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    long, greeting = conversation("bed " * 400, "9"), conversation("rug", "9")
    greeting["messages"].insert(0, {"role": "assistant", "content": "Hi."})
    allowed = ["unreadable", "untrained", "too_long", "template", "roles"]
    data = load(rows("{broken", untrained(), long, greeting), allow=allowed)
    assert (data.manifest["rows"], data.manifest["rows_read"], data.manifest["rows_left_out"]) == (4, 8, 4)
    assert data.manifest["found"] == dict.fromkeys(["unreadable", "roles", "untrained", "template", "too_long"], 1)
    assert "4 of 8 rows are left out: nothing of them can be trained on" in caplog.text
    assert [sample["messages"][0]["content"] for sample in data.samples] == [f"Find {word}." for word in WORDS]


def test_weights_reach_the_rows_that_are_trained(load: Any) -> None:
    """Without them each of these turns would count fully, and nothing would say so."""
    weighted = conversation("bed", "9")
    next(message for message in weighted["messages"] if message["role"] == "assistant")["weight"] = 0.25
    plain, row = load([conversation("rug", "9"), weighted]).rows
    assert "weights" not in plain and set(row["weights"]) == {0.0, 0.25, 1.0}
    assert [weight > 0 for weight in row["weights"]] == [label != -100 for label in row["labels"]]


def test_nothing_left_is_an_error_that_says_why(load: Any) -> None:
    with pytest.raises(DataError, match=r"none of the 1 rows has a trained token: untrained \(1\)"):
        load([untrained()], allow=["untrained"])


def test_shortened_rows_are_counted(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    longest = load(rows()).manifest["longest_row"]
    data = load(rows(), max_length=longest - 1)
    manifest = data.manifest
    assert manifest["rows"] == 4 and manifest["rows_shortened"] >= 1 and manifest["messages_dropped"] >= 2
    assert manifest["exchanges_dropped"] >= 1 and manifest["tokens_dropped"] >= 1
    assert f"{manifest['rows_shortened']} of 4 rows were shortened to fit and lose" in caplog.text


def test_each_row_is_rendered_once(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []
    honest = render_module.render
    monkeypatch.setattr(
        "sage.libs.finetune.agent.preflight.tokens.render",
        lambda sample, tokenizer: rendered.append(sample) or honest(sample, tokenizer),
    )
    load(rows())
    assert len(rendered) == 4


def test_training_takes_what_validate_keeps(load: Any, tmp_path: Path) -> None:
    allow = ["arguments", "unreadable"]
    data = load(rows(misfit(), "{broken"), allow=allow)
    report = validate(tmp_path / "rows.jsonl", tokenizer=tiny_tokenizer(), max_length=512, allow=allow)
    assert report.kept == len(data.rows) == 5 and report.tokens["trained"] == data.manifest["tokens_trained"]


def test_training_reads_allow_from_its_settings(make_config: Any, rows_file: Path) -> None:
    rows_file.write_text("".join(json.dumps(row) + "\n" for row in rows(misfit())))
    with pytest.raises(DataError, match=r"1 of 5 rows are not fit to train on: arguments \(1\); first .*rows.jsonl:5"):
        AgentSFTTrainer(make_config()).train()
    result = AgentSFTTrainer(make_config("b", max_steps=1, allow="arguments")).train()
    manifest = json.loads((result.output_dir / "data.json").read_text())["train"]
    assert manifest["rows"] == 5 and manifest["found"] == {"arguments": 1}
    with pytest.raises(ConfigError, match="unknown kind of fault 'argument'; did you mean 'arguments'"):
        AgentSFTTrainer(make_config("c", allow="argument"))


def test_eval_data_is_checked_too(make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps(misfit()) + "\n")
    with pytest.raises(DataError, match=r"not fit to train on: arguments \(1\); first .*eval.jsonl:1"):
        AgentSFTTrainer(make_config(eval_data=str(tmp_path / "eval.jsonl"))).train()


def test_windows_train_each_turn_of_a_long_row_once(load: Any) -> None:
    long = conversation("bed", "9")
    for word in WORDS:
        turns = json.loads(json.dumps(conversation(word, "8")).replace("call_1", f"call_{word}"))
        long["messages"] += turns["messages"]
    [whole] = load([long], max_length=4096).rows
    data = load([long], len(whole["input_ids"]) * 2 // 3, truncation="windows")
    assert len(data.rows) == len(data.samples) == data.manifest["rows"] > 1 == data.manifest["rows_read"]
    assert sum(map(trained_tokens, data.rows)) == trained_tokens(whole)
    assert data.manifest["found"] == {"split": 1} and data.manifest["rows_shortened"] == 0
    assert data.manifest["tokens"] == sum(len(row["input_ids"]) for row in data.rows)
    shortened = load([long], len(whole["input_ids"]) * 2 // 3).manifest
    assert shortened["found"] == {"shortened": 1} and shortened["trained_tokens_lost"] > 0
