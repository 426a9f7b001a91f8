"""What the benchmarks share: repeated timings, what an arm of a training benchmark is told, and one JSON file each."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LEARNING_RATE = 2e-4
WARM_UP_STEPS = 2


@dataclass
class Job:
    """What one arm of a training benchmark does; travels to its process as JSON.

    Attributes:
        arm: Its name.
        model: Model folder.
        tokens: JSON file of the rows, each `input_ids` and `labels`.
        samples: JSONL file of the samples they are rendered from.
        folder: For what it writes.
        batch_size: Rows of a step.
        dtype: "bfloat16" or "float32".
        row_order: Of our trainer; see `AgentSFTConfig`.
        adapter: File of the adapter to begin with: written by ours, read by the peer; empty leaves each its own.
        order: Row numbers of each step for the peer; None leaves it its own order.
    """

    arm: str
    model: str
    tokens: str
    samples: str
    folder: Path
    batch_size: int
    dtype: str
    row_order: str
    adapter: str = ""
    order: list[list[int]] | None = None

    def rows(self) -> list[dict[str, Any]]:
        """The token rows."""
        rows: list[dict[str, Any]] = json.loads(Path(self.tokens).read_text(encoding="utf-8"))
        return rows

    def write(self) -> Path:
        """Write it into its folder."""
        self.folder.mkdir(parents=True)
        path = self.folder / "job.json"
        path.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """What `write` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "folder": Path(values["folder"])})


def timed(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median, lowest and highest wall-clock seconds of `work` over `repeats` runs."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def report(name: str, result: dict[str, Any]) -> None:
    """Print the result and write it to `results/`, with the device it was measured on."""
    from sage.libs.finetune.agent.training.run import versions

    packages = {package: version for package, version in versions().items() if package != "platform"}
    record = {"benchmark": name, "device": device(), "versions": packages, **result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    json.dump(record, sys.stdout, indent=2)
    print()


def device() -> str:
    """The accelerator, or the processor and its cores."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ] if Path("/proc/cpuinfo").exists() else [platform.processor()]  # fmt: skip
    return f"{names[0] if names else 'unknown'}, {torch.get_num_threads()} threads"


def memory_gb(field: str) -> float:
    """This process's memory in GB on Linux: `VmRSS` now, `VmHWM` at its highest.

    (`getrusage` would not do: its maximum begins with that of the parent process.)
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [kibibytes] = [int(line.split()[1]) for line in lines if line.startswith(f"{field}:")]
    return kibibytes * 1024 / 1e9
