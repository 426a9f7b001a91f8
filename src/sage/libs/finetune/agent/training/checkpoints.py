"""Checkpoints of a run: whole before they can be seen, checked before they are used.

transformers' `Trainer` writes a checkpoint file by file into the folder it is looked for in, and deletes older ones by
their age; a kill or a full disk leaves a folder that looks like a checkpoint and is none. Here one comes about so:

    checkpoints/.draft-6/checkpoint-6      every process writes its files; then all are synced to disk, and last comes
                                           `manifest.json`: each file with its size and CRC-32
    checkpoints/checkpoint-6               the draft, renamed: now there is a checkpoint, and a whole one
    checkpoints/.old-4                     only then the surplus goes: renamed at once, deleted at leisure

What begins with a dot is no checkpoint; what a killed run left of it is removed at the next start. Weights and states
are safetensors, JSON, or torch files that are read with `weights_only`: a checkpoint cannot run code. The CRC finds
accidents (a cut, a lost block), not forgery. With several processes the folder must be one that all of them see.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import DataError, TrainingError

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_MANIFEST = "manifest.json"
_STATE = "state"
_REPLACED = ("config.yaml", "data.json", "versions.json", "metrics.jsonl", "result.json", "README.md",
             "chat_template.jinja", "coreset.json", "replay_buffer/state.json")  # fmt: skip


class Stateful(Protocol):
    """What can be kept in a checkpoint by name: its state is tensors and whatever JSON has a form for."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state; a value is a tensor, or plain JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Go on from a state that `state_dict` gave."""


