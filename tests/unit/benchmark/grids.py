"""A comparison small enough for a test: a tiny random model, short rows of two tasks, one capability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import save_tiny

from sage.benchmark.benchmark_agent.experiments.method_comparison import MethodComparisonExperiment
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import RunSpec, plan_runs

TASKS = ("tools", "plans")
SMALL: dict[str, Any] = {
    "seeds": 1, "token_budget": 300, "learning_rates": "1e-2", "test_items": 4, "dev_items": 2, "stream_items": 2,
    "collected_tasks": 8, "capabilities": "timing", "max_new_tokens": 4, "dtype": "float32",
}  # fmt: skip


def write_rows(path: Path, each: int = 10, tasks: tuple[str | None, ...] = TASKS) -> Path:
    rows = [
        {
            "messages": [{"role": "user", "content": f"{task} {n}"}, {"role": "assistant", "content": f"{n} tea"}],
            "metadata": {"task_type": task} if task else {},
        }
        for n in range(each)
        for task in tasks
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings_in(folder: Path, **changed: Any) -> dict[str, Any]:
    """Settings of a comparison whose model and rows are in the folder, made if need be."""
    if not (folder / "model").exists():
        save_tiny(folder / "model")
        write_rows(folder / "rows.jsonl")
    return {**SMALL, "base_model": str(folder / "model"), "train_data": str(folder / "rows.jsonl"), **changed}


def spec_of(folder: Path, method: str = "A_baseline", **changed: Any) -> RunSpec:
    return plan_runs(ComparisonConfig(methods=method, **settings_in(folder, **changed)))[0]


def experiment_in(folder: Path, methods: Any, out: Path, progress: Any = None, **changed: Any) -> Any:
    told = {} if progress is None else {"progress": progress}
    return MethodComparisonExperiment(methods, output_dir=out, **told, **settings_in(folder, **changed))
