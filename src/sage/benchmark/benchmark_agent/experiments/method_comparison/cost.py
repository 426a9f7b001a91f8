"""What a run costs, over all the calls that it took, and what it was computed with."""

from __future__ import annotations

import gc
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.progress import Progress

_WRITTEN_EVERY = 10.0
"""Seconds; what a kill takes from the record."""
_SAMPLED_EVERY = 0.2


class Costs:
    """Seconds by part and the peak of memory, kept in a file so that a run that was killed counts on.

    Memory is the GPU's where there is one, else the process's, looked at now and then.

    Args:
        path: The file; it may be there from an earlier call.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "costs.json"
        >>> costs = Costs(path)
        >>> with costs.counted("train"):
        ...     pass
        >>> list(Costs(path).seconds)
        ['train']
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        known: dict[str, Any] = jsonl.read_json(path) if path.exists() else {"seconds": {}, "peak_memory_bytes": 0}
        self._before: dict[str, float] = known["seconds"]
        self._peak: int = known["peak_memory_bytes"]
        self._running: dict[str, float] = {}
        self._written = time.perf_counter()

    @property
    def seconds(self) -> dict[str, float]:
        """By part, those that are running included."""
        now = time.perf_counter()
        found = dict(self._before)
        for name, since in self._running.items():
            found[name] = found.get(name, 0.0) + now - since
        return found

    @property
    def peak_memory_bytes(self) -> int | None:
        """The largest there was, None before anything was measured."""
        return self._peak or None

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Count the block's seconds as those of a part, whatever ends it; parts may lie within others."""
        self._running[name] = time.perf_counter()
        try:
            yield
        finally:
            self._before = {**self._before, name: self.seconds[name]}
            del self._running[name]
            self._write()

    @contextmanager
    def watching_memory(self) -> Iterator[None]:
        """Look at memory while the block runs."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            try:
                yield
            finally:
                self._peak = max(self._peak, torch.cuda.max_memory_allocated())
                self._write()
            return
        import psutil

        process, over = psutil.Process(), threading.Event()

        def watch() -> None:
            while True:
                self._peak = max(self._peak, process.memory_info().rss)
                if over.wait(_SAMPLED_EVERY):
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            self._write()

    def telling(self, progress: Progress) -> Progress:
        """`progress`, which at each tenth second or so writes down what was counted."""

        def tell(label: str, done: int, total: int, detail: str = "") -> None:
            if time.perf_counter() - self._written > _WRITTEN_EVERY:
                self._write()
            progress(label, done, total, detail)

        return tell

    def _write(self) -> None:
        jsonl.write_json(self._path, {"seconds": self.seconds, "peak_memory_bytes": self._peak})
        self._written = time.perf_counter()


def give_memory_back() -> None:
    """A trainer holds itself in circles, and the next model comes at once."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_name() -> str:
    """What computes, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU ({_processor()}), {threads} {'thread' if threads == 1 else 'threads'}"


@lru_cache(maxsize=1)
def _processor() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def git_revision() -> str | None:
    """The commit of the code, `-dirty` behind it where files were changed; None where it is in no git checkout."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # A package installed below somebody's repository is no part of it.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True, timeout=10)
        asked = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
