"""What happens beside the steps of a run: the log that is written and told, the trackers, the stop at a signal.

A line of `metrics.jsonl` is an optimiser step or an evaluation. What it sums up (`seconds`, `tokens`, `tokens_trained`)
counts the run through all its resumptions, without steps that were lost and done again; `seconds` are those of
training, evaluations and checkpoints included, and not those of loading. Speeds are of the step alone, in tokens as if
each row ran by itself, padding not counted, so that they compare between settings and with other trainers.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import ConfigError
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.reporting.curves import read_metrics
from sage.libs.finetune.agent.training.processes import anywhere

_SMOOTHED_STEPS = 20
_FROM_TRAINER = ("grad_norm", "learning_rate", "epoch", "rows_replayed")
EVALUATED = ("eval_loss", "eval_accuracy", "eval_calls_valid", "eval_n", "eval_seconds")
"""What a line about an evaluation holds beside its step; null is what was not measured."""


class RunLog(TrainerCallback):
    """Writes `metrics.jsonl` and tells progress.

    It adds tokens and speeds to the logs it is given: put it before the trackers and they show them too.

    Args:
        path: The file; a resumed run goes on in it.
        progress: Told of each step under the label "train".
        counts: Tokens of the rows trained on since the run began, resumptions included, and the trained ones of them.
        clock: Seconds that only go up.

    Example:
        >>> log = RunLog(folder / "metrics.jsonl", progress, lambda: (trainer.tokens_seen, trainer.tokens_trained))
        ... # doctest: +SKIP
    """

    def __init__(
        self,
        path: Path,
        progress: Progress,
        counts: Callable[[], tuple[int, int]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._path, self._progress, self._counts, self._clock = path, progress, counts, clock
        self._began = self._step_began = clock()
        self._seconds_before = 0.0
        self._counted = (0, 0)
        self._paces: deque[tuple[float, int, int]] = deque(maxlen=_SMOOTHED_STEPS)
        self._steps_said = self._evaluation_said = ""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the lines of steps that a resumed run will do again, and count on from the last that is left."""
        if not state.is_world_process_zero:
            return
        kept = [line for line in read_metrics(self._path) if line.get("step", 0) <= state.global_step]
        jsonl.write_jsonl(self._path, kept)
        for line in kept:
            self._seconds_before = line.get("seconds", self._seconds_before)
            self._evaluation_said = _said(line) if "eval_loss" in line else self._evaluation_said
        self._counted = self._counts()
        self._began = self._step_began = self._clock()
        self._tell(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line per optimiser step, and one per evaluation."""
        if not logs or not {"loss", "eval_loss"} & logs.keys() or not state.is_world_process_zero:
            return
        if "loss" in logs:
            known = {name: logs[name] for name in _FROM_TRAINER if name in logs}
            counted = self._count_step()
            logs.update({name: value for name, value in counted.items() if name != "seconds"})
            self._append({"step": state.global_step, "loss": logs["loss"], **known, **counted})
            self._steps_said = f"loss {logs['loss']:.3f} · {self._pace()}"
        else:
            line = {"step": state.global_step, **{name: logs.get(name) for name in EVALUATED}}
            self._append(line)
            self._evaluation_said = _said(line)
        self._tell(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The next step begins now."""
        self._step_began = self._clock()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The next step begins now."""
        self._step_began = self._clock()

    def _count_step(self) -> dict[str, float]:
        now, counts = self._clock(), self._counts()
        taken = max(now - self._step_began, 1e-9)
        seen, trained = (total - before for total, before in zip(counts, self._counted, strict=True))
        self._step_began, self._counted = now, counts
        self._paces.append((taken, seen, trained))
        return {
            "seconds": round(self._seconds_before + now - self._began, 3),
            "tokens": counts[0],
            "tokens_trained": counts[1],
            "tokens_per_second": round(seen / taken, 1),
            "tokens_trained_per_second": round(trained / taken, 1),
        }

    def _pace(self) -> str:
        taken, seen, trained = (sum(column) for column in zip(*self._paces, strict=True))
        return f"{seen / taken:,.0f} tok/s ({trained / taken:,.0f} trained)"

    def _append(self, numbers: dict[str, Any]) -> None:
        line = {name: None if value is None or not math.isfinite(value) else value for name, value in numbers.items()}
        with self._path.open("ab") as file:
            file.write(jsonl.encode(line) + b"\n")

    def _tell(self, state: TrainerState) -> None:
        detail = " · ".join(filter(None, (self._steps_said, self._evaluation_said)))
        self._progress("train", state.global_step, state.max_steps, detail)


class StopOnSignal(TrainerCallback):
    """Ends training after the current step when Ctrl-C or SIGTERM came, with a checkpoint to go on from.

    Who sends SIGTERM seldom waits long: an evaluation that is due then is left out, one that is going on is broken off
    (see `Watch`), and the curve lacks that point. A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save and stop if any process was asked to."""
        if anywhere(self.asked):
            self.asked = True
            if state.global_step < state.max_steps:
                control.should_save = control.should_training_stop = True
                control.should_evaluate = False
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """The same for a signal that came during an evaluation."""
        return self.on_step_end(args, state, control)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while training; outside the main thread they are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked = True
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


def require_tracker(name: str) -> None:
    """Find out before a model is loaded whether a tracker (`report_to`) is installed.

    Raises:
        ConfigError: when it is not.

    Example:
        >>> require_tracker("none")
    """
    if name != "none" and find_spec(name) is None:
        raise ConfigError(
            f"report_to: {name} is not installed; run `pip install 'sage-libs[{name}]'`, or leave report_to at none"
        )


def tracker_callbacks(name: str, folder: Path, first_step: int = 1) -> list[TrainerCallback]:
    """The callback that transformers has for a tracker, to be put behind `RunLog`; none for "none".

    TensorBoard's files are in `folder/tensorboard`. trackio and wandb take run name and project from the training
    arguments, and keep their data and their login where they always do.

    Args:
        name: "none", "tensorboard", "trackio" or "wandb", installed (`require_tracker`).
        folder: The run folder.
        first_step: The first step this call of `train` will do; TensorBoard hides what a killed run had from there on.
    """
    if name == "none":
        return []
    from transformers.integrations import integration_utils

    known: Any = integration_utils
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        return [known.TensorBoardCallback(SummaryWriter(folder / "tensorboard", purge_step=first_step))]
    return [known.TrackioCallback() if name == "trackio" else known.WandbCallback()]


def _said(line: dict[str, Any]) -> str:
    """An evaluation in a few words."""
    loss, accuracy = line.get("eval_loss"), line.get("eval_accuracy")
    words = ["eval loss ?" if loss is None else f"eval loss {loss:.3f}"]
    return ", ".join(words if accuracy is None else [*words, f"{accuracy:.0%} right"])
