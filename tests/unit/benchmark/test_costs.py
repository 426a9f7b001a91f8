"""Seconds and memory of a run over several calls."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from sage.benchmark.benchmark_agent.experiments.method_comparison.cost import Costs, device_name, git_revision
from sage.libs.finetune.agent.jsonl import read_json


def test_seconds_count_on_after_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(KeyboardInterrupt), Costs(path).counted("train"):
        time.sleep(0.05)
        raise KeyboardInterrupt
    before = read_json(path)["seconds"]["train"]
    assert before >= 0.05
    again = Costs(path)
    with again.counted("total"), again.counted("train"):
        time.sleep(0.05)
    assert Costs(path).seconds["train"] >= before + 0.05
    assert again.seconds["total"] >= 0.05


def test_what_runs_is_written_down_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sage.benchmark.benchmark_agent.experiments.method_comparison import cost

    monkeypatch.setattr(cost, "_WRITTEN_EVERY", 0.0)
    costs, told = Costs(tmp_path / "costs.json"), []
    with costs.counted("train"):
        costs.telling(lambda *said: told.append(said))("train", 1, 2, "loss 3")
        assert "train" in read_json(tmp_path / "costs.json")["seconds"]  # a kill now would leave that
    assert told == [("train", 1, 2, "loss 3")]


def test_memory_is_the_largest_of_all_calls(tmp_path: Path) -> None:
    costs = Costs(tmp_path / "costs.json")
    assert costs.peak_memory_bytes is None
    with costs.watching_memory():
        pass
    first = costs.peak_memory_bytes
    assert first is not None and first > 2**20
    assert Costs(tmp_path / "costs.json").peak_memory_bytes == first


def test_the_revision_is_that_of_the_code() -> None:
    found = git_revision()
    assert found is None or len(found.removesuffix("-dirty")) == 40


def test_the_device_says_which_processor_and_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert re.fullmatch(r"CPU \(.+\), 1 thread", device_name())
