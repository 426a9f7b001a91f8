"""A stream of tasks as a stream of runs: each goes on with the adapter and the replay buffer of the one before it.

    <output_dir>/stream.json            what was done, the scores, and the figures of forgetting
    <output_dir>/stream.png             the same as a picture
    <output_dir>/01-tools/              an ordinary run (see training/run.py)
    <output_dir>/02-plans/ ...          its base_model is 01-tools, its continual_buffer_path 01-tools/replay_buffer
    <output_dir>/replies/02-plans/      what that run's model said to each task's held-out rows
    <output_dir>/00-self/, 01-tools/replay_buffer_on_policy/    rows of its own (see training/own_rows.py)

After each task the model is scored on every task's held-out rows, which makes the matrix of Lopez-Paz & Ranzato (2017).
`stream.json` is written after every run and every evaluation: whatever kills the stream, the same call goes on, and a
run that was broken off is resumed. A finished stream goes on with the tasks that were added to its end; only the two
models that forward transfer needs are then scored on a new task: the first one, and the one that begins it. Nothing
else of it may change, or its numbers would mean different things.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
from sage.libs.finetune.agent.errors import ConfigError, DivergedError
from sage.libs.finetune.agent.models.batches import rows_loss
from sage.libs.finetune.agent.models.load import LoadedModel
from sage.libs.finetune.agent.preflight.faults import allowed_kinds
from sage.libs.finetune.agent.progress import Progress, silent
from sage.libs.finetune.agent.selection.texts import task_of
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.ask import ask_turns
from sage.libs.finetune.agent.training.data import TokenRows, token_rows
from sage.libs.finetune.agent.training.own_rows import OwnRows, on_policy_rows, self_rows
from sage.libs.finetune.agent.training.run import REPLAY_BUFFER
from sage.libs.finetune.agent.training.sft import AgentSFTTrainer
from sage.libs.finetune.agent.training.stream_config import StreamConfig, StreamTask
from sage.libs.finetune.agent.training.stream_record import (
    RECORD,
    Scores,
    StreamResult,
    finished,
    open_record,
    result_of,
)
from sage.libs.finetune.agent.types import Sample

_SAID_ELSEWHERE = ("losses", "output_dir", "interrupted")
"""Of a run's result: what its folder says, or its being finished."""


def run_stream(config: StreamConfig, progress: Progress = silent) -> StreamResult:
    """Run the tasks one after the other, or what is left of them, and score the model after each.

    Args:
        config: The stream.
        progress: Told of steps, under a label that begins with the task.

    Raises:
        ConfigError: when the folder holds another stream, or one whose tasks had other settings; naming the difference.
        DataError: for a task's data that cannot be read, before anything is trained.
        ModelError: for an unusable model.
        TrainingError: as `AgentSFTTrainer.train`.
        KeyboardInterrupt: on Ctrl-C; the folder is whole, and the same call goes on.

    Example:
        >>> result = run_stream(StreamConfig.from_yaml("stream.yaml"))  # doctest: +SKIP
        >>> result.figures["backward_transfer"]  # doctest: +SKIP
        -0.04
    """
    begin = time.perf_counter()
    processes.join()
    record, held_out = processes.first_decides(lambda: open_record(config))
    stream = _Stream(config, record, held_out, progress)
    if config.evaluate_first:
        stream.evaluate(0)
    done = len(record["tasks"])
    for number in range(1, len(config.tasks) + 1):
        if number > done:
            stream.train(number)
        if number >= done:
            stream.evaluate(number)
    return replace(stream.result(), seconds=time.perf_counter() - begin)


