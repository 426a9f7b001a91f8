"""Settings of a comparison: which methods, how often, on what, and what they may cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from sage.benchmark.benchmark_agent.experiments.method_comparison.config import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.registry import MethodRegistry
from sage.libs.finetune.agent.capabilities.test_sets import BUILT_IN
from sage.libs.finetune.agent.config import Config, option
from sage.libs.finetune.agent.errors import ConfigError

_LISTS = ("methods", "learning_rates", "capabilities")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass
class ComparisonConfig(Config):
    """Settings of a comparison; the defaults of the budget are those of one GPU, `quick` gives those of two cores.

    Every run of the grid (method x seed) trains on `token_budget` tokens, its rows' own tokens with replayed ones
    counted, after a sweep of the learning rates in which each rate gets `sweep_share` of the budget.
    """

    methods: str = option("all", "ids separated by commas, or all, or quick")
    own_methods: dict[str, Any] | None = option(
        None, "methods of one's own by id, each with the settings of MethodConfig", file_only=True
    )
    base_model: str = option("smollm2-135m-instruct", "model id, folder, or the embedded model", aliases=("model",))
    seeds: int = option(3, "runs of each method, seeds 0, 1, ...", low=1)
    output_dir: Path = option(
        Path("runs/comparison"), "folder of the grid; a finished run in it is not run again", flag="out", short="o",
        aliases=("out",),
    )  # fmt: skip
    train_data: str = option("agent_capabilities:train", "rows all methods choose from; metadata.task_type is the task")
    train_rows: int | None = option(None, "the first so many, those held out not counted; all by default", low=2)
    token_budget: int = option(1_000_000, "tokens each run trains on", low=100)
    batch_size: int = option(4, "rows per optimiser step", low=1)
    learning_rates: str = option("1e-4,3e-4,1e-3", "swept for each method and seed; one value is no sweep")
    sweep_share: float = option(0.25, "part of the budget that each rate gets in the sweep", above=0.0, high=1.0)
    capabilities: str = option(",".join(BUILT_IN), "measured after training, separated by commas")
    test_items: int = option(64, "held-out items of each capability", low=2)
    dev_items: int = option(16, "items of each capability that a learning rate is chosen by", low=2)
    stream_items: int = option(
        16, "rows of each task that no method trains on and forgetting is measured on; a fifth of the task at most",
        low=1,
    )  # fmt: skip
    collected_tasks: int = option(400, "tasks on which FireAct collects trajectories", low=8)
    max_seq_length: int = option(1024, "longest row in tokens", low=16)
    max_new_tokens: int = option(96, "longest reply in tokens", low=1)
    eval_batch_size: int = option(64, "prompts continued together", low=1)
    lora_r: int = option(16, "LoRA rank", low=1)
    lora_alpha: int = option(32, "LoRA alpha", low=1)
    dtype: Literal["auto", "float32", "bfloat16"] = option("auto", "base weights")
    executor: Literal["local", "ray"] = option("local", "one run after another here, or on a Ray cluster")
    gpus_per_run: float = option(0.0, "GPUs a run takes on the cluster", low=0.0)
    cpus_per_run: float = option(1.0, "CPUs a run takes on the cluster", above=0.0)
    threads: int | None = option(
        None, "CPU threads of a run; numbers depend on them. Torch's default by default", low=1
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Build one from plain values; a list in words may be a list, and a rate a number, as files have them."""
        listed = {name: _in_words(values[name]) for name in _LISTS if name in values}
        return super().from_dict({**values, **listed}, where)

    def conflicts(self) -> list[str]:
        """Methods, rates and capabilities that are known."""
        faults = []
        for read in (self.method_configs, self.rates, self.measured):
            try:
                read()
            except ConfigError as error:
                faults.append(str(error))
        return faults

    def method_configs(self) -> dict[str, MethodConfig]:
        """The methods by id, the predefined ones before one's own.

        Raises:
            ConfigError: for an unknown or faulty one, or an id that cannot be the name of a folder.
        """
        own = {name: _own(name, method) for name, method in (self.own_methods or {}).items()}
        known = {**MethodRegistry.get_all_methods(), **own}
        if self.methods == "all":
            return known
        if self.methods == "quick":
            return {**MethodRegistry.get_quick_methods(), **own}
        names = [name.strip() for name in self.methods.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"'methods': expected different ids, all, or quick, found '{self.methods}'")
        return {name: known[name] if name in known else MethodRegistry.get(name) for name in names}

    def rates(self) -> list[float]:
        """The learning rates, ascending.

        Raises:
            ConfigError: for something else than different numbers above 0.
        """
        try:
            rates = sorted(float(rate) for rate in self.learning_rates.split(","))
        except ValueError:
            rates = []
        if not rates or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
            raise ConfigError(
                f"'learning_rates': expected different numbers such as 1e-4,3e-4, found '{self.learning_rates}'"
            )
        return rates

    def measured(self) -> list[str]:
        """The capabilities.

        Raises:
            ConfigError: for one that has no built-in items, or comes twice.
        """
        names = [name.strip() for name in self.capabilities.split(",") if name.strip()]
        if not names or not set(names) <= set(BUILT_IN) or len(set(names)) < len(names):
            raise ConfigError(f"'capabilities': expected some of {', '.join(BUILT_IN)}, found '{self.capabilities}'")
        return names


QUICK: dict[str, Any] = {
    "methods": "quick", "seeds": 1, "train_rows": 300, "token_budget": 50_000, "test_items": 24, "dev_items": 6,
    "stream_items": 6, "collected_tasks": 200, "learning_rates": "3e-4,1e-3,3e-3", "sweep_share": 0.2,
    "max_new_tokens": 64, "output_dir": Path("runs/comparison-quick"),
}  # fmt: skip
"""What `compare --quick` sets: the quick methods and one seed, small enough for two cores: about 17 minutes."""


def quick(**settings: Any) -> ComparisonConfig:
    """The settings of `compare --quick`, some of them changed.

    Example:
        >>> quick(seeds=2).seeds, quick().methods
        (2, 'quick')
    """
    return ComparisonConfig.from_dict({**QUICK, **settings})


def _in_words(value: object) -> object:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _own(name: str, method: object) -> MethodConfig:
    if name in ("all", "quick"):
        raise ConfigError(f"'own_methods': '{name}' stands for several methods; give another id")
    if not _ID.fullmatch(name):
        raise ConfigError(
            f"'own_methods': an id names a folder: letters, digits, dots, dashes and underscores, not {name!r:.80}"
        )
    if isinstance(method, MethodConfig):
        return method
    if not isinstance(method, dict):
        raise ConfigError(f"'own_methods': '{name}': expected a mapping of its settings, found {method!r:.80}")
    return MethodConfig.from_dict(method, f"'own_methods': '{name}'")
