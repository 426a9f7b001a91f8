"""What a method may be, the predefined ones, and the settings of a comparison."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage.benchmark.benchmark_agent.experiments.method_comparison import MethodConfig, MethodRegistry
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import QUICK, ComparisonConfig, quick
from sage.libs.finetune.agent.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"


def test_the_predefined_methods_are_those_of_the_reference_and_a_control() -> None:
    methods = MethodRegistry.get_all_methods()
    named = {name: method.name for name, method in methods.items()}
    assert named == {
        "A_baseline": "Baseline", "B1_coreset_loss": "Coreset (Loss)", "B2_coreset_diversity": "Coreset (Diversity)",
        "B3_coreset_hybrid": "Coreset (Hybrid)", "B4_coreset_random": "Coreset (Random)", "C_continual": "Continual",
        "D_combined": "Combined", "E_fireact": "FireAct", "F_agenttuning": "AgentTuning", "G_dora": "DoRA",
        "H_lora_plus": "LoRA+",
    }  # fmt: skip
    switched = {
        name: {part.removeprefix("use_") for part, value in vars(method).items() if part[:4] == "use_" and value}
        for name, method in methods.items()
    }
    coreset = {"coreset"}
    assert switched == {
        "A_baseline": set(), "B1_coreset_loss": coreset, "B2_coreset_diversity": coreset, "B3_coreset_hybrid": coreset,
        "B4_coreset_random": coreset, "C_continual": {"continual"}, "D_combined": {"coreset", "continual"},
        "E_fireact": {"trajectory_collection"}, "F_agenttuning": {"multi_task"}, "G_dora": {"dora"},
        "H_lora_plus": {"lora_plus"},
    }  # fmt: skip


def test_methods_are_new_objects_at_each_call() -> None:
    MethodRegistry.get_all_methods()["A_baseline"].settings["lora_r"] = 4
    assert MethodRegistry.get_all_methods()["A_baseline"].settings == {}


def test_an_unknown_method_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown method 'B3_coreset_hybird'; did you mean 'B3_coreset_hybrid'"):
        MethodRegistry.get("B3_coreset_hybird")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"settings": {"max_steps": 3}}, "'max_steps' is not for a method to set"),
        ({"settings": {"lora_rank": 3}}, "did you mean 'lora_r'"),
        ({"settings": {"lora_r": 0}}, "'lora_r': must be at least 1"),
        ({"settings": {"use_lora": False}, "use_dora": True}, "'use_dora' needs use_lora: true"),
        ({"coreset_strategy": "hybird"}, "unknown strategy 'hybird'"),
        ({"continual_strategy": "best"}, "'continual_strategy': expected"),
        ({"use_continual": True, "use_multi_task": True}, "exclude each other"),
        ({"use_coreset": True, "use_multi_task": True}, "exclude each other"),
        ({"use_trajectory_collection": True, "use_coreset": True}, "trajectories alone"),
    ],
)
def test_a_method_that_could_not_be_run_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MethodConfig("Mine", **given)


def test_methods_of_ones_own_stand_beside_the_predefined() -> None:
    own = {"low": {"name": "Low rank", "settings": {"lora_r": 4}}}
    config = ComparisonConfig(methods="low,A_baseline", own_methods=own)
    assert list(config.method_configs()) == ["low", "A_baseline"]
    assert config.method_configs()["low"].settings == {"lora_r": 4}
    assert "low" in ComparisonConfig(own_methods=own).method_configs()


def test_a_method_of_ones_own_needs_no_settings_but_its_name() -> None:
    config = ComparisonConfig(methods="mix", own_methods={"mix": {"name": "Mix", "use_multi_task": True}})
    assert config.method_configs()["mix"].settings == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": "A_baseline,A_baseline"}, "expected different ids"),
        ({"methods": " , "}, "expected different ids"),
        ({"methods": "low"}, "unknown method 'low'"),
        ({"own_methods": {"../up": {"name": "x"}}}, "an id names a folder"),
        ({"own_methods": {"low": {"name": "x", "lora_r": 4}}}, "'low': unknown setting 'lora_r'"),
        ({"own_methods": {"low": 4}}, "expected a mapping"),
        ({"learning_rates": "1e-4,,3"}, "'learning_rates'"),
        ({"learning_rates": "1e-4,0.0001"}, "'learning_rates'"),
        ({"learning_rates": "nan"}, "'learning_rates'"),
        ({"learning_rates": "-1"}, "'learning_rates'"),
        ({"capabilities": "tool_use,juggling"}, "'capabilities'"),
        ({"capabilities": "timing,timing"}, "'capabilities'"),
    ],
)
def test_a_comparison_that_could_not_be_run_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ComparisonConfig(**given)


def test_what_is_given_wins_over_the_quick_settings() -> None:
    assert quick(token_budget=1000).token_budget == 1000
    assert quick().token_budget == QUICK["token_budget"]


def test_the_example_config_is_one() -> None:
    config = ComparisonConfig.from_yaml(CONFIGS / "compare.yaml")
    assert config.method_configs()["low_rank_dora"].use_dora
    assert config.rates() == [1e-4, 3e-4, 1e-3]


def test_the_door_opens_without_torch() -> None:
    asked = (
        "import sys; from sage.benchmark.benchmark_agent.experiments import method_comparison; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
