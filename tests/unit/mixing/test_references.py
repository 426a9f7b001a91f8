"""Data sets with weights as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.mixing.references import names_a_mix, read_reference, read_references, task_weights


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("agent_sft:train", ("agent_sft", "agent_sft:train", None)),
        ("agent_sft:train:0.2", ("agent_sft", "agent_sft:train", 0.2)),
        ("data/my.rows.jsonl.gz:3", ("my.rows", "data/my.rows.jsonl.gz", 3.0)),
        (" desk=agent_sft:train:1e-1 ", ("desk", "agent_sft:train", 0.1)),
        ("folder/rows:.5", ("rows", "folder/rows", 0.5)),
        ("a=b/c.jsonl", ("a", "b/c.jsonl", None)),
        ("a.jsonl:-1", ("a", "a.jsonl", -1.0)),
        ("a.jsonl : 2", ("a", "a.jsonl", 2.0)),
    ],
)
def test_one_item(text: str, expected: tuple[str, str, float | None]) -> None:
    item = read_reference(text)
    assert (item.name, item.reference, item.weight) == expected


def test_a_file_of_that_name_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl:0.5", "a,b.jsonl", "x=y.jsonl"):
        Path(name).touch()
        assert not names_a_mix(name)
        assert read_references(name)[0].reference == name
    assert read_reference("rows.jsonl:0.5:2").weight == 2
    assert read_reference("x=y.jsonl:2").reference == "x=y.jsonl"


def test_many_items_are_no_file_name() -> None:
    assert len(read_references(",".join(f"file{number}.jsonl:1" for number in range(600)))) == 600


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="an item of the list is empty"):
        read_references("a.jsonl:1,,b.jsonl:1")
    with pytest.raises(ConfigError, match=r"x/a.jsonl and y/a.jsonl are both called 'a'; name one of them"):
        task_weights(read_references("x/a.jsonl:1, y/a.jsonl:1"), "weighted")
    with pytest.raises(ConfigError, match=r"b.jsonl: a weight is missing .* balanced, proportional, temperature"):
        task_weights(read_references("a.jsonl:1, b.jsonl"), "weighted")
