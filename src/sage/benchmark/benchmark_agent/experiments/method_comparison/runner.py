"""The grid at work: every run that has no result yet, here or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.config import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import RunSpec, plan_runs, save_grid
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import RunRecord, read_result
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.progress import Progress, silent


@dataclass(frozen=True)
class Grid:
    """What a comparison came to.

    Attributes:
        folder: Its folder, of which a report can be made at any time.
        records: Of its runs, in the order of the plan.
        missing: Folder names of runs without a result.
    """

    folder: Path
    records: list[RunRecord]
    missing: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[RunRecord]:
        """Those that failed."""
        return [record for record in self.records if record.status == "failed"]


class MethodComparisonExperiment:
    """Trains and evaluates every method with every seed, and keeps each run in a folder of its own.

    A finished run is not run again, a failed one is tried anew, and one that was killed goes on where it was: start the
    same experiment again.

    Args:
        methods: Ids of predefined methods, `all`, `quick`, or methods by ids of their own.
        base_model: What all of them train.
        seeds: How many runs of each.
        output_dir: Folder of the grid.
        progress: Told of what goes on.
        settings: Further settings of `ComparisonConfig`.

    Raises:
        ConfigError: for unknown methods or faulty settings.

    Example:
        >>> experiment = MethodComparisonExperiment(["A_baseline", "G_dora"], seeds=2, output_dir="runs/grid")
        >>> [spec.folder for spec in experiment.runs]
        ['A_baseline-seed0', 'G_dora-seed0', 'A_baseline-seed1', 'G_dora-seed1']
        >>> experiment.run().records[0].overall  # doctest: +SKIP
        0.41
    """

    def __init__(
        self,
        methods: str | Sequence[str] | Mapping[str, MethodConfig],
        base_model: str = "smollm2-135m-instruct",
        seeds: int = 3,
        output_dir: str | Path = "runs/comparison",
        progress: Progress = silent,
        **settings: Any,
    ) -> None:
        if isinstance(methods, Mapping):
            settings["own_methods"] = {name: asdict(method) for name, method in methods.items()}
        named = methods if isinstance(methods, str) else ",".join(methods)
        self.config = ComparisonConfig(
            methods=named, base_model=base_model, seeds=seeds, output_dir=Path(output_dir), **settings
        )
        self.runs = plan_runs(self.config)
        self._progress = progress

    @classmethod
    def of(cls, config: ComparisonConfig, progress: Progress = silent) -> MethodComparisonExperiment:
        """The experiment of these settings."""
        settings = {spec.name: getattr(config, spec.name) for spec in fields(ComparisonConfig)}
        return cls(progress=progress, **settings)

    def run(self) -> Grid:
        """Do what is left to do.

        Raises:
            ConfigError: before anything is trained: for a method that cannot do with the rows, a folder that holds
                runs with other settings or on other rows, or a cluster that cannot be had.
            DataError: for data that cannot be read, or a folder that cannot be written to.
            ModelError: for a model that cannot be found.
            KeyboardInterrupt: on Ctrl-C; the same call goes on.
        """
        from sage.benchmark.benchmark_agent.experiments.method_comparison.run import require_same

        for spec in self.runs:
            require_same(spec, self._folder(spec))
        left = [spec for spec in self.runs if not self._is_done(spec)]
        if left:
            self._prepare()
            self._perform(left)
        found = {spec.folder: read_result(self._folder(spec)) for spec in self.runs}
        missing = [name for name, record in found.items() if record is None]
        return Grid(self.config.output_dir, [record for record in found.values() if record is not None], missing)

    def _prepare(self) -> None:
        """Find out in seconds what would go wrong after hours, and write down what is planned."""
        from sage.benchmark.benchmark_agent.experiments.method_comparison.rows import (
            given_rows,
            require_tasks,
            shared_prompts,
        )
        from sage.libs.finetune.agent.capabilities.test_sets import test_set
        from sage.libs.finetune.agent.models.load import load_tokenizer
        from sage.libs.finetune.agent.training.data import samples_hash

        config = self.config
        rows, held_out = given_rows(config)
        for name, method in config.method_configs().items():
            try:
                require_tasks(method, rows, held_out)
            except ConfigError as error:
                raise ConfigError(f"method '{name}' cannot be compared on {config.train_data}: {error}") from None
        asked = [
            item
            for capability in config.measured()
            for split, count in (("test", config.test_items), ("dev", config.dev_items))
            for item in test_set(capability, count, split)
        ]
        if known := shared_prompts(rows, asked):
            raise ConfigError(
                f"{config.train_data}: {known} of {len(rows)} rows are items that the methods are measured on; train "
                "on others"
            )
        load_tokenizer(config.base_model)
        save_grid(config.output_dir, self.runs, samples_hash([*rows, *chain(*held_out.values())]))

    def _perform(self, left: Sequence[RunSpec]) -> None:
        if self.config.executor == "ray":
            from sage.benchmark.benchmark_agent.experiments.method_comparison.cluster import perform_on_cluster

            perform_on_cluster(left, self.config, self._progress)
            return
        from sage.benchmark.benchmark_agent.experiments.method_comparison.run import perform

        for number, spec in enumerate(left, start=1):
            perform(spec, self._folder(spec), self._told(f"{spec.folder} ({number}/{len(left)})"))

    def _folder(self, spec: RunSpec) -> Path:
        return self.config.output_dir / spec.folder

    def _is_done(self, spec: RunSpec) -> bool:
        record = read_result(self._folder(spec))
        return record is not None and record.status == "ok"

    def _told(self, name: str) -> Progress:
        def tell(label: str, done: int, total: int, detail: str = "") -> None:
            self._progress(f"{name}: {label}", done, total, detail)

        return tell
