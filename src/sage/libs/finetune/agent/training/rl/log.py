"""What a run of reinforcement learning writes down as it goes: figures, and episodes to read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.progress import Progress
from sage.libs.finetune.agent.reporting.curves import read_metrics
from sage.libs.finetune.agent.training import processes
from sage.libs.finetune.agent.training.callbacks import tracker_callbacks
from sage.libs.finetune.agent.trajectories.io import save_trajectories
from sage.libs.finetune.agent.types import AgentTrajectory

METRICS, SAMPLES = "metrics.jsonl", "samples"
_SAID = {"reward": "reward {:.2f}", "success": "success {:.0%}", "kl_per_episode": "KL {:.2f}", "loss": "loss {:.3f}"}
_EPISODES = 16
"""Written out at a time."""


class RLLog:
    """Writes `metrics.jsonl`, tells progress and the tracker, and writes episodes to `samples/`.

    Of several processes only the first writes.

    Args:
        folder: The run folder.
        progress: Told of each step under the label "train".
        every: Episodes are written in the first iteration, and whenever this divides its number.
        report_to: The tracker, see `training/callbacks.py`.
        run_name: What the run is called there; the run folder's name by default.
    """

    def __init__(
        self, folder: Path, progress: Progress, every: int = 5, report_to: str = "none", run_name: str | None = None
    ) -> None:
        self._folder, self._progress, self._every = folder, progress, every
        self._tracker = _Tracker(report_to, folder, run_name or folder.name)

    def step(self, number: int, total: int, figures: Mapping[str, float | int | None]) -> None:
        """Add a line; what is no finite number is written as null."""
        if not processes.is_first():
            return
        line = {name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()}
        with (self._folder / METRICS).open("ab") as file:
            file.write(jsonl.encode({"step": number, **line}) + b"\n")
        self._tracker.show(number, total, {name: value for name, value in line.items() if value is not None})
        said = [form.format(line[name]) for name, form in _SAID.items() if line.get(name) is not None]
        self._progress("train", number, total, " · ".join(said))

    def drop_after(self, number: int) -> None:
        """Keep the lines up to step `number`."""
        if processes.is_first():
            kept = [line for line in read_metrics(self._folder / METRICS) if line.get("step", 0) <= number]
            jsonl.write_jsonl(self._folder / METRICS, kept)

    def episodes(self, number: int, trajectories: Sequence[AgentTrajectory]) -> None:
        """Write the first few as `samples/iteration-0005.jsonl`: in the first iteration, and when it is time again."""
        if processes.is_first() and (number == 1 or number % self._every == 0):
            (self._folder / SAMPLES).mkdir(exist_ok=True)
            save_trajectories(self._folder / SAMPLES / f"iteration-{number:04d}.jsonl", trajectories[:_EPISODES])

    @contextmanager
    def open(self) -> Iterator[RLLog]:
        """Within it the tracker shows the figures; to be entered before an algorithm begins."""
        with self._tracker.open():
            yield self


class _Tracker:
    """TensorBoard, trackio or wandb as supervised training shows figures in them: by transformers' own callbacks.

    It begins with the first figures, so that TensorBoard hides what a killed run had from that step on.
    """

    def __init__(self, name: str, folder: Path, run_name: str) -> None:
        self._name, self._folder, self._run_name = name, folder, run_name
        self._callbacks: list[TrainerCallback] = []
        self._state, self._control = TrainerState(), TrainerControl()
        self._arguments: TrainingArguments | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        if self._name == "none" or not processes.is_first():
            yield
            return
        # Made now and not with the first figures: it resets what accelerate knows, which a running trainer needs.
        arguments = TrainingArguments(
            str(self._folder), run_name=self._run_name, project="sage-finetune", report_to="none"
        )
        self._arguments = arguments
        try:
            yield
        finally:
            self._arguments = None
            for callback in self._callbacks:
                callback.on_train_end(arguments, self._state, self._control)
            self._callbacks = []

    def show(self, number: int, total: int, figures: Mapping[str, float | int]) -> None:
        if self._arguments is None:
            return
        self._state.global_step, self._state.max_steps = number, total
        self._callbacks = self._callbacks or tracker_callbacks(self._name, self._folder, first_step=number)
        for callback in self._callbacks:
            callback.on_log(self._arguments, self._state, self._control, logs=dict(figures))
