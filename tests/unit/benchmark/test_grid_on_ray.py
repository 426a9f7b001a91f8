"""The grid on a real Ray cluster on this machine: the numbers of one machine, though a worker dies in the middle."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.benchmark.grids import experiment_in, settings_in

from sage.benchmark.benchmark_agent.experiments.method_comparison import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.trajectories.execution import ray_cluster

pytestmark = pytest.mark.slow

_NOT_NUMBERS = (
    "seconds", "peak_memory_bytes", "started", "finished", "settings",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster as a grid without an address starts it, for all tests here."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'sage-libs[ray]'")
    ray, started = ray_cluster.connect(None)
    assert started
    yield ray
    ray.shutdown()


def numbers(record: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _NOT_NUMBERS}


def kill_worker_when(there: Path, killed: list[int]) -> None:
    """Kill the process that works on a run once the run has come so far that there is this file."""
    import psutil

    for _ in range(1200):
        if there.exists():
            for process in psutil.Process().children(recursive=True):
                if process.name().startswith("ray::_performed"):
                    process.kill()
                    killed.append(process.pid)
            return
        time.sleep(0.05)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_the_numbers_of_one_machine_though_a_worker_dies(tmp_path: Path) -> None:
    settings_in(tmp_path)
    methods = {"A_baseline": MethodConfig("Baseline"), "bits": MethodConfig("Bits", settings={"load_in_4bit": True})}
    changed: dict[str, Any] = {"learning_rates": "1e-3,1e-2", "token_budget": 2000}
    local = experiment_in(tmp_path, methods, tmp_path / "local", **changed).run()
    killed: list[int] = []
    out = tmp_path / "ray"
    at = out / "A_baseline-seed0" / "sweep" / "0.01" / "training" / "config.yaml"
    killer = threading.Thread(target=kill_worker_when, args=(at, killed))
    killer.start()
    far = experiment_in(tmp_path, methods, out, **changed, executor="ray", cpus_per_run=1).run()
    killer.join()
    assert killed
    assert [record.status for record in far.records] == ["ok", "failed"]
    assert [numbers(record) for record in far.records] == [numbers(record) for record in local.records]


@pytest.mark.usefixtures("cluster")
def test_a_run_that_no_machine_has_room_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no machine of the cluster has 1 CPUs and 9 GPUs for a run \(at most"):
        experiment_in(tmp_path, "A_baseline", tmp_path / "ray", executor="ray", gpus_per_run=9).run()
