"""Replay in the loop: which rows a step takes and leaves, and that runs after one another are one stream."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer, ConfigError, TrainingResult
from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
from sage.libs.finetune.agent.errors import ModelError
from sage.libs.finetune.agent.models.batches import rows_loss
from sage.libs.finetune.agent.training.data import token_rows
from sage.libs.finetune.agent.training.dry_run import plan_training
from sage.libs.finetune.agent.training.loop import epoch_batches
from sage.libs.finetune.agent.training.replay import Replay


def adapter(result: TrainingResult) -> bytes:
    return (result.output_dir / "adapter" / "adapter_model.safetensors").read_bytes()


def buffer(result: TrainingResult) -> OnlineContinualLearner:
    return OnlineContinualLearner.load(result.output_dir / "replay_buffer")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def asked(learner: OnlineContinualLearner) -> list[str]:
    return sorted(sample["messages"][0]["content"] for sample in learner.items)


@pytest.fixture
def replaying(make_config: Any) -> Any:
    return lambda name="run", **settings: make_config(
        name, **{"use_online_continual": True, "continual_replay_ratio": 0.5, "max_steps": None, **settings}
    )


@pytest.fixture
def replay(replaying: Any) -> Any:
    """The buffer of a run with these settings, and the micro-batches of its new rows by epoch."""

    def make(**settings: Any) -> tuple[Replay, list[list[list[int]]]]:
        config = replaying(**settings)
        data = token_rows(config.train_data, tiny_tokenizer(), config.max_seq_length)
        batches = epoch_batches(data.rows, config)
        epochs = []
        for batches.epoch in range(config.num_epochs):
            epochs.append(list(batches))
        return Replay(config, data, tiny_tokenizer()), epochs

    return make


def steps_of(replay: Replay, epochs: list[list[list[int]]], accumulation: int = 1) -> list[tuple[list, list]]:
    """New rows, and the micro-batches with replayed ones, of each step."""
    steps = []
    for epoch, batches in enumerate(epochs):
        for start in range(0, len(batches), accumulation):
            new = batches[start : start + accumulation]
            steps.append((new, replay.mixed(new, epoch == 0, by_prefix=True)))
            replay.step_done()
    return steps


@pytest.mark.parametrize(
    ("ratio", "replayed"),
    [
        (0.25, [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]),
        (0.1, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]),  # ten times 0.1 adds up to less than 1 in floats
        (1.5, [0, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]),
        (0.0, [0] * 16),
    ],
)
def test_the_fraction_of_a_row_waits_for_the_next_step(replay: Any, ratio: float, replayed: list[int]) -> None:
    """16 steps of one row: what the buffer cannot give in the first ones is not made up for."""
    mine, epochs = replay(batch_size=1, num_epochs=2, continual_replay_ratio=ratio)
    assert [len(mixed[0]) - 1 for _, mixed in steps_of(mine, epochs)] == replayed
    assert mine.rows_replayed == sum(replayed)


def test_new_rows_come_as_ever_and_only_what_came_before_is_replayed(replay: Any) -> None:
    mine, epochs = replay(batch_size=1, num_epochs=3, gradient_accumulation_steps=2)
    offered: set[int] = set()
    for number, (new, mixed) in enumerate(steps_of(mine, epochs, accumulation=2)):
        assert len(mixed) == len(new)
        fresh = Counter(row for batch in new for row in batch)
        replayed = Counter(row for batch in mixed for row in batch) - fresh
        assert replayed.keys() <= offered and max(replayed.values(), default=1) == 1
        assert sum(replayed.values()) == (1 if number else 0)
        if number < 4:
            offered |= fresh.keys()
    assert mine._buffer.seen == 8 and sorted(mine._buffer.items) == list(range(8)), "each row is offered once"


def test_rows_are_spread_evenly_by_tokens_and_alike_ones_meet(replay: Any) -> None:
    mine, epochs = replay(batch_size=2, continual_replay_ratio=3.0, gradient_accumulation_steps=2)
    *_, (_, mixed) = steps_of(mine, epochs, accumulation=2)
    ids = [row["input_ids"] for row in mine.pool.rows]
    assert sum(map(len, mixed)) == 4 + 8
    tokens = [sum(len(ids[row]) for row in batch) for batch in mixed]
    assert max(tokens) - min(tokens) <= max(map(len, ids))
    order = [ids[row] for batch in mixed for row in batch]
    assert order == sorted(order)


def test_the_loss_is_the_mean_over_new_and_replayed_tokens(replaying: Any, replay: Any) -> None:
    settings = {"learning_rate": 1e-12, "continual_replay_ratio": 1.0, "gradient_accumulation_steps": 2}
    mine, epochs = replay(**settings)
    trainer = AgentSFTTrainer(replaying(**settings))
    model, rows = trainer.loaded.model, mine.pool.rows
    expected = [
        rows_loss(model, [rows[row] for batch in mixed for row in batch], 0, 1)
        for _, mixed in steps_of(mine, epochs, accumulation=2)
    ]
    result = trainer.train()
    assert result.losses == pytest.approx(expected, rel=1e-5)
    assert (result.rows_replayed, result.tokens_replayed) == (mine.rows_replayed, mine.tokens_replayed)
    own = token_rows(trainer.config.train_data, trainer.loaded.tokenizer, 512).manifest["tokens"]
    assert result.tokens_seen == 3 * own + result.tokens_replayed
    assert f"{result.rows_replayed} rows of the past, 1 for each new one" in (
        (result.output_dir / "README.md").read_text()
    )


def test_without_replayed_rows_it_is_the_run_it_was(make_config: Any, replaying: Any) -> None:
    plain = AgentSFTTrainer(make_config("plain", max_steps=None, num_epochs=2)).train()
    none = AgentSFTTrainer(replaying("none", continual_replay_ratio=0.0, num_epochs=2)).train()
    assert adapter(none) == adapter(plain)
    assert none.rows_replayed == 0 and plain.rows_replayed is None
    assert len(buffer(none)) == 8 and not (plain.output_dir / "replay_buffer").exists()


@pytest.mark.parametrize("settings", [{"packing": True, "batch_size": 1}, {"row_order": "grouped"}])
def test_steps_are_counted_in_new_rows(replaying: Any, settings: dict[str, Any]) -> None:
    plan = plan_training(replaying(num_epochs=2, **settings))
    result = AgentSFTTrainer(replaying(num_epochs=2, **settings)).train()
    assert result.steps == plan.steps == len(result.losses)
    assert result.rows_replayed and buffer(result).seen == 8


@pytest.mark.parametrize(("strategy", "at"), [("reservoir", 4), ("surprise", 1)])
def test_interrupted_and_resumed_is_as_if_never_interrupted(replaying: Any, strategy: str, at: int) -> None:
    def interrupt(label: str, done: int, total: int, detail: str = "") -> None:
        if label == "train" and done == at:
            os.kill(os.getpid(), signal.SIGINT)

    settings = {"continual_strategy": strategy, "continual_buffer_size": 4, "lora_dropout": 0.1, "num_epochs": 2}
    straight = AgentSFTTrainer(replaying("straight", **settings)).train()
    stopped = AgentSFTTrainer(replaying("stopped", **settings), interrupt).train()
    assert stopped.interrupted and buffer(stopped).seen == min(8, 2 * stopped.steps)
    resumed = AgentSFTTrainer(replaying("stopped", **settings)).train(resume=True)
    assert resumed.losses == straight.losses and adapter(resumed) == adapter(straight)
    assert files(resumed.output_dir / "replay_buffer") == files(straight.output_dir / "replay_buffer")
    assert (resumed.rows_replayed, resumed.tokens_replayed) == (straight.rows_replayed, straight.tokens_replayed)


def test_surprise_keeps_the_rows_of_highest_loss(replaying: Any) -> None:
    """At a rate of nothing losses stay what they are."""
    config = replaying(
        continual_strategy="surprise", continual_buffer_size=3, num_epochs=1, learning_rate=1e-12, batch_size=3,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer = AgentSFTTrainer(config)
    data = token_rows(config.train_data, trainer.loaded.tokenizer, 512)
    losses = [rows_loss(trainer.loaded.model, [row], 0, 1) for row in data.rows]
    hardest = sorted(range(8), key=lambda row: -losses[row])[:3]
    held = asked(buffer(trainer.train()))
    assert held == sorted(data.samples[row]["messages"][0]["content"] for row in hardest)


def test_losses_of_padded_rows_are_those_of_packed_ones(replay: Any) -> None:
    from tests.tiny import tiny_model

    from sage.libs.finetune.agent.models.batches import BatchForm
    from sage.libs.finetune.agent.models.losses import supervised_nll
    from sage.libs.finetune.agent.tokenization.collate import collate

    mine, [batches, *_] = replay(continual_strategy="surprise", batch_size=8)
    rows, model = [mine.pool.rows[row] for row in batches[0]], tiny_model()
    mine.mixed(batches, first_epoch=True, by_prefix=True)
    padded = {**collate(rows, 0), "rows": batches[0]}
    mine.saw(padded, supervised_nll(model, padded))
    form = BatchForm(model, 0)
    with form.attention():
        packed = {**form(rows), "rows": batches[0]}
        mine.saw(packed, supervised_nll(model, packed))
    (_, one), (_, other) = mine._losses
    assert one.tolist() == pytest.approx(other.tolist(), rel=1e-4)
    assert one.tolist() == pytest.approx([rows_loss(model, [row], 0, 1) for row in rows], rel=1e-4)


@pytest.fixture
def other_rows(tmp_path: Path) -> str:
    path = tmp_path / "others.jsonl"
    rows = [conversation(word, "9") for word in ("door", "wall", "roof", "gate")]
    for row in rows:
        row["metadata"] = {"task_type": "house"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_later_run_goes_on_with_the_stream(replaying: Any, other_rows: str) -> None:
    first = AgentSFTTrainer(replaying("first", num_epochs=1)).train()
    path = first.output_dir / "replay_buffer"
    config = replaying("second", train_data=other_rows, continual_buffer_path=path, num_epochs=1)
    second = AgentSFTTrainer(config).train()
    assert second.rows_replayed == 2, "from the first step on"
    after = buffer(second)
    assert after.seen == 12 and len(after) == 12 and after.tasks == {"": 8, "house": 4}
    carried = json.loads((second.output_dir / "data.json").read_text())["replay"]
    assert (carried["rows"], carried["rows_read"], carried["seen"], carried["found"]) == (8, 8, 8, {})
    assert carried["reference"] == str(path)


def test_carried_rows_that_do_not_fit_are_dropped_and_told(
    replaying: Any, rows_file: Path, other_rows: str, caplog: pytest.LogCaptureFixture
) -> None:
    long = conversation("table", "5")
    long["messages"][0]["content"] = "Find the table. " * 40
    rows_file.write_text(rows_file.read_text() + json.dumps(long) + "\n")
    first = AgentSFTTrainer(replaying("first", num_epochs=1, max_seq_length=1024)).train()
    path = first.output_dir / "replay_buffer"
    assert len(buffer(first)) == 9
    config = replaying(
        "second", train_data=other_rows, continual_buffer_path=path, num_epochs=1, max_seq_length=256,
    )  # fmt: skip
    second = AgentSFTTrainer(config).train()
    assert f"{path}: 1 of 9 rows are left out of the buffer" in caplog.text
    after = buffer(second)
    assert len(after) == 8 + 4 and after.seen == 9 + 4
    assert json.loads((second.output_dir / "data.json").read_text())["replay"]["found"] == {"too_long": 1}


def test_a_buffer_of_other_settings_is_refused(replaying: Any) -> None:
    path = AgentSFTTrainer(replaying("first", max_steps=1)).train().output_dir / "replay_buffer"
    settings = {"continual_buffer_path": path, "continual_buffer_size": 9, "continual_strategy": "ring"}
    with pytest.raises(
        ConfigError, match="continual_buffer_size was 2048 and is 9; continual_strategy was 'reservoir' and is 'ring'"
    ):
        AgentSFTTrainer(replaying("second", **settings)).train()


def test_resume_refuses_other_carried_rows(replaying: Any, other_rows: str) -> None:
    path = AgentSFTTrainer(replaying("first", max_steps=1)).train().output_dir / "replay_buffer"
    settings = {"train_data": other_rows, "continual_buffer_path": path, "max_steps": 1}
    AgentSFTTrainer(replaying("second", **settings)).train()
    more = OnlineContinualLearner.load(path)
    more.add([conversation("hut", "1")])
    more.save(path)
    with pytest.raises(ConfigError, match="rows in continual_buffer_path have changed since the run began"):
        AgentSFTTrainer(replaying("second", **settings)).train(resume=True)


def test_windows_are_stored_as_what_they_show(replaying: Any, rows_file: Path, other_rows: str) -> None:
    long = conversation("desk", "7")
    long["messages"] += [turn for n in range(6) for turn in conversation(f"word{n}", str(n))["messages"]]
    rows_file.write_text(json.dumps(long) + "\n")
    config = replaying("first", max_seq_length=200, truncation="windows", num_epochs=1)
    first = AgentSFTTrainer(config)
    rows = token_rows(config.train_data, first.loaded.tokenizer, 200, truncation="windows").rows
    path = first.train().output_dir / "replay_buffer"
    assert len(rows) > 3
    config = replaying("second", train_data=other_rows, continual_buffer_path=path, max_seq_length=200)
    carried = Replay(config, token_rows(other_rows, tiny_tokenizer(), 200), tiny_tokenizer()).pool.rows[4:]
    key = lambda row: (row["input_ids"], row["labels"])  # noqa: E731
    assert sorted(map(key, carried)) == sorted(map(key, rows))


def test_a_dry_run_counts_what_is_replayed(make_config: Any, replaying: Any) -> None:
    settings = {"batch_size": 4, "share_prefixes": False, "continual_replay_ratio": 1.0}
    plain = plan_training(make_config(batch_size=4, share_prefixes=False, max_steps=None))
    plan = plan_training(replaying(**settings))
    assert (plan.steps, plan.batches) == (plain.steps, plain.batches) and plan.train == plain.train
    assert plan.replayed == 8 and plan.computed == pytest.approx(2 * plain.computed, rel=0.1)
    assert plan.memory.activations > 1.5 * plain.memory.activations and plan.seconds > 1.5 * plain.seconds
    result = AgentSFTTrainer(replaying(**settings)).train()
    assert result.rows_replayed == 4 + 8 + 8 and plan.replay is None
    assert plan_training(replaying("one", **settings, max_steps=1)).replayed == 4


def test_a_rehearsal_shows_the_very_batches_and_changes_nothing(replay: Any, replaying: Any) -> None:
    config = replaying(batch_size=3, gradient_accumulation_steps=2)
    mine, epochs = replay(batch_size=3, gradient_accumulation_steps=2)
    batches = epoch_batches(mine.pool.rows, config)
    before = mine.state_dict()
    rehearsed = mine.rehearsed(batches, by_prefix=True)
    assert mine.state_dict() == before and batches.epoch == 0 and mine.rows_replayed == 0
    done = [batch for _, mixed in steps_of(mine, epochs, accumulation=2) for batch in mixed]
    assert [batch for epoch in rehearsed for batch in epoch] == done[: 2 * len(batches)]


def test_idle_settings_are_told(make_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    AgentSFTTrainer(make_config(continual_strategy="ring", coreset_scorer="m"))
    assert "continual_strategy: no effect while use_online_continual is false" in caplog.text
    assert "coreset_scorer: no effect while use_coreset_selection is false" in caplog.text


def test_the_log_says_how_many_rows_of_a_step_were_replayed(replaying: Any) -> None:
    result = AgentSFTTrainer(replaying(num_epochs=2)).train()
    lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["rows_replayed"] for line in lines] == [0, 1, 1, 1, 1, 1, 1, 1]


def test_what_a_killed_save_left_is_removed(replaying: Any) -> None:
    folder = AgentSFTTrainer(replaying(max_steps=1)).train().output_dir
    leftovers = [folder / ".coreset.json.abcdefgh.tmp", folder / "replay_buffer" / ".state.json.abcdefgh.tmp"]
    for path in leftovers:
        path.write_text("{")
    AgentSFTTrainer(replaying(max_steps=1)).train(resume=True)
    assert not any(path.exists() for path in leftovers)


def test_a_buffer_of_the_run_before_is_not_forgotten_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "replay_buffer").mkdir()
    config = AgentSFTConfig(str(tmp_path), "agent_sft:train", use_online_continual=True, output_dir=tmp_path / "run")
    with pytest.raises(ModelError):  # there is no model in the folder
        AgentSFTTrainer(config).train()
    assert f"give continual_buffer_path: {tmp_path / 'replay_buffer'}" in caplog.text
