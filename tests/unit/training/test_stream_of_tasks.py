"""A stream of tasks with a tiny model: what each run begins from, what is written, and that it goes on anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
from sage.libs.finetune.agent.errors import ConfigError, DataError, ModelError
from sage.libs.finetune.agent.training.stream import run_stream
from sage.libs.finetune.agent.training.stream_config import StreamConfig
from sage.libs.finetune.agent.training.stream_record import StreamResult, read_stream

WORDS = {
    "colours": ["red", "green", "blue", "black"],
    "beasts": ["cat", "dog", "cow", "hen"],
    "tools": ["saw", "axe", "pen", "cup"],
}
Make = Callable[..., StreamConfig]
Finished = tuple[Make, StreamResult]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each of `WORDS`, four rows of a line in it."""
    folder = tmp_path_factory.mktemp("data")
    for name, words in WORDS.items():
        rows = [
            {"messages": [{"role": "user", "content": f"{name} {at}"}, {"role": "assistant", "content": word}]}
            for at, word in enumerate(words)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def settings_of(tiny_folder: Path, data: Path) -> Make:
    """A stream of the first tasks of `WORDS`; its folder comes first."""

    def make(folder: Path, count: int = 2, **settings: Any) -> StreamConfig:
        defaults = {
            "base_model": str(tiny_folder), "output_dir": str(folder), "batch_size": 2,
            "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "max_steps": 3, "max_seq_length": 64,
            "max_new_tokens": 4, "dtype": "float32", "lora_r": 4, "lora_alpha": 8, "use_online_continual": True,
            "tasks": [task(name, data / f"{name}.jsonl") for name in list(WORDS)[:count]],
        }  # fmt: skip
        return StreamConfig.from_dict({**defaults, **settings})

    return make


@pytest.fixture
def make(settings_of: Make, tmp_path: Path) -> Make:
    return partial(settings_of, tmp_path / "stream")


@pytest.fixture(scope="module")
def finished(settings_of: Make, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A stream of two tasks that has come to its end, and how it was made."""
    make = partial(settings_of, tmp_path_factory.mktemp("finished") / "stream")
    return make, run_stream(make())


def task(name: str, path: Path) -> dict[str, str]:
    return {"name": name, "train_data": str(path), "eval_data": str(path)}


def test_each_run_begins_with_the_adapter_and_the_buffer_of_the_one_before(finished: Finished) -> None:
    result = finished[1]
    first, second = (result.output_dir / name for name in ("01-colours", "02-beasts"))
    begun = yaml.safe_load((second / "config.yaml").read_text())
    assert begun["base_model"] == str(first) and begun["continual_buffer_path"] == str(first / "replay_buffer")
    assert (first / "adapter" / "adapter_model.safetensors").exists()
    assert held(first).tasks == {"colours": 4}
    assert held(second).tasks == {"colours": 4, "beasts": 4} and held(second).seen == 8
    assert result.runs[0]["steps"] == 3 and result.runs[1]["rows_replayed"] > 0


def test_scores_come_with_their_number_and_interval_and_replies(finished: Finished) -> None:
    result = finished[1]
    assert result.tasks == ["colours", "beasts"] and [len(line) for line in result.matrix] == [2, 2]
    cell = result.after[1]["beasts"]
    assert cell["n"] == 4 and cell["low"] <= cell["accuracy"] == cell["right"] / 4 <= cell["high"] and cell["loss"] > 0
    replies = [row for _, row in jsonl.read_jsonl(result.output_dir / "replies" / "02-beasts" / "colours.jsonl")]
    assert len(replies) == 4 and {"reply", "expected", "right"} <= replies[0].keys()


def test_figures_are_those_of_the_matrix_and_can_be_read_again(finished: Finished) -> None:
    result = finished[1]
    (first, _), (then, last) = result.matrix
    assert result.figures["average"] == (then + last) / 2
    assert result.figures["backward_transfer"] == then - first
    assert result.figures["forgetting"] == {"mean": first - then, "per_task": [first - then]}
    assert result.figures["forward_transfer"] == result.matrix[0][1] - result.line(result.before)[1]
    again = read_stream(result.output_dir)
    assert replace(again, seconds=result.seconds) == result


def test_a_finished_stream_has_nothing_to_do(finished: Finished) -> None:
    make, result = finished
    record = (result.output_dir / "stream.json").read_bytes()
    told: list[str] = []
    again = run_stream(make(), lambda label, *_: told.append(label))
    assert (result.output_dir / "stream.json").read_bytes() == record and told == []
    assert again.matrix == result.matrix


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 2e-2}, "task 'colours': learning_rate was 0.01 and is 0.02"),
        ({"evaluate": "loss"}, "evaluate was 'generate' and is 'loss'"),
        ({"max_new_tokens": 9}, "max_new_tokens was 4 and is 9"),
        ({"count": 1}, "task 2 was 'beasts' and is gone"),
    ],
)
def test_what_changed_is_named(finished: Finished, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match="a stream goes on with new tasks at its end") as error:
        run_stream(finished[0](**changed))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_another_order_of_tasks_is_another_stream(finished: Finished, data: Path) -> None:
    tasks = [task(name, data / f"{name}.jsonl") for name in ("beasts", "colours")]
    with pytest.raises(ConfigError, match="task 1 was 'colours' and is 'beasts'; task 2 was 'beasts' and is 'colours'"):
        run_stream(finished[0](tasks=tasks))


def test_held_out_rows_of_a_task_that_has_run_stay(finished: Finished, data: Path) -> None:
    path = data / "colours.jsonl"
    path.write_text(path.read_text().replace("red", "pink"))
    try:
        with pytest.raises(ConfigError, match="task 'colours': the rows of its eval_data are other ones"):
            run_stream(finished[0]())
    finally:
        path.write_text(path.read_text().replace("pink", "red"))


def test_settings_that_change_no_result_may_change(finished: Finished) -> None:
    assert run_stream(finished[0](save_steps=7, eval_batch_size=2)).matrix == finished[1].matrix


def test_data_that_is_not_there_is_found_before_anything_is_done(make: Make, data: Path, tmp_path: Path) -> None:
    tasks = [
        task("colours", data / "colours.jsonl"),
        {**task("x", data / "tools.jsonl"), "train_data": "missing.jsonl"},
    ]
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        run_stream(make(tasks=tasks))
    assert not (tmp_path / "stream").exists()


def test_a_folder_of_something_else_is_left_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty and holds no stream"):
        run_stream(make())


def test_self_rows_that_cannot_be_made_end_the_stream_with_a_reason(make: Make) -> None:
    with pytest.raises(ConfigError, match="'continual_self_rows': the base model wrote no usable row"):
        run_stream(make(1, continual_self_rows=1, evaluate_first=False, max_new_tokens=1))


@pytest.mark.slow
def test_a_row_that_names_its_task_keeps_the_name(make: Make, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": str(named)}, {"role": "assistant", "content": "b"}], **named}
        for named in ({"metadata": {"task_type": "own", "kind": "x"}}, {"metadata": {"kind": "x"}}, {})
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make(tasks=[task("colours", path)], max_steps=2, evaluate_first=False, evaluate="loss")
    run_stream(config)
    assert held(config.tasks[0].settings.output_dir).tasks == {"own": 1, "x": 1, "colours": 1}


@pytest.mark.slow
def test_a_stream_with_a_task_added_ends_as_if_it_had_been_there_from_the_start(make: Make, tmp_path: Path) -> None:
    before = run_stream(make(2, evaluate="loss"))
    told: list[str] = []
    grown = run_stream(make(3, evaluate="loss"), lambda label, *_: told.append(label))
    assert grown.matrix[0] == [*before.matrix[0], None] and grown.matrix[1][:2] == before.matrix[1]
    assert not [label for label in told if label.startswith("beasts: train")]
    whole = run_stream(make(3, evaluate="loss", output_dir=str(tmp_path / "whole")))
    assert grown.matrix[1:] == whole.matrix[1:] and grown.before == whole.before
    assert weights(grown.output_dir / "03-tools") == weights(whole.output_dir / "03-tools")
    assert grown.figures["forward_transfer"] is not None
    assert grown.figures["average"] == -sum(value or 0.0 for value in grown.matrix[2]) / 3


@pytest.mark.slow
@pytest.mark.parametrize("label", ["colours: train", "01-colours, beasts: evaluate", "beasts: train"])
def test_broken_off_anywhere_it_ends_the_same(finished: Finished, make: Make, label: str) -> None:
    whole, config = finished[1], make(save_steps=1)

    def break_off(at: str, done: int, *_: Any) -> None:
        if at == label and done > 1:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_stream(config, break_off)
    told: list[str] = []
    result = run_stream(config, lambda at, *_: told.append(at))
    assert result.matrix == whole.matrix and result.before == whole.before and result.figures == whole.figures
    assert weights(config.output_dir / "02-beasts") == weights(whole.output_dir / "02-beasts")
    assert held(config.output_dir / "02-beasts").state_dict() == held(whole.output_dir / "02-beasts").state_dict()
    assert not [at for at in told if at.startswith("00-base")]


@pytest.mark.slow
def test_rows_of_the_base_model_are_in_the_buffer_from_the_start(
    settings_of: Make, tiny_folder: Path, tmp_path: Path
) -> None:
    talker = shutil.copytree(tiny_folder, tmp_path / "talker")
    ends = jsonl.read_json(talker / "generation_config.json")
    jsonl.write_json(talker / "generation_config.json", {**ends, "eos_token_id": list(range(5, 380, 5))})
    settings = {"continual_self_rows": 3, "max_new_tokens": 12, "evaluate": "loss", "base_model": str(talker)}
    for strategy in ("balanced", "surprise"):
        config = settings_of(tmp_path / strategy, 1, continual_strategy=strategy, **settings)
        result = run_stream(config)
        assert OnlineContinualLearner.load(config.output_dir / "00-self" / "replay_buffer").tasks == {"self": 3}
        assert held(config.output_dir / "01-colours").tasks == {"self": 3, "colours": 4}
        assert result.runs[0]["rows_replayed"] > 0
        assert jsonl.read_json(config.output_dir / "stream.json")["self_rows"]["kept"] == 3


@pytest.mark.slow
def test_right_replies_take_the_place_of_stored_ones_for_the_next_task(make: Make) -> None:
    config = make(2, evaluate="loss", continual_on_policy=True, max_steps=60, batch_size=4)
    run_stream(config)
    record = jsonl.read_json(config.output_dir / "stream.json")
    counts = record["tasks"][0]["on_policy"]
    assert sum(counts.values()) == 4 and counts["replaced"] > 0
    assert "on_policy" not in record["tasks"][1]
    first = config.output_dir / "01-colours"
    stored, own = held(first), OnlineContinualLearner.load(first / "replay_buffer_on_policy")
    assert (own.seen, own.tasks, len(own)) == (stored.seen, stored.tasks, len(stored))
    begun = yaml.safe_load((config.output_dir / "02-beasts" / "config.yaml").read_text())
    assert begun["continual_buffer_path"] == str(first / "replay_buffer_on_policy")


def held(folder: Path) -> OnlineContinualLearner:
    return OnlineContinualLearner.load(folder / "replay_buffer")


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_killed_in_its_first_run_a_stream_goes_on(make: Make) -> None:
    def break_off(at: str, *_: object) -> None:
        if at == "colours: train":
            raise RuntimeError("killed")

    config = make(evaluate_first=False, count=1)
    with pytest.raises(RuntimeError, match="killed"):
        run_stream(config, break_off)
    assert run_stream(config).runs[0]["steps"] == 3


def test_a_start_that_came_to_nothing_can_be_corrected(make: Make) -> None:
    with pytest.raises(ModelError):
        run_stream(make(base_model="/no/such/model", count=1, evaluate="loss"))
    assert run_stream(make(count=1, evaluate="loss")).tasks == ["colours"]


def test_a_row_in_windows_is_asked_once(make: Make, tmp_path: Path) -> None:
    turns = [[("user", f"number {number} red green"), ("assistant", str(number))] for number in range(6)]
    messages = [{"role": role, "content": text} for turn in turns for role, text in turn]
    jsonl.write_jsonl(tmp_path / "long.jsonl", [{"messages": messages}])
    config = make(
        tasks=[task("long", tmp_path / "long.jsonl")], truncation="windows", eval_steps=3, max_seq_length=120,
        evaluate="loss", evaluate_first=False,
    )  # fmt: skip
    lines = jsonl.read_jsonl(run_stream(config).output_dir / "01-long" / "metrics.jsonl")
    assert [line["eval_n"] for _, line in lines if "eval_n" in line] == [6]


def test_held_out_rows_that_were_never_scored_may_change(make: Make, data: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "w " * 300}, {"role": "assistant", "content": "x"}]
    jsonl.write_jsonl(tmp_path / "too_long.jsonl", [{"messages": messages}])
    bad = {**task("colours", data / "colours.jsonl"), "eval_data": str(tmp_path / "too_long.jsonl")}
    with pytest.raises(DataError):
        run_stream(make(tasks=[bad], evaluate_first=False))
    assert run_stream(make(count=1, evaluate_first=False)).matrix
