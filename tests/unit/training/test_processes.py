"""Two forked processes that meet over Gloo; what a single one does is in the functions' examples."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.models.load import pick_device
from sage.libs.finetune.agent.training import processes


def run_in_two(work: Callable[[int], Any]) -> list[Any]:
    """What `work` returns in process 0 and in process 1, or the error it raises there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]

    def child(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        AcceleratorState._reset_state(reset_partial_state=True)  # of a training in an earlier test
        processes.join()
        try:
            pipes[rank][1].send(work(rank))
        except Exception as error:
            pipes[rank][1].send(error)
        processes.leave()

    children = [context.Process(target=child, args=(rank,)) for rank in range(2)]
    for each in children:
        each.start()
    results = [receiving.recv() if receiving.poll(60) else "nothing" for receiving, _ in pipes]
    for each in children:
        each.join(60)
    assert [each.exitcode for each in children] == [0, 0]
    return results


def test_they_agree() -> None:
    def work(rank: int) -> tuple[Any, ...]:
        return (
            processes.is_first(),
            processes.first_decides(lambda: f"decided by {rank}"),
            processes.anywhere(rank == 1),
            processes.anywhere(False),
            processes.first_of_all("disk full" if rank == 1 else None),
            processes.first_of_all(f"problem of {rank}"),
            processes.first_of_all(None),
            processes.summed([rank, 10]),
            processes.whole_weights(torch.nn.Linear(2, 2)),
        )

    same = ("decided by 0", True, False, "disk full", "problem of 0", None, [1, 20], None)
    assert run_in_two(work) == [(True, *same), (False, *same)]


def test_an_error_of_the_first_is_everyones() -> None:
    def decide() -> str:
        raise ConfigError("the folder holds a run")

    errors = run_in_two(lambda rank: processes.first_decides(decide))
    assert [(type(error), str(error)) for error in errors] == [(ConfigError, "the folder holds a run")] * 2


def test_one_tells_of_a_failure() -> None:
    def fail(rank: int) -> bool:
        processes.anywhere(False)
        return processes.first_to_fail()

    assert sorted(run_in_two(fail)) == [False, True]


def test_before_they_meet_the_first_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, tells in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert (processes.is_first(), processes.first_to_fail()) == (tells, tells)


def test_each_process_has_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device() == torch.device("cuda", 3)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert pick_device() == torch.device("cpu")
