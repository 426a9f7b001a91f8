"""Episodes on a real Ray cluster of two workers on this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.environments.desk import DeskEnvironment, DeskExpert, desk_tasks
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.execution import ray_cluster, stop
from sage.libs.finetune.agent.trajectories.io import load_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install 'sage-libs[ray]'", allow_module_level=True)

TASKS = desk_tasks("train", 24)


class KillsItsWorker(DeskExpert):
    """The expert, asynchronous; at one task its whole process is killed, once."""

    def __init__(self, folder: Path, victim: str) -> None:
        self.folder, self.victim = folder, victim

    async def act(self, task: Any, history: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0.005)
        (self.folder / f"{task['task_id']} {os.getpid()}").touch()
        if task["task_id"] == self.victim and len(history) == 1 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task["metadata"].get("fails"):
            raise RuntimeError("no idea")
        return super().act(task, history)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster as a collection without an address starts it, for all tests here."""
    ray, started = ray_cluster.connect(None)
    assert started
    yield ray
    ray.shutdown()


def collected(agent: object, tasks: list[Any], **settings: Any) -> list[AgentTrajectory]:
    config = CollectorConfig(require_success=False, **settings)
    return TrajectoryCollector(agent, config, DeskEnvironment).collect(tasks)


@pytest.mark.usefixtures("cluster")
def test_a_worker_killed_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    tasks = [*TASKS]
    tasks[7] = {**tasks[7], "metadata": {**tasks[7]["metadata"], "fails": True}}
    local = collected(KillsItsWorker(tmp_path, "nobody"), tasks, samples_per_task=2, concurrency=4)
    for mark in tmp_path.iterdir():
        mark.unlink()

    agent, path = KillsItsWorker(tmp_path, tasks[11]["task_id"]), tmp_path / "t.jsonl"
    remote = collected(agent, tasks, samples_per_task=2, executor="ray", output_path=path)
    assert remote == local
    assert [t.error for t in remote if t.error] == ["RuntimeError: no idea (agent, step 1)"] * 2
    assert (tmp_path / "killed").exists()
    assert len(list(tmp_path.glob(f"{agent.victim} *"))) >= 2  # it was worked on by the killed one and by another
    assert list(tmp_path.glob(f"* {os.getpid()}")) == []
    assert sorted(map(str, load_trajectories(path))) == sorted(map(str, local))


@pytest.mark.usefixtures("cluster")
def test_an_episode_that_kills_every_worker_breaks_off_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kills(DeskExpert):
        def act(self, task: Any, history: Any) -> Any:
            if task["task_id"] == TASKS[0]["task_id"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().act(task, history)

    monkeypatch.setattr(ray_cluster, "RUNS_AGAIN", 1)
    first, *others = collected(Kills(), TASKS[:4], executor="ray")
    assert first.error is not None and first.error.startswith("WorkerCrashedError: ")
    assert first.error.endswith("(worker)") and first.task_id == TASKS[0]["task_id"]
    assert all(t.success for t in others)


@pytest.mark.usefixtures("cluster")
def test_a_time_limit_holds_on_the_worker() -> None:
    class Sleeps(DeskExpert):
        def act(self, task: Any, history: Any) -> Any:
            time.sleep(30 if history else 0)
            return super().act(task, history)

    began = time.monotonic()
    [late] = collected(Sleeps(), TASKS[:1], executor="ray", episode_timeout=1)
    assert late.error == "timeout: it took longer than 1 s (agent, step 2)" and len(late.steps) == 1
    assert time.monotonic() - began < 25


@pytest.mark.usefixtures("cluster")
def test_ctrl_c_leaves_what_is_finished_and_another_executor_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(trajectory: AgentTrajectory) -> None:
        if len(load_trajectories(path)) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    class Waits(DeskExpert):
        async def act(self, task: Any, history: Any) -> Any:  # type: ignore[override]
            await asyncio.sleep(60 if task["task_id"] == TASKS[-1]["task_id"] else 0.05)
            return super().act(task, history)

    monkeypatch.setattr(stop, "GRACE", 1.0)
    path, tasks = tmp_path / "t.jsonl", [TASKS[-1], *TASKS[:-1]]
    config = CollectorConfig(require_success=False, executor="ray", output_path=path)
    with pytest.raises(KeyboardInterrupt, match=r"^\d+ of 24 episodes are in .*; collect the same tasks into it again"):
        TrajectoryCollector(Waits(), config, DeskEnvironment, interrupt).collect(tasks)
    assert 3 <= len(load_trajectories(path)) < 12
    assert collected(DeskExpert(), tasks, output_path=path) == collected(DeskExpert(), tasks)


@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_sent_is_named() -> None:
    class Locked(DeskExpert):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    with pytest.raises(ConfigError, match=r"^executor 'ray': the agent cannot be sent to workers \(TypeError: .*lock"):
        collected(Locked(), TASKS[:1], executor="ray")
    task = {**TASKS[0], "lock": threading.Lock()}
    with pytest.raises(
        ConfigError, match=r"^executor 'ray': task 'train-0-0000' cannot be sent to .* \(TypeError: .*lock"
    ):
        collected(DeskExpert(), [task], executor="ray")


def test_more_cpus_than_there_are_is_not_waited_for(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    cpus = cluster.cluster_resources()["CPU"]
    ray_cluster._check_room(cluster, cpus, started=True)
    assert caplog.text == ""
    with pytest.raises(ConfigError, match=rf"^ray_cpus={cpus + 1:g}: this machine has {cpus:g} CPUs; give less$"):
        ray_cluster._check_room(cluster, cpus + 1, started=True)
    ray_cluster._check_room(cluster, cpus + 1, started=False)  # a cluster may grow
    assert f"no machine of the cluster has {cpus + 1:g} CPUs" in caplog.text


def test_a_cluster_started_here_is_not_on_the_network(cluster: Any) -> None:
    assert {node["NodeManagerAddress"] for node in cluster.nodes()} == {"127.0.0.1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_no_cluster_at_the_address(cluster: Any) -> None:
    cluster.shutdown()
    with pytest.raises(ConfigError, match=r"^executor 'ray': no cluster at 127\.0\.0\.1:1 .*give the address of a run"):
        collected(DeskExpert(), TASKS[:1], executor="ray", ray_address="127.0.0.1:1")


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"^executor 'ray' needs Ray, .* pip install 'sage-libs\[ray\]'$"):
        collected(DeskExpert(), TASKS[:1], executor="ray")


@pytest.mark.slow
def test_a_machine_lost_in_the_middle_changes_nothing() -> None:
    with ray_cluster._environment(ray_cluster._LOOPBACK, "0"):  # imported without, it could start none here any more
        from ray.cluster_utils import Cluster

    class Waits(DeskExpert):
        async def act(self, task: Any, history: Any) -> Any:  # type: ignore[override]
            await asyncio.sleep(0.05)
            return super().act(task, history)

    local = collected(DeskExpert(), TASKS)
    memory = 80 * 2**20
    head = {"num_cpus": 1, "object_store_memory": memory, "include_dashboard": False}
    two_machines = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = two_machines.add_node(num_cpus=1, object_store_memory=memory)
        ended: list[str] = []

        def lose_one(trajectory: AgentTrajectory) -> None:
            ended.append(trajectory.task_id)
            if len(ended) == 5:
                two_machines.remove_node(second, allow_graceful=False)

        config = CollectorConfig(require_success=False, executor="ray", ray_address=two_machines.address)
        assert TrajectoryCollector(Waits(), config, DeskEnvironment, lose_one).collect(TASKS) == local
        assert len(ended) == len(TASKS)
    finally:
        two_machines.shutdown()
