"""A run of the grid: what it leaves, and what becomes of it when it is interrupted, fails, or has other settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.unit.benchmark.grids import settings_in, spec_of

from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord, load_results, read_result
from sage.benchmark.benchmark_agent.experiments.method_comparison.run import perform
from sage.benchmark.benchmark_agent.experiments.method_comparison.trainings import best_rate, thinned
from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.trajectories.io import sole_writer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    settings_in(folder)
    return folder


@pytest.fixture(scope="module")
def baseline(home: Path) -> tuple[Path, RunRecord]:
    return home / "baseline", perform(spec_of(home), home / "baseline")


def numbers(record: RunRecord) -> Any:
    return record.metrics, record.losses, record.tokens, record.rows, record.learning_rates, record.forgetting


def test_a_run_leaves_its_record(baseline: tuple[Path, RunRecord]) -> None:
    folder, record = baseline
    assert read_result(folder) == record
    assert (record.status, record.error, record.learning_rate) == ("ok", None, 0.01)
    assert record.tokens["seen"] == pytest.approx(300, rel=0.15)
    assert 0 < record.tokens["trained"] < record.tokens["seen"]
    score = record.metrics["timing"]
    assert (score["n"], len(score["items"])) == (4, 4)
    assert record.overall == score["score"] == sum(score["items"].values()) / 4
    assert record.seconds["total"] >= record.seconds["train"] + record.seconds["evaluate"]
    assert record.peak_memory_bytes and record.versions["torch"] and record.device


def test_the_replies_are_those_of_the_trained_model(baseline: tuple[Path, RunRecord]) -> None:
    folder, record = baseline
    report = CapabilityReport.load(folder / "report.json")
    assert report.model == str(folder / "training")
    assert {one["id"]: one["value"] for one in report.scores["timing"].replies} == record.metrics["timing"]["items"]


def test_only_what_resuming_needs_is_dropped(baseline: tuple[Path, RunRecord]) -> None:
    folder, _ = baseline
    assert (folder / "training" / "adapter" / "adapter_model.safetensors").exists()
    assert not (folder / "training" / "checkpoints").exists()


def test_a_finished_run_is_read(baseline: tuple[Path, RunRecord], home: Path) -> None:
    folder, record = baseline
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert perform(spec_of(home), folder) == record
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_of_other_settings_is_refused_also_without_a_result(home: Path, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(spec_of(home), tmp_path / "run", stop)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(ConfigError, match="token_budget was 300 and is 301; restore"):
        perform(spec_of(home, token_budget=301), tmp_path / "run")


def test_a_run_has_one_process_at_a_time(home: Path, tmp_path: Path) -> None:
    with sole_writer(tmp_path / ".lock"), pytest.raises(ConfigError, match="another process is at work"):
        perform(spec_of(home), tmp_path)


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    baseline: tuple[Path, RunRecord], home: Path, tmp_path: Path
) -> None:
    interrupted = []

    def interrupt_once_each(label: str, done: int, total: int, detail: str = "") -> None:
        if label not in interrupted and done == 1:
            interrupted.append(label)
            raise KeyboardInterrupt

    for _ in range(5):
        try:
            record = perform(spec_of(home), tmp_path, interrupt_once_each)
            break
        except KeyboardInterrupt:
            found = read_result(tmp_path)
            assert found is not None and found.status == "cancelled"
    assert len(interrupted) >= 1
    assert numbers(record) == numbers(baseline[1])


def test_a_failure_of_whatever_kind_is_written_down_and_tried_anew(
    baseline: tuple[Path, RunRecord], home: Path, tmp_path: Path
) -> None:
    def fail(label: str, done: int, total: int, detail: str = "") -> None:
        raise KeyError("what a library\nraises")

    record = perform(spec_of(home), tmp_path, fail)
    assert (record.status, record.error) == ("failed", "KeyError: 'what a library\\nraises'")
    assert math.isnan(record.overall) and read_result(tmp_path) == record
    assert "raise KeyError" in (tmp_path / "traceback.txt").read_text()
    again = perform(spec_of(home), tmp_path)
    assert again.status == "ok" and numbers(again) == numbers(baseline[1])
    assert not (tmp_path / "traceback.txt").exists()


@pytest.mark.slow
def test_an_interrupted_stream_goes_on_to_the_same_numbers(home: Path, tmp_path: Path) -> None:
    seen = []

    def interrupt_each_task(label: str, done: int, total: int, detail: str = "") -> None:
        if done == 1 and label not in seen:
            seen.append(label)
            raise KeyboardInterrupt

    spec = spec_of(home, "C_continual", token_budget=600)
    whole = perform(spec, tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            perform(spec, tmp_path / "cut", interrupt_each_task)
    assert numbers(perform(spec, tmp_path / "cut", interrupt_each_task)) == numbers(whole)


@pytest.mark.slow
def test_a_stream_keeps_to_the_budget_and_tells_what_was_forgotten(home: Path, tmp_path: Path) -> None:
    record = perform(spec_of(home, "C_continual", token_budget=600), tmp_path)
    assert record.status == "ok", record.error
    assert record.tokens["seen"] == pytest.approx(600, rel=0.12)
    assert record.forgetting is not None and record.forgetting["tasks"] == ["tools", "plans"]
    assert [len(line) for line in record.forgetting["matrix"]] == [2, 2]
    assert "backward_transfer" in record.forgetting
    assert record.seconds["train"] + record.seconds["forgetting"] <= record.seconds["total"]


@pytest.mark.slow
def test_a_sweep_leaves_scores_and_nothing_else_and_a_rate_that_diverges_is_out(home: Path, tmp_path: Path) -> None:
    spec = spec_of(home, learning_rates="1e-3,1e-2,1e30", sweep_share=1.0)
    record = perform(spec, tmp_path)
    assert record.status == "ok", record.error
    assert [one["rate"] for one in record.learning_rates] == [1e-3, 1e-2, 1e30]
    assert "error" in record.learning_rates[2] and record.learning_rates[2]["score"] is None
    assert record.learning_rate in (1e-3, 1e-2)
    assert record.tokens["sweep"] >= 2 * record.tokens["seen"]
    left = sorted(str(path.relative_to(tmp_path / "sweep")) for path in (tmp_path / "sweep").rglob("*.*[a-z]"))
    assert left == ["0.001/score.json", "0.01/score.json", "1e+30/score.json"]
    assert record.forgetting is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["B3_coreset_hybrid", "D_combined", "E_fireact", "F_agenttuning", "G_dora"])
def test_each_kind_of_method_trains(home: Path, tmp_path: Path, method: str) -> None:
    data = {"train_data": "agent_capabilities:train", "train_rows": 60} if method == "F_agenttuning" else {}
    record = perform(spec_of(home, method, token_budget=6000, max_seq_length=2048, **data), tmp_path)
    assert record.status == "ok", record.error
    assert record.tokens["seen"] == pytest.approx(6000, rel=0.12)


def test_the_best_rate_is_the_middle_one_when_all_are_the_same() -> None:
    def tried(*scores: float | None) -> list[dict[str, Any]]:
        return [{"rate": float(place), "score": score} for place, score in enumerate(scores)]

    assert best_rate(tried(0.5, 0.5, 0.5)) == 1.0
    assert best_rate(tried(None, None, None)) == 1.0  # nothing could be scored with any
    assert best_rate(tried(0.5, 0.1, 0.5)) in (0.0, 2.0)
    assert best_rate(tried(0.1, None, 0.2)) == 2.0
    assert best_rate([*tried(0.1), {"rate": 9.0, "score": None, "error": "nan"}]) == 0.0


def test_a_curve_is_thinned_by_means() -> None:
    curve = thinned([float(step) for step in range(1, 402)])
    assert len(curve) <= 200 and curve[0] == [3, 2.0] and curve[-1][0] == 401


def test_scores_that_are_no_number_are_null_in_the_file(tmp_path: Path) -> None:
    record = RunRecord("A", {}, 0, "d", "ok", {}, metrics={"timing": {"score": math.nan, "n": 0, "items": {}}})
    record.save(tmp_path)
    found = read_result(tmp_path)
    assert found is not None and found.metrics["timing"]["score"] is None and math.isnan(found.overall)


def test_a_folder_without_results_is_told_with_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no result"):
        load_results(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"method_id": "A", "colour": 3}')
    with pytest.raises(DataError, match="it lacks digest, method"):
        load_results(tmp_path)