class _Stream:
    """A stream at work. Every process holds the record; the first one writes it."""

    def __init__(
        self, config: StreamConfig, record: dict[str, Any], held_out: Mapping[str, str], progress: Progress
    ) -> None:
        self._config, self._record, self._held_out, self._progress = config, record, held_out, progress

    def train(self, number: int) -> None:
        """Run a task (1 for the first), or go on with its run."""
        task = self._config.tasks[number - 1]
        settings = replace(
            task.settings,
            base_model=self._model(number - 1),
            continual_buffer_path=processes.first_decides(lambda: self._buffer(number)),
            eval_data=task.eval_data if task.settings.eval_steps else None,
        )
        trainer = _TaskTrainer(task.name, settings, self._told(task.name))
        result = trainer.train(resume=(settings.output_dir / "config.yaml").exists())
        if result.interrupted:
            raise KeyboardInterrupt
        said = {name: value for name, value in asdict(result).items() if name not in _SAID_ELSEWHERE}
        self._record["tasks"].append({**finished(task, self._held_out[task.name]), "result": said})
        self._save()
        del trainer
        _give_memory_back()

    def evaluate(self, number: int) -> None:
        """Score the model after a task (0: before the first) on all tasks it has no score of."""
        scores = self._scores(number)
        missing = [task for task in self._config.tasks if task.name not in scores]
        if missing:
            processes.first_decides(lambda: self._evaluate(number, missing, scores))
            self._record = processes.first_decides(lambda: self._record)

    def result(self) -> StreamResult:
        """What there is so far."""
        return result_of(self._config.output_dir, self._record)

    def _evaluate(self, number: int, tasks: Sequence[StreamTask], scores: Scores) -> None:
        settings = replace(self._config.tasks[max(0, number - 1)].settings, base_model=self._model(number))
        loaded = AgentSFTTrainer(settings, self._progress).loaded
        place = _place(self._config, number)
        for task in tasks:
            told = self._told(f"{place}, {task.name}")
            if self._config.evaluate == "loss":
                scores[task.name] = _loss(loaded, task, told)
            else:
                scores[task.name], replies = _asked(loaded, task, told)
                jsonl.write_jsonl(self._config.output_dir / "replies" / place / f"{task.name}.jsonl", replies)
            if not math.isfinite(scores[task.name]["loss"]):
                raise DivergedError(f"{place}: the loss on {task.name} is not a number; lower learning_rate")
            scores[task.name]["eval_sha256"] = self._held_out[task.name]
            self._save()
        del loaded
        _give_memory_back()

    def _scores(self, number: int) -> Scores:
        """The place for the scores after a task, made when it is asked for first."""
        rows: list[dict[str, Any]] = self._record["scores"]
        after = None if number == 0 else self._config.tasks[number - 1].name
        found = next((row for row in rows if row["after"] == after), None)
        if found is None:
            found = {"after": after, "of": {}}
            rows.append(found)
        scores: Scores = found["of"]
        return scores

    def _buffer(self, number: int) -> Path | None:
        """The buffer that a task starts with; what the model adds to it is made now, unless it has been."""
        config, task = self._config, self._config.tasks[number - 1]
        if not task.settings.use_online_continual:
            return None
        if number == 1:
            if not config.continual_self_rows:
                return None
            folder = config.output_dir / "00-self" / REPLAY_BUFFER
            if "self_rows" not in self._record:
                self._record["self_rows"] = self._write_self_rows(task.settings, folder)
                self._save()
            return folder
        before = config.tasks[number - 2].settings.output_dir
        if not config.continual_on_policy:
            return before / REPLAY_BUFFER
        folder = before / f"{REPLAY_BUFFER}_on_policy"
        entry = self._record["tasks"][number - 2]
        if "on_policy" not in entry:
            entry["on_policy"] = self._write_on_policy(number, before / REPLAY_BUFFER, folder)
            self._save()
        return folder

    def _write_self_rows(self, settings: AgentSFTConfig, folder: Path) -> dict[str, int]:
        loaded = AgentSFTTrainer(settings, self._progress).loaded
        own = self_rows(
            loaded, self._config.continual_self_rows, max_new_tokens=settings.max_new_tokens,
            batch_size=settings.eval_batch_size, seed=settings.seed, progress=self._progress,
        )  # fmt: skip
        if not own.rows:
            raise ConfigError(
                f"'continual_self_rows': the base model wrote no usable row ({_counted(own)}); raise max_new_tokens, "
                "or leave it out"
            )
        learner = OnlineContinualLearner(
            settings.continual_buffer_size, settings.continual_replay_ratio, settings.continual_strategy, settings.seed
        )
        losses = _row_losses(loaded, own.rows, settings) if settings.continual_strategy == "surprise" else None
        learner.add(own.rows, tasks=[str(row["metadata"]["task_type"]) for row in own.rows], losses=losses)
        learner.save(folder)
        return own.counts

    def _write_on_policy(self, number: int, stored: Path, folder: Path) -> dict[str, int]:
        settings = self._config.tasks[number - 2].settings
        loaded = AgentSFTTrainer(replace(settings, base_model=self._model(number - 1)), self._progress).loaded
        learner = OnlineContinualLearner.load(stored)
        own = on_policy_rows(
            loaded, learner.items, max_new_tokens=settings.max_new_tokens, max_length=settings.max_seq_length,
            batch_size=settings.eval_batch_size, seed=settings.seed, progress=self._progress,
        )  # fmt: skip
        rows = iter(own.rows)
        learner.mapped(lambda _: next(rows)).save(folder)
        return own.counts

    def _model(self, number: int) -> str:
        """The model after a task; 0: before the first."""
        return str(self._config.tasks[number - 1].settings.output_dir) if number else self._config.base_model

    def _told(self, name: str) -> Progress:
        def tell(label: str, done: int, total: int, detail: str = "") -> None:
            self._progress(f"{name}: {label}", done, total, detail)

        return tell

    def _save(self) -> None:
        if processes.is_first():
            result = self.result()
            jsonl.write_json(result.output_dir / RECORD, {**self._record, "figures": result.figures})


