"""train, evaluate and quickstart: settings, reports and exit codes, with a stand-in where the model would be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sage.libs.finetune.agent.config import AgentSFTConfig
from sage.libs.finetune.agent.errors import TrainingError
from sage.libs.finetune.agent.quickstart import QuickstartConfig, QuickstartResult
from sage.libs.finetune.agent.types import EvalResult, Interval, TrainingResult


class Trainer:
    """Keeps to the interface of AgentSFTTrainer and trains nothing."""

    seen: dict[str, Any] = {}  # noqa: RUF012
    interrupted = False
    failure: BaseException | None = None

    def __init__(self, config: AgentSFTConfig, progress: Any = None) -> None:
        type(self).seen = {"config": config}
        self.progress = progress

    @classmethod
    def from_pretrained(cls, name: str, progress: Any = None, **settings: Any) -> Trainer:
        return cls(AgentSFTConfig(base_model=name, train_data="agent_sft:train", **settings), progress)

    def train(self, resume: bool = False) -> TrainingResult:
        self.seen["resume"] = resume
        if self.failure is not None:
            raise self.failure
        self.progress("train", 3, 3, "loss 0.5")
        print("a library talks")
        return TrainingResult(
            0.5, [1.0, 0.5], 2, 900, 90, 3.0, Path("runs/run-0001"), eval_loss=0.75, interrupted=self.interrupted
        )

    def evaluate(self, data: str) -> EvalResult:
        self.seen["data"] = data
        return EvalResult(0.75, Interval(0.6, 0.86), 0.31, 40, 20, 0.9, 30, [{"row": 1, "right": True}])


@pytest.fixture(autouse=True)
def trainer(monkeypatch: pytest.MonkeyPatch) -> type[Trainer]:
    module = ModuleType("sft")
    module.AgentSFTTrainer = Trainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sage.libs.finetune.agent.training.sft", module)
    monkeypatch.setattr("sage.libs.finetune.agent.cli.logs.quiet_transformers", lambda: None)
    monkeypatch.setattr(Trainer, "interrupted", False)
    monkeypatch.setattr(Trainer, "failure", None)
    return Trainer


TRAIN = ("train", "--base-model", "m", "--train-data", "d.jsonl", "--eval-data", "e.jsonl")


def test_train(cli: Any, trainer: type[Trainer]) -> None:
    code, out, err = cli(*TRAIN, "--lora-r", 4, "--resume")
    assert code == 0 and err == "train 3/3 loss 0.5\na library talks\n"
    assert trainer.seen["resume"] and type(trainer.seen["config"]) is AgentSFTConfig
    assert trainer.seen["config"] == AgentSFTConfig("m", "d.jsonl", "e.jsonl", lora_r=4)
    assert "eval loss   0.7500\ntokens      900 (90 with loss)\n" in out
    assert out.endswith("\nnext: sage-finetune evaluate runs/run-0001 e.jsonl\n")


def test_train_json_stands_alone_on_stdout(cli: Any) -> None:
    data = json.loads(cli(*TRAIN, "--json").out)
    assert data["final_loss"] == 0.5 and data["output_dir"] == "runs/run-0001" and not data["interrupted"]


def test_an_interrupted_training_resumes(cli: Any, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "interrupted", True)
    code, out, err = cli(*TRAIN)
    assert code == 130 and "next:" not in out
    assert err.splitlines()[-1] == (
        "interrupted: after step 2; a checkpoint is in runs/run-0001: run the same command with --resume to go on"
    )


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (TrainingError("loss is nan\nat step 3"), 1, "error: train: loss is nan at step 3"),
        (KeyboardInterrupt(), 130, "interrupted: nothing more was done"),
        (PermissionError(13, "Permission denied", "runs"), 1, "error: train: runs: Permission denied"),
        (OSError(28, "No space left on device"), 1, "error: train: No space left on device"),
        (
            ZeroDivisionError("of [x]"),
            1,
            "error: internal: ZeroDivisionError: of [x]; run again with --debug for the traceback",
        ),
    ],
)
def test_failures_are_one_line(
    cli: Any, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch, failure: BaseException, code: int, line: str
) -> None:
    monkeypatch.setattr(trainer, "failure", failure)
    assert cli(*TRAIN, "--json") == (code, "", f"{line}\n")


def test_debug_shows_the_traceback(cli: Any, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "failure", ZeroDivisionError("of x"))
    code, _, err = cli(*TRAIN, "--debug")
    assert code == 1 and "Traceback" in err and err.endswith("\nerror: internal: ZeroDivisionError: of x\n")


def test_evaluate(cli: Any, trainer: type[Trainer], tmp_path: Path) -> None:
    code, out, err = cli("evaluate", "runs/a", "e.jsonl", "-o", "replies.json", "--max-new-tokens", 9)
    assert (code, err) == (0, "")
    assert out.startswith("accuracy     75.0% (95% interval 60.0-86.0%)\nturns        40 in 20 rows\n")
    assert trainer.seen["data"] == "e.jsonl"
    assert (trainer.seen["config"].base_model, trainer.seen["config"].max_new_tokens) == ("runs/a", 9)
    assert json.loads((tmp_path / "replies.json").read_text())["replies"] == [{"row": 1, "right": True}]


def test_evaluate_below_the_bar_is_a_failed_check(cli: Any) -> None:
    code, out, err = cli("evaluate", "runs/a", "e.jsonl", "--min-accuracy", 0.8, "--json")
    assert code == 3 and json.loads(out)["accuracy_interval"] == {"low": 0.6, "high": 0.86}
    assert err == "error: evaluate: accuracy 0.7500 is below --min-accuracy 0.8\n"
    assert cli("evaluate", "runs/a", "e.jsonl", "--min-accuracy", 0.75).code == 0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_model_without_a_loss_is_a_failure(
    cli: Any, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr(trainer, "evaluate", lambda self, data: EvalResult(0.0, Interval(0.0, 0.1), loss, 40, 20))
    code, out, err = cli("evaluate", "runs/a", "e.jsonl", "--min-accuracy", 0.8, "--json")
    assert code == 1 and json.loads(out)["loss"] is None
    assert err.startswith(f"error: evaluate: the model's loss is not a number ({loss})") and err.count("\n") == 1


def row(model: str, split: str, successes: int) -> dict[str, Any]:
    share = {"success": successes / 40, "low": 0.1, "high": 0.9, "successes": successes, "n": 40}
    return {"model": model, "split": split, **share, "valid_calls": 30, "calls": 60, "broken": 1}


def test_quickstart(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[QuickstartConfig] = []

    def stand_in(config: QuickstartConfig, progress: Any) -> QuickstartResult:
        seen.append(config)
        rows = [row("tuned", split, 30) for split in ("test_iid", "held-out")]
        return QuickstartResult(Path("q/run-0001"), rows, {"kept": 5}, {"load": 0.2, "train": 61.0})

    monkeypatch.setattr("sage.libs.finetune.agent.cli.commands.quickstart.run_quickstart", stand_in)
    code, out, err = cli("quickstart", "--train-steps", 3)
    assert (code, err) == (0, "") and seen == [QuickstartConfig(train_steps=3)]
    assert "tuned  test_iid (40)  ########..  75.0%  10-90%        50.0%\n" in out
    assert "time        1:01 (train 1:01)\nrun folder  q/run-0001\n1 episodes broke off" in out
    assert json.loads(cli("quickstart", "--json").out)["rows"][1]["split"] == "held-out"


def test_an_interrupted_quickstart_resumes(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(config: QuickstartConfig, progress: Any) -> QuickstartResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("sage.libs.finetune.agent.cli.commands.quickstart.run_quickstart", interrupt)
    assert cli("quickstart") == (130, "", "interrupted: run the same command with --resume to go on\n")
