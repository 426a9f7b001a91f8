"""The trainings of a run: one for each learning rate that is tried, and the one that counts.

The sweep gives each rate its share of the token budget and asks for the dev items; the rate with the best score is
taken, ties go to the middle. A rate with which training breaks off (the loss is no number) is out. Of the sweep only
the scores stay on disk.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from sage.benchmark.benchmark_agent.experiments.method_comparison.budget import steps_for, stream_steps
from sage.benchmark.benchmark_agent.experiments.method_comparison.cost import give_memory_back
from sage.benchmark.benchmark_agent.experiments.method_comparison.plan import RunSpec
from sage.benchmark.benchmark_agent.experiments.method_comparison.rows import MethodRows, TaskFile
from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.capabilities.evaluator import AgentCapabilityEvaluator
from sage.libs.finetune.agent.capabilities.report import CapabilityReport
from sage.libs.finetune.agent.capabilities.test_sets import test_set
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import DivergedError, TrainingError
from sage.libs.finetune.agent.evaluation.report import without_nan
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.reporting.curves import read_metrics
from sage.libs.finetune.agent.training.sft import AgentSFTTrainer
from sage.libs.finetune.agent.training.stream import run_stream
from sage.libs.finetune.agent.training.stream_config import StreamConfig

_POINTS = 200
_CHECKPOINTS = 5
"""A short run is cut into so many parts by its checkpoints; steps between two are what a kill costs."""


class Trained(NamedTuple):
    """What came of a training.

    Attributes:
        model: The run folder of its last (or only) task.
        seen: Tokens, replayed ones with them.
        trained: Those with loss.
        seconds: Of training alone, without what a stream's models are asked in between.
        losses: One a step.
        forgetting: Of a stream: `tasks`, `matrix` and figures.
    """

    model: Path
    seen: int
    trained: int
    seconds: float
    losses: list[float]
    forgetting: dict[str, Any] | None


class Trainings:
    """Trains and measures as a run's method does it.

    Args:
        spec: The run.
        folder: Its folder, absolute.
        rows: What it trains on.
        progress: Told of steps and replies.
    """

    def __init__(self, spec: RunSpec, folder: Path, rows: MethodRows, progress: Progress) -> None:
        self._spec, self._folder, self._rows, self._progress = spec, folder, rows, progress

    def sweep(self) -> tuple[list[dict[str, Any]], int]:
        """Each learning rate with its dev score, and the tokens it all took.

        Raises:
            TrainingError: when training broke off with each of them.
            KeyboardInterrupt: on Ctrl-C; the same call goes on.
        """
        rates = self._spec.settings.rates()
        if len(rates) == 1:
            return [{"rate": rates[0], "score": None}], 0
        found = [self._tried(rate) for rate in rates]
        tokens = sum(one.pop("tokens") for one in found)
        if all("error" in one for one in found):
            raise TrainingError(f"training broke off with every learning rate; with {rates[0]:g}: {found[0]['error']}")
        return found, tokens

    def train(self, rate: float) -> Trained:
        """The training that counts, with the whole budget; what is left of it.

        Raises:
            AgentFinetuneError: as the trainer's.
            KeyboardInterrupt: on Ctrl-C; the same call goes on.
        """
        return self._train(rate, 1.0, self._folder / "training", final=True)

    def measure(self, model: Path, split: str, items: int) -> CapabilityReport:
        """Ask a trained model, loaded with the settings it was trained with."""
        settings = self._spec.settings
        evaluator = AgentCapabilityEvaluator(
            batch_size=settings.eval_batch_size, max_new_tokens=settings.max_new_tokens, progress=self._progress
        )
        sets = {name: test_set(name, items, split) for name in settings.measured()}
        config = AgentSFTConfig(**{**self._common(1.0), "base_model": str(model), "train_data": "-"})
        try:
            return evaluator.evaluate(AgentSFTTrainer(config, self._progress), sets)
        finally:
            give_memory_back()

    def _tried(self, rate: float) -> dict[str, Any]:
        settings, folder = self._spec.settings, self._folder / "sweep" / repr(rate)
        score = folder / "score.json"
        if not score.exists():
            try:
                trained = self._train(rate, settings.sweep_share, folder / "training", final=False)
                dev = self.measure(trained.model, "dev", settings.dev_items).overall
                jsonl.write_json(score, {"rate": rate, "score": without_nan(dev), "tokens": trained.seen})
            except DivergedError as error:  # anything else (no memory, a full disk) says nothing about the rate
                lines = [read_metrics(path) for path in folder.rglob("metrics.jsonl")]
                tokens = sum(steps[-1].get("tokens", 0) for steps in lines if steps)
                jsonl.write_json(score, {"rate": rate, "score": None, "error": str(error), "tokens": tokens})
        shutil.rmtree(folder / "training", ignore_errors=True)
        found: dict[str, Any] = jsonl.read_json(score)
        return found

    def _train(self, rate: float, share: float, folder: Path, *, final: bool) -> Trained:
        try:
            if self._spec.method.use_continual:
                return self._stream(rate, share, folder, final)
            return self._at_once(rate, share, folder)
        finally:
            give_memory_back()

    def _at_once(self, rate: float, share: float, folder: Path) -> Trained:
        [file] = self._rows.files
        common = self._common(rate)
        steps = steps_for(share * self._spec.settings.token_budget, file.counted, _rows_a_step(common))
        if not (folder / "result.json").exists():
            config = AgentSFTConfig(
                train_data=str(file.path), output_dir=folder, max_steps=steps, **_saved_now_and_then(common, steps)
            )
            result = AgentSFTTrainer(config, self._progress).train(resume=(folder / "config.yaml").exists())
            if result.interrupted:
                raise KeyboardInterrupt
        told = jsonl.read_json(folder / "result.json")
        seconds = _seconds(folder, told)
        return Trained(folder, told["tokens_seen"], told["tokens_trained"], seconds, told["losses"], None)

    def _stream(self, rate: float, share: float, folder: Path, final: bool) -> Trained:
        """The tasks one after another."""
        method, common, files = self._spec.method, self._common(rate), self._rows.files
        steps = stream_steps(
            share * self._spec.settings.token_budget, {file.task: file.counted for file in files},
            _rows_a_step(common), method.continual_replay_ratio, method.continual_buffer_size,
        )  # fmt: skip
        tasks = [
            {"name": file.path.stem, "train_data": str(file.path), "max_steps": steps[file.task],
             "eval_data": str(file.held_out if final else self._one_row(file)),
             "save_steps": _saved_now_and_then(common, steps[file.task])["save_steps"]}
            for file in files
        ]  # fmt: skip
        config = StreamConfig.from_dict({
            **common, "output_dir": folder, "tasks": tasks, "evaluate_first": False,
            "evaluate": "generate" if final else "loss", "use_online_continual": True,
            "continual_buffer_size": method.continual_buffer_size, "continual_strategy": method.continual_strategy,
            "continual_replay_ratio": method.continual_replay_ratio,
        })  # fmt: skip
        result = run_stream(config, self._progress)
        runs = [task.settings.output_dir for task in config.tasks]
        told = [jsonl.read_json(run / "result.json") for run in runs]
        seen, trained = (sum(one[name] for one in told) for name in ("tokens_seen", "tokens_trained"))
        seconds = sum(map(_seconds, runs, told))
        losses = [loss for one in told for loss in one["losses"]]
        names = [file.task for file in files]
        forgetting = {"tasks": names, "matrix": result.matrix, **result.figures} if final else None
        return Trained(runs[-1], seen, trained, seconds, losses, forgetting)

    def _one_row(self, file: TaskFile) -> Path:
        """A stream scores its models after each task; in a sweep nobody looks at that, and one row is enough."""
        assert file.held_out is not None
        path = self._folder / "sweep" / "held_out" / file.held_out.name
        if not path.exists():
            jsonl.write_jsonl(path, [row for _, row in jsonl.read_jsonl(file.held_out)][:1])
        return path

    def _common(self, rate: float) -> dict[str, Any]:
        """Settings of every training of the run, a method's own over them."""
        method, settings = self._spec.method, self._spec.settings
        return {
            "base_model": settings.base_model, "learning_rate": rate, "batch_size": settings.batch_size,
            "gradient_accumulation_steps": 1, "seed": self._spec.seed, "max_seq_length": settings.max_seq_length,
            "max_new_tokens": settings.max_new_tokens, "eval_batch_size": settings.eval_batch_size,
            "lora_r": settings.lora_r, "lora_alpha": settings.lora_alpha, "dtype": settings.dtype,
            "use_dora": method.use_dora, "use_lora_plus": method.use_lora_plus, "adam_beta2": 0.98,
            "allow": "duplicate", **method.settings,
        }  # fmt: skip


