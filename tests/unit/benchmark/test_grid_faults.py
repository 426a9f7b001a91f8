"""What must not pass for a result: full disks, rows that change, test items as rows, results of other settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.benchmark.grids import experiment_in, settings_in, spec_of, write_rows

from sage.benchmark.benchmark_agent.experiments.method_comparison import (
    MethodComparisonExperiment,
    MethodConfig,
    cluster,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord, read_result
from sage.benchmark.benchmark_agent.experiments.method_comparison.run import perform
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.training.guards import told_of_disk
from sage.libs.finetune.agent.training.sft import AgentSFTTrainer


def test_a_full_disk_is_no_verdict_on_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AgentSFTTrainer.train

    def full(self: AgentSFTTrainer, resume: bool = False) -> Any:
        if self.config.learning_rate == 1e-2:
            with told_of_disk(self.config.output_dir):
                raise OSError(28, "No space left on device")
        return whole(self, resume)

    monkeypatch.setattr(AgentSFTTrainer, "train", full)
    spec = spec_of(tmp_path, learning_rates="1e-3,1e-2")
    record = perform(spec, tmp_path / "run")
    assert record.status == "failed" and "No space left" in str(record.error)
    monkeypatch.undo()
    assert all(one["score"] is not None for one in perform(spec, tmp_path / "run").learning_rates)


def test_rows_that_change_in_the_middle_fail_the_run(tmp_path: Path) -> None:
    settings_in(tmp_path)

    def tell(label: str, done: int, total: int, detail: str = "") -> None:
        if "(1/2)" in label and "train" in label:
            write_rows(tmp_path / "rows.jsonl", each=40)

    grid = experiment_in(tmp_path, "A_baseline,G_dora", tmp_path / "out", tell).run()
    assert [record.status for record in grid.records] == ["ok", "failed"]
    assert "other ones than when the comparison began" in str(grid.records[1].error)


@pytest.mark.parametrize("split", ["test", "dev"])
def test_rows_that_are_test_items_are_refused(tmp_path: Path, split: str) -> None:
    settings_in(tmp_path)
    with pytest.raises(ConfigError, match="rows are items that the methods are measured on"):
        experiment_in(tmp_path, "A_baseline", tmp_path / "out", train_data=f"agent_capabilities:{split}").run()


def test_a_result_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    perform(spec_of(tmp_path), tmp_path / "run")
    (tmp_path / "run/spec.json").unlink()
    with pytest.raises(ConfigError, match="other settings"):
        perform(spec_of(tmp_path, token_budget=5000), tmp_path / "run")


@pytest.mark.parametrize("tasks", [("工具", "规划"), ("Math", "math"), ("(tools)", "plans")])
def test_a_stream_runs_whatever_its_tasks_are_called(tmp_path: Path, tasks: tuple[str, str]) -> None:
    settings_in(tmp_path)
    write_rows(tmp_path / "rows.jsonl", tasks=tasks)
    record = perform(spec_of(tmp_path, "C_continual"), tmp_path / "run")
    assert record.status == "ok" and record.forgetting is not None, record.error
    assert record.forgetting["tasks"] == list(tasks)


def test_ids_that_mean_several_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="several methods"):
        MethodComparisonExperiment({"quick": MethodConfig("Q")})


def test_a_file_may_give_numbers_and_lists() -> None:
    config = ComparisonConfig.from_dict({"learning_rates": [1e-4, 3e-4], "methods": ["A_baseline", "G_dora"]})
    assert config.rates() == [1e-4, 3e-4] and list(config.method_configs()) == ["A_baseline", "G_dora"]
    assert ComparisonConfig.from_dict({"learning_rates": 0.001}).rates() == [0.001]


def test_a_worker_that_dies_after_its_work_loses_nothing(tmp_path: Path) -> None:
    class Lost(Exception):
        """What Ray raises when a worker is gone."""

    def lost(_: object) -> None:
        raise Lost("the worker died")

    asked: Any = SimpleNamespace(exceptions=SimpleNamespace(RayError=Lost), get=lost)
    spec = spec_of(tmp_path)
    folder = tmp_path / spec.folder
    cluster._settle(asked, None, spec, folder)
    found = read_result(folder)
    assert found is not None and found.status == "failed" and "attempts at most" in str(found.error)
    RunRecord(spec.method_id, {}, 0, spec.digest, "ok", spec.settings.to_dict()).save(folder)
    cluster._settle(asked, None, spec, folder)
    found = read_result(folder)
    assert found is not None and found.status == "ok"


@pytest.mark.parametrize(("share", "refused"), [(0.0, True), (0.25, False)])
def test_a_cluster_with_gpus_wants_to_know_how_many_a_run_takes(share: float, refused: bool) -> None:
    asked: Any = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 1.0}}])
    config = ComparisonConfig(executor="ray", gpus_per_run=share)
    if not refused:
        cluster._require_room(asked, config)
        return
    with pytest.raises(ConfigError, match="give gpus_per_run"):
        cluster._require_room(asked, config)
