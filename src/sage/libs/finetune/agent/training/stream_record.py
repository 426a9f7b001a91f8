"""What a stream has done so far: the file that says it, what may change before it goes on, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.evaluation.forgetting import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    mean_forgetting,
)
from sage.libs.finetune.agent.mixing.references import read_references
from sage.libs.finetune.agent.sources.resolve import imported, load_samples
from sage.libs.finetune.agent.training.data import samples_hash
from sage.libs.finetune.agent.training.stream_config import StreamConfig, StreamTask

RECORD = "stream.json"
_OF_THE_STREAM = ("base_model", "evaluate", "continual_self_rows", "continual_on_policy")
_OF_EVALUATION = ("dtype", "max_new_tokens", "tool_format")
_MAY_DIFFER = ("base_model", "output_dir", "eval_batch_size", "save_steps", "save_total_limit", "eval_steps",
               "eval_rows", "gradient_checkpointing", "report_to", "run_name")  # fmt: skip
"""Settings of a run that change none of its results; where its folder is, the stream says itself."""

Scores = dict[str, dict[str, Any]]
"""By task: `loss`; where replies were asked for `accuracy`, `low` and `high` (95% interval), `right` of `n` turns; and
the hash of its held-out rows."""


@dataclass
class StreamResult:
    """What came of a stream.

    Attributes:
        output_dir: Its folder.
        tasks: Their names, in order.
        measure: What the figures below are of: the accuracy, or the loss (nats per token).
        before: Scores of the base model, None when it was not evaluated.
        after: Scores after each task; a task that was added later is missing from earlier ones.
        runs: Of each task what its run says in `result.json`, without the losses of its steps.
        figures: `average`, `backward_transfer`, `forgetting` (mean and per task), `forward_transfer`; see
            `evaluation.forgetting`. Of losses they are of the negative loss, so that less is worse there too.
        seconds: Wall-clock time of this call.
    """

    output_dir: Path
    tasks: list[str]
    measure: Literal["accuracy", "loss"]
    before: Scores | None
    after: list[Scores]
    runs: list[dict[str, Any]]
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def matrix(self) -> list[list[float | None]]:
        """`measure` on task j (column) after task i (row)."""
        return [self.line(scores) for scores in self.after]

    def line(self, scores: Scores) -> list[float | None]:
        """`measure` of each task, None where it was not measured."""
        return [scores[name][self.measure] if name in scores else None for name in self.tasks]


def read_stream(folder: str | Path) -> StreamResult:
    """What a stream, finished or not, has done so far.

    Raises:
        DataError: when there is no `stream.json`, or it cannot be read.

    Example:
        >>> read_stream("runs/stream").matrix  # doctest: +SKIP
        [[0.92, 0.0], [0.71, 0.88]]
    """
    record = jsonl.read_json(Path(folder) / RECORD)
    return result_of(Path(folder), record)


def open_record(config: StreamConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """What to go on with; what can be found wrong before the work is found here.

    Returns:
        The record, a new one where there is none; and a hash of each task's held-out rows. A score of a task that has
        not been run yet is forgotten when its rows have changed.

    Raises:
        ConfigError: when the folder is no place for this stream; naming what has changed.
        DataError: for data that cannot be read.
    """
    path = config.output_dir / RECORD
    stream = {name: getattr(config, name) for name in _OF_THE_STREAM}
    stream |= {name: getattr(config.tasks[0].settings, name) for name in _OF_EVALUATION}
    held_out = {task.name: samples_hash(load_samples(task.eval_data)) for task in config.tasks}
    if path.exists():
        record: dict[str, Any] = jsonl.read_json(path)
        if "self_rows" not in record and not record["tasks"] and not record["scores"]:
            record["stream"] = stream  # nothing came of it yet; a run that has begun looks after its own settings
        _require_same(path, record, stream, [finished(task, held_out[task.name]) for task in config.tasks])
    elif config.output_dir.is_dir() and any(config.output_dir.iterdir()):
        raise ConfigError(f"'output_dir': {config.output_dir} is not empty and holds no stream; give a new folder")
    else:
        record = {"stream": stream, "tasks": [], "scores": []}
    for row in record["scores"]:
        row["of"] = {name: cell for name, cell in row["of"].items() if cell["eval_sha256"] == held_out.get(name)}
    for task in config.tasks[len(record["tasks"]) :]:
        for data in read_references(task.settings.train_data):
            next(iter(imported(data.reference)))
    config.output_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # before anything else is in the folder, so that a kill leaves a stream to go on with
        jsonl.write_json(path, record)
    return record, held_out


def finished(task: StreamTask, held_out: str) -> dict[str, Any]:
    """The entry of a task in the record, without its result: what must stay as it is once the task has been run.

    Args:
        task: The task.
        held_out: Hash of its held-out rows.
    """
    settings = {name: value for name, value in task.settings.to_dict().items() if name not in _MAY_DIFFER}
    return {
        "name": task.name, "run": task.settings.output_dir.name, "settings": settings, "eval_sha256": held_out,
    }  # fmt: skip


def result_of(folder: Path, record: Mapping[str, Any]) -> StreamResult:
    """The record as a result, with its figures."""
    scores = {row["after"]: row["of"] for row in record["scores"]}
    done = [task["name"] for task in record["tasks"]]
    scored = [name for of in scores.values() for name in of]
    result = StreamResult(
        output_dir=folder,
        tasks=list(dict.fromkeys([*done, *scored])),
        measure="loss" if record["stream"]["evaluate"] == "loss" else "accuracy",
        before=scores.get(None),
        after=[scores.get(name, {}) for name in done],
        runs=[task["result"] for task in record["tasks"]],
    )
    return replace(result, figures=_figures(result))


def _require_same(
    path: Path, record: Mapping[str, Any], stream: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]
) -> None:
    differences = _differences(record["stream"], stream)
    scored = {name for row in record["scores"] for name in row["of"]}
    for number, before in enumerate(record["tasks"], start=1):
        now = tasks[number - 1] if number <= len(tasks) else None
        if now is None or before["name"] != now["name"]:
            is_now = f"is '{now['name']}'" if now else "is gone"
            differences.append(f"task {number} was '{before['name']}' and {is_now}")
            continue
        # A version with fewer settings wrote no value for the others, and ran with what is their default.
        defaults = AgentSFTConfig(base_model="-", train_data="-").to_dict()
        free = () if before["name"] in scored else ("eval_data",)
        changed = _differences({**defaults, **before["settings"]}, now["settings"], free)
        if before["eval_sha256"] != now["eval_sha256"] and not free:
            changed.append("the rows of its eval_data are other ones")
        differences += [f"task '{now['name']}': {each}" for each in changed]
    if differences:
        raise ConfigError(
            f"{path}: a stream goes on with new tasks at its end and nothing else changed: {'; '.join(differences)}; "
            "restore that (what is for a new task alone goes into the task), or give a new output_dir"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    return [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in now.items()
        if name not in free and before[name] != value
    ]


def _figures(result: StreamResult) -> dict[str, Any]:
    """What is known so far; None for what takes more tasks, or a score that was never made."""
    sign = -1.0 if result.measure == "loss" else 1.0

    def signed(line: list[float | None]) -> list[float | None]:
        return [None if value is None else sign * value for value in line]

    matrix = [signed(line) for line in result.matrix]
    if matrix and None in matrix[-1][: len(matrix)]:
        matrix.pop()  # the newest model is still being scored: the stream stands where it stood before
    zero_shot = signed(result.line(result.before)) if result.before else []
    later = range(1, len(matrix))
    known = zero_shot and None not in [
        *(matrix[task - 1][task] for task in later),
        *(zero_shot[task] for task in later),
    ]
    return {
        "average": average_accuracy(matrix) if matrix else None,
        "backward_transfer": backward_transfer(matrix),
        "forgetting": {"mean": mean_forgetting(matrix), "per_task": forgetting(matrix)},
        "forward_transfer": forward_transfer(matrix, zero_shot) if known else None,
    }
