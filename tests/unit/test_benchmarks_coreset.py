"""The flawed pool has the flaws it says, and what the runs come to is computed right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.selection.texts import sample_text
from sage.libs.finetune.agent.validation import check_rows

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a benchmark is run as a script: its folder comes first."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def request(row: dict[str, Any]) -> str:
    return next(str(message["content"]) for message in row["messages"] if message["role"] == "user")


def of_flaw(rows: list[dict[str, Any]], flaw: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["metadata"]["flaw"] == flaw]


def test_flaws_come_in_the_shares_asked_for_and_are_seeded() -> None:
    from flawed_pool import flaw_counts, flawed_pool

    pool = flawed_pool(200, seed=3)
    assert flaw_counts(pool) == {"clean": 130, "near_duplicate": 40, "corrupted": 20, "gibberish": 10}
    assert flawed_pool(200, seed=3) == pool != flawed_pool(200, seed=4)
    assert len({request(row) for row in pool}) == 200
    families = [row["metadata"]["task_type"] for row in pool]
    assert families.count("orders") > families.count("calendar") > families.count("files") > families.count("units")
    with pytest.raises(ConfigError, match="20 rows or more"):
        flawed_pool(19)


def test_each_flaw_is_what_it_says() -> None:
    from flawed_pool import flaw_counts, flawed_pool, held_out_rows

    pool = flawed_pool(200)
    copies = of_flaw(pool, "near_duplicate")
    assert flaw_counts(copies)["clean"] == len({row["metadata"]["task_id"] for row in copies})  # the first of each
    truth = {row["metadata"]["task_id"]: row for row in of_flaw(pool, "clean")}
    for copy in copies:
        original = truth[copy["metadata"]["task_id"]]
        assert request(original) in request(copy) != request(original)
        assert copy["messages"][2:] == original["messages"][2:]
    for row in of_flaw(pool, "gibberish"):
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert all(any("tool_calls" in message for message in row["messages"]) for row in of_flaw(pool, "corrupted"))
    assert {row["metadata"]["flaw"] for row in held_out_rows(20)} == {"clean"}
    assert not {request(row) for row in pool} & {request(row) for row in held_out_rows(60)}


def test_corrupted_calls_differ_from_the_experts() -> None:
    import random

    from flawed_pool import _calls, _corrupt, flawed_pool

    rng = random.Random(0)
    for row in [row for row in of_flaw(flawed_pool(60), "clean") if _calls(row)]:
        before = json.dumps(row)
        calls = zip(_calls(row), _calls(_corrupt(row, rng)), strict=True)
        assert sum(call != other for (call, _), (other, _) in calls) == 1
        assert json.dumps(row) == before


def test_nothing_but_the_mark_gives_a_flaw_away(tmp_path: Path) -> None:
    """Selection reads messages and the task; training lets the corrupted rows in with two kinds allowed."""
    from coreset import ALLOWED
    from flawed_pool import flawed_pool

    from sage.libs.finetune.agent.jsonl import write_jsonl

    pool = flawed_pool(100)
    for row in pool:
        text = sample_text(row, "row")
        assert text.task == row["metadata"]["task_type"] in ("orders", "calendar", "files", "units")
        assert set(row["metadata"]) == {"task_type", "kind", "task_id", "flaw"}
        unmarked = {**row, "metadata": {"task_type": row["metadata"]["task_type"]}}
        assert sample_text(unmarked, "row") == text
    write_jsonl(tmp_path / "pool.jsonl", pool)
    faults = {fault.kind for row in check_rows(str(tmp_path / "pool.jsonl")) for fault in row.faults}
    assert faults & {"duplicate", "call_ids", "roles", "arguments"} <= set(ALLOWED.split(","))


def run(arm: str, budget: float | None, seed: int, right: list[int]) -> dict[str, Any]:
    turns = [[number // 2, value] for number, value in enumerate(right)]
    flaws = {"clean": 6, "near_duplicate": 2, "corrupted": 1, "gibberish": 1}
    return {
        "arm": arm, "budget": budget, "seed": seed, "rows": 10, "turns": len(right), "right": turns, "flaws": flaws,
        "accuracy": sum(right) / len(right), "held_out_loss": 1.0, "kinds": 3,
    }  # fmt: skip


def test_summary_and_paired_differences() -> None:
    from coreset_summary import differences, paired_difference, student_interval, summary

    good, bad = [1, 1, 1, 0] * 10, [1, 0, 1, 0] * 10
    runs = [run(arm, budget, seed, right) for seed in (0, 1)
            for arm, budget, right in (("full", None, good), ("random", 0.1, bad), ("ours", 0.1, good))]  # fmt: skip
    ours = next(line for line in summary(runs) if line["arm"] == "ours")
    assert (ours["accuracy"], ours["by_seed"], ours["student_interval"]) == (0.75, [0.75, 0.75], [0.75, 0.75])
    assert ours["wilson_interval"][0] < 0.75 < ours["wilson_interval"][1]
    assert ours["share_of_flaws"] == {"clean": 0.6, "near_duplicate": 0.2, "corrupted": 0.1, "gibberish": 0.1}
    found = {(line["arm"], line["minus"]): line for line in differences(runs)}
    assert set(found) == {("random", "full"), ("ours", "random"), ("ours", "full")}
    assert found["ours", "random"]["difference"] == 0.25
    low, high = found["ours", "random"]["interval"]
    assert 0 < low < 0.25 < high < 0.5
    assert found["ours", "full"]["interval"] == [0, 0]
    assert paired_difference(runs[1::3], runs[2::3])[0] == -0.25
    assert student_interval([0.5]) is None
    assert student_interval([0.5, 0.6, 0.7]) == pytest.approx([0.6 - 0.2484, 0.6 + 0.2484], abs=1e-4)


def test_the_figure_is_drawn_from_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import coreset_summary

    runs = [run(arm, budget, seed, [1, 0] * 20) for seed in (0, 1)
            for arm, budget in (("full", None), ("random", 0.1), ("random", 0.2), ("recommended", 0.1))]  # fmt: skip
    result = {
        "summary": coreset_summary.summary(runs), "held_out": {"turns": 40},
        "pool": {"rows": 100, "flaws": {"clean": 65, "near_duplicate": 20, "corrupted": 10, "gibberish": 5}},
    }  # fmt: skip
    monkeypatch.setattr(coreset_summary, "RESULTS", tmp_path)
    (tmp_path / "coreset_small.json").write_text(json.dumps(result))
    picture = coreset_summary.draw("coreset_small", tmp_path / "selection.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_benchmark_runs_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import common
    import coreset
    from tests.tiny import save_tiny

    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    sizes = {"rows": 40, "held-out": 3, "steps": 2, "batch": 2, "warm-steps": 1, "seeds": 0, "budgets": 0.3}
    flags = [str(part) for name, value in sizes.items() for part in (f"--{name}", value)]
    model = str(save_tiny(tmp_path / "tiny"))
    command = ["coreset.py", "--model", model, "--folder", str(tmp_path / "runs"), "--dtype", "float32", *flags]
    for arms in (["random"], ["random", "recommended"]):
        monkeypatch.setattr("sys.argv", [*command, "--arms", *arms])
        coreset.main()
    assert "1 of 3 runs to do" in capsys.readouterr().err
    result = json.loads((tmp_path / "results" / "coreset_small.json").read_text())
    assert [(line["arm"], line["rows"]) for line in result["summary"]] == [
        ("full", 40), ("random", 12), ("recommended", 12),
    ]  # fmt: skip
    assert result["scorer"]["warm_steps"] == 1 and result["scorer"]["scoring"] > 0
    assert all(0 <= run["accuracy"] <= 1 and run["training_loss"] > 0 for run in result["runs"])
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name == "training"] == []