class Attributes:
    """Attributes of an object that are plain numbers or texts, as a state to keep.

    Example:
        >>> from types import SimpleNamespace
        >>> Attributes(SimpleNamespace(tokens_seen=7), "tokens_seen").state_dict()
        {'tokens_seen': 7}
    """

    def __init__(self, owner: object, *names: str) -> None:
        self._owner, self._names = owner, names

    def state_dict(self) -> dict[str, Any]:
        """Their values."""
        return {name: getattr(self._owner, name) for name in self._names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set them."""
        for name in self._names:
            setattr(self._owner, name, state[name])


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run; newer ones that are damaged are named in a warning.

    Args:
        output_dir: The run folder.

    Returns:
        The checkpoint's folder, None when the run has none yet.

    Raises:
        TrainingError: when there are checkpoints and none is whole: to begin again is for the user to decide.

    Example:
        >>> last_checkpoint(Path("a-run-without-checkpoints")) is None
        True
    """
    found = _by_step(output_dir / CHECKPOINTS)
    faults: list[str] = []
    for checkpoint in reversed(found):
        fault = fault_of(checkpoint)
        if fault is None:
            for each in faults:
                logger.warning("%s; going on from %s instead", each, checkpoint.name)
            return checkpoint
        faults.append(f"{checkpoint}: {fault}")
    if faults:
        raise TrainingError(
            f"{faults[0]}; none of the {len(faults)} checkpoints is whole: restore one, or delete "
            f"{output_dir / CHECKPOINTS} to begin again at the first step"
        )
    return None


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint by its step, without reading it."""
    return next(reversed(_by_step(output_dir / CHECKPOINTS)), None)


def fault_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint (a file missing, cut short or changed), None when it is whole."""
    try:
        files = jsonl.read_json(checkpoint / _MANIFEST)["files"]
        for name, expected in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes and not {expected['bytes']}"
            if _crc32(path) != expected["crc32"]:
                return f"the content of {name} has changed (its CRC-32 is another one)"
    except (DataError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is missing or cannot be read"
    except OSError as error:
        return f"it cannot be read ({error})"
    return None


def require_same_processes(checkpoint: Path, processes: int) -> None:
    """Each process has its share of a checkpoint, so as many must go on as wrote it.

    Raises:
        TrainingError: naming both numbers.
    """
    before = jsonl.read_json(checkpoint / _MANIFEST)["processes"]
    if before != processes:
        raise TrainingError(f"{checkpoint} was written by {before} processes and there are {processes}; start {before}")


@contextmanager
def drafted(
    folder: Path,
    step: int,
    keep: int,
    rank: int = 0,
    processes: int = 1,
    first_of_all: Callable[[str | None], str | None] = lambda problem: problem,
) -> Iterator[Path]:
    """A folder to make and write a checkpoint into; it becomes one when the block ends, or it leaves nothing.

    Args:
        folder: The run's checkpoints.
        step: Optimiser steps done.
        keep: Checkpoints to keep, this one included; older ones go, and any of later steps (a run that went back to
            this one has given them up).
        rank: Number of this process; 0 renames and deletes, all write.
        processes: How many there are.
        first_of_all: Given this process's problem or None, the first problem of any process; it waits for all.

    Raises:
        TrainingError: in every process, when a file of one cannot be written; the checkpoints before are untouched.
    """
    draft = folder / f".draft-{step}"
    checkpoint = draft / f"checkpoint-{step}"
    problem = None
    try:
        try:
            yield checkpoint
        except Exception as error:
            problem = _unwritten(error)
            if problem is None:
                raise
        problem = first_of_all(problem)
        if problem is None:
            if rank == 0:
                problem = _publish(checkpoint, step, keep, processes)
            problem = first_of_all(problem)
    finally:
        if rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
    if problem is not None:
        last = newest_checkpoint(folder.parent)
        way_on = f"goes on from {last}, which is whole" if last else "begins again, there was no checkpoint yet"
        free = shutil.disk_usage(folder.parent).free >> 20
        raise TrainingError(
            f"the checkpoint of step {step} cannot be written ({problem}; {free} MiB are free there); make room for "
            f"{folder} and resume the run (--resume): it {way_on}"
        )


def remove_leftovers(output_dir: Path) -> None:
    """Remove what a killed run was writing: drafts, and checkpoints that were being deleted."""
    names = [f"{CHECKPOINTS}/.draft-*", f"{CHECKPOINTS}/.old-*", ".adapter-????????", ".model-????????"]
    replaced = map(PurePath, _REPLACED)
    for name in [*names, *(str(file.with_name(f".{file.name}.????????.tmp")) for file in replaced)]:
        for path in output_dir.glob(name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_states(checkpoint: Path, states: Mapping[str, Stateful], rank: int = 0) -> None:
    """Write each state by its name: tensors as safetensors, the rest as JSON; every process writes its own."""
    for name, stateful in states.items():
        state = dict(stateful.state_dict())
        tensors = {key: value.detach().contiguous() for key, value in state.items() if isinstance(value, torch.Tensor)}
        folder = checkpoint / _STATE / f"rank-{rank}"
        folder.mkdir(parents=True, exist_ok=True)
        if tensors:
            save_file(tensors, folder / f"{name}.safetensors")
        jsonl.write_json(folder / f"{name}.json", {key: value for key, value in state.items() if key not in tensors})


def read_states(checkpoint: Path, states: Mapping[str, Stateful], rank: int = 0) -> None:
    """Give each object the state it had when `write_states` was called, its tensors on the CPU.

    Raises:
        DataError: when the checkpoint has no state of that name.
    """
    for name, stateful in states.items():
        folder = checkpoint / _STATE / f"rank-{rank}"
        state = dict(jsonl.read_json(folder / f"{name}.json"))
        if (folder / f"{name}.safetensors").exists():
            state |= load_file(folder / f"{name}.safetensors")
        stateful.load_state_dict(state)


def _by_step(folder: Path) -> list[Path]:
    named = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(named, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _unwritten(error: Exception) -> str | None:
    """The text of an error that says that a file could not be written; None for any other."""
    if isinstance(error, (OSError, SafetensorError)):
        return str(error)
    if isinstance(error, DataError) and isinstance(error.__cause__, OSError):
        return str(error.__cause__)
    if isinstance(error, RuntimeError) and ("inline_container" in str(error) or "PytorchStreamWriter" in str(error)):
        return "torch could not write a file to its end"  # its own words are about positions in the file
    return None


def _publish(checkpoint: Path, step: int, keep: int, processes: int) -> str | None:
    """Sync, rename and tidy up; returns what went wrong."""
    folder = checkpoint.parent.parent
    try:
        (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
        files = {}
        for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
            _sync(path)
            name = path.relative_to(checkpoint).as_posix()
            files[name] = {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        jsonl.write_json(checkpoint / _MANIFEST, {"step": step, "processes": processes, "files": files})
        for path in [checkpoint, *(path for path in checkpoint.rglob("*") if path.is_dir())]:
            _sync(path)
        _put_aside(folder / checkpoint.name)  # a damaged one of the same step
        checkpoint.rename(folder / checkpoint.name)
        _sync(folder)
    except (OSError, DataError) as error:
        return _unwritten(error) or str(error)
    done = [path for path in _by_step(folder) if _step(path) <= step]
    for surplus in set(_by_step(folder)) - set(done[-keep:]):
        _put_aside(surplus)
    for aside in folder.glob(".old-*"):
        shutil.rmtree(aside, ignore_errors=True)
    return None


def _put_aside(checkpoint: Path) -> None:
    """Take a checkpoint out of sight in one step; deleting it takes many."""
    if checkpoint.exists():
        aside = checkpoint.with_name(f".old-{_step(checkpoint)}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _crc32(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
