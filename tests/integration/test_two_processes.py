"""Two processes train as one with the same rows a step, and end together: at the end, at a signal, when one is killed.

They compute on CPUs and meet over Gloo. A start takes seconds, so what can be seen in one run is looked at in one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import save_tiny
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent.cli.launch import split
from sage.libs.finetune.agent.cli.main import main
from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.training.checkpoints import newest_checkpoint

STEPS = 40
TWO = ["--", "--cpu", "--num_processes", "2"]
SAGE = ["-m", "sage.libs.finetune.agent.cli.main"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *SAGE]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine rows in steps of four: the last step of an epoch has one row for two processes."""
    folder = tmp_path_factory.mktemp("two")
    save_tiny(folder / "model")
    words = ["desk", "lamp", "chair", "sofa", "table", "shelf", "clock", "stool", "door"]
    rows = [json.dumps(conversation(word, str(n) * (1 + n % 3))) + "\n" for n, word in enumerate(words)]
    (folder / "rows.jsonl").write_text("".join(rows))
    return folder


def train(folder: Path, accumulation: int, **settings: object) -> list[str]:
    options = {
        "base-model": folder / "model", "train-data": folder / "rows.jsonl", "batch-size": 1,
        "gradient-accumulation-steps": accumulation, "learning-rate": 0.002, "max-steps": STEPS, "max-seq-length": 512,
        "dtype": "float32", "lora-r": 4, "save-steps": 2, **settings,
    }  # fmt: skip
    return ["train", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and what stderr says beside progress."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, [line for line in err.splitlines() if not line.startswith("train ")]


def lines(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(happens: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 90
    while not happens():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    code, out, said = finished(start(folder, *SAGE, *train(folder, 2), "--json", *TWO))
    assert (code, said) == (0, [])
    assert json.loads(out)["steps"] == STEPS, "one process reports"
    return folder / ".sage" / "finetune" / "run-0001"


def test_two_processes_are_one_with_the_same_rows_a_step(folder: Path, two: Path) -> None:
    assert main([*train(folder, 4), "--output-dir", str(folder / "one")]) == 0
    for ours, theirs in zip(lines(folder / "one"), lines(two), strict=True):
        for name in ("step", "loss", "learning_rate", "tokens", "tokens_trained"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (ours["step"], name)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3), ours["step"]
    one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (folder / "one", two))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["reservoir", pytest.param("surprise", marks=pytest.mark.slow)])
def test_two_processes_replay_the_rows_that_one_does(folder: Path, strategy: str) -> None:
    one, two = (folder / f"{strategy}-{count}" for count in ("one", "two"))
    settings = {
        "max-steps": 9, "continual-strategy": strategy, "continual-replay-ratio": 0.75, "continual-buffer-size": 5,
    }  # fmt: skip
    ours = [*train(folder, 4, **settings, **{"output-dir": one}), "--use-online-continual"]
    theirs = [*train(folder, 2, **settings, **{"output-dir": two}), "--use-online-continual"]
    assert finished(start(folder, *SAGE, *theirs, *TWO))[::2] == (0, [])
    assert main(ours) == 0
    for line, same in zip(lines(one), lines(two), strict=True):
        for name in ("loss", "tokens", "tokens_trained"):
            assert line[name] == pytest.approx(same[name], rel=1e-5), (line["step"], name)
    weights = [load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-4, rtol=1e-4)
    results = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    assert results[0]["rows_replayed"] == results[1]["rows_replayed"] > 10
    buffers = [OnlineContinualLearner.load(run / "replay_buffer") for run in (one, two)]
    assert buffers[0].items == buffers[1].items and buffers[0].seen == buffers[1].seen == 9


def test_the_run_folder_is_that_of_one_process(two: Path) -> None:
    assert [run.name for run in two.parent.iterdir()] == ["run-0001"]
    for name in ("config.yaml", "data.json", "versions.json", "result.json", "README.md", "adapter/tokenizer.json"):
        assert (two / name).stat().st_size > 0, name
    newest = newest_checkpoint(two)
    assert newest is not None and newest.name == f"checkpoint-{STEPS}"
    assert json.loads((newest / "manifest.json").read_text())["processes"] == 2
    assert not list(two.rglob(".*"))


@pytest.fixture(scope="module")
def cut_short(folder: Path, two: Path) -> Path:
    """A run that was stopped, resumed and killed."""
    run = two.parent / "run-0002"
    first = start(folder, *SAGE, *train(folder, 2), *TWO)
    wait_for(lambda: len(lines(run)) >= 3, first)
    first.send_signal(signal.SIGTERM)
    code, _, said = finished(first)
    assert code == 130 and len(said) == 1 and said[0].startswith("interrupted: after step"), said
    done = len(lines(run))
    newest = newest_checkpoint(run)
    assert newest is not None and newest.name == f"checkpoint-{done}"

    second = start(folder, *SAGE, *train(folder, 2), "--resume", *TWO)
    wait_for(lambda: len(lines(run)) >= done + 3, second)
    workers = {worker.environ()["RANK"]: worker for worker in psutil.Process(second.pid).children()}
    workers["1"].kill()
    code, _, said = finished(second)
    # The one that is left may notice that its partner is gone, and say so, before it is ended.
    assert code == 1 and len(said) <= 2 and said[-1].startswith("error: train: process 1 was ended by SIGKILL"), said
    return run


def test_a_resumed_run_goes_on_as_if_nothing_had_been(two: Path, cut_short: Path) -> None:
    losses = [line["loss"] for line in lines(cut_short)]
    assert losses == [line["loss"] for line in lines(two)][: len(losses)]


@pytest.mark.slow
def test_resumed_to_the_end_by_torchrun_it_is_the_same_run(folder: Path, two: Path, cut_short: Path) -> None:
    code, out, said = finished(start(folder, *TORCHRUN, *train(folder, 2), "--resume"))
    assert code == 0 and out.count("run folder") == 1, said
    assert [line["loss"] for line in lines(cut_short)] == [line["loss"] for line in lines(two)]
    name = "adapter/adapter_model.safetensors"
    assert (cut_short / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.slow
def test_what_fails_in_all_processes_is_said_once(folder: Path) -> None:
    (folder / "broken.jsonl").write_text("{broken\n")
    code, out, said = finished(start(folder, *SAGE, *train(folder, 2, **{"train-data": "broken.jsonl"}), *TWO))
    assert code == DataError.exit_code and out == "" and len(said) == 1 and "broken.jsonl:1: not JSON" in said[0], said


@pytest.mark.parametrize(
    ("behind", "line"),
    [
        (["--nope"], "what follows `--` is for accelerate launch: unrecognized arguments: --nope"),
        (["script.py"], "what follows `--` is for accelerate launch: unexpected argument: script.py"),
        (["--config_file", "no-such.yaml"], "accelerate config file no-such.yaml: "),
        (["--cpu", "--multi_gpu"], "accelerate launch: You can only use one of"),
    ],
)
def test_wrong_arguments_start_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], behind: list[str], line: str
) -> None:
    assert main([*train(folder, 2), "--", *behind]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: train: {line}") and err.count("\n") == 1, err


def test_the_command_itself_is_checked_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*train(folder, 2, **{"batch-size": 0}), *TWO]) == 2
    assert "'batch_size': must be at least 1" in capsys.readouterr().err


def test_only_train_is_launched() -> None:
    assert split(["convert", "--", "-rows.jsonl"]) == (["convert", "--", "-rows.jsonl"], None)
    assert split(["train", "--"]) == (["train"], [])