class _TaskTrainer(AgentSFTTrainer):
    """Tells the replay buffer which task the rows are of, where they do not say so themselves."""

    def __init__(self, task: str, config: AgentSFTConfig, progress: Progress) -> None:
        super().__init__(config, progress)
        self._task = task

    def _rows(self, reference: str) -> TokenRows:
        data = super()._rows(reference)
        named = {id(sample): _of_task(sample, self._task) for sample in data.samples}  # windows share their row's
        return replace(data, samples=[named[id(sample)] for sample in data.samples])


def _of_task(sample: Sample, task: str) -> Sample:
    """The sample with a task in its metadata: its own, else the one given."""
    metadata = sample.get("metadata") or {}
    return sample if task_of(sample) else {**sample, "metadata": {**metadata, "task_type": task}}


def _asked(loaded: LoadedModel, task: StreamTask, progress: Progress) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    settings = task.settings
    found = ask_turns(
        loaded, task.eval_data, max_length=settings.max_seq_length, max_new_tokens=settings.max_new_tokens,
        batch_size=settings.eval_batch_size, progress=progress,
    )  # fmt: skip
    right = sum(reply["right"] for reply in found.replies)
    interval = found.accuracy_interval
    scores = {"accuracy": found.accuracy, "low": interval.low, "high": interval.high, "n": found.n, "right": right}
    return {**scores, "loss": found.loss}, found.replies


def _loss(loaded: LoadedModel, task: StreamTask, progress: Progress) -> dict[str, Any]:
    settings = task.settings
    data = token_rows(
        task.eval_data, loaded.tokenizer, settings.max_seq_length, allowed_kinds(settings.allow), progress,
        settings.truncation,
    )  # fmt: skip
    pad_id = loaded.tokenizer.pad_token_id or 0
    return {"loss": rows_loss(loaded.model, data.rows, pad_id, settings.eval_batch_size), "n": len(data.rows)}


def _row_losses(loaded: LoadedModel, rows: Sequence[Sample], settings: AgentSFTConfig) -> list[float]:
    from sage.libs.finetune.agent.selection.scoring import score_samples

    scored = score_samples(rows, loaded, max_length=settings.max_seq_length, batch_size=settings.eval_batch_size)
    losses: list[float] = scored.losses.tolist()
    return losses


def _place(config: StreamConfig, number: int) -> str:
    return config.tasks[number - 1].settings.output_dir.name if number else "00-base"


def _counted(own: OwnRows) -> str:
    return ", ".join(f"{name} {count}" for name, count in own.counts.items())


def _give_memory_back() -> None:
    """A trainer holds itself in circles, and the next model comes at once."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
