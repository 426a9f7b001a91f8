"""The rows a method trains on, out of the rows that all methods are given. Each is written to a file once.

Some rows of each task are held out before, from all methods alike: on them the forgetting of streams is measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sage.benchmark.benchmark_agent.experiments.method_comparison.budget import RowCount
from sage.benchmark.benchmark_agent.experiments.method_comparison.config import MethodConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.cost import Costs, give_memory_back
from sage.benchmark.benchmark_agent.experiments.method_comparison.experiment import ComparisonConfig
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import GRID, RunSpec
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ConfigError, DataError
from sage.libs.finetune.agent.models.load import load_model, load_tokenizer
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.selection.texts import task_of
from sage.libs.finetune.agent.sources.resolve import load_samples
from sage.libs.finetune.agent.tokenization.truncate import truncate
from sage.libs.finetune.agent.training.data import samples_hash
from sage.libs.finetune.agent.types import Sample

GENERAL = ("reasoning", "instruction_following")
"""The tasks of `agent_capabilities` that need no agent, for AgentTuning's eta."""
_EVERYTHING = "all"
_SHARE_HELD_OUT = 5
_REPEATS = 8.0

Parts = dict[str, list[Sample]]
"""Rows by task, tasks in order of first appearance."""


@dataclass(frozen=True)
class TaskFile:
    """Rows of a task, or of all.

    Attributes:
        task: Its name; "all" for methods that train on all rows at once.
        path: The file.
        counted: Its rows and their tokens.
        held_out: File of rows that were kept back; None where forgetting is not measured.
    """

    task: str
    path: Path
    counted: RowCount
    held_out: Path | None


@dataclass(frozen=True)
class MethodRows:
    """What a run trains on.

    Attributes:
        files: In the order in which a stream takes them; one for methods that train on all rows at once.
        given: Rows there were to choose from.
        used: Rows in the files.
        scored_tokens: Tokens that went through a model to select them.
        collected_tokens: Tokens of all trajectories that were collected, kept or not.
    """

    files: list[TaskFile]
    given: int
    used: int
    scored_tokens: int
    collected_tokens: int


def method_rows(spec: RunSpec, folder: Path, costs: Costs, progress: Progress) -> MethodRows:
    """Select, collect or mix the rows of a run, or read what an earlier call wrote.

    Args:
        spec: The run.
        folder: Where the files go.
        costs: Counts selection and collection.
        progress: Told of both.

    Raises:
        DataError: when there are no rows, or none is left.
        ConfigError: when the rows have no tasks and the method needs some.
    """
    record = folder / "rows.json"
    if not record.exists():
        _write(spec, folder, costs, progress)
    known = jsonl.read_json(record)
    files = [
        TaskFile(
            file["task"], folder / file["name"], RowCount(file["rows"], file["tokens"]),
            folder / file["held_out"] if file["held_out"] else None,
        )
        for file in known.pop("files")
    ]  # fmt: skip
    return MethodRows(files, used=sum(file.counted.rows for file in files), **known)


