from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.config import AgentSFTConfig, Config, option, read_yaml
from sage.libs.finetune.agent.errors import ConfigError

NEEDED = {"base_model": "m", "train_data": "d"}


def config(**settings: Any) -> AgentSFTConfig:
    return AgentSFTConfig.from_dict({**NEEDED, **settings})


def fault_of(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    return str(caught.value).removeprefix("config: ")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"learning_rate": "1e-3"}, 1e-3),  # YAML reads 1e-3 as text
        ({"learning_rate": 1}, 1.0),
        ({"learning_rate": "auto"}, "auto"),
        ({"batch_size": "4"}, 4),
        ({"batch_size": 4.0}, 4),
        ({"max_seq_length": 9007199254740993}, 9007199254740993),  # a float would make it ...992
        ({"use_lora": "no"}, False),
        ({"use_dora": "True"}, True),
        ({"eval_data": None}, None),
        ({"coreset_target_size": "none"}, None),
        ({"coreset_target_size": "7"}, 7),
        ({"output_dir": "runs/a"}, Path("runs/a")),
        ({"lr_scheduler_type": "cosine"}, "cosine"),
    ],
)
def test_values_are_read_in_the_fields_type(settings: dict[str, Any], expected: Any) -> None:
    [name] = settings
    value = getattr(config(**settings), name)
    assert value == expected
    assert isinstance(value, type(expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "'batch_size': must be at least 1, not 0"),
        ({"batch_size": 1.5}, "'batch_size': expected a whole number, found 1.5"),
        ({"batch_size": True}, "'batch_size': expected a whole number, found True"),
        ({"batch_size": "many"}, "'batch_size': expected a whole number, found 'many'"),
        ({"learning_rate": 0}, "'learning_rate': must be above 0, not 0.0"),
        ({"learning_rate": float("nan")}, "'learning_rate': expected a number or 'auto', found nan"),
        ({"learning_rate": "inf"}, "'learning_rate': expected a number or 'auto', found 'inf'"),
        ({"batch_size": 10**400}, "'batch_size': must be at most 9223372036854775807, not a number of 1329 bits"),
        ({"batch_size": "1" * 401}, "'batch_size': must be at most 9223372036854775807, not a number of 1329 bits"),
        ({"batch_size": float("inf")}, "'batch_size': expected a whole number, found inf"),
        ({"learning_rate": 10**400}, "'learning_rate': expected a number or 'auto', found a number of 1329 bits"),
        ({"learning_rate": "1" * 401}, "'learning_rate': expected a number or 'auto', found '1111"),
        ({"seed": 2**32}, "'seed': must be at most 4294967295, not 4294967296"),
        ({"warmup_ratio": 1.1}, "'warmup_ratio': must be at most 1.0, not 1.1"),
        ({"adam_beta2": 1}, "'adam_beta2': must be below 1, not 1.0"),
        ({"use_lora": False, "init_lora_weights": "pissa"}, "'init_lora_weights' needs use_lora: true"),
        ({"use_lora": "maybe"}, "'use_lora': expected true or false, found 'maybe'"),
        ({"use_lora": 1}, "'use_lora': expected true or false, found 1"),
        ({"base_model": 3}, "'base_model': expected text, found 3"),
        ({"base_model": " "}, "'base_model' is empty"),
        ({"dtype": "float16"}, "'dtype': expected 'auto' or 'float32' or 'bfloat16', found 'float16'"),
        ({"output_dir": 3}, "'output_dir': expected a path, found 3"),
        ({"coreset_target_size": "x"}, "'coreset_target_size': expected a whole number or null, found 'x'"),
        ({"use_lora": False, "use_dora": True}, "'use_dora' needs use_lora: true"),
        ({"use_lora": False, "use_lora_plus": True}, "'use_lora_plus' needs use_lora: true"),
        ({"lora_rank": 8}, "unknown setting 'lora_rank'; did you mean 'lora_r'?"),
        ({"num_train_epoch": 8}, "unknown setting 'num_train_epoch'; did you mean 'num_train_epochs'?"),
        ({"zzz": 8}, "unknown setting 'zzz'"),
        ({"num_epochs": 1, "num_train_epochs": 1}, "'num_train_epochs' and 'num_epochs' are the same setting"),
    ],
)
def test_faulty_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    assert fault_of(**settings).startswith(message)


