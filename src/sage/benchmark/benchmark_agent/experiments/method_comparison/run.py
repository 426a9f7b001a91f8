"""One run of the grid: rows, sweep of the learning rate, training, evaluation, result.

    <grid>/A_baseline-seed0/
        spec.json           what is run                 rows/           what it trains on, and what was held out
        sweep/              the dev score of each rate  training/       the run, or the stream of runs
        report.json         every reply to the test items               costs.json      seconds and memory so far
        result.json         what came of it; written last, so a run without it goes on where it was
        traceback.txt       of a run that failed

The model is evaluated as it was trained: base weights, number type and adapter as they were, nothing merged.
"""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sage.benchmark.benchmark_agent.experiments.method_comparison.cost import (
    Costs,
    device_name,
    git_revision,
    give_memory_back,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import RunSpec, differences
from sage.benchmark.benchmark_agent.experiments.method_comparison.results import (
    RESULT,
    RunRecord,
    Status,
    read_result,
)
from sage.benchmark.benchmark_agent.experiments.method_comparison.rows import method_rows
from sage.benchmark.benchmark_agent.experiments.method_comparison.trainings import Trainings, best_rate, thinned
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.errors import ConfigError, DataError, TrainingError
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.training.checkpoints import CHECKPOINTS
from sage.libs.finetune.agent.training.run import versions
from sage.libs.finetune.agent.trajectories.io import sole_writer

logger = logging.getLogger(__name__)

SPEC = "spec.json"
_LONGEST_ERROR = 1000


def perform(spec: RunSpec, folder: Path, progress: Progress = silent) -> RunRecord:
    """Do a run, or what is left of it; one that is finished is read.

    Args:
        spec: The run.
        folder: Its folder.
        progress: Told of its parts.

    Returns:
        Its record, also of one that failed, of whatever.

    Raises:
        ConfigError: when the folder holds a run with other settings, or another process is at work in it.
        DataError: when the folder cannot be written to.
        KeyboardInterrupt: on Ctrl-C, when the record says `cancelled`; the same call goes on.
    """
    folder = folder.resolve()  # a run goes on with the paths it began with, wherever it is called from
    require_same(spec, folder)
    done = read_result(folder)
    if done is not None and done.status == "ok":
        return done
    with _alone(folder), _threads(spec.settings.threads):
        jsonl.write_json(folder / SPEC, spec.to_dict())
        for old in (RESULT, "traceback.txt"):
            (folder / old).unlink(missing_ok=True)
        record = _performed(spec, folder, progress)
        record.save(folder)
    if record.status == "cancelled":
        raise KeyboardInterrupt
    return record


def require_same(spec: RunSpec, folder: Path) -> None:
    """Find out whether what is in a run's folder, if anything, is this run.

    Raises:
        ConfigError: naming the settings that are other ones.
    """
    if (folder / SPEC).exists() and (changed := differences(jsonl.read_json(folder / SPEC), spec.to_dict())):
        raise ConfigError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}; restore them, or give another output_dir"
        )
    done = read_result(folder)
    if done is not None and done.digest != spec.digest:
        raise ConfigError(f"{folder / RESULT}: is of a run with other settings; give another output_dir")


def _performed(spec: RunSpec, folder: Path, progress: Progress) -> RunRecord:
    started, costs = _now(), Costs(folder / "costs.json")
    run = _Run(spec, folder, costs, costs.telling(progress))
    status: Status = "ok"
    error: str | None = None
    try:
        with costs.watching_memory(), costs.counted("total"):
            run.go()
    except KeyboardInterrupt:
        status, error = "cancelled", "interrupted; the same command goes on"
    except Exception as failure:  # a run that fails, of whatever, shall not take the others with it
        reason = " ".join(str(failure).split())[:_LONGEST_ERROR]
        status, error = "failed", f"{type(failure).__name__}: {reason}"
        logger.warning("%s failed: %s", spec.folder, error)
        jsonl.write_text(folder / "traceback.txt", traceback.format_exc())
    give_memory_back()
    return RunRecord(
        spec.method_id, spec.to_dict()["method"], spec.seed, spec.digest, status, spec.settings.to_dict(), error=error,
        seconds={name: round(seconds, 3) for name, seconds in {**costs.seconds, **run.seconds}.items()}, **run.found,
        peak_memory_bytes=costs.peak_memory_bytes, versions=versions(), git_revision=git_revision(),
        device=device_name(), started=started, finished=_now(),
    )  # fmt: skip


class _Run:
    """A run at work; `found` is what its record holds so far, `seconds` what is known better than by the clock."""

    def __init__(self, spec: RunSpec, folder: Path, costs: Costs, progress: Progress) -> None:
        self._spec, self._folder, self._costs, self._progress = spec, folder, costs, progress
        self.found: dict[str, Any] = {"tokens": {}}
        self.seconds: dict[str, float] = {}

    def go(self) -> None:
        rows = method_rows(self._spec, self._folder / "rows", self._costs, self._progress)
        self.found["rows"] = {"given": rows.given, "used": rows.used}
        tokens = self.found["tokens"]
        tokens |= {"selection": rows.scored_tokens, "collection": rows.collected_tokens}
        trainings = Trainings(self._spec, self._folder, rows, self._progress)
        with self._costs.counted("sweep"):
            tried, tokens["sweep"] = trainings.sweep()
        rate = best_rate(tried)
        self.found |= {"learning_rates": tried, "learning_rate": rate}
        with self._costs.counted("train"):
            trained = trainings.train(rate)
        tokens |= {"seen": trained.seen, "trained": trained.trained}
        self.found["losses"] = thinned(trained.losses)
        if trained.forgetting is not None:
            self.found["forgetting"] = trained.forgetting
            between = max(0.0, self._costs.seconds["train"] - trained.seconds)
            self.seconds |= {"train": trained.seconds, "forgetting": between}
        with self._costs.counted("evaluate"):
            self._evaluate(trainings, trained.model)
        self._drop_what_only_resuming_needs()

    def _evaluate(self, trainings: Trainings, model: Path) -> None:
        path = self._folder / "report.json"
        if not path.exists():
            asked = trainings.measure(model, "test", self._spec.settings.test_items)
            for name, score in asked.scores.items():
                if not score.num_samples:
                    first = next((reply["error"] for reply in score.replies if reply["error"]), "nothing to score")
                    raise TrainingError(f"{name}: no reply could be scored; the first: {first}")
            asked.save(path)
        self.found["metrics"] = {
            name: {
                "score": score.score, "n": score.num_samples, "interval": score.details.get("interval"),
                "errors": score.errors,
                "items": {one["id"]: one["value"] for one in score.replies if one["value"] is not None},
            }
            for name, score in CapabilityReport.load(path).scores.items()
        }  # fmt: skip

    def _drop_what_only_resuming_needs(self) -> None:
        training = self._folder / "training"
        for checkpoints in (training / CHECKPOINTS, *training.glob(f"*/{CHECKPOINTS}")):
            shutil.rmtree(checkpoints, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of the run's folder; a kill sets it free."""
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_writer(folder / ".lock"))
        except DataError as error:
            if error.__cause__ is not None:  # it cannot be written to
                raise
            raise ConfigError(f"{folder}: another process is at work on this run; let it end") from None
        yield


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
