"""kill -9 at random steps of a training run: resumed to its end, it gives byte for byte the adapter of an unkilled one.

The unkilled run is the command itself in a process of its own. The killed ones are forked from one that has imported
what training needs, which takes longer than the runs. The two have different hash seeds. With a replay buffer the
buffer is the same in the end as well.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent.training.checkpoints import fault_of, newest_checkpoint

STEPS = 24
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # threads of so small a model wait for each other, the more so on a busy machine
FORKS = """
import json, os, sys
import peft
import sage.libs.finetune.agent.training.sft
from sage.libs.finetune.agent.cli.main import main

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        with open(os.environ["SAID"], "a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        code = 1
        try:
            code = main(json.loads(line))
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[[str], list[str]]:
    """`train` with batches that end in the middle of an epoch, dropout, and a checkpoint after each second step."""
    save_tiny(tmp_path / "model")
    words = ["desk", "lamp", "chair", "sofa", "table", "shelf", "clock"]
    lines = [json.dumps(conversation(word, str(number))) + "\n" for number, word in enumerate(words)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    settings = {
        "base-model": tmp_path / "model", "train-data": tmp_path / "rows.jsonl", "batch-size": 1,
        "gradient-accumulation-steps": 2, "learning-rate": 0.01, "max-steps": STEPS, "max-seq-length": 512,
        "dtype": "float32", "lora-r": 4, "lora-dropout": 0.1, "save-steps": 2,
    }  # fmt: skip
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return lambda run: ["train", *options, "--output-dir", str(tmp_path / run)]


@contextmanager
def forks(said: Path) -> Iterator[Callable[[list[str]], tuple[int, Callable[[], int]]]]:
    """Starts a command; gives its process id, and a wait for its exit code."""
    environment = {**os.environ, **ONE_THREAD, "PYTHONHASHSEED": "2", "SAID": str(said)}
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdin is not None and parent.stdout is not None
    stdin, stdout = parent.stdin, parent.stdout

    def start(arguments: list[str]) -> tuple[int, Callable[[], int]]:
        stdin.write(json.dumps(arguments) + "\n")
        stdin.flush()
        return int(stdout.readline()), lambda: int(stdout.readline())

    try:
        yield start
    finally:
        stdin.close()
        parent.wait(timeout=60)
        stdout.close()


def wait_for(happens: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, "the run did not get there"
        time.sleep(0.0005)


def last_step(run: Path) -> int:
    newest = newest_checkpoint(run)
    return int(newest.name.removeprefix("checkpoint-")) if newest else 0


def drafts(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".draft-*"))


def stop_in_a_draft(process: int, run: Path, before: set[Path], delay: float) -> None:
    """Stop the process while it writes a checkpoint, `delay` seconds into it; if that was late, at once in the next."""
    while True:
        wait_for(lambda: not before.issuperset(drafts(run)))
        time.sleep(delay)
        os.kill(process, signal.SIGSTOP)
        if not before.issuperset(drafts(run)):
            return
        os.kill(process, signal.SIGCONT)
        delay = 0.0


def kill_and_resume(run: Path, arguments: list[str], kills: int, seed: int) -> dict[str, Any]:
    """Kill the run `kills` times, every other time while it writes a checkpoint, and let it end."""
    rng = random.Random(seed)
    seen: dict[str, Any] = {"killed": 0, "while writing a checkpoint": 0, "went on from step": []}
    with forks(run.with_suffix(".said")) as start:
        for number, step in enumerate(sorted(rng.sample(range(STEPS - 2), kills))):
            resume = ["--resume"] if (run / "config.yaml").exists() else []
            seen["went on from step"].append(last_step(run))
            before = set(drafts(run))
            process, code = start([*arguments, *resume])
            wait_for(lambda step=step: last_step(run) >= step)
            delay = rng.uniform(0.0, 0.02)
            if number % 2:
                stop_in_a_draft(process, run, before, delay)
            else:
                time.sleep(delay)
            os.kill(process, signal.SIGKILL)
            assert code() == -signal.SIGKILL, run.with_suffix(".said").read_text()[-2000:]
            seen["killed"] += 1
            seen["while writing a checkpoint"] += bool(drafts(run))
        resume = ["--resume"] if (run / "config.yaml").exists() else []
        _, code = start([*arguments, *resume])
        assert code() == 0, run.with_suffix(".said").read_text()[-2000:]
    return seen


def content(run: Path) -> tuple[bytes, bytes, dict[str, Any], list[dict[str, Any]]]:
    """What must not depend on kills: the adapter and its settings, the result, and the log, both without times."""
    result = json.loads((run / "result.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return (
        (run / "adapter" / "adapter_model.safetensors").read_bytes(),
        (run / "adapter" / "adapter_config.json").read_bytes(),
        {name: result[name] for name in ("losses", "final_loss", "steps", "tokens_seen", "tokens_trained")},
        [{name: line[name] for name in ("step", "loss", "learning_rate", "grad_norm")} for line in lines],
    )


def compare_with_unkilled(folder: Path, command: Callable[[str], list[str]], kills: int, seed: int) -> dict[str, Any]:
    unkilled = [sys.executable, "-m", "sage.libs.finetune.agent.cli.main", *command("alone")]
    environment = {**os.environ, **ONE_THREAD, "PYTHONHASHSEED": "1"}
    alone = subprocess.Popen(unkilled, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        seen = kill_and_resume(folder / "killed", command("killed"), kills, seed)
        _, err = alone.communicate(timeout=120)
    finally:
        alone.kill()
    assert alone.returncode == 0, err
    of_killed, of_alone = content(folder / "killed"), content(folder / "alone")
    for one, other in zip(of_killed, of_alone, strict=True):
        assert one == other
    assert [line["step"] for line in of_killed[3]] == list(range(1, STEPS + 1))
    newest = newest_checkpoint(folder / "killed")
    assert newest is not None and newest.name == f"checkpoint-{STEPS}" and fault_of(newest) is None
    assert not list((folder / "killed").rglob(".*")), "leftovers of killed runs"
    return seen


def test_ten_kills(tmp_path: Path, command: Callable[[str], list[str]]) -> None:
    seen = compare_with_unkilled(tmp_path, command, kills=10, seed=1)
    print(seen)
    assert seen["killed"] == 10 and seen["while writing a checkpoint"] >= 5


def test_three_kills_with_a_replay_buffer(tmp_path: Path, command: Callable[[str], list[str]]) -> None:
    """In the first epoch, which lasts 20 steps here: while the buffer fills and rows lose their places again."""
    lines = [json.dumps(conversation(f"word{number}", str(number))) + "\n" for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    options = ["--use-online-continual", "--continual-buffer-size", "12", "--continual-strategy", "surprise"]
    seen = compare_with_unkilled(tmp_path, lambda run: [*command(run), *options], kills=3, seed=2)
    assert seen["killed"] == 3 and seen["while writing a checkpoint"] >= 1
    buffers = [
        {path.name: path.read_bytes() for path in (tmp_path / run / "replay_buffer").iterdir()}
        for run in ("killed", "alone")
    ]
    assert buffers[0] == buffers[1] and len(buffers[0]) == 2
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in ("killed", "alone")]
    assert results[0]["rows_replayed"] == results[1]["rows_replayed"] > 8
