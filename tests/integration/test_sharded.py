"""FSDP2 over two processes on CPUs gives the run of one process: losses, evaluations, checkpoints, saved weights.

accelerate takes FSDP for a thing of GPUs only; the workers here tell it that theirs is one. What it then does (sharding
each decoder layer, gathering, clipping, checkpoints in parts) is the same code as on GPUs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import save_tiny
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent.cli.main import main

pytestmark = pytest.mark.slow

WORKER = """
import os, sys
import accelerate.state, torch
from accelerate.utils import DistributedType

torch.distributed.init_process_group("gloo")
accelerate.state.PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
accelerate.state.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))

from sage.libs.finetune.agent.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT", "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    save_tiny(folder / "model")
    (folder / "worker.py").write_text(WORKER)
    words = ["desk", "lamp", "chair", "sofa", "table", "shelf", "clock", "stool", "door"]
    rows = [json.dumps(conversation(word, str(n) * (1 + n % 3))) + "\n" for n, word in enumerate(words)]
    (folder / "rows.jsonl").write_text("".join(rows))
    return folder


def train(folder: Path, name: str, accumulation: int, *flags: str) -> list[str]:
    return [
        "train", "--base-model", str(folder / "model"), "--train-data", str(folder / "rows.jsonl"),
        "--output-dir", str(folder / name), "--batch-size", "1", "--gradient-accumulation-steps", str(accumulation),
        "--learning-rate", "0.002", "--max-steps", "6", "--max-seq-length", "512", "--dtype", "float32",
        "--lora-r", "4", "--save-steps", "4", *flags,
    ]  # fmt: skip


def sharded(folder: Path, name: str, *flags: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(folder / "worker.py"), *train(folder, name, 2, *flags)],
        env={**os.environ, **FSDP}, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def logged(folder: Path, name: str, number: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line[number] for line in lines if number in line]


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "flags", "saved"),
    [
        ("lora", [], "adapter/adapter_model.safetensors"),
        ("dora", ["--use-dora", "--gradient-checkpointing"], "adapter/adapter_model.safetensors"),
        ("full", ["--no-use-lora"], "model/model.safetensors"),
    ],
)
def test_sharded_training_is_that_of_one_process(folder: Path, kind: str, flags: list[str], saved: str) -> None:
    watched = ["--eval-data", str(folder / "rows.jsonl"), "--eval-steps", "3", "--eval-rows", "1"]
    flags = [*flags, *watched, "--max-new-tokens", "8"]
    sharded(folder, kind, *flags)
    assert main(train(folder, f"{kind}-one", 4, *flags)) == 0
    for number in ("loss", "eval_loss"):
        assert logged(folder, kind, number) == pytest.approx(logged(folder, f"{kind}-one", number), rel=1e-4)
    assert_same_weights(folder / kind / saved, folder / f"{kind}-one" / saved)

    checkpoints = folder / kind / "checkpoints"
    shutil.rmtree(checkpoints / "checkpoint-6")
    losses, before = logged(folder, kind, "loss"), load_file(folder / kind / saved)
    shutil.rmtree((folder / kind / saved).parent)
    sharded(folder, kind, *flags, "--resume")
    assert logged(folder, kind, "loss") == losses
    after = load_file(folder / kind / saved)
    assert all(torch.equal(after[name], before[name]) for name in before)
