"""How much memory a process can still take, on CUDA or under the limits of a container."""

from __future__ import annotations

from pathlib import Path

import torch


def available_memory(device: torch.device, held: int = 0, root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken on a device.

    On CUDA what the driver calls free, and what this process has reserved and does not use. On CPUs what Linux calls
    available, or what the control group of a container still allows (version 1 or 2), whichever is less.

    Args:
        device: CPU or CUDA.
        held: Bytes already taken by what an estimate counts, such as a loaded model; they count as free.
        root: Where /proc and /sys are found.

    Returns:
        None where the system does not say (no Linux).
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(held + free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    known = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
    limits = [known["MemAvailable"]] if "MemAvailable" in known else []
    limits += _group_limits(root)
    return held + min(limits) if limits else None


def _group_limits(root: Path) -> list[int]:
    """What each control group this process is in still allows; file cache in it gives way and does not count."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit, usage = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        place = top / name.strip("/")
        for folder in (place, *[parent for parent in place.parents if parent.is_relative_to(top)]):
            try:
                allowed, used = [(folder / f"memory.{one}").read_text().strip() for one in (limit, usage)]
                kinds = dict(one.split() for one in (folder / "memory.stat").read_text().splitlines())
            except OSError:  # a container often shows the root of its group, and not the path to it
                continue
            if allowed != "max":
                cache = int(kinds.get("total_inactive_file", kinds.get("inactive_file", 0)))
                found.append(max(0, int(allowed) - int(used) + cache))
    return found
