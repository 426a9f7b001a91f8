"""How a collection ends before its time: Ctrl-C, and a fault that hits every episode."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.libs.finetune.agent.errors import TrajectoryError
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
from sage.libs.finetune.agent.trajectories.execution import stop
from sage.libs.finetune.agent.trajectories.io import load_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory

Task = dict[str, Any]
FINISH = {"action": "finish", "action_input": {"answer": "a"}}


def collected(agent: object, work: list[Any], **kwargs: Any) -> list[AgentTrajectory]:
    return TrajectoryCollector(agent, CollectorConfig(require_success=False, **kwargs)).collect(work)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_fault_that_hits_every_episode_stops_the_collection(tmp_path: Path, concurrency: int) -> None:
    asked = []

    def agent(task: Task, history: Any) -> Any:
        asked.append(task["task_id"])
        if len(asked) == 4:
            return FINISH
        raise PermissionError("401 wrong key")

    path = tmp_path / "t.jsonl"
    with pytest.raises(TrajectoryError) as raised:
        collected(agent, ["a"] * 500, concurrency=concurrency, stop_after_failures=10, output_path=path)
    written = load_trajectories(path)
    assert 14 <= len(written) == len(asked) <= 14 + concurrency
    line = str(raised.value)
    assert line.startswith("stopped, since 10 episodes in a row broke off at their first step; task 'task-00")
    assert "PermissionError: 401 wrong key (agent, step 1); mend that (" in line and "\n" not in line
    assert line.endswith(
        f"({len(written)} of 500 episodes are in {path}; collect the same tasks into it again to go on), "
        "or raise stop_after_failures"
    )
    everything = collected(agent, ["a"] * 30, concurrency=concurrency, stop_after_failures=None)
    assert len(everything) == 30


@pytest.mark.parametrize("kinds", [[KeyError, ValueError], [KeyError, None]])
def test_different_faults_and_later_steps_do_not_stop_it(kinds: list[Any]) -> None:
    def agent(task: Task, history: Any) -> Any:
        kind = kinds[int(task["task_id"][-1]) % 2]
        if kind is not None or history:
            raise (kind or KeyError)("x")
        return {"action": "look", "observation": ""}

    assert len(collected(agent, ["a"] * 30, stop_after_failures=2)) == 30


def test_what_ends_after_the_decision_to_stop_does_not_blur_the_reason() -> None:
    def agent(task: Task, history: Any) -> Any:
        if task["instruction"] == "slow":
            time.sleep(0.3)
            return FINISH
        raise PermissionError("wrong key")

    with pytest.raises(TrajectoryError, match=r"task 'task-0004': PermissionError: wrong key .*4 of 9 .* lost"):
        collected(agent, ["slow", *["a"] * 8], concurrency=2, stop_after_failures=3)


def test_an_interrupt_at_the_very_end_is_not_swallowed() -> None:
    def interrupt(trajectory: AgentTrajectory) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    for concurrency in (1, 2):
        config = CollectorConfig(concurrency=concurrency)
        with pytest.raises(KeyboardInterrupt, match="1 of 1 episodes were finished"):
            TrajectoryCollector(lambda task, history: FINISH, config, None, interrupt).collect(["a"])


PROGRAM = """
import os, time
from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
def agent(task, history):
    print(task["task_id"], flush=True)
    while task["task_id"] == {hangs!r} or not os.path.exists({path!r} + ".release"):
        time.sleep(0.01)
    return {{"action": "finish", "action_input": {{"answer": "a"}}}}
TrajectoryCollector(agent, CollectorConfig(output_path={path!r}, concurrency=4)).collect(["a"] * 8)
"""


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Any]:
    """Starts the program above, sends Ctrl-C when 4 episodes are running, and then lets all but one come to an end."""
    running = []

    def start(hangs: str = "") -> subprocess.Popen[str]:
        program = PROGRAM.format(path=str(tmp_path / "t.jsonl"), hangs=hangs)
        env = {**os.environ, "PYTHONPATH": str(Path(stop.__file__).parents[6])}
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", program], env=env, stdout=pipe, stderr=pipe, text=True)
        running.append(process)
        assert process.stdout is not None and process.stderr is not None
        for _ in range(4):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        line = "interrupted: waiting up to 10 s for 4 running episodes to end; Ctrl-C again does not\n"
        assert process.stderr.readline() == line
        (tmp_path / "t.jsonl.release").touch()
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_the_first_ctrl_c_lets_running_episodes_end(interrupted: Any, tmp_path: Path) -> None:
    out, err = interrupted().communicate(timeout=60)
    assert out == ""  # nothing more was started
    path = tmp_path / "t.jsonl"
    assert err.strip().endswith(
        f"KeyboardInterrupt: 4 of 8 episodes are in {path}; collect the same tasks into it again to go on"
    )
    assert sorted(t.task_id for t in load_trajectories(path)) == [f"task-000{n}" for n in (1, 2, 3, 4)]


def test_the_second_ctrl_c_does_not_wait_and_no_thread_keeps_the_process(interrupted: Any, tmp_path: Path) -> None:
    process = interrupted(hangs="task-0004")
    path, until = tmp_path / "t.jsonl", time.monotonic() + 60
    while time.monotonic() < until and path.read_bytes().count(b"\n") < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # The second may come when the third line is written and not yet counted.
    assert "KeyboardInterrupt: 3 of 8 episodes are in" in err or "KeyboardInterrupt: 2 of 8 episodes are in" in err
    assert len(load_trajectories(path)) == 3 and time.monotonic() < until


def test_after_the_grace_running_episodes_are_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stop, "GRACE", 0.1)
    release = threading.Event()

    def agent(task: Task, history: Any) -> Any:
        if task["instruction"] == "stop":
            os.kill(os.getpid(), signal.SIGINT)
        if task["instruction"] == "hang":
            release.wait(60)
        return FINISH

    path = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt, match="of 4 episodes are in"):
        collected(agent, ["a", "hang", "stop", "b"], concurrency=3, output_path=path)
    release.set()
    assert [t.instruction for t in load_trajectories(path)] == ["a", "stop"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_with_its_own_way_with_ctrl_c_keeps_it() -> None:
    def own(number: int, frame: Any) -> None: ...

    signal.signal(signal.SIGINT, own)
    try:
        seen = []

        def agent(task: Task, history: Any) -> Any:
            seen.append(signal.getsignal(signal.SIGINT))
            return FINISH

        collected(agent, ["a"], concurrency=2)
        assert seen == [own]
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_full_disk_is_one_line_and_what_was_written_stays(tmp_path: Path, concurrency: int) -> None:
    path, limits = tmp_path / "t.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # as good as a full disk to whoever writes
    try:
        with pytest.raises(TrajectoryError) as raised:
            collected(lambda *_: FINISH, ["a"] * 50, concurrency=concurrency, output_path=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    whole = path.read_bytes().count(b"\n")
    assert 2 < whole < 50
    assert str(raised.value) == (
        f"File too large: make room and go on; {whole} of 50 episodes are in {path}; collect the same tasks into it "
        "again to go on"
    )
    assert len(collected(lambda *_: FINISH, ["a"] * 50, output_path=path)) == len(load_trajectories(path)) == 50


def test_an_interrupt_without_a_file_says_that_the_work_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    def agent(task: Task, history: Any) -> Any:
        if task["instruction"] == "b":
            raise KeyboardInterrupt
        return FINISH

    with caplog.at_level(logging.CRITICAL), pytest.raises(KeyboardInterrupt, match=r"1 of 3 .* lost, set output_path"):
        collected(agent, ["a", "b", "c"])
