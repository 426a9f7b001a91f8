"""What a run of the grid leaves: `result.json`, whole or not there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.evaluation.report import without_nan

RESULT = "result.json"
Status = Literal["ok", "failed", "cancelled"]


@dataclass
class RunRecord:
    """One run of the grid, finished in one way or another.

    Attributes:
        method_id: The method's id.
        method: Its settings.
        seed: Of the run.
        digest: Of everything its numbers depend on; a run with another one is another run.
        status: ok; failed, with `error`, and tried anew by the next call; cancelled by Ctrl-C, and gone on with.
        error: What it failed of, None when it did not.
        settings: Those of the comparison.
        metrics: By capability: `score`, `n`, `interval` ({low, high, confidence} or None), `errors`, and `items`, the
            value of each scored item by its id.
        forgetting: Of a stream: `tasks`, `matrix`, and the figures (`backward_transfer` ...); None of other methods.
        learning_rates: Those tried, each {rate, score}: the dev score, None where there was no sweep or the training
            with it broke off (`error` says why).
        learning_rate: The one that was taken.
        tokens: `seen` by the final training (replayed ones with it) and `trained` (those with loss); `sweep`,
            `selection` (read by a model to choose rows), `collection` (of all trajectories, kept or not) beside it.
        seconds: `select`, `collect`, `sweep`, `train`, `forgetting` (the rest of a stream: saving its models and
            asking them in between), `evaluate`, and `total` with what lies between them; of all calls the run took.
        rows: `given` to choose from (trajectories, of a method that collects), and `used` after that.
        losses: Training loss by optimiser step, of longer runs means of at most 200 parts: [[last step, loss], ...].
        peak_memory_bytes: Of the process, or of the GPU where there is one; None when it was not measured.
        versions: Of everything that computed.
        git_revision: Of the code, None outside a checkout.
        device: What computed.
        started: When, UTC, ISO 8601.
        finished: The same.
    """

    method_id: str
    method: dict[str, Any]
    seed: int
    digest: str
    status: Status
    settings: dict[str, Any]
    error: str | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    forgetting: dict[str, Any] | None = None
    learning_rates: list[dict[str, Any]] = field(default_factory=list)
    learning_rate: float | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    losses: list[list[float]] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    device: str = ""
    started: str = ""
    finished: str = ""

    @property
    def overall(self) -> float:
        """Plain mean over the capabilities that were measured; nan when none was."""
        scores = [found["score"] for found in self.metrics.values() if found.get("score") is not None]
        return sum(scores) / len(scores) if scores else math.nan

    def save(self, folder: Path) -> None:
        """Write `result.json`, the last file of a run."""
        jsonl.write_json(folder / RESULT, without_nan(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> RunRecord:
        """Read what `save` wrote.

        Raises:
            DataError: naming `where` and what is missing or unknown.
        """
        known = {spec.name for spec in fields(cls)}
        required = {"method_id", "method", "seed", "digest", "status", "settings"}
        missing, unknown = sorted(required - values.keys()), sorted(values.keys() - known)
        if missing or unknown:
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown fields {', '.join(unknown)}"
            raise DataError(f"{where}: is no result of a comparison: it {what}")
        return cls(**values)


def read_result(folder: Path) -> RunRecord | None:
    """The result of a run's folder, None while there is none.

    Raises:
        DataError: for one that cannot be read.
    """
    path = folder / RESULT
    return RunRecord.from_dict(jsonl.read_json(path), str(path)) if path.exists() else None


def load_results(folder: str | Path) -> list[RunRecord]:
    """The results in the folders of a grid, by folder name.

    Raises:
        DataError: when there is none, or one cannot be read.
    """
    found = [read_result(path.parent) for path in sorted(Path(folder).glob(f"*/{RESULT}"))]
    records = [record for record in found if record is not None]
    if not records:
        raise DataError(f"{folder}: holds no result; give the --out folder of `sage-finetune compare`")
    return records