def given_rows(settings: ComparisonConfig) -> tuple[list[Sample], Parts]:
    """The rows that all methods choose from, and of each task those that no method trains on.

    Held out are `stream_items` rows of each task, evenly over the data, and at most a fifth of it; rows with the same
    prompt are no training rows either. Of rows without tasks, or of one task alone, none is held out.

    Raises:
        DataError: for data that cannot be read.
    """
    rows = load_samples(settings.train_data)
    parts = _parts(rows)
    if "" in parts or len(parts) < 2:
        return rows[: settings.train_rows], {}
    held_out: Parts = {}
    for task, part in parts.items():
        count = min(settings.stream_items, len(part) // _SHARE_HELD_OUT)
        held_out[task] = [part[(2 * at + 1) * len(part) // (2 * count)] for at in range(count)]
    kept_back = {_prompt(row) for part in held_out.values() for row in part}
    return [row for row in rows if _prompt(row) not in kept_back][: settings.train_rows], held_out


def shared_prompts(rows: Sequence[Sample], items: Sequence[Mapping[str, Any]]) -> int:
    """How many rows ask what an item asks."""
    asked = {jsonl.encode(item["messages"]) for item in items}
    return sum(_prompt(row).encode() in asked for row in rows)


def require_tasks(method: MethodConfig, rows: Sequence[Sample], held_out: Mapping[str, Sequence[Sample]]) -> None:
    """Find out before a run whether a method can do with these rows.

    Raises:
        ConfigError: saying what it would need.
    """
    tasks = list(_parts(rows))
    if (method.use_continual or method.use_multi_task) and ("" in tasks or len(tasks) < 2):
        raise ConfigError("it needs rows of at least two tasks, each row's named in metadata.task_type")
    if method.use_continual and (small := [task for task in tasks if not held_out.get(task)]):
        raise ConfigError(
            f"task '{small[0]}' has fewer than {_SHARE_HELD_OUT} rows, so that none can be held out to measure "
            "forgetting on"
        )
    general = [task for task in tasks if task in GENERAL]
    if method.use_multi_task and len(general) in (0, len(tasks)):
        raise ConfigError(
            f"it mixes agent tasks with general ones ({', '.join(GENERAL)}), and the rows are of {', '.join(tasks)} "
            "alone"
        )


def _write(spec: RunSpec, folder: Path, costs: Costs, progress: Progress) -> None:
    rows, held_out = given_rows(spec.settings)
    grid = folder.parent.parent / GRID
    if grid.exists() and jsonl.read_json(grid)["data"] != samples_hash([*rows, *chain(*held_out.values())]):
        raise DataError(
            f"{spec.settings.train_data}: the rows are other ones than when the comparison began; restore them, or "
            "give another output_dir"
        )
    method = spec.method
    require_tasks(method, rows, held_out)
    length = _length_by(spec)
    known: dict[str, Any] = {"given": len(rows), "scored_tokens": 0, "collected_tokens": 0}
    if method.use_trajectory_collection:
        with costs.counted("collect"):
            parts, numbers = _collected(spec, length, progress)
        known |= numbers
    elif method.use_multi_task:
        parts = {_EVERYTHING: _mixed(spec, rows)}
    else:
        parts = _parts(rows) if method.use_continual else {_EVERYTHING: rows}
    if method.use_coreset:
        with costs.counted("select"):
            parts, known["scored_tokens"] = _coresets(spec, parts, length, progress)
    files = []
    for number, (task, part) in enumerate(parts.items(), start=1):
        name = f"{number:02d}-{re.sub('[^A-Za-z0-9._-]+', '-', task)[:40]}.jsonl"
        jsonl.write_jsonl(folder / name, part)
        kept_back = f"held_out/{name}" if method.use_continual else None
        if kept_back is not None:
            jsonl.write_jsonl(folder / kept_back, held_out[task])
        files.append({
            "task": task, "name": name, "rows": len(part), "tokens": sum(map(length, part)), "held_out": kept_back,
        })  # fmt: skip
    jsonl.write_json(folder / "rows.json", {**known, "files": files})


def _parts(rows: Sequence[Sample]) -> Parts:
    """Rows without a task are of the task ""."""
    parts: Parts = {}
    for row in rows:
        parts.setdefault(task_of(row) or "", []).append(row)
    return parts


def _prompt(row: Sample) -> str:
    messages = row["messages"]
    return jsonl.encode(messages[:-1] if messages[-1]["role"] == "assistant" else messages).decode()


def _coresets(spec: RunSpec, parts: Parts, length: Callable[[Sample], int], progress: Progress) -> tuple[Parts, int]:
    """A coreset of each part, and the tokens that were scored for it."""
    from sage.libs.finetune.agent.selection.coreset import STRATEGIES, CoresetSelector

    settings, method = spec.settings, spec.method
    asks = STRATEGIES[method.coreset_strategy].losses
    model = load_model(settings.base_model, dtype=settings.dtype) if asks else None
    chosen: Parts = {}
    scored = 0
    for task, part in parts.items():
        size = max(1, math.floor(method.coreset_share * len(part) + 1e-9))
        selector = CoresetSelector(
            method.coreset_strategy, size, seed=spec.seed, max_length=settings.max_seq_length, progress=progress,
        )  # fmt: skip
        chosen[task] = selector.select(part, model)
        scores = selector.last.scores if selector.last is not None else None
        if scores is not None:
            scored += sum(map(length, part)) + (int(scores.tokens.sum()) if scores.alone is not None else 0)
    del model
    give_memory_back()
    return chosen, scored


def _collected(spec: RunSpec, length: Callable[[Sample], int], progress: Progress) -> tuple[Parts, dict[str, int]]:
    """FireAct: an agent that errs works on the desk's training tasks; what succeeded becomes rows."""
    from sage.libs.finetune.agent.conversion.converter import TrajectoryToSFTConverter
    from sage.libs.finetune.agent.environments.desk import DeskEnvironment, NoisyDeskExpert, desk_tasks
    from sage.libs.finetune.agent.trajectories.collector import CollectorConfig, TrajectoryCollector
    from sage.libs.finetune.agent.trajectories.filter import TrajectoryFilter

    tasks = desk_tasks("train", spec.settings.collected_tasks, spec.seed)
    done = 0

    def tell(_: object) -> None:
        nonlocal done
        done += 1
        progress("collect", done, len(tasks))

    agent, config = NoisyDeskExpert(seed=spec.seed), CollectorConfig(require_success=False)
    trajectories = TrajectoryCollector(agent, config, DeskEnvironment, on_episode=tell).collect(tasks)
    converter = TrajectoryToSFTConverter()
    everything: list[Any] = converter.convert(trajectories)
    rows: list[Any] = converter.convert(TrajectoryFilter().filter(trajectories))
    if not rows:
        raise DataError(f"none of {len(trajectories)} collected trajectories passed the filter; raise collected_tasks")
    return {_EVERYTHING: rows}, {"given": len(trajectories), "collected_tokens": sum(map(length, everything))}


def _mixed(spec: RunSpec, rows: Sequence[Sample]) -> list[Sample]:
    """AgentTuning: agent rows with probability eta, exactly, among the general ones."""
    from sage.libs.finetune.agent.mixing.config import MixerConfig
    from sage.libs.finetune.agent.mixing.mixer import MultiTaskMixer

    parts = _parts(rows)
    general = [task for task in parts if task in GENERAL]
    config = MixerConfig(
        dict.fromkeys(parts, 1.0), eta=spec.method.eta, general_tasks=general, seed=spec.seed, max_repeats=_REPEATS
    )
    return [sample.data for sample in MultiTaskMixer(config).mix(parts)]  # type: ignore[misc]


def _length_by(spec: RunSpec) -> Callable[[Sample], int]:
    """Tokens of a row as it is trained on."""
    tokenizer, _ = load_tokenizer(spec.settings.base_model)
    longest = spec.settings.max_seq_length
    return lambda row: len(truncate(row, tokenizer, longest).rendered.input_ids)
