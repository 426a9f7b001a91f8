"""What a run tells: its metrics file, its progress line, its trackers; and how it stops."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.conftest import conversation
from transformers import TrainerControl, TrainerState

from sage.libs.finetune.agent import AgentSFTTrainer, ConfigError
from sage.libs.finetune.agent.training import callbacks
from sage.libs.finetune.agent.training.callbacks import EVALUATED, RunLog, StopOnSignal, require_tracker


class Run:
    """A run as its callbacks see it; a step takes a second and 100 tokens, 25 of them trained."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.state = TrainerState(global_step=step, max_steps=100, is_world_process_zero=True)
        self.now, self.counts, self.told = 50.0, (step * 100, step * 25), []
        self.path = folder / "metrics.jsonl"
        self.log = RunLog(self.path, lambda *told: self.told.append(told), lambda: self.counts, lambda: self.now)
        self.log.on_train_begin(None, self.state, TrainerControl())

    def step(self, seconds: float = 1.0, tokens: int = 100, loss: float = 1.5) -> dict[str, Any]:
        self.now += seconds
        self.counts = (self.counts[0] + tokens, self.counts[1] + tokens // 4)
        self.state.global_step += 1
        logs = {"loss": loss, "grad_norm": 0.5, "learning_rate": 1e-4, "epoch": 0.25}
        self.log.on_log(None, self.state, TrainerControl(), logs)
        return logs

    def evaluation(self, seconds: float = 5.0, **numbers: Any) -> None:
        self.now += seconds
        self.log.on_log(None, self.state, TrainerControl(), {"eval_loss": 0.5, **numbers})
        self.log.on_evaluate(None, self.state, TrainerControl())

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def test_a_step_is_a_line_and_what_trackers_show(tmp_path: Path) -> None:
    run = Run(tmp_path)
    logs = run.step(seconds=2.0)
    assert run.lines() == [
        {
            "step": 1, "loss": 1.5, "grad_norm": 0.5, "learning_rate": 1e-4, "epoch": 0.25, "seconds": 2.0,
            "tokens": 100, "tokens_trained": 25, "tokens_per_second": 50.0, "tokens_trained_per_second": 12.5,
        }
    ]  # fmt: skip
    assert logs["tokens_per_second"] == 50.0 and logs["tokens"] == 100
    assert run.told == [("train", 0, 100, ""), ("train", 1, 100, "loss 1.500 · 50 tok/s (12 trained)")]


def test_an_evaluation_is_a_line_of_its_own_and_takes_no_time_from_a_step(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step()
    run.evaluation(eval_accuracy=0.75, eval_n=8, eval_seconds=5.0)
    run.step()
    first, evaluation, second = run.lines()
    assert evaluation == {
        "step": 1, "eval_loss": 0.5, "eval_accuracy": 0.75, "eval_calls_valid": None, "eval_n": 8, "eval_seconds": 5.0,
    }  # fmt: skip
    assert tuple(evaluation)[1:] == EVALUATED
    assert first["tokens_per_second"] == second["tokens_per_second"] == 100.0 and second["seconds"] == 7.0
    assert run.told[-1][3] == "loss 1.500 · 100 tok/s (25 trained) · eval loss 0.500, 75% right"


def test_a_checkpoint_takes_no_time_from_a_step(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step()
    run.now += 60
    run.log.on_save(None, run.state, TrainerControl())
    run.step()
    assert [line["tokens_per_second"] for line in run.lines()] == [100.0, 100.0]


def test_the_shown_speed_is_that_of_the_last_twenty_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for _ in range(30):
        run.step(seconds=4.0)
    for _ in range(19):
        run.step()
    assert "87 tok/s (22 trained)" in run.told[-1][3]  # 2,000 tokens in 4 + 19 seconds
    run.step()
    assert "100 tok/s (25 trained)" in run.told[-1][3]


def test_a_resumed_run_goes_on_in_the_file(tmp_path: Path) -> None:
    first = Run(tmp_path)
    for _ in range(4):
        first.step()
        first.evaluation()
    first.path.write_text(first.path.read_text() + '{"step": 5, "lo')
    resumed = Run(tmp_path, step=2)
    assert resumed.told == [("train", 2, 100, "eval loss 0.500")]  # so that rate and remaining time begin here
    resumed.step(loss=1.25)
    lines = resumed.lines()
    assert [(line["step"], "loss" in line) for line in lines] == [
        (1, True),
        (1, False),
        (2, True),
        (2, False),
        (3, True),
    ]
    assert lines[-1]["loss"] == 1.25 and lines[-1]["tokens"] == 300 and lines[-1]["tokens_per_second"] == 100.0
    assert [line["seconds"] for line in lines if "seconds" in line] == [1.0, 7.0, 8.0]


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step(loss=float("nan"))
    run.log.on_log(None, run.state, TrainerControl(), {"eval_loss": float("inf")})
    assert [line.get("loss", line.get("eval_loss")) for line in run.lines()] == [None, None]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.state.is_world_process_zero = False
    run.step()
    assert run.lines() == []


def test_a_stop_saves_and_does_not_evaluate() -> None:
    stop, control = StopOnSignal(), TrainerControl(should_evaluate=True)
    state = TrainerState(global_step=3, max_steps=10)
    assert not stop.on_step_end(None, state, control).should_save
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
    control = stop.on_step_end(None, state, control)
    assert control.should_save and control.should_training_stop and not control.should_evaluate
    late = TrainerControl(should_evaluate=True)
    assert stop.on_evaluate(None, state, TrainerControl()).should_training_stop
    assert stop.on_step_end(None, TrainerState(global_step=10, max_steps=10), late).should_evaluate


def test_a_tracker_that_is_missing_is_named_before_the_model_is_loaded(make_config: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    for name in ("tensorboard", "trackio", "wandb"):
        with pytest.raises(
            ConfigError, match=rf"report_to: {name} is not installed; .*pip install 'sage-libs\[{name}\]'"
        ):
            require_tracker(name)
    require_tracker("none")
    config = make_config(base_model="no/such-model", report_to="wandb")
    with pytest.raises(ConfigError, match="wandb is not installed"):
        AgentSFTTrainer(config).train()
    assert not config.output_dir.exists()


def test_tensorboard_gets_what_the_file_gets(make_config: Any, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "eval.jsonl").write_text(json.dumps(conversation("bed", "9")) + "\n")
    settings = {"eval_data": str(tmp_path / "eval.jsonl"), "eval_steps": 2, "save_steps": 3, "report_to": "tensorboard"}
    config = make_config(max_steps=4, **settings)

    def interrupt(label: str, done: int, total: int, detail: str = "") -> None:
        if label == "train" and done == 2 and detail.endswith("trained)"):
            os.kill(os.getpid(), signal.SIGINT)

    assert AgentSFTTrainer(config, interrupt).train().interrupted
    folder = AgentSFTTrainer(config).train(resume=True).output_dir
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for tag, name in [
        ("train/loss", "loss"), ("train/tokens_per_second", "tokens_per_second"), ("eval/loss", "eval_loss"),
        ("eval/accuracy", "eval_accuracy"),
    ]:  # fmt: skip
        shown = [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        assert [(line["step"], line[name]) for line in lines if line.get(name) is not None] == shown, tag
    assert not list((folder / "checkpoints").glob("runs"))
