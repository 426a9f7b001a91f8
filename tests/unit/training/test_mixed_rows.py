"""Several data sets as training rows, and runs on them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_tokenizer
from tests.unit.training.conftest import conversation

from sage.libs.finetune.agent import AgentSFTConfig, AgentSFTTrainer, ConfigError, DataError
from sage.libs.finetune.agent.training.data import token_rows, trained_tokens
from sage.libs.finetune.agent.training.mix import in_words, training_rows


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Eight short rows and four long ones."""
    short, long = tmp_path / "short.jsonl", tmp_path / "long.jsonl"
    rows = [conversation(f"desk {number}", str(number)) for number in range(8)]
    short.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [conversation(f"lamp {number}", f"{number} and so on" * 9) for number in range(4)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return short, long


def mixed(data: Any, max_seq_length: int = 1024, allow: Any = (), **settings: Any) -> Any:
    config = AgentSFTConfig(base_model="-", train_data=data, max_seq_length=max_seq_length, **settings)
    return training_rows(config, tiny_tokenizer(), frozenset(allow))


def tasks(rows: Any) -> Counter[str]:
    return Counter(sample["metadata"]["task_type"] for sample in rows.samples)


def test_one_data_set_is_read_as_ever(two: Any) -> None:
    assert mixed(str(two[0])) == token_rows(str(two[0]), tiny_tokenizer(), 1024)


def test_shares_tasks_places_and_manifest(two: Any) -> None:
    short, long = two
    data = mixed(f"{short}:0.5, {long}:0.5")
    assert tasks(data) == {"short": 8, "long": 8}
    assert len(data.rows) == len(data.samples) == len(data.places) == 16
    assert all(str(long) in place for place, sample in zip(data.places, data.samples, strict=True)
               if sample["metadata"]["task_type"] == "long")  # fmt: skip
    one, other = data.manifest["mix"]["sources"]
    assert (one["rows"], one["taken"], one["epochs"], other["rows"], other["taken"], other["epochs"]) == (
        8, 8, 1.0, 4, 8, 2.0,
    )  # fmt: skip
    assert data.manifest["tokens_trained"] == sum(map(trained_tokens, data.rows))
    assert data.manifest["tokens"] == sum(len(row["input_ids"]) for row in data.rows) == one["tokens"] + other["tokens"]
    assert (data.manifest["rows"], data.manifest["rows_read"]) == (16, 12)
    assert one["share"] == 0.5 and one["token_share"] < 0.3, "the loss sees tokens"
    assert one["sha256"] == token_rows(str(short), tiny_tokenizer(), 1024).manifest["sha256"]
    assert in_words(data.manifest).startswith("mixed by weighted: short 50.0% of the rows, ")
    plain = token_rows(str(long), tiny_tokenizer(), 1024).rows
    assert all(row in plain for row, sample in zip(data.rows, data.samples, strict=True)
               if sample["metadata"]["task_type"] == "long")  # fmt: skip


def test_sizes_and_strategies(two: Any) -> None:
    short, long = two
    assert tasks(mixed(f"{short}, {long}", mixing_strategy="proportional")) == {"short": 8, "long": 4}
    assert tasks(mixed(f"{short}:0.9, {long}:0.1", mixing_size=10)) == {"short": 9, "long": 1}
    assert tasks(mixed(f"{short}:1, {long}:1", mixing_size=100)) == {"short": 16, "long": 16}, "at most four times"


def test_windows_of_a_conversation_stay_together(two: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    row = conversation("desk", "1")
    row["messages"] *= 6
    path.write_text(json.dumps(row) + "\n")
    alone = token_rows(str(path), tiny_tokenizer(), 300, truncation="windows")
    data = mixed(f"{path}:1, {two[0]}:1", 300, truncation="windows", mixing_size=4)
    assert len(alone.rows) > 1 and data.manifest["mix"]["conversations"] == 4
    assert tasks(data) == {"many": 2 * len(alone.rows), "short": 2}


def test_yaml_forms_are_one_text(tmp_path: Path) -> None:
    def read(text: str) -> AgentSFTConfig:
        path = tmp_path / "c.yaml"
        path.write_text(f"base_model: m\ntrain_data: {text}\n")
        return AgentSFTConfig.from_yaml(path)

    expected = "a.jsonl:0.35, agent_sft:train:1.0"
    assert read("{a.jsonl: 0.35, agent_sft:train: 1}").train_data == expected
    assert read("[a.jsonl:0.35, agent_sft:train:1.0]").train_data == expected
    assert read(f"'{expected}'").train_data == expected
    assert read("{a.jsonl: , b.jsonl: null}").train_data == "a.jsonl, b.jsonl"
    assert AgentSFTConfig.from_dict(read("{a.jsonl: 0.35}").to_dict()).train_data == "a.jsonl:0.35"
    for text in ("{a.jsonl: much}", "['a,b.jsonl']", "[1]", "{a.jsonl: true}"):
        with pytest.raises(ConfigError, match=r"'train_data': expected references without a comma and a number"):
            read(text)
    with pytest.raises(ConfigError, match="'train_data' is empty"):
        read("[]")


def test_what_is_refused(two: Any) -> None:
    short, long = two
    with pytest.raises(ConfigError, match="a weight is missing"):
        mixed(f"{short}:1, {long}")
    with pytest.raises(ConfigError, match="'train_data': 'task_weights': the weight of 'long' must be at least 0"):
        mixed(f"{short}:1, {long}:-1")
    with pytest.raises(DataError, match=r"gone\.jsonl: there is no such file"):
        mixed(f"{short}:1, gone.jsonl:1")
    long.write_text(long.read_text() + "{broken\n")
    with pytest.raises(DataError, match=rf"1 of 5 rows are not fit .* data validate {long} --model"):
        mixed(f"{short}:1, {long}:1")
    assert mixed(f"{short}:1, {long}:1", allow=["unreadable"]).manifest["found"] == {"unreadable": 1}


def test_settings_without_effect_are_said(make_config: Any, two: Any, caplog: pytest.LogCaptureFixture) -> None:
    AgentSFTTrainer(make_config(mixing_size=10, mixing_strategy="balanced"))
    assert caplog.messages == ["mixing_strategy, mixing_size: no effect while train_data is one data set"]
    caplog.clear()
    AgentSFTTrainer(make_config(train_data=f"{two[0]}:1, {two[1]}:1", mixing_size=10, use_coreset_selection=True))
    assert caplog.messages == ["train_data: a coreset is selected from the mixed rows and does not keep their shares"]


def test_a_run_on_a_mix_says_so_and_resumes_on_the_same_rows_only(make_config: Any, two: Any) -> None:
    short, long = two
    config = make_config(train_data={str(short): 0.5, str(long): 0.5}, max_seq_length=1024, max_steps=3)
    result = AgentSFTTrainer(config).train()
    manifest = json.loads((result.output_dir / "data.json").read_text())["train"]
    assert [source["name"] for source in manifest["mix"]["sources"]] == ["short", "long"]
    assert "mixed by weighted: short 50.0% of the rows" in (result.output_dir / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"mixing_max_repeats was 4\.0 and is 2\.0"):
        AgentSFTTrainer(make_config(
            train_data={str(short): 0.5, str(long): 0.5}, max_seq_length=1024, max_steps=3, mixing_max_repeats=2.0
        )).train(resume=True)  # fmt: skip
    long.write_text(long.read_text() + json.dumps(conversation("bed", "7")) + "\n")
    with pytest.raises(ConfigError, match="the training rows have changed since the run began"):
        AgentSFTTrainer(config).train(resume=True)


def test_replay_knows_the_tasks_of_a_mix(make_config: Any, two: Any) -> None:
    config = make_config(
        train_data=f"{two[0]}:1, {two[1]}:1", max_seq_length=1024, max_steps=8, use_online_continual=True,
        continual_strategy="balanced", continual_buffer_size=4,
    )  # fmt: skip
    folder = AgentSFTTrainer(config).train().output_dir / "replay_buffer"
    from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner

    kept = Counter(item["metadata"]["task_type"] for item in OnlineContinualLearner.load(folder).items)
    assert kept == {"short": 2, "long": 2}


def test_a_dry_run_counts_the_rows_of_the_mix(make_config: Any, two: Any) -> None:
    from sage.libs.finetune.agent.training.dry_run import plan_training

    plan = plan_training(make_config(train_data=f"{two[0]}:1, {two[1]}:1", max_seq_length=1024, max_steps=None))
    assert {share.task: share.rows for share in plan.tasks} == {"short": 8, "long": 8}
    assert plan.train["mix"]["sources"][1]["epochs"] == 2.0


def test_a_task_of_a_stream_can_be_a_mix(tiny_folder: Path, two: Any, tmp_path: Path) -> None:
    from sage.libs.finetune.agent.training.stream import run_stream
    from sage.libs.finetune.agent.training.stream_config import StreamConfig

    settings: dict[str, Any] = {
        "base_model": str(tiny_folder), "output_dir": tmp_path / "stream", "max_steps": 2, "batch_size": 2,
        "max_seq_length": 1024, "dtype": "float32", "lora_r": 4, "evaluate": "loss", "evaluate_first": False,
        "tasks": [{"name": "both", "train_data": {str(two[0]): 1, str(two[1]): 1}, "eval_data": str(two[0])}],
    }  # fmt: skip
    assert run_stream(StreamConfig.from_dict(settings)).runs[0]["steps"] == 2
    missing = {**settings, "output_dir": tmp_path / "other"}
    missing["tasks"] = [{**settings["tasks"][0], "train_data": f"{two[0]}:1, gone.jsonl:1"}]
    with pytest.raises(DataError, match=r"gone\.jsonl: there is no such file"):
        run_stream(StreamConfig.from_dict(missing))
