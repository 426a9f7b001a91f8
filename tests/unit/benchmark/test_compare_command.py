"""`compare` and `report` as the command line calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.benchmark.grids import settings_in

from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import QUICK
from sage.libs.finetune.agent.cli.commands import compare, report
from sage.libs.finetune.agent.cli.options import build_config, flags_given, parameters
from sage.libs.finetune.agent.config import Config
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.progress import silent


def parsed(**typed: Any) -> Config:
    return build_config(compare.CompareConfig, None, flags_given(compare.CompareConfig, typed))


def test_quick_begins_from_its_settings_and_what_is_typed_wins() -> None:
    config: Any = parsed(quick=True, seeds="2", out="here")
    assert (config.methods, config.seeds, config.output_dir) == ("quick", 2, Path("here"))
    assert config.token_budget == QUICK["token_budget"]
    assert parsed(quick=False).token_budget != QUICK["token_budget"]  # type: ignore[attr-defined]


def test_out_has_a_long_and_a_short_flag() -> None:
    [declared] = [one for one in parameters(compare.CompareConfig) if one.name == "output_dir"]
    assert declared.default.param_decls == ("-o", "--out")


def test_an_interrupted_comparison_says_how_to_go_on_and_can_be_reported_on(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    config = compare.CompareConfig(methods="A_baseline", output_dir=tmp_path / "grid", **settings_in(tmp_path))
    with pytest.raises(KeyboardInterrupt, match=r"run the same command to go on; sage-finetune report .*grid"):
        compare.run(config, stop)
    shown = report.run(report.ReportConfig(folder=tmp_path / "grid"), silent)
    assert shown.data["runs"] == {"ok": 0, "failed": 0, "cancelled": 1}
    assert all(Path(path).exists() for path in shown.data["report"]) and shown.exit_code == 0


def test_a_failed_run_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    own = {"bits": {"name": "Bits", "settings": {"load_in_4bit": True}}}
    config = compare.CompareConfig(
        methods="A_baseline,bits", own_methods=own, output_dir=tmp_path / "grid", **settings_in(tmp_path)
    )
    said = compare.run(config, silent)
    assert (said.exit_code, [run["status"] for run in said.data["runs"]]) == (1, ["ok", "failed"])
    assert said.problem.startswith("compare: 1 of 2 runs failed; the same command tries them again: bits with seed 0: ")
    assert said.tables and {Path(path).name for path in said.data["report"]} == {"report.md", "report.html"}


def test_a_faulty_setting_is_told_before_torch_is_needed() -> None:
    with pytest.raises(ConfigError, match="unknown method 'A'"):
        parsed(methods="A")
