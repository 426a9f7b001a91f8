"""The reproductions: their settings, the faulty tools, what is made of results, and the page that says so."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.comparison_grids import write_grid

from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import load_results
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector

ROOT = Path(__file__).parents[2]
NAMES = ("r1_fireact", "r2_agenttuning", "r3_dora", "r4_lora_plus", "r5_coreset", "r6_continual")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it is run as a script: its folder comes first."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "reproductions"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["small", "full"])
def test_settings_are_those_that_the_code_reads(name: str, size: str) -> None:
    import claims
    import reproduce

    config = reproduce.configuration(name)
    settings = config[size]
    assert reproduce.names() == sorted(NAMES) and callable(getattr(claims, name))
    assert config["title"] and config["paper"]
    if "script" in config:
        source = (ROOT / "benchmarks" / config["script"]).read_text(encoding="utf-8")
        for flag in reproduce.flags(settings):
            assert not flag.startswith("--") or f'"{flag}"' in source or f'"{flag[2:]}"' in source, flag
    elif config["module"] == "grids":
        for own in settings["grids"].values():
            compared = ComparisonConfig.from_dict({**settings["common"], **(own or {})})
            assert settings["baseline"] in compared.method_configs()
    else:
        assert settings.keys() == config["small"].keys() and importlib.import_module(config["module"]).run


def test_flags_say_settings_as_a_command_line() -> None:
    from reproduce import flags

    assert flags({"small": True, "eval_rows": 24, "rates": [0.1, 0.2]}) == [
        "--small", "--eval-rows", "24", "--rates", "0.1", "0.2"
    ]  # fmt: skip


def test_half_of_the_calls_fail_the_same_ones_each_time_and_are_not_made() -> None:
    from fireact import FaultyDesk

    task = next(task for task in desk_tasks("train", 60) if task["metadata"]["kind"] == "order_cancel")
    [plan] = TrajectoryCollector(DeskExpert(), None, DeskEnvironment).collect([task])
    cancel = plan.steps[-2]
    answers = []
    for _ in range(2):
        desk = FaultyDesk("none", seed=0)
        desk.reset(task)
        answers.append([desk.step("find_customer", {"name": "nobody"}).observation for _ in range(400)])
    assert answers[0] == answers[1]
    assert 160 < answers[0].count("None") < 240
    for seed in range(8):
        desk = FaultyDesk("none", seed)
        desk.reset(task)
        made = desk.step(cancel.action, cancel.action_input).observation != "None"
        assert desk.step("finish", {"answer": "done"}).success == made


def test_what_is_said_elsewhere_is_never_what_a_tool_of_the_task_says() -> None:
    from fireact import elsewhere

    for family in ("orders", "calendar", "files", "units"):
        tasks = [task for task in desk_tasks("train", 90, seed=1) if task["metadata"]["family"] == family]
        episodes = TrajectoryCollector(DeskExpert(), None, DeskEnvironment).collect(tasks)
        said = {step.observation for episode in episodes for step in episode.steps}
        assert tasks and len(elsewhere(family)) > 5 and not said & set(elsewhere(family))


@pytest.mark.parametrize("fault", ["none", "random"])
def test_the_persistent_expert_solves_what_the_plain_one_does_not(fault: str) -> None:
    from fireact import PersistentExpert, environment_with

    tasks = desk_tasks("train", 40)
    settings = CollectorConfig(max_steps=30, require_success=False, stop_after_failures=None)
    solved = {
        type(expert).__name__: sum(
            episode.success
            for episode in TrajectoryCollector(expert, settings, environment_with(fault, 0)).collect(tasks)
        )
        for expert in (DeskExpert(), PersistentExpert())
    }
    assert solved["PersistentExpert"] >= 38 and solved["DeskExpert"] <= 20


def test_examples_are_solved_tasks_with_the_same_tools_each_of_another_kind() -> None:
    from fireact import _examples

    for family in ("orders", "calendar"):
        shown = _examples(family, 3)
        assert len({episode.metadata["kind"] for episode in shown}) == 3
        assert all(episode.success and episode.metadata["family"] == family for episode in shown)


@pytest.mark.slow
def test_fireact_on_a_tiny_model_is_run_once(tmp_path: Path) -> None:
    import fireact
    from tests.tiny import save_tiny

    settings = {
        "base_model": str(save_tiny(tmp_path / "model")), "seeds": [0], "sizes": [2, 4], "rows_seen": 4,
        "batch_size": 2, "learning_rate": 1e-3, "examples": 1, "test_tasks": 4, "max_steps": 8, "max_new_tokens": 4,
    }  # fmt: skip
    first = fireact.run(settings, tmp_path / "runs")
    assert [arm["arm"] for arm in first["arms"]] == ["prompted", "tuned-2", "tuned-4", "hardened"]
    assert first["prompt_tokens"]["prompted"] > first["prompt_tokens"]["tuned-2"]
    for arm in first["arms"]:
        assert len(arm["whole"]["solved"]) == 4
        if any(right for _, right in arm["whole"]["solved"]) and arm["arm"] != "tuned-2":
            assert {"none", "random"} <= arm.keys()
    assert len((tmp_path / "runs/rows/tuned-4-seed0.jsonl").read_text().splitlines()) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json*")}
    assert fireact.run(settings, tmp_path / "runs") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json*")} == before


def test_a_grid_is_told_by_group_of_capabilities(tmp_path: Path) -> None:
    from grids import summary

    records = load_results(write_grid(tmp_path, methods="A_baseline,B3_coreset_hybrid", seeds=2, items=30))
    told = summary(records, "A_baseline")
    method = told["methods"]["B3_coreset_hybrid"]
    by_capability = method["by_capability"]
    general = (by_capability["reasoning"] + by_capability["instruction_following"]) / 2
    assert method["scores"]["general"] == pytest.approx(general) and method["seeds"] == 2
    assert method["scores"]["all"] == pytest.approx(sum(by_capability.values()) / len(by_capability))
    [contrast] = told["contrasts"]["all"]
    assert contrast["method_id"] == "B3_coreset_hybrid" and contrast["verdict"] == "better"
    assert 40 < told["contrasts"]["general"][0]["items"] <= 60 < contrast["items"]
    assert json.loads(json.dumps(told))["methods"] == told["methods"]


def arm(name: str, solved: Sequence[str], seconds: float = 1.0) -> dict[str, Any]:
    """An arm by what it solved with whole tools, silent ones and those that say something else."""
    faults = dict(zip(("whole", "none", "random"), solved, strict=False))
    told = {
        fault: {"solved": [[str(at), int(one)] for at, one in enumerate(right)], "seconds_per_task": seconds}
        for fault, right in faults.items()
    }
    return {"arm": name, "seed": 0, **told}


def test_claims_of_fireact_by_what_was_solved() -> None:
    import claims

    half, most = "1" * 20 + "0" * 20, "1" * 36 + "0" * 4
    result = {
        "prompt_tokens": {"prompted": 1000.0, "tuned-500": 200.0},
        "arms": [
            arm("prompted", ["0" * 40], seconds=10.0), arm("tuned-50", [half]),
            arm("tuned-500", [most, "1" * 9 + "0" * 31, most]), arm("hardened", [most, half, most]),
        ],
    }  # fmt: skip
    found = claims.r1_fireact(result)
    assert [claim.verdict for claim in found] == ["met", "not shown", "not met", "met", "met", "not shown"]
    assert found[0].ours == "0.0% (0-9) to 90.0% (77-96), from nothing"
    assert found[2].ours == "75.0%; prompting solves nothing to lose"
    assert found[4].ours == "10.00 s to 1.00 s, -90%; first prompt 1000 to 200 tokens"
    result["arms"] += [{**one, "seed": 1} for one in result["arms"]]
    assert claims.r1_fireact(result)[1].verdict == "met"
    result["arms"] = [one if one["arm"] != "tuned-50" else arm("tuned-50", [most]) for one in result["arms"]]
    assert claims.r1_fireact(result)[1].verdict == "not shown"


def test_one_success_in_forty_shows_nothing_about_faulty_tools() -> None:
    import claims

    one = "1" + "0" * 39
    arms = [arm("prompted", [one] * 3), arm("tuned-50", [one]), arm("tuned-500", [one] * 3), arm("hardened", [one] * 3)]
    found = claims.r1_fireact({"prompt_tokens": {"prompted": 9.0, "tuned-50": 3.0}, "arms": arms})
    assert "met" not in [found[at].verdict for at in (0, 1, 2, 3, 5)]


def test_a_seed_without_successes_was_not_tried_with_faulty_tools() -> None:
    import claims

    some, none = "1" * 30 + "0" * 10, "0" * 40
    arms = [
        arm("prompted", [none]), {**arm("prompted", [some] * 3), "seed": 1},
        *(arm(name, [some] * 3) for name in ("tuned-50", "tuned-500", "hardened") for _ in range(2)),
    ]  # fmt: skip
    assert claims.r1_fireact({"prompt_tokens": {"prompted": 9.0, "tuned-50": 3.0}, "arms": arms})[2].verdict == "met"


def test_a_share_of_nothing_is_no_claim() -> None:
    import claims

    of = {"interval": {"low": -0.1, "high": 0.1}}
    assert claims._below({"baseline": 0.0, **of}, 0.9) is None
    assert claims._below({"baseline": 0.9, **of}, 0.5) is False
    assert claims._below({"baseline": 0.9, "interval": {"low": -0.8, "high": -0.6}}, 0.5) is True


def test_a_result_of_other_settings_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import reproduce

    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    assert reproduce.judged("r1_fireact", "small") is None
    (tmp_path / "r1_fireact_small.json").write_text('{"settings": {"sizes": [5]}}', encoding="utf-8")
    with pytest.raises(SystemExit, match="other settings"):
        reproduce.judged("r1_fireact", "small")


@pytest.mark.parametrize(
    ("low", "high", "fixed", "tuned"),
    [
        (-0.01, 0.01, "met", "met"), (0.03, 0.05, "met", "not met"), (-0.05, -0.03, "not met", "not met"),
        (-0.05, 0.05, "not shown", "not shown"), (-0.015, 0.05, "met", "not shown"),
    ],
)  # fmt: skip
def test_claims_of_dora_go_by_the_interval(low: float, high: float, fixed: str, tuned: str) -> None:
    import claims

    contrast = {
        "method_id": "dora_half", "score": 0.5, "baseline": 0.5, "difference": (low + high) / 2,
        "interval": {"low": low, "high": high},
    }  # fmt: skip
    for seeds, verdicts in ((3, [fixed, tuned]), (1, ["not shown", "not shown"])):
        methods = {name: {"learning_rates": [1e-3], "seeds": seeds} for name in ("A_baseline", "dora_half")}
        grid = {"contrasts": {"all": [contrast]}, "methods": methods}
        assert [claim.verdict for claim in claims.r3_dora({"grids": {"fixed": grid, "tuned": grid}})] == verdicts


def test_the_page_says_what_the_results_say() -> None:
    import reproduce

    page = (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")
    assert reproduce.table() in page, "put the output of reproduce.py --table into docs/reproductions.md"
