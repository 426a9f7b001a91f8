"""What a run would do, held against what a run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTTrainer, ConfigError, DataError
from sage.libs.finetune.agent.training import callbacks
from sage.libs.finetune.agent.training.dry_run import plan_training


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": None, "num_epochs": 2, "gradient_accumulation_steps": 3},
        {"max_steps": 5, "share_prefixes": False},
        {"max_steps": None, "num_epochs": 1, "packing": True, "batch_size": 1},
        {"max_steps": 2, "use_lora": False},
    ],
    ids=["epochs", "steps", "packing", "full"],
)
def test_the_plan_is_what_training_does(make_config: Any, settings: dict[str, Any]) -> None:
    plan = plan_training(make_config(**settings))
    assert not plan.config.output_dir.exists()
    trainer = AgentSFTTrainer(make_config(**settings))
    result = trainer.train()
    assert plan.steps == result.steps and plan.config.output_dir == result.output_dir
    assert plan.train == json.loads((result.output_dir / "data.json").read_text())["train"]
    trained = sum(p.numel() for p in trainer.loaded.model.parameters() if p.requires_grad)
    assert plan.trained == trained
    assert sum(task.rows for task in plan.tasks) == 8
    [task] = plan.tasks
    assert task.task == "all rows" and task.tokens == plan.train["tokens"]
    assert task.trained == plan.train["tokens_trained"]
    assert result.tokens_seen == pytest.approx(task.epochs * task.tokens, rel=0.1)


def test_nothing_is_written_and_no_weights_are_read(make_config: Any, tmp_path: Path, tiny_folder: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny_folder.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    plan = plan_training(make_config(base_model=str(bare)))
    assert sorted(tmp_path.rglob("*")) == before
    assert plan.memory.total(False) > plan.memory.total(True) > 0 and plan.seconds > 0


def test_sharing_shows_in_the_tokens(make_config: Any) -> None:
    shared = plan_training(make_config(batch_size=8))
    alone = plan_training(make_config(batch_size=8, share_prefixes=False))
    assert shared.computed < alone.computed == alone.train["tokens"] <= alone.padded
    assert (shared.form, alone.form) == ("packed, prefixes shared", "packed")
    dropout = plan_training(make_config(lora_dropout=0.5))
    assert dropout.form == "packed (lora_dropout is 0.5)"


def test_tasks_as_the_rows_state_them(make_config: Any, tmp_path: Path) -> None:
    rows = [conversation(f"thing{index}", str(index)) for index in range(6)]
    for index, row in enumerate(rows):
        row["metadata"] = {"kind": "rare" if index == 0 else "common", "family": "f"}
    write(tmp_path / "tasks.jsonl", rows)
    plan = plan_training(make_config(train_data=str(tmp_path / "tasks.jsonl"), max_steps=None, num_epochs=2))
    assert [(task.task, task.rows, task.epochs) for task in plan.tasks] == [("common", 5, 2.0), ("rare", 1, 2.0)]
    part = plan_training(make_config(train_data=str(tmp_path / "tasks.jsonl"), max_steps=4))  # of 3 steps an epoch
    assert sum(task.rows * task.epochs for task in part.tasks) == 8 and part.epochs == pytest.approx(4 / 3)


def test_faults_stop_it_as_they_stop_training(make_config: Any, rows_file: Path) -> None:
    rows_file.write_text(rows_file.read_text() + "{broken\n")
    with pytest.raises(DataError, match=r"1 of 9 rows are not fit to train on: unreadable"):
        plan_training(make_config())
    plan = plan_training(make_config(allow="unreadable"))
    assert plan.train["found"] == {"unreadable": 1} and plan.train["rows_left_out"] == 1


def test_what_training_refuses_is_refused(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="'lora_target_modules': 'nothing' does not fit this model"):
        plan_training(make_config(lora_target_modules="nothing"))
    with pytest.raises(ConfigError, match="report_to: wandb is not installed"):
        plan_training(make_config(report_to="wandb"))
    with pytest.raises(ConfigError, match=r"'output_dir': .*rows.jsonl is no folder"):
        plan_training(make_config("rows.jsonl/run"))
    adapter = AgentSFTTrainer(make_config("done", max_steps=1, use_dora=True)).train().output_dir
    with pytest.raises(ConfigError, match="holds a run already"):
        plan_training(make_config("done"))
    with pytest.raises(ConfigError, match="'use_dora' is False but base_model is an adapter with True"):
        plan_training(make_config(base_model=str(adapter)))
    plan = plan_training(make_config(base_model=str(adapter), use_dora=True))
    assert plan.trained == plan_training(make_config(use_dora=True)).trained


def test_the_automatic_rate_and_the_changed_settings(make_config: Any) -> None:
    plan = plan_training(make_config(learning_rate="auto", eval_data=make_config().train_data))
    assert plan.learning_rate == 1e-3 and plan.changed["learning_rate"] == "auto"
    assert "num_epochs" not in plan.changed and plan.changed["lora_r"] == 4
    assert plan.eval is not None and plan.eval["rows"] == 8
    assert json.loads(json.dumps(plan.to_dict(), allow_nan=False))["config"]["num_epochs"] == 3
