"""The example configs are read by those they are written for: ours by `AgentSFTConfig`, accelerate's by accelerate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command

from sage.libs.finetune.agent import AgentSFTConfig
from sage.libs.finetune.agent.cli.launch import _parsed
from sage.libs.finetune.agent.training.stream_config import StreamConfig

CONFIGS = Path(__file__).parents[2] / "configs"
STREAM = CONFIGS / "stream.yaml"
COMPARE = CONFIGS / "compare.yaml"
TRAINING = sorted(set(CONFIGS.glob("*.yaml")) - {STREAM, COMPARE, *CONFIGS.glob("rl*.yaml")})
ACCELERATE = sorted((CONFIGS / "accelerate").glob("*.yaml"))


def test_all_examples_are_there() -> None:
    assert [path.stem for path in TRAINING] == [
        "laptop_cpu", "mix", "sft_dora_loraplus_1gpu", "sft_full_8gpu_fsdp", "sft_lora_1gpu", "sft_lora_8gpu_zero3",
        "sft_qlora_1gpu",
    ]  # fmt: skip
    assert [path.stem for path in ACCELERATE] == ["ddp", "deepspeed_zero3", "fsdp2"]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_a_training_config_says_what_its_name_says(path: Path) -> None:
    config = AgentSFTConfig.from_yaml(path)
    assert config.use_lora != ("full" in path.stem)
    assert config.load_in_4bit == ("qlora" in path.stem)
    assert (config.use_dora, config.use_lora_plus) == (("dora" in path.stem,) * 2)


def test_the_stream_replays_and_gives_a_task_its_own_settings() -> None:
    config = StreamConfig.from_yaml(STREAM)
    assert [task.settings.max_steps for task in config.tasks] == [40, 60]
    assert all(task.settings.use_online_continual for task in config.tasks)


@pytest.mark.parametrize("path", [*TRAINING, STREAM, COMPARE, *ACCELERATE], ids=lambda path: path.stem)
def test_the_commands_on_top_name_files_that_are_there(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    named = re.findall(r"configs/\S+\.yaml", "\n".join(comments))
    assert any(path.name in name for name in named)
    assert all((CONFIGS.parent / name).is_file() for name in named)


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_config_and_would_launch_it(path: Path) -> None:
    loaded = load_config_from_file(str(path))
    assert loaded.num_processes == 8
    launched, _, _ = _validate_launch_command(_parsed(["train"], ["--config_file", str(path)]))
    assert launched.num_processes == 8 and launched.training_script_args == ["train"]
    kind = {"ddp": "multi_gpu", "fsdp2": "use_fsdp", "deepspeed_zero3": "use_deepspeed"}[path.stem]
    assert [name for name in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(launched, name)] == [kind]
    if kind == "use_fsdp":
        assert launched.fsdp_version == 2 and launched.fsdp_state_dict_type == "SHARDED_STATE_DICT"


def test_the_deepspeed_config_is_of_stage_3() -> None:
    loaded = load_config_from_file(str(CONFIGS / "accelerate" / "deepspeed_zero3.yaml"))
    settings = json.loads((CONFIGS.parent / loaded.deepspeed_config["deepspeed_config_file"]).read_text())
    assert settings["zero_optimization"]["stage"] == 3 and settings["bf16"]["enabled"]


def test_a_flag_wins_over_the_config_file() -> None:
    arguments = ["--config_file", str(CONFIGS / "accelerate" / "ddp.yaml"), "--num_processes", "2"]
    launched, _, _ = _validate_launch_command(_parsed(["train"], arguments))
    assert launched.num_processes == 2