def best_rate(tried: Sequence[dict[str, Any]]) -> float:
    """The learning rate with the best score, of several the one nearest to the middle.

    Args:
        tried: Rates in ascending order, each with its `score`, which may be None.

    Example:
        >>> scores = [0.25, 0.5, 0.5, None]
        >>> best_rate([{"rate": rate, "score": score} for rate, score in zip((1e-4, 3e-4, 1e-3, 3e-3), scores)])
        0.001
    """
    middle = len(tried) // 2

    def merit(place: int) -> tuple[float, int]:
        score = tried[place]["score"]
        return (-math.inf if score is None else score, -abs(place - middle))

    able = [place for place in range(len(tried)) if "error" not in tried[place]]
    return float(tried[max(able, key=merit)]["rate"])


def thinned(losses: Sequence[float]) -> list[list[float]]:
    """The curve of a training: [last step, mean loss] of each of at most 200 parts.

    Example:
        >>> thinned([3.0, 2.0]), len(thinned([1.0] * 1001)) <= 200
        ([[1, 3.0], [2, 2.0]], True)
    """
    width = max(1, -(-len(losses) // _POINTS))
    parts = [losses[at : at + width] for at in range(0, len(losses), width)]
    return [[min(at * width, len(losses)), round(fmean(part), 5)] for at, part in enumerate(parts, start=1)]


def _rows_a_step(common: dict[str, Any]) -> int:
    return int(common["batch_size"]) * int(common["gradient_accumulation_steps"])


def _saved_now_and_then(common: dict[str, Any], steps: int) -> dict[str, Any]:
    return {"save_steps": min(100, max(10, -(-steps // _CHECKPOINTS))), **common}


def _seconds(run: Path, told: Mapping[str, Any]) -> float:
    """Of a finished run: the result knows its last call with loading, the metrics all calls without."""
    counted = (line["seconds"] for line in reversed(read_metrics(run / "metrics.jsonl")) if "seconds" in line)
    return max(float(told["seconds"]), float(next(counted, 0.0)))
