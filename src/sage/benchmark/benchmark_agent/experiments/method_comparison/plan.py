"""The grid: which runs there are. A run is said in plain JSON, so that it is the same wherever it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.config import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ConfigError

GRID = "grid.json"
_NOT_OF_A_RUN = (
    "methods", "own_methods", "seeds", "output_dir", "executor", "gpus_per_run", "cpus_per_run", "eval_batch_size",
)  # fmt: skip
"""Settings that say which runs there are and where they are done, and change no number of theirs."""


@dataclass(frozen=True)
class RunSpec:
    """One run of the grid.

    Attributes:
        method_id: The method's id.
        method: Its settings.
        seed: Fixes adapter, order of rows, selection and collection; not the rows to choose from, nor the test items.
        settings: Those of the comparison.
    """

    method_id: str
    method: MethodConfig
    seed: int
    settings: ComparisonConfig

    @property
    def folder(self) -> str:
        """Its folder in the grid's."""
        return f"{self.method_id}-seed{self.seed}"

    @property
    def digest(self) -> str:
        """Changes with anything that could change its numbers."""
        return hashlib.sha256(json.dumps(_numbers(self.to_dict()), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` is its inverse."""
        return {
            "method_id": self.method_id, "method": asdict(self.method), "seed": self.seed,
            "settings": self.settings.to_dict(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Build one from what `to_dict` gave."""
        method = MethodConfig.from_dict(values["method"])
        return cls(values["method_id"], method, values["seed"], ComparisonConfig.from_dict(values["settings"]))


def plan_runs(config: ComparisonConfig) -> list[RunSpec]:
    """The runs, one seed of all methods after the other, so that a grid cut short has something to compare.

    Example:
        >>> [spec.folder for spec in plan_runs(ComparisonConfig(methods="A_baseline,G_dora", seeds=2))]
        ['A_baseline-seed0', 'G_dora-seed0', 'A_baseline-seed1', 'G_dora-seed1']
    """
    methods = config.method_configs()
    return [RunSpec(name, method, seed, config) for seed in range(config.seeds) for name, method in methods.items()]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of a run's settings is another one than it was, of those that its numbers depend on.

    Args:
        before: A run as `RunSpec.to_dict` gave it.
        now: The same, of another one.

    Example:
        >>> one = plan_runs(ComparisonConfig(methods="A_baseline"))[0].to_dict()
        >>> differences(one, {**one, "settings": {**one["settings"], "lora_r": 8, "executor": "ray"}})
        ['lora_r was 16 and is 8']
    """
    then, new = _flat(before), _flat(now)
    names = dict.fromkeys([*new, *then])
    return [
        f"{name} was {then.get(name)!r} and is {new.get(name)!r}" for name in names if then.get(name) != new.get(name)
    ]


def save_grid(folder: Path, runs: list[RunSpec], data: str) -> None:
    """Write `grid.json`: which runs there are to be, those of an earlier call with them.

    Args:
        folder: The grid's.
        runs: The runs of this call.
        data: Hash of the rows that all methods choose from.

    Raises:
        ConfigError: when runs in the folder were begun with other settings or on other rows: they do not compare.
    """
    path = folder / GRID
    known: dict[str, Any] = jsonl.read_json(path) if path.exists() else {"data": data, "runs": []}
    earlier = {_folder_of(run): run for run in known["runs"]}
    begun = [run for name, run in earlier.items() if (folder / name / "spec.json").exists()]
    if begun:
        changed = differences({"settings": begun[0]["settings"]}, {"settings": runs[0].settings.to_dict()})
        changed += [] if known["data"] == data else ["the rows of train_data are other ones"]
        if changed:
            raise ConfigError(
                f"{path}: runs in this folder do not compare with those asked for: {'; '.join(changed)}; give another "
                "output_dir, or restore that"
            )
    planned = {**(earlier if begun else {}), **{spec.folder: spec.to_dict() for spec in runs}}
    jsonl.write_json(path, {"data": data, "runs": list(planned.values())})


def planned_runs(folder: str | Path) -> list[RunSpec]:
    """The runs a grid is to have, as far as it was begun; those without a result are missing in it.

    Raises:
        DataError: when the folder holds no `grid.json`.
    """
    return [RunSpec.from_dict(run) for run in jsonl.read_json(Path(folder) / GRID)["runs"]]


def _folder_of(run: Mapping[str, Any]) -> str:
    return f"{run['method_id']}-seed{run['seed']}"


def _numbers(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers depend on."""
    settings = {name: value for name, value in run["settings"].items() if name not in _NOT_OF_A_RUN}
    named = {name: value for name, value in run.get("method", {}).items() if name not in ("name", "description")}
    return {"method": named, "seed": run.get("seed"), "settings": settings}


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    numbers = _numbers(run)
    return {"seed": numbers["seed"], **numbers["settings"], **numbers["method"]}
