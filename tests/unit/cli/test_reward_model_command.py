"""`reward-model` from pairs to a model that `rl` takes, with a tiny one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny
from tests.unit.training.rl.test_pairs import pair

from sage.libs.finetune.agent.jsonl import write_jsonl

OWN = """
class Echo:
    def reset(self, task):
        return None

    def step(self, action, action_input):
        return "Thanks.", 0.0, True
"""
COMMAND = ("reward-model", "pairs.jsonl", "--base-model", "./m", "-o", "reward")


@pytest.fixture
def base(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_tiny(tmp_path / "m")
    write_jsonl(tmp_path / "pairs.jsonl", [pair(number % 2) for number in range(20)])
    capfd.readouterr()  # a progress bar


@pytest.mark.usefixtures("base")
def test_what_it_makes_is_a_reward_model_for_rl(cli: Any, tmp_path: Path) -> None:
    learn = ("--learning-rate", "1e-3", "--held-out", 0.25)
    code, out, err = cli(*COMMAND, *learn, "--json")
    data = json.loads(out)
    assert (code, data["pairs"], data["held_out"], data["too_long"], data["steps"]) == (0, 15, 5, 0, 2), err
    assert 0 <= data["accuracy"] <= 1 and data["output"] == "reward"
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "tasks.jsonl").write_text('{"task_id": "a", "instruction": "Say 1."}\n')
    play = ("--environment", "python:own.py:Echo", "--tasks", "tasks.jsonl", "--max-new-tokens", 4, "--max-steps", 1)
    small = ("--iterations", 1, "--episodes-per-iteration", 2, "--minibatch-episodes", 2, "--output-dir", "run")
    code, out, err = cli("rl", "--base-model", "./m", "--reward-model", "reward", *play, *small, "--json")
    assert code == 0 and json.loads(out)["last"]["reward"] != 0, err


@pytest.mark.usefixtures("base")
def test_it_tells_what_it_measured_and_what_comes_next(cli: Any) -> None:
    code, out, err = cli(*COMMAND, "--max-seq-length", 400)
    assert (code, "error" in err, "warning" in err) == (0, False, False), err
    assert out.startswith("pairs     20\nloss") and "held out  none: too few pairs to measure on\n" in out
    assert out.endswith("next: sage-finetune rl --base-model ./m --reward-model reward\n")
    code, _, err = cli(*COMMAND)
    assert code == 2 and "error: reward-model: reward is in use; give a new folder" in " ".join(err.split())


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--max-seq-length", 16], "pairs.jsonl: none of 20 pairs fits max_seq_length (16); raise it"),
        (["--base-model", "./nowhere"], "model folder ./nowhere does not exist"),
        (["--base-model", ""], "'base_model' is empty"),
        (["--held-out", 1], "'held_out'"),
        (["-o", "pairs.jsonl"], "'output' is the input file; give another name"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(cli: Any, tmp_path: Path, flags: list[Any], line: str) -> None:
    ended = cli(*COMMAND, *flags)
    said = " ".join(ended.err.split())
    assert (ended.code, ended.out) == (2, ""), said
    assert said.startswith("error: ") and line in said and "Traceback" not in said, said
    assert not (tmp_path / "reward").exists()


@pytest.mark.usefixtures("base")
def test_no_pairs_and_what_is_no_pair_are_told(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    assert "pairs.jsonl: there is no pair; make some with `sage-finetune pref" in " ".join(cli(*COMMAND).err.split())
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": []}])
    assert "pairs.jsonl:1: field 'prompt': expected a list of messages" in " ".join(cli(*COMMAND).err.split())


@pytest.mark.usefixtures("base")
def test_without_trl_it_names_the_extra(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.libs.finetune.agent.training.rl.start.find_spec", lambda name: None)
    code, _, err = cli(*COMMAND)
    assert code == 2
    assert "reward-model: trl and datasets not installed; run `pip install 'sage-libs[rl]'`" in " ".join(err.split())
