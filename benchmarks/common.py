"""What the benchmarks share: repeated timings and one JSON file each."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
