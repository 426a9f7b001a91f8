"""`rl` from end to end, with a tiny model and a tiny environment of one's own."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny
from tests.unit.training.conftest import conversation

OWN = """
class Echo:
    def reset(self, task):
        return "Say something."

    def step(self, action, action_input):
        return "Thanks.", 1.0, True


def tasks(split, n, seed):
    return [{"task_id": f"{split}-{i}", "instruction": f"Say {i}."} for i in range(n)]
"""
RL = """\
base_model: ./m
output_dir: run
environment: python:own.py:Echo
num_tasks: 2
iterations: 2
episodes_per_iteration: 4
minibatch_episodes: 2
num_epochs: 1
max_steps: 2
max_new_tokens: 4
learning_rate: 1e-3
dtype: float32
lora_r: 4
save_steps: 1
"""


@pytest.fixture
def rl(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> tuple[str, ...]:
    save_tiny(tmp_path / "m")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "rl.yaml").write_text(RL)
    capfd.readouterr()  # a progress bar
    return "rl", "--config", "rl.yaml"


def test_a_run_is_told_as_tables_and_is_a_model_for_every_command(
    cli: Any, rl: tuple[str, ...], tmp_path: Path
) -> None:
    code, out, err = cli(*rl)
    assert (code, "error" in err, "warning" in err) == (0, False, False), err
    assert out.startswith("algorithm        ppo\noptimiser steps  4\n")
    assert "at the beginning" in out and "\nreward " in out
    assert out.endswith("next: sage-finetune evaluate run --against ./m\n")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    code, out, _ = cli(*rl, "--resume", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 4)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == metrics  # it had come to its end
    again = cli(*rl)
    assert again.code == 2 and again.err.startswith("error: rl: run holds a run already; resume it (--resume)")
    rows = [conversation(word, str(number)) for number, word in enumerate(("desk", "lamp"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = cli("evaluate", "run", "rows.jsonl", "--max-new-tokens", 4, "--json")
    assert code == 0 and json.loads(out)["rows"] == 2, err
    code, _, err = cli("export", "run", "--merge", "--dtype", "float32")
    assert code == 0, err
    assert list(tmp_path.rglob("merged/model.safetensors"))


def test_its_json_has_no_nan_and_a_flag_wins_over_the_file(cli: Any, rl: tuple[str, ...]) -> None:
    code, out, _ = cli(*rl, "--iterations", 1, "--output-dir", "other", "--json")
    data = json.loads(out)
    assert code == 0
    assert (data["algorithm"], data["steps"], data["output_dir"], data["interrupted"]) == ("ppo", 2, "other", False)
    assert data["last"]["step"] == 1 and {"reward", "success", "kl_per_episode", "entropy"} <= data["last"].keys()


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(cli: Any, rl: tuple[str, ...], tmp_path: Path) -> None:
    def interrupt() -> None:
        give_up = time.monotonic() + 60
        while not (tmp_path / "run" / "samples").exists() and time.monotonic() < give_up:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    command = (*rl, "--iterations", "400", "--save-steps", "400")
    threading.Thread(target=interrupt).start()
    code, _, err = cli(*command)
    assert code == 130
    assert "a checkpoint is in run: run the same command with --resume to go on" in " ".join(err.split())
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert 1 <= done < 400 and (tmp_path / "run" / "checkpoints" / f"checkpoint-{done}").is_dir()
    assert not (tmp_path / "run" / "adapter").exists()
    refused = cli(*rl, "--resume")
    assert refused.code == 2 and "other settings: iterations was 400 and is 2" in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--algorithm", "pop"], "rl.yaml and flags: 'algorithm': unknown algorithm 'pop'; did you mean 'ppo'? known"),
        (["--algorithm", "grpo", "--samples-per-task", "1"], "'samples_per_task' must be at least 2 for grpo"),
        (["--base-model", ""], "'base_model' is empty"),
        (["--base-model", "none"], "'base_model' is required: a run folder, adapter, model folder or id"),
        (["--base-model", "./nowhere"], "model folder ./nowhere does not exist"),
        (["--environment", "dsek"], "unknown environment 'dsek'; did you mean 'desk'?"),
        (["--environment", "python:none.py:Echo"], "none.py: is no Python file"),
        (["--environment", "desk", "--split", "trian"], "environment 'desk' has no split 'trian'; did you mean 'tr"),
        (["--tasks", "none.jsonl"], "none.jsonl"),
        (["--tasks", "broken.jsonl"], "broken.jsonl:2"),
        (["--tasks", "empty.jsonl"], "empty.jsonl: the file is empty; expected one task"),
        (["--tasks", "few.jsonl"], "few.jsonl: 1 tasks; ask for at most as many, not 2"),
        (["--reward-model", "./nowhere"], "reward model ./nowhere: there is no such folder"),
        (
            ["--reward-model", "./m"],
            "reward model ./m: expected a sequence-classification model, found LlamaForCausalLM",
        ),
        (["--resume"], "run holds no run to resume (no config.yaml); start without resume"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Any, rl: tuple[str, ...], tmp_path: Path, flags: list[str], line: str
) -> None:
    (tmp_path / "broken.jsonl").write_text('{"instruction": "Say 1."}\n{"instruction": \n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "few.jsonl").write_text('{"instruction": "Say 1."}\n')
    ended = cli(*rl, *flags)
    assert (ended.code, ended.out) == (2, "")
    said = " ".join(ended.err.split())
    assert "error: rl: " in said and line in said and "Traceback" not in said, said
    assert not (tmp_path / "run").exists()
