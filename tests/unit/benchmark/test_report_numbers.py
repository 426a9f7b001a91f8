"""What a report says of costs, sweeps, seeds that were added and scores that are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.comparison_grids import write_grid

from sage.benchmark.benchmark_agent.experiments.method_comparison.report import reproduce, tables, words
from sage.benchmark.benchmark_agent.experiments.method_comparison.report.grid import read_grid
from sage.libs.finetune.agent import jsonl


def changed(folder: Path, run: str, **values: Any) -> None:
    path = folder / run / "result.json"
    jsonl.write_json(path, {**jsonl.read_json(path), **values})


def test_the_command_has_the_seeds_that_were_added_and_no_own_methods(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, "A_baseline,G_dora", seeds=2, items=3)
    settings = jsonl.read_json(folder / "A_baseline-seed0" / "result.json")["settings"]
    changed(folder, "A_baseline-seed0", settings={**settings, "seeds": 1, "own_methods": {"low": {"name": "low"}}})
    command = reproduce.command(read_grid(folder))
    assert "--seeds 2" in command and "own" not in command


def test_a_rate_that_broke_off_is_not_a_mean(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, "A_baseline,G_dora", seeds=2, items=3)
    rates = [{"rate": 1e-4, "score": 0.5}, {"rate": 3e-4, "score": None, "error": "the loss is no number"}]
    changed(folder, "G_dora-seed0", learning_rates=rates)
    sheet = tables.sweep(read_grid(folder))
    assert sheet is not None and "(broke off 1x)" in sheet.rows[1][2]


def test_measuring_is_no_cost_of_the_method(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, "A_baseline", seeds=1, items=3)
    seconds = {"train": 10.0, "sweep": 5.0, "evaluate": 40.0, "forgetting": 90.0, "total": 145.0}
    changed(folder, "A_baseline-seed0", seconds=seconds)
    assert tables.costs(read_grid(folder)).rows[0][8] == "15.0"


def test_a_capability_without_a_score_is_said(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, "A_baseline,G_dora", seeds=1, items=6)
    metrics = jsonl.read_json(folder / "G_dora-seed0" / "result.json")["metrics"]
    metrics["timing"] |= {"score": None, "items": {}, "interval": None}
    changed(folder, "G_dora-seed0", metrics=metrics)
    notes = " ".join(words.notes(read_grid(folder)))
    assert "of 4 capabilities" in notes and "No score: G_dora seed 0 on Timing." in notes


def test_a_mixture_that_repeats_rows_does_not_use_more_than_there_are(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, "A_baseline", seeds=1, items=3)
    changed(folder, "A_baseline-seed0", rows={"given": 920, "used": 2760})
    assert tables.rows_used(read_grid(folder).finished[0]) == "2,760 drawn from 920"
