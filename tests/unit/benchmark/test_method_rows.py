"""What methods train on: the same rows to choose from, and rows of each task that none of them sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.benchmark.grids import settings_in, spec_of, write_rows

from sage.benchmark.benchmark_agent.experiments.method_comparison.cost import Costs
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import MethodRegistry
from sage.benchmark.benchmark_agent.experiments.method_comparison.rows import (
    MethodRows,
    given_rows,
    method_rows,
    require_tasks,
)
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.jsonl import read_jsonl
from sage.libs.finetune.agent.progress import silent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    settings_in(folder)
    return folder


def rows_of(home: Path, out: Path, method: str, **changed: Any) -> MethodRows:
    return method_rows(spec_of(home, method, **changed), out / "rows", Costs(out / "costs.json"), silent)


def prompts(path: Path) -> list[str]:
    return [row["messages"][0]["content"] for _, row in read_jsonl(path)]


def test_all_methods_are_given_the_same_rows_and_none_that_forgetting_is_measured_on(
    home: Path, tmp_path: Path
) -> None:
    [everything] = rows_of(home, tmp_path / "a", "A_baseline").files
    stream = rows_of(home, tmp_path / "c", "C_continual").files
    assert [file.task for file in stream] == ["tools", "plans"]
    trained = [prompt for file in stream for prompt in prompts(file.path)]
    held_out = [prompt for file in stream if file.held_out for prompt in prompts(file.held_out)]
    assert sorted(prompts(everything.path)) == sorted(trained)
    assert (len(trained), len(held_out), set(trained) & set(held_out)) == (16, 4, set())
    assert everything.counted.rows == 16 and everything.counted.tokens == sum(file.counted.tokens for file in stream)


def test_rows_with_the_prompt_of_a_held_out_one_are_no_training_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    path.write_text(path.read_text() * 2)
    config = ComparisonConfig(train_data=str(path), stream_items=1)
    rows, held_out = given_rows(config)
    said = [json.dumps(row["messages"][0]) for row in rows]
    assert not {json.dumps(row["messages"][0]) for part in held_out.values() for row in part} & set(said)
    assert len(rows) == 36


def test_a_fifth_of_a_task_is_held_out_at_most_and_rows_without_tasks_are_all_given(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl", each=10))
    _, held_out = given_rows(ComparisonConfig(train_data=path, stream_items=16))
    assert {task: len(part) for task, part in held_out.items()} == {"tools": 2, "plans": 2}
    rows, _ = given_rows(ComparisonConfig(train_data=path, train_rows=5))
    assert len(rows) == 5
    plain = str(write_rows(tmp_path / "plain.jsonl", tasks=(None,)))
    rows, held_out = given_rows(ComparisonConfig(train_data=plain))
    assert (len(rows), held_out) == (10, {})


def test_a_coreset_is_no_larger_than_its_share_and_says_what_it_read(home: Path, tmp_path: Path) -> None:
    chance = rows_of(home, tmp_path / "b4", "B4_coreset_random")
    assert (chance.given, chance.used, chance.scored_tokens) == (16, 6, 0)
    by_loss = rows_of(home, tmp_path / "b1", "B1_coreset_loss")
    [everything] = rows_of(home, tmp_path / "a", "A_baseline").files
    assert (by_loss.used, by_loss.scored_tokens) == (6, everything.counted.tokens)
    each = rows_of(home, tmp_path / "d", "D_combined")
    assert [file.counted.rows for file in each.files] == [3, 3]
    assert "select" in Costs(tmp_path / "d" / "costs.json").seconds


def test_what_was_collected_is_counted_with_what_was_thrown_away(home: Path, tmp_path: Path) -> None:
    found = rows_of(home, tmp_path, "E_fireact", max_seq_length=2048)
    assert found.given == 8 and 0 < found.used < 8
    assert found.collected_tokens > found.files[0].counted.tokens


def test_rows_are_written_once(home: Path, tmp_path: Path) -> None:
    first = rows_of(home, tmp_path, "B4_coreset_random")
    written = first.files[0].path.stat().st_mtime_ns
    assert rows_of(home, tmp_path, "B4_coreset_random") == first
    assert first.files[0].path.stat().st_mtime_ns == written


def test_a_task_may_have_any_name(home: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", tasks=("../up", "a b"))
    files = rows_of(home, tmp_path, "C_continual", train_data=str(path)).files
    assert [file.path for file in files] == [tmp_path / "rows" / "01-..-up.jsonl", tmp_path / "rows" / "02-a-b.jsonl"]


@pytest.mark.parametrize(
    ("method", "tasks", "each", "said"),
    [
        ("C_continual", (None,), 10, "at least two tasks"),
        ("F_agenttuning", ("tools",), 10, "at least two tasks"),
        ("D_combined", ("tools", "plans"), 4, "fewer than 5 rows"),
        ("F_agenttuning", ("tools", "plans"), 10, "mixes agent tasks with general ones"),
    ],
)
def test_a_method_says_what_rows_it_needs(tmp_path: Path, method: str, tasks: Any, each: int, said: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", each, tasks)
    rows, held_out = given_rows(ComparisonConfig(train_data=str(path)))
    with pytest.raises(ConfigError, match=said):
        require_tasks(MethodRegistry.get(method), rows, held_out)
