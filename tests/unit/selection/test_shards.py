"""Shards on a real Ray cluster of two workers on this machine, and how batches are planned."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny import save_tiny, tiny_tokenizer

from sage.libs.finetune.agent.errors import ModelError
from sage.libs.finetune.agent.models.prefix import packed_length
from sage.libs.finetune.agent.selection import shards
from sage.libs.finetune.agent.selection.scoring import score_samples

WORDS = ["tea", "price", "order", "customer", "find", "answer"]


def make_samples(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)

    def said() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(3, 12)))

    return [
        {"messages": [{"role": "user", "content": said()}, {"role": "assistant", "content": said()}]}
        for _ in range(count)
    ]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_each_row_is_planned_once_and_batches_keep_their_bounds(packed: bool, batch_size: int) -> None:
    draw = random.Random(batch_size)
    stem = [draw.randrange(9) for _ in range(600)]
    ids = [stem[: draw.randrange(600)] + [draw.randrange(9) for _ in range(draw.randrange(1, 300))] for _ in range(300)]
    plan = shards.plan_shards([{"input_ids": one} for one in ids], batch_size, packed, "cpu")
    assert sorted(number for shard in plan for batch in shard for number in batch) == list(range(300))
    for shard in plan:
        assert sum(map(len, shard)) <= shards.SHARD_ROWS or len(shard) == 1
        for batch in shard:
            rows = [ids[number] for number in batch]
            assert len(batch) <= batch_size
            if packed:  # short common beginnings are computed again
                assert packed_length(rows) <= 4096 + len(batch) * 16
            else:
                assert len(rows) * max(map(len, rows)) <= 2048


def test_nothing_is_planned_for_no_rows() -> None:
    assert shards.plan_shards([], 8, True, "cpu") == []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cluster of two workers that outlives the calls of this file."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'sage-libs[ray]'")
    ray, started = shards._connect()
    assert started
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_a_cluster_gives_the_numbers_of_one_machine_though_workers_die(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    monkeypatch.setattr(shards, "SHARD_ROWS", 8)
    folder, samples = save_tiny(tmp_path / "model", kind="qwen2"), make_samples(60)
    settings: dict[str, Any] = {"batch_size": 4, "alone": True, "features": True, "dtype": "float32"}
    local = score_samples(samples, folder, **settings)
    killed: list[int] = []

    def kill_workers(label: str, done: int, total: int, detail: str = "") -> None:
        if done and not killed:
            for process in psutil.Process().children(recursive=True):
                if process.name().startswith(("ray::_scored", "ray::IDLE")):
                    process.kill()
                    killed.append(process.pid)

    far = score_samples(
        samples, folder, **settings, executor="ray", workers=2, cache=tmp_path / "cache", progress=kill_workers
    )
    assert killed
    for name in ("losses", "tokens", "alone", "features"):
        np.testing.assert_allclose(getattr(far, name), getattr(local, name), atol=1e-7, rtol=0)
    again = score_samples(samples, folder, **settings, cache=tmp_path / "cache")  # what workers scored counts here
    assert again.losses.tolist() == far.losses.tolist()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_goes_wrong_on_a_worker_is_told_as_it_is_here(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        score_samples(["tea time"], folder, tokenizer=tiny_tokenizer(), executor="ray")
