"""The coreset of a run: the rows that are trained on, and that they stay these rows."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTTrainer, ConfigError
from sage.libs.finetune.agent.config import CORESET_STRATEGIES
from sage.libs.finetune.agent.models.batches import rows_loss
from sage.libs.finetune.agent.selection.coreset import STRATEGIES
from sage.libs.finetune.agent.training.coreset import in_words
from sage.libs.finetune.agent.training.data import samples_hash, token_rows
from sage.libs.finetune.agent.training.dry_run import plan_training


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def losses_one_by_one(trainer: AgentSFTTrainer) -> list[float]:
    rows = token_rows(trainer.config.train_data, trainer.loaded.tokenizer, trainer.config.max_seq_length).rows
    return [rows_loss(trainer.loaded.model, [row], 0, 1) for row in rows]


@pytest.fixture
def three(make_config: Any) -> Any:
    """Settings of a run on three of the eight rows."""
    return lambda name="run", **settings: make_config(
        name, **{"use_coreset_selection": True, "coreset_target_size": 3, "coreset_strategy": "random", **settings}
    )


def test_a_run_trains_on_its_coreset_alone_and_says_so(three: Any) -> None:
    trainer = AgentSFTTrainer(three(max_steps=None, num_epochs=2, gradient_accumulation_steps=2))
    result = trainer.train()
    folder, train = result.output_dir, read(result.output_dir / "data.json")["train"]
    coreset = read(folder / "coreset.json")
    assert len(set(coreset["rows"])) == result.rows_selected == train["rows"] == 3 and train["rows_read"] == 8
    assert (result.steps, result.tokens_seen) == (2, 2 * train["tokens"])
    samples = token_rows(trainer.config.train_data, trainer.loaded.tokenizer, 512).samples
    chosen = samples_hash([samples[number] for number in sorted(coreset["rows"])])
    assert train["sha256"] == chosen == train["coreset"]["sha256"]
    assert (coreset["strategy"], coreset["scorer"], coreset["size"], coreset["of"]) == ("random", None, 3, 8)
    assert "3 of 8 rows (37.5%), selected by random" in (folder / "README.md").read_text()
    assert read(folder / "result.json")["rows_selected"] == 3


def test_what_is_scored_is_what_would_be_trained(three: Any) -> None:
    trainer = AgentSFTTrainer(three(coreset_strategy="loss_topk", max_steps=1))
    losses = losses_one_by_one(trainer)
    coreset = read(trainer.train().output_dir / "coreset.json")
    assert coreset["rows"] == sorted(range(8), key=lambda row: -losses[row])[:3]
    assert coreset["scorer"] == trainer.config.base_model and coreset["seconds"] > 0


def test_another_model_may_score(three: Any, tmp_path: Path) -> None:
    from tests.tiny import save_tiny

    other = save_tiny(tmp_path / "other", seed=7)
    losses = losses_one_by_one(AgentSFTTrainer(three("a", base_model=str(other))))
    settings = {"coreset_strategy": "loss_topk", "coreset_scorer": str(other), "max_steps": 1}
    coreset = read(AgentSFTTrainer(three("b", **settings)).train().output_dir / "coreset.json")
    assert coreset["rows"] == sorted(range(8), key=lambda row: -losses[row])[:3] and coreset["scorer"] == str(other)


def test_a_resumed_run_scores_nothing_and_goes_on_with_its_rows(three: Any, tmp_path: Path, tiny_folder: Path) -> None:
    scorer = tmp_path / "scorer"
    shutil.copytree(tiny_folder, scorer)
    settings = {"coreset_strategy": "hybrid", "coreset_scorer": str(scorer), "max_steps": 3}
    straight = AgentSFTTrainer(three("straight", **settings)).train()

    def interrupt(label: str, done: int, total: int, detail: str = "") -> None:
        if label == "train" and done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    assert AgentSFTTrainer(three("stopped", **settings), interrupt).train().interrupted
    shutil.rmtree(scorer)
    resumed = AgentSFTTrainer(three("stopped", **settings)).train(resume=True)
    assert adapter(resumed.output_dir) == adapter(straight.output_dir) and resumed.rows_selected == 3


def test_other_rows_are_refused_where_they_were_chosen_from(three: Any, rows_file: Path) -> None:
    AgentSFTTrainer(three(max_steps=1)).train()
    rows_file.write_text(rows_file.read_text() + json.dumps(conversation("door", "9")) + "\n")
    with pytest.raises(ConfigError, match=r"training rows have changed .* selected from 8 rows and there are 9 now"):
        AgentSFTTrainer(three(max_steps=1)).train(resume=True)
    rows_file.write_text("".join(json.dumps(conversation(f"word{n}", "9")) + "\n" for n in range(8)))
    with pytest.raises(ConfigError, match="training rows have changed"):
        AgentSFTTrainer(three(max_steps=1)).train(resume=True)


def test_a_coreset_of_all_rows_changes_nothing(make_config: Any, three: Any, caplog: pytest.LogCaptureFixture) -> None:
    plain = AgentSFTTrainer(make_config("plain", max_steps=2)).train()
    whole = AgentSFTTrainer(three("whole", coreset_target_size=None, max_steps=2)).train()
    assert whole.rows_selected == 8 and adapter(whole.output_dir) == adapter(plain.output_dir)
    assert "1000" in caplog.text and plain.rows_selected is None


def test_windows_of_a_row_count_as_rows(three: Any, rows_file: Path) -> None:
    long = conversation("desk", "7")
    long["messages"] += [turn for n in range(6) for turn in conversation(f"word{n}", str(n))["messages"]]
    rows_file.write_text(json.dumps(long) + "\n" + json.dumps(conversation("lamp", "1")) + "\n")
    settings = {"max_seq_length": 200, "truncation": "windows", "coreset_strategy": "loss_topk", "max_steps": 1}
    trainer = AgentSFTTrainer(three(**settings))
    coreset = read(trainer.train().output_dir / "coreset.json")
    assert coreset["of"] > 4 and len(coreset["rows"]) == 3


@pytest.mark.parametrize("strategy", ["diversity", "loss_topk"])
def test_a_dry_run_shows_the_coreset_or_what_stands_for_it(three: Any, strategy: str) -> None:
    plan = plan_training(three(coreset_strategy=strategy))
    result = AgentSFTTrainer(three(coreset_strategy=strategy, max_steps=1)).train()
    train = read(result.output_dir / "data.json")["train"]
    assert plan.train["rows"] == 3 and sum(task.rows for task in plan.tasks) == 3
    assert (plan.train["sha256"] == train["sha256"]) == (strategy == "diversity")
    stands = "at random, which stand here for those that loss_topk will select by their losses"
    assert (stands in in_words(plan.train)) == (strategy == "loss_topk")
    resumed = plan_training(three(coreset_strategy=strategy, max_steps=1), resume=True)
    assert resumed.train == train


def test_the_names_in_the_settings_are_those_of_the_selector() -> None:
    assert set(CORESET_STRATEGIES) == set(STRATEGIES) - {"rds"}


def test_a_strategy_is_checked_when_the_settings_are_made(three: Any) -> None:
    with pytest.raises(ConfigError, match="'coreset_strategy': unknown strategy 'loss_top'; did you mean 'loss_topk'"):
        three(coreset_strategy="loss_top")
    with pytest.raises(ConfigError, match="rds needs examples of what is wanted"):
        three(coreset_strategy="rds")


def test_a_coreset_of_all_rows_was_selected_by_nothing() -> None:
    entry = {"strategy": "hybrid", "scorer": "m", "size": 20, "of": 20, "seconds": 0.0}
    assert "selected by" not in in_words({"coreset": entry})
