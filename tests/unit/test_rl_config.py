"""The settings of reinforcement learning, and the example configs."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import sage.libs.finetune.agent as agent
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.rl_config import RLTrainingConfig

ALGORITHMS = ("ppo", "dpo", "grpo", "rloo")
CONFIGS = Path(__file__).parents[2] / "configs"
ROOM = Path(agent.__path__[0]) / "training" / "rl"
HINTS = get_type_hints(RLTrainingConfig)
SPECS = {spec.name: spec for spec in fields(RLTrainingConfig)}
GENERAL = {
    "algorithm", "kl_coef", "base_model", "output_dir", "environment", "max_steps", "max_new_tokens", "num_epochs",
    "learning_rate", "use_lora", "max_seq_length", "tool_format", "dtype", "max_grad_norm", "eval_batch_size",
    "save_steps", "save_total_limit", "sample_every", "seed", "report_to", "run_name",
}  # fmt: skip
"""What every algorithm reads, whatever the other settings are."""

SITUATIONS: list[tuple[str, dict[str, Any]]] = [
    ("dpo", {"preferences": "pairs.jsonl"}),
    ("ppo", {"tasks": Path("tasks.jsonl")}),
    ("ppo", {"use_lora": False}),
]
"""In which more settings are read by nobody."""


def other(name: str) -> Any:
    """A value of the setting that is not its default."""
    hint, default = HINTS[name], SPECS[name].default
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is Literal:
            return next(value for value in get_args(kind) if value != default)
        if kind is bool:
            return not default
        if kind in (int, float):
            number = default / 2 if isinstance(default, int | float) else kind(2)
            return kind(number if number != default else 0.5)
        if kind in (str, Path):
            return kind("something")
    raise AssertionError(name)


def one_setting(algorithm: str, **settings: Any) -> RLTrainingConfig:
    """A config that shows what is read, whether or not it could be run."""
    config = RLTrainingConfig(algorithm=algorithm)
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def foreign_to(algorithm: str) -> list[str]:
    """The settings that the algorithm does not read in any case."""
    every = {name: other(name) for name in SPECS if name not in ("algorithm", "preferences", "tasks", "use_lora")}
    found = one_setting(algorithm, **every).without_effect()
    pairs = one_setting(algorithm, preferences="p").without_effect()
    lines = [line for line in (*found, *pairs) if line.endswith(f"with algorithm {algorithm}")]
    return [name for line in lines for name in line.partition(":")[0].split(", ")]


def test_the_reference_names_and_defaults() -> None:
    config = RLTrainingConfig()
    assert (config.algorithm, config.reward_model, config.kl_coef, config.gamma) == ("ppo", None, 0.1, 0.99)
    assert list(SPECS)[:4] == ["algorithm", "reward_model", "kl_coef", "gamma"]
    assert RLTrainingConfig.from_dict(config.to_dict()) == config
    assert all(spec.metadata["help"] for spec in SPECS.values())


@pytest.mark.parametrize("name", SPECS)
def test_a_setting_is_read_by_all_or_somebody_says_who_does_not(name: str) -> None:
    if name == "algorithm":
        return
    adaptive = {} if name == "kl_control" else {"kl_control": "adaptive"}
    idle = [a for a in ALGORITHMS if name in str(one_setting(a, **{name: other(name)}).without_effect())]
    never = [a for a in ALGORITHMS if name in str(one_setting(a, **adaptive, **{name: other(name)}).without_effect())]
    told = [
        line
        for algorithm, situation in SITUATIONS
        for line in one_setting(algorithm, **{name: other(name), **situation}).without_effect()
        if name in line.partition(":")[0].split(", ")
    ]
    assert (name in GENERAL) == (not idle and not told)
    assert len(never) < len(ALGORITHMS)


@pytest.mark.parametrize("name", SPECS)
def test_every_setting_is_read_by_somebody(name: str) -> None:
    code = "\n".join(path.read_text() for path in ROOM.glob("*.py"))
    assert re.search(rf'config\.{name}\b|"{name}"', code), name


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"algorithm": "pop"}, "'algorithm': unknown algorithm 'pop'; did you mean 'ppo'? known: ppo, dpo, grpo, rloo"),
        ({"algorithm": "grpo", "samples_per_task": 1}, "'samples_per_task' must be at least 2 for grpo: it compares"),
        (
            {"algorithm": "rloo", "samples_per_task": 3},
            "'episodes_per_iteration' (64) must be a multiple of samples",
        ),
        ({"algorithm": "grpo", "minibatch_episodes": 24}, "must be a multiple of minibatch_episodes (24)"),
        ({"minibatch_episodes": 65}, "'minibatch_episodes' must not be above episodes_per_iteration"),
        ({"algorithm": "dpo", "kl_coef": 0}, "'kl_coef' must be above 0 for dpo: it is its beta"),
        ({"algorithm": "dpo", "samples_per_task": 1}, "must be at least 2 for dpo, or there is nothing to pair"),
        ({"algorithm": "dpo", "preferences": "p", "rounds": 2}, "'rounds' above 1 explore anew in each"),
        ({"base_model": " "}, "'base_model' is empty"),
        ({"gamma": 1.5}, "'gamma': must be at most 1.0, not 1.5"),
        ({"kl_coef": float("nan")}, "'kl_coef': expected a number, found nan"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as told:
        RLTrainingConfig(**settings)
    assert "\n" not in str(told.value)


def test_what_is_possible_though_it_looks_odd() -> None:
    RLTrainingConfig(algorithm="dpo", samples_per_task=1, expert="scripted")
    RLTrainingConfig(algorithm="dpo", samples_per_task=1, preferences="pairs.jsonl")
    assert RLTrainingConfig(kl_coef=0, max_kl=None, value_clip_range=None).without_effect() == []


def test_the_table_of_the_manual_is_what_the_settings_say() -> None:
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", (CONFIGS.parent / "docs" / "rl.md").read_text(), re.MULTILINE)
    told = {}
    for names, cells in rows:
        readers = [name for name, cell in zip(("ppo", "dpo", "grpo"), cells.split("|"), strict=False) if "yes" in cell]
        if readers:
            told |= dict.fromkeys(re.findall(r"`(\w+)`", names), readers)
    true = {name: [a for a in ALGORITHMS[:3] if name not in foreign_to(a)] for name in SPECS}
    assert told == {name: readers for name, readers in true.items() if len(readers) < 3}


@pytest.mark.parametrize("name", ["rl", "rl_dpo"])
def test_the_example_configs_are_read_and_every_line_of_theirs_counts(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = RLTrainingConfig.from_yaml(path)
    assert config.algorithm == ("ppo" if name == "rl" else "dpo")
    assert config.base_model and config.without_effect() == []
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"configs/{name}.yaml" in "\n".join(comments)
