"""What a stream's file may say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.training.stream_config import StreamConfig

TASKS = [
    {"name": "tools", "train_data": "a.jsonl", "eval_data": "b.jsonl"},
    {"name": "plans", "train_data": "c.jsonl", "eval_data": "d.jsonl", "max_steps": 90, "max_length": 99},
]
BASE: dict[str, Any] = {"base_model": "m", "output_dir": "runs", "max_steps": 60, "tasks": TASKS}


def test_common_settings_hold_for_all_tasks_and_a_task_has_its_own() -> None:
    first, second = StreamConfig.from_dict({**BASE, "lora_r": 8, "max_seq_len": 64}).tasks
    assert (first.settings.max_steps, second.settings.max_steps) == (60, 90)
    assert (first.settings.max_seq_length, second.settings.max_seq_length) == (64, 99)
    assert first.settings.lora_r == second.settings.lora_r == 8
    assert [str(task.settings.output_dir) for task in (first, second)] == ["runs/01-tools", "runs/02-plans"]
    assert (second.settings.train_data, second.eval_data) == ("c.jsonl", "d.jsonl")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lora_rank": 8}, "unknown setting 'lora_rank'; did you mean 'lora_r'?"),
        ({"evaluate_frist": True}, "did you mean 'evaluate_first'?"),
        ({"train_data": "x"}, "'train_data' belongs to a task; put it into 'tasks'"),
        ({"continual_buffer_path": "x"}, "each task goes on with the buffer of the one before it"),
        ({"model": "x"}, "'base_model' is given under two names"),
        ({"evaluate": "both"}, "'evaluate': expected 'generate' or 'loss', found 'both'"),
        ({"tasks": {}}, "'tasks': expected a list of tasks, found dict"),
        ({"tasks": []}, "'tasks' is empty"),
        ({"tasks": ["tools"]}, "task 1: expected a mapping with name, train_data and eval_data, found 'tools'"),
        ({"tasks": [{"name": "tools"}]}, "task 1: 'train_data' and 'eval_data' must be given"),
        ({"tasks": [{**TASKS[0], "name": "a/b"}]}, "task 1: 'name': expected letters"),
        ({"tasks": [TASKS[0], {**TASKS[1], "name": "Tools"}]}, "two are called 'tools'"),
        ({"tasks": [{**TASKS[0], "lora_r": 8}]}, "task 1 ('tools'): 'lora_r' is the same for all tasks"),
        ({"tasks": [{**TASKS[0], "lr": 8}]}, "task 1 ('tools'): unknown setting 'lr'"),
        ({"tasks": [{**TASKS[0], "max_steps": 0}]}, "task 1 ('tools'): 'max_steps': must be at least 1, not 0"),
        ({"continual_self_rows": 8}, "'continual_self_rows' needs use_online_continual: true"),
        ({"continual_on_policy": True}, "'continual_on_policy' needs use_online_continual: true"),
        ({"init_lora_weights": "pissa"}, "pissa leaves an adapter of twice the rank"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        StreamConfig.from_dict({**BASE, **changed}, "stream.yaml")
    assert str(error.value).startswith(("stream.yaml: ", "stream.yaml, "))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_faults_of_all_tasks_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"task 1 \('tools'\): .*; task 2: 'eval_data' must be given"):
        StreamConfig.from_dict({**BASE, "tasks": [{**TASKS[0], "lr": 1}, {"name": "x", "train_data": "y"}]})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="'base_model' is required; 'output_dir' is required; 'tasks' is required"):
        StreamConfig.from_dict({})


def test_it_is_read_from_yaml_and_shown_as_plain_values(tmp_path: Path) -> None:
    (tmp_path / "stream.yaml").write_text(
        "model: m\noutput_dir: runs\nlearning_rate: 1e-3\ntasks:\n- {name: t, train_data: a, eval_data: b}\n"
    )
    shown = StreamConfig.from_yaml(tmp_path / "stream.yaml", evaluate="loss").to_dict()
    assert (shown["base_model"], shown["evaluate"], shown["tasks"][0]["learning_rate"]) == ("m", "loss", 1e-3)


def test_reading_it_loads_no_torch() -> None:
    code = "import sys, sage.libs.finetune.agent.training.stream_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("eval_data", ["", None])
def test_held_out_data_without_a_name_is_missing(eval_data: str | None) -> None:
    with pytest.raises(ConfigError, match="'eval_data' must be given"):
        StreamConfig.from_dict({**BASE, "tasks": [{**TASKS[0], "eval_data": eval_data}]})
