"""What happens beside the steps of a run: the log that is written and told, and the stop when a signal comes."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.progress import Progress


class RunLog(TrainerCallback):
    """Writes `metrics.jsonl`, tells progress, and stops on a loss that is no number."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path, self._progress = path, progress
        self._begin = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the lines of steps that a resumed run will do again."""
        self._begin = time.perf_counter()
        kept = [line for line in _lines(self._path) if line.get("step", 0) <= state.global_step]
        jsonl.write_jsonl(self._path, kept)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line per optimiser step."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        seconds = round(time.perf_counter() - self._begin, 3)
        known: dict[str, Any] = {name: logs[name] for name in ("learning_rate", "grad_norm", "epoch") if name in logs}
        if not math.isfinite(loss):
            raise TrainingError(
                f"step {state.global_step}: the loss is {loss}; lower learning_rate, or look at the rows of this step"
            )
        numbers = {"step": state.global_step, "loss": loss, **known, "seconds": seconds}
        record = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._progress("train", state.global_step, state.max_steps, f"loss {loss:.3f}")


class StopOnSignal(TrainerCallback):
    """Ends training after the current step when Ctrl-C or SIGTERM came, with a checkpoint to go on from.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save and stop if asked to."""
        if self.asked and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        return control

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


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # the line a killed run was writing
    return lines
