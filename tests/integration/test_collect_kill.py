"""kill -9 at random moments of a collection: in the end every episode stands exactly once, and no line is broken."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent.jsonl import read_jsonl

TASKS, SAMPLES = 100, 2
EPISODES = TASKS * SAMPLES
PROGRAM = """
import asyncio, sys
from sage.libs.finetune.agent import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.environments.desk import DeskEnvironment, NoisyDeskExpert, desk_tasks

class Agent(NoisyDeskExpert):
    async def act(self, task, history):
        await asyncio.sleep(0.002)
        if task["task_id"].endswith("7") and history:  # one in ten breaks off, each time it is run
            raise ConnectionError("no answer")
        return super().act(task, history)

path, n, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = CollectorConfig(require_success=False, output_path=path, concurrency=4, samples_per_task=samples)
ended = lambda trajectory: print(trajectory.task_id, flush=True)
TrajectoryCollector(Agent(), config, DeskEnvironment, ended).collect(desk_tasks("train", n))
"""


def start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, str(path), str(TASKS), str(SAMPLES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def key(row: dict[str, Any]) -> tuple[str, int]:
    return row["task_id"], row["metadata"]["sample"]


def kill_and_resume(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill the collection `kills` times, run it to its end, and compare with one that was left alone."""
    rng, path, seen = random.Random(seed), folder / "t.jsonl", {"killed": 0, "broken lines": 0}
    while seen["killed"] < kills:
        process = start(path)
        assert process.stdout is not None
        for _ in range(rng.randint(1, 16 * EPISODES // 10 // kills)):  # so that the last kill finds work as well
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.005))
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err.decode()
        seen["killed"] += 1
        seen["broken lines"] += not path.read_bytes().endswith(b"\n")
    seen["episodes before the last run"] = path.read_bytes().count(b"\n")
    last = start(path)
    _, err = last.communicate(timeout=60)
    assert last.returncode == 0, err.decode()
    alone = start(folder / "alone.jsonl")
    _, err = alone.communicate(timeout=60)
    assert alone.returncode == 0, err.decode()

    rows = [row for _, row in read_jsonl(path)]
    assert len(rows) == EPISODES and len({key(row) for row in rows}) == EPISODES
    expected = [row for _, row in read_jsonl(folder / "alone.jsonl")]
    assert sorted(rows, key=key) == sorted(expected, key=key)
    seen["broke off"] = sum(row["error"] is not None for row in rows)
    assert seen["broke off"] == EPISODES // 10
    return seen


def test_twenty_kills(tmp_path: Path) -> None:
    print(kill_and_resume(tmp_path, 20, seed=1))
