"""The grid: which runs it has, what it refuses before the first, and that one failing run is not the others' end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.benchmark.grids import experiment_in, settings_in, write_rows

from sage.benchmark.benchmark_agent.experiments.method_comparison import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import (
    RunSpec,
    plan_runs,
    planned_runs,
    save_grid,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.run import perform
from sage.benchmark.benchmark_agent.experiments.method_comparison.runner import MethodComparisonExperiment
from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError

NEEDS_A_GPU = MethodConfig("In four bits", settings={"load_in_4bit": True})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    settings_in(folder)
    return folder


def test_a_run_is_the_same_after_a_journey_through_json() -> None:
    own = {"low": {"name": "Low", "settings": {"lora_r": 4}}}
    for spec in plan_runs(ComparisonConfig(seeds=2, own_methods=own)):
        again = RunSpec.from_dict(spec.to_dict())
        assert (again, again.digest) == (spec, spec.digest)


def test_the_digest_changes_with_what_numbers_depend_on_and_nothing_else() -> None:
    def digest(method: str = "A_baseline", **settings: object) -> str:
        return plan_runs(ComparisonConfig(methods=method, **settings))[0].digest  # type: ignore[arg-type]

    same = [digest(), digest(seeds=5), digest(executor="ray", gpus_per_run=1), digest(output_dir=Path("x"))]
    assert len(set(same)) == 1
    assert len({digest(), digest(token_budget=500), digest(threads=1), digest("G_dora"), digest(lora_r=8)}) == 5


def test_a_grid_may_grow_but_not_change(tmp_path: Path) -> None:
    def runs(**settings: object) -> list[RunSpec]:
        return plan_runs(ComparisonConfig(**settings))  # type: ignore[arg-type]

    save_grid(tmp_path, runs(methods="A_baseline", seeds=1, token_budget=500), "rows")
    save_grid(tmp_path, runs(methods="A_baseline", seeds=1), "rows")  # nothing was begun
    (tmp_path / "A_baseline-seed0").mkdir()
    (tmp_path / "A_baseline-seed0" / "spec.json").write_text("{}")
    save_grid(tmp_path, runs(methods="G_dora", seeds=2), "rows")
    assert [spec.folder for spec in planned_runs(tmp_path)] == ["A_baseline-seed0", "G_dora-seed0", "G_dora-seed1"]
    with pytest.raises(ConfigError, match="lora_r was 16 and is 8"):
        save_grid(tmp_path, runs(methods="H_lora_plus", lora_r=8), "rows")
    with pytest.raises(ConfigError, match="rows of train_data are other ones"):
        save_grid(tmp_path, runs(methods="H_lora_plus"), "other rows")


def test_own_methods_are_part_of_the_settings(tmp_path: Path) -> None:
    experiment = MethodComparisonExperiment({"low": MethodConfig("Low", settings={"lora_r": 4})}, output_dir=tmp_path)
    again = MethodComparisonExperiment.of(ComparisonConfig.from_dict(experiment.config.to_dict()))
    assert again.runs == experiment.runs and again.runs[0].method.settings == {"lora_r": 4}


@pytest.mark.parametrize(("methods", "said"), [([], "expected different ids"), (["A"], "unknown method 'A'")])
def test_unknown_methods_are_refused(methods: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MethodComparisonExperiment(methods)


def test_what_cannot_go_well_is_said_before_anything_is_begun(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method 'F_agenttuning' cannot be compared on .*mixes agent tasks"):
        experiment_in(home, "A_baseline,F_agenttuning", tmp_path / "a").run()
    with pytest.raises(DataError, match=r"no\.jsonl"):
        experiment_in(home, "A_baseline", tmp_path / "a", train_data="no.jsonl").run()
    with pytest.raises(ModelError, match="does not exist"):
        experiment_in(home, "A_baseline", tmp_path / "a", base_model="./none").run()
    assert not (tmp_path / "a").exists()


def test_a_run_that_fails_does_not_stop_the_others(home: Path, tmp_path: Path) -> None:
    methods = {"bits": NEEDS_A_GPU, "low": MethodConfig("Low", settings={"lora_r": 4, "batch_size": 2})}
    out, told = tmp_path / "grid", []
    experiment = experiment_in(home, methods, out, lambda label, *_: told.append(label))
    grid = experiment.run()
    assert [(record.method_id, record.status) for record in grid.records] == [("bits", "failed"), ("low", "ok")]
    assert grid.failed == grid.records[:1] and grid.missing == []
    assert "ConfigError" in str(grid.records[0].error)
    assert any(label.startswith("low-seed0 (2/2): ") for label in told)
    alone = perform(experiment.runs[1], tmp_path / "alone")
    assert alone.metrics == grid.records[1].metrics and alone.losses == grid.records[1].losses

    written = (out / "low-seed0" / "result.json").stat().st_mtime_ns
    experiment.run()
    assert (out / "low-seed0" / "result.json").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="token_budget was 300 and is 999"):
        experiment_in(home, methods, out, token_budget=999).run()


def test_rows_that_changed_do_not_go_on_in_the_same_grid(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment_in(tmp_path, "A_baseline", tmp_path / "grid", stop).run()
    write_rows(tmp_path / "rows.jsonl", each=11)
    with pytest.raises(ConfigError, match="rows of train_data are other ones"):
        experiment_in(tmp_path, "A_baseline", tmp_path / "grid").run()