def test_all_faults_are_told_at_once() -> None:
    assert fault_of(batch_size=0, num_epochs=0) == (
        "'num_epochs': must be at least 1, not 0; 'batch_size': must be at least 1, not 0"
    )
    with pytest.raises(ConfigError) as caught:
        AgentSFTConfig.from_dict({"lora_rank": 1, "zzz": 2}, where="a.yaml")
    assert str(caught.value) == (
        "a.yaml: unknown setting 'lora_rank'; did you mean 'lora_r'?; unknown setting 'zzz'; "
        "'base_model' is required; 'train_data' is required"
    )


def test_constructor_checks_as_well() -> None:
    with pytest.raises(ConfigError, match="'lora_r': must be at least 1, not 0"):
        AgentSFTConfig("m", "d", lora_r=0)
    assert AgentSFTConfig("m", "d", "e", "runs").output_dir == Path("runs")  # type: ignore[arg-type]


def test_aliases_name_the_same_setting() -> None:
    values = {"model_name_or_path": "m", "dataset_name": "d", "per_device_train_batch_size": 2, "max_length": 99}
    got = AgentSFTConfig.from_dict(values)
    assert (got.base_model, got.train_data, got.batch_size, got.max_seq_length) == ("m", "d", 2, 99)


def test_every_alias_is_taken_once_and_is_no_field() -> None:
    names = [spec.name for spec in fields(AgentSFTConfig)]
    aliases = [alias for spec in fields(AgentSFTConfig) for alias in spec.metadata.get("aliases", ())]
    assert len({*names, *aliases}) == len(names) + len(aliases)


@pytest.mark.parametrize("spec", fields(AgentSFTConfig), ids=lambda spec: spec.name)
def test_every_setting_has_its_help(spec: Any) -> None:
    assert spec.metadata["help"]


def test_plain_values_and_back() -> None:
    one = config(output_dir="runs/a", learning_rate="auto", eval_data="e")
    plain = one.to_dict()
    assert plain["output_dir"] == str(Path("runs/a"))
    assert AgentSFTConfig.from_dict(plain) == one


def test_yaml_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text("base_model: m\ntrain_data: d\nlearning_rate: 1e-4\nbatch_size: 2\nuse_dora: yes\n")
    got = AgentSFTConfig.from_yaml(path, batch_size=3)
    assert (got.learning_rate, got.batch_size, got.use_dora) == (1e-4, 3, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected a YAML mapping (name: value), found list"),
        ("", "expected a YAML mapping (name: value), found NoneType"),
        ("a: [", "is not valid YAML: "),
        ("base_model: 2024-13-45\n", "is not valid YAML: month must be in 1..12"),
        ("a: " + "[" * 5000, "is not valid YAML: maximum recursion depth"),
        ("base_model: m\ntrain_data: d\nbatch_size: 0\n", "'batch_size': must be at least 1, not 0"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML: "),
    ],
)
def test_a_faulty_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        AgentSFTConfig.from_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_bytes("base_model: Zürich\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"sft\.yaml: is not UTF-8 text \(.* at byte 13\); save it as UTF-8"):
        read_yaml(tmp_path / "sft.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "gone.yaml")


def test_building_a_config_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config(output_dir="runs/a", train_data="gone.jsonl")
    assert list(tmp_path.iterdir()) == []


@dataclass
class Oven(Config):
    degrees: int = option(180, "heat", low=50, high=250, aliases=("temperature",))

    def conflicts(self) -> list[str]:
        return ["'degrees' is unlucky"] if self.degrees == 213 else []


def test_a_config_of_ones_own() -> None:
    assert Oven.from_dict({"temperature": "200"}).degrees == 200
    for degrees, message in ((300, "must be at most 250, not 300"), (213, "is unlucky")):
        with pytest.raises(ConfigError, match=message):
            Oven(degrees)
