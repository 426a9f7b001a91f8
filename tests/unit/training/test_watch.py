"""Evaluation from within training: the right numbers, and training does not notice."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.tiny import tiny_tokenizer
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTTrainer
from sage.libs.finetune.agent.models.adapters import add_adapter
from sage.libs.finetune.agent.models.exactness import base_model
from sage.libs.finetune.agent.training.data import TokenRows, token_rows
from sage.libs.finetune.agent.training.watch import Watch, best_evaluation

MEASURED = ("eval_loss", "eval_accuracy", "eval_calls_valid", "eval_n")


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.jsonl"
    rows = [conversation(word, str(index)) for index, word in enumerate(["bed", "rug", "desk", "vase", "lamp"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def watched(make_config: Any, held_out: Path) -> Any:
    """A config with evaluations at steps 2, 4, 6 ... and at the end."""

    def make(name: str = "run", **settings: Any) -> Any:
        return make_config(name, **{"eval_data": str(held_out), "eval_steps": 2, "eval_rows": 3, **settings})

    return make


def watch(trainer: AgentSFTTrainer, data: TokenRows, rows: int = 3, **rest: Any) -> Watch:
    settings: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 16, "progress": lambda *_: None, **rest}
    return Watch(trainer.loaded, data.rows, data.samples[:rows], **settings)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_gives_the_numbers_that_evaluate_gives(make_config: Any, held_out: Path) -> None:
    trainer = AgentSFTTrainer(make_config())
    data = token_rows(str(held_out), tiny_tokenizer(), 512)
    numbers, result = watch(trainer, data, rows=5)(), trainer.evaluate(str(held_out))
    assert numbers["eval_loss"] == pytest.approx(result.loss, rel=1e-5)
    assert (numbers["eval_n"], numbers["eval_accuracy"]) == (result.n, result.accuracy) == (10, 0.0)
    assert numbers.get("eval_calls_valid") == result.calls_valid and numbers["eval_seconds"] > 0
    assert watch(trainer, data, rows=0)().keys() == {"eval_loss", "eval_n", "eval_seconds"}


def test_the_model_is_left_as_it_was(make_config: Any, held_out: Path) -> None:
    trainer = AgentSFTTrainer(make_config(lora_dropout=0.5))
    data = token_rows(str(held_out), tiny_tokenizer(), 512)
    model = trainer.loaded.model = add_adapter(trainer.loaded.model, trainer.config)
    look = watch(trainer, data)
    untrained = look()
    model.train()
    list(model.modules())[-1].eval()  # modes differ between modules
    base_model(model).set_attn_implementation("eager")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    again = look()
    assert [again[name] for name in ("eval_loss", "eval_n")] == [untrained[name] for name in ("eval_loss", "eval_n")]
    assert [module.training for module in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert base_model(model).config._attn_implementation == "eager"
    assert all((parameter.grad == 1).all() for parameter in model.parameters() if parameter.requires_grad)


def test_a_stop_breaks_it_off_and_the_model_is_left_as_it_was(make_config: Any, held_out: Path) -> None:
    trainer = AgentSFTTrainer(make_config())
    data = token_rows(str(held_out), tiny_tokenizer(), 512)
    told: list[int] = []
    look = watch(trainer, data, progress=lambda _, done, total: told.append(done), stopping=lambda: len(told) > 4)
    trainer.loaded.model.train()
    assert look() == {} and told == [0, 2, 4, 5, 7]  # all rows' loss, and the first turns of the first two
    assert trainer.loaded.model.training and base_model(trainer.loaded.model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("settings", [{}, {"use_dora": True, "lora_dropout": 0.2}])
def test_training_does_not_notice(watched: Any, settings: dict[str, Any]) -> None:
    settings["max_steps"] = 3
    runs = [AgentSFTTrainer(watched(f"run {steps}", eval_steps=steps, **settings)).train() for steps in (None, 1)]
    plain, evaluated = [(run.output_dir / "adapter" / "adapter_model.safetensors").read_bytes() for run in runs]
    assert plain == evaluated and runs[0].losses == runs[1].losses
    assert runs[0].eval_loss == pytest.approx(runs[1].eval_loss, rel=1e-6)
    assert sum("eval_loss" in line for line in lines_of(runs[1].output_dir)) == 3


def test_a_number_is_that_of_the_checkpoint_of_its_step(watched: Any, held_out: Path) -> None:
    folder = AgentSFTTrainer(watched(save_steps=2, save_total_limit=9, max_steps=5)).train().output_dir
    lines = [line for line in lines_of(folder) if "eval_loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 5]
    data = token_rows(str(held_out), tiny_tokenizer(), 512)
    for line in lines:
        trainer = AgentSFTTrainer(watched(f"{line['step']}"))
        saved = folder / "checkpoints" / f"checkpoint-{line['step']}"
        trainer.loaded.model = PeftModel.from_pretrained(trainer.loaded.model, str(saved))
        numbers = watch(trainer, data, batch_size=trainer.config.eval_batch_size)()
        assert [numbers.get(name) for name in MEASURED] == [line[name] for name in MEASURED]


def interrupt_at(count: int, done: int) -> Any:
    """Progress that sends Ctrl-C when the evaluation `count` has done so many of its 11 rows and turns."""
    begun: list[int] = []

    def progress(label: str, now: int, total: int, detail: str = "") -> None:
        if label == "evaluate":
            assert total == 11
            begun.extend([now] if now == 0 else [])
            if len(begun) == count and now == done:
                os.kill(os.getpid(), signal.SIGINT)

    return progress


def test_a_resumed_run_has_each_evaluation_once(watched: Any) -> None:
    straight = AgentSFTTrainer(watched("straight", max_steps=5)).train()
    stopped = AgentSFTTrainer(watched(max_steps=5), interrupt_at(2, done=11)).train()
    assert stopped.interrupted and stopped.steps == 4 and (stopped.output_dir / "learning_curve.png").exists()
    resumed = AgentSFTTrainer(watched(max_steps=5)).train(resume=True)
    assert resumed.losses == straight.losses and resumed.eval_loss == straight.eval_loss
    assert resumed.best_eval_step == straight.best_eval_step is not None
    kept = [
        [(line["step"], line.get("loss"), line.get("eval_loss"), line.get("tokens")) for line in lines_of(folder)]
        for folder in (straight.output_dir, resumed.output_dir)
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 5 + 3


def test_a_stop_in_the_middle_of_an_evaluation_saves_at_once(watched: Any) -> None:
    stopped = AgentSFTTrainer(watched(max_steps=4), interrupt_at(1, done=8)).train()
    assert stopped.interrupted and stopped.steps == 2 and stopped.best_eval_step is None
    assert (stopped.output_dir / "checkpoints" / "checkpoint-2").is_dir()
    assert [line["step"] for line in lines_of(stopped.output_dir)] == [1, 2]


def test_the_best_evaluation_is_noted_with_the_result(watched: Any) -> None:
    result = AgentSFTTrainer(watched(learning_rate=3e-2, max_steps=7)).train()
    lines = lines_of(result.output_dir)
    assert (result.best_eval_step, result.best_eval_loss) == best_evaluation(lines)
    assert result.eval_loss == lines[-1]["eval_loss"] >= result.best_eval_loss
    saved = json.loads((result.output_dir / "result.json").read_text())
    assert saved["best_eval_step"] == result.best_eval_step
    assert (result.output_dir / "learning_curve.png").stat().st_size > 10_000
    assert best_evaluation([{"step": 1, "loss": 1.0}, {"step": 1, "eval_loss": None}]) is None


def test_windows_of_a_row_are_asked_for_once(watched: Any, held_out: Path) -> None:
    turns = [turn for row in map(json.loads, held_out.read_text().splitlines()) for turn in row["messages"]]
    held_out.write_text(json.dumps({"messages": turns, "tools": conversation("", "")["tools"]}) + "\n")
    AgentSFTTrainer(watched(max_steps=2, max_seq_length=160, truncation="windows")).train()
    data = json.loads((held_out.parent / "run" / "data.json").read_text())["eval"]
    assert data["rows"] > 1 and lines_of(held_out.parent / "run")[-1]["eval_n"] == 10
