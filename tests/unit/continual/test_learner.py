"""The learner as it is used: the loop, what enters and leaves, and that it goes on from what it left."""

import copy
import json
import logging
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent import ConfigError, DataError
from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
from sage.libs.finetune.agent.continual.policies import POLICIES


def batch_of(start, rows, **more):
    """Rows of different lengths, padded; the first token is the row's number."""
    lengths = [1 + (start + row) % 3 for row in range(rows)]
    ids = torch.zeros(rows, max(lengths, default=0), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = start + row
        mask[row, :length] = 1
    return {"input_ids": ids, "labels": ids.masked_fill(mask == 0, -100), "attention_mask": mask, **more}


def numbers(rows):
    return [row["input_ids"][0].item() for row in rows]


def test_the_loop_of_the_reference():
    learner = OnlineContinualLearner(buffer_size=2048, replay_ratio=0.25)
    sizes, replayed = [], []
    for step in range(6):
        batch = batch_of(step * 8, 8)
        mixed = learner.mix_with_replay(batch)
        assert torch.equal(mixed["input_ids"][:8, : batch["input_ids"].shape[1]], batch["input_ids"])
        sizes.append(len(mixed["input_ids"]))
        replayed.append(mixed["input_ids"][8:, 0].tolist())
        learner.update_buffer(batch)
    assert sizes == [8, 10, 10, 10, 10, 10]
    for step, rows in enumerate(replayed):
        assert len(set(rows)) == len(rows)
        assert all(row < step * 8 for row in rows)
    assert (len(learner), learner.seen) == (48, 48)


@pytest.mark.parametrize(
    ("ratio", "rows", "replayed"),
    [(0.25, 1, 0), (0.25, 2, 0), (0.25, 3, 1), (0.25, 4, 1), (0.25, 6, 2), (0.25, 10, 2), (0.25, 32, 8), (0.5, 3, 2),
     (1.0, 3, 3), (2.0, 3, 6), (50.0, 3, 20), (0.0, 8, 0)],
)  # fmt: skip
def test_how_many_rows_are_replayed(ratio, rows, replayed):
    learner = OnlineContinualLearner(replay_ratio=ratio)
    learner.update_buffer({"input_ids": [[7]] * 20})
    assert len(learner.mix_with_replay({"input_ids": [[1]] * rows})["input_ids"]) == rows + replayed


@pytest.mark.parametrize("batch", [{}, {"input_ids": []}, batch_of(0, 0), batch_of(0, 3)])
def test_nothing_to_replay_gives_an_equal_batch_in_a_new_dict(batch):
    learner = OnlineContinualLearner()
    mixed = learner.mix_with_replay(batch)
    assert mixed is not batch
    assert mixed.keys() == batch.keys()
    assert all(mixed[name] is batch[name] for name in batch)
    learner.update_buffer({name: column[:0] for name, column in batch.items()})
    assert (len(learner), learner.seen) == (0, 0)


def test_later_changes_do_not_reach_into_the_buffer_or_out_of_it():
    batch = {**batch_of(1, 2), "notes": [{"a": [1]}, {"a": [2]}], "array": np.ones((2, 2))}
    learner = OnlineContinualLearner(replay_ratio=1.0)
    learner.update_buffer(batch)
    batch["input_ids"].fill_(99)
    batch["array"].fill(99)
    batch["notes"][0]["a"].append(99)
    for row in learner.get_replay_samples(2):
        assert 99 not in (*row["input_ids"].tolist(), *row["notes"]["a"], *row["array"].tolist())
        row["input_ids"].fill_(98)
        row["notes"]["a"].append(98)
    for row in learner.draw(2):
        assert 98 not in (*row["input_ids"].tolist(), *row["notes"]["a"])
    mixed = learner.mix_with_replay({**batch_of(5, 2), "notes": [None, None], "array": np.zeros((2, 2))})
    mixed["input_ids"].fill_(97)
    assert sorted(numbers(learner.draw(2))) == [1, 2]


def test_samples_come_without_replacement_and_at_most_as_many_as_there_are():
    learner = OnlineContinualLearner(buffer_size=5)
    learner.update_buffer(batch_of(0, 9))
    assert len(set(numbers(learner.get_replay_samples(5)))) == 5
    assert len(learner.get_replay_samples(50)) == 5
    assert learner.get_replay_samples(0) == []
    with pytest.raises(ConfigError, match="n: must be"):
        learner.get_replay_samples(-1)


def test_drawn_rows_are_a_uniform_sample_of_the_buffer():
    learner = OnlineContinualLearner()
    learner.add(range(10))
    counts = Counter(item for _ in range(2000) for item in learner.draw(3))
    assert all(abs(counts[item] - 600) < 4 * (2000 * 0.3 * 0.7) ** 0.5 for item in range(10))


def test_what_is_held_does_not_depend_on_what_is_drawn():
    one, other = OnlineContinualLearner(20, seed=3), OnlineContinualLearner(20, seed=3)
    for start in range(0, 500, 5):
        one.update_buffer(batch_of(start, 5))
        other.update_buffer(batch_of(start, 5))
        other.mix_with_replay(batch_of(start, 5))
        other.draw(3)
    assert numbers(one.items) == numbers(other.items)
    third = OnlineContinualLearner(20, seed=4)
    third.update_buffer(batch_of(0, 500))
    assert numbers(one.items) != numbers(third.items)


def test_a_batch_at_once_and_row_by_row_leave_the_same_buffer():
    one, other = OnlineContinualLearner(20), OnlineContinualLearner(20)
    one.update_buffer(batch_of(0, 300))
    for row in range(300):
        other.update_buffer(batch_of(row, 1))
    assert numbers(one.items) == numbers(other.items)


@pytest.mark.parametrize("name", ["task_type", "task"])
def test_the_task_of_a_row_is_a_column(name):
    learner = OnlineContinualLearner(10, selection_strategy="balanced")
    learner.update_buffer(batch_of(0, 40, **{name: ["a", "b", "c", "d"] * 10}))
    assert set(learner.tasks) == set("abcd")
    assert all(("abcd"[row["input_ids"][0].item() % 4]) == row[name] for row in learner.items)
    assert learner.mix_with_replay(batch_of(0, 8, **{name: ["a"] * 8}))[name][:8] == ["a"] * 8


def test_tasks_can_be_numbers_in_a_tensor():
    learner = OnlineContinualLearner(4, selection_strategy="ring")
    learner.update_buffer({"x": [1, 2, 3, 4, 5], "task": torch.tensor([0, 0, 0, 0, 1])})
    assert learner.tasks == {"0": 3, "1": 1}


@pytest.mark.parametrize(("strategy", "warned"), [("balanced", 1), ("ring", 1), ("reservoir", 0), ("surprise", 0)])
def test_a_strategy_by_task_says_once_that_rows_name_none(strategy, warned, caplog):
    learner = OnlineContinualLearner(4, selection_strategy=strategy)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            learner.update_buffer({"x": [1, 2]}, losses=[1.0, 2.0])
    assert len(caplog.messages) == warned
    assert learner.tasks == {"": 4}


@pytest.mark.parametrize(
    "losses", [[0.1, 3.0, 0.2, 2.0], torch.tensor([0.1, 3.0, 0.2, 2.0], requires_grad=True), np.array([0.1, 3, 0.2, 2])]
)
def test_surprise_keeps_the_highest_losses(losses):
    learner = OnlineContinualLearner(2, selection_strategy="surprise")
    learner.update_buffer({"x": [*"abcd"]}, losses=losses)
    assert sorted(row["x"] for row in learner.items) == ["b", "d"]


@pytest.mark.parametrize("losses", [[1.0], [1.0, float("nan")], [1.0, float("inf")], 0.5, torch.tensor(0.5), [None, 1]])
def test_losses_that_are_none_are_refused_and_nothing_is_stored(losses):
    learner = OnlineContinualLearner(4, selection_strategy="surprise")
    with pytest.raises(DataError, match=r"losses: expected (2 finite|one) number"):
        learner.update_buffer({"x": [1, 2]}, losses=losses)
    with pytest.raises(ConfigError, match="needs the loss of each row"):
        learner.update_buffer({"x": [1, 2]})
    with pytest.raises(DataError, match="tasks: 1 given for 2 rows"):
        learner.add([1, 2], tasks=["a"], losses=[1.0, 2.0])
    assert (len(learner), learner.seen) == (0, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"buffer_size": 0}, "buffer_size: must be"),
        ({"buffer_size": 2.5}, "buffer_size: must be"),
        ({"replay_ratio": -0.1}, "replay_ratio: must be"),
        ({"replay_ratio": float("nan")}, "replay_ratio: must be"),
        ({"selection_strategy": "reservoire"}, "did you mean 'reservoir'"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ConfigError, match=message):
        OnlineContinualLearner(**wrong)


def test_clearing_begins_anew():
    learner, fresh = OnlineContinualLearner(5), OnlineContinualLearner(5)
    learner.update_buffer(batch_of(0, 100))
    learner.draw(2)
    learner.clear_buffer()
    assert (len(learner), learner.seen, learner.tasks) == (0, 0, {})
    assert learner.mix_with_replay({"other": ["columns"]}) == {"other": ["columns"]}
    for one in (learner, fresh):
        one.update_buffer(batch_of(0, 100))
    assert numbers(learner.items) == numbers(fresh.items)
    assert numbers(learner.draw(3)) == numbers(fresh.draw(3))


def test_items_that_are_no_rows_are_not_mixed():
    learner = OnlineContinualLearner(replay_ratio=1.0)
    learner.add([1, 2])
    with pytest.raises(DataError, match=r"use draw\(\)"):
        learner.mix_with_replay({"x": [1]})


def test_a_mapped_buffer_is_at_the_same_point_of_the_same_stream():
    learner = OnlineContinualLearner(8, selection_strategy="balanced")
    learner.add(range(100), [*"aaab" * 25])
    other = learner.mapped(lambda number: {"number": number})
    assert [item["number"] for item in other.items] == learner.items
    assert (other.tasks, other.seen) == (learner.tasks, learner.seen)
    for one in (learner, other):
        one.add(range(100, 150), [*"ab" * 25])
    assert [item if isinstance(item, int) else item["number"] for item in other.items] == learner.items
    assert [item if isinstance(item, int) else item["number"] for item in other.draw(3)] == learner.draw(3)


@pytest.mark.parametrize("strategy", sorted(POLICIES))
def test_a_mapped_buffer_can_give_items_up(strategy):
    learner = OnlineContinualLearner(8, selection_strategy=strategy)
    losses = [float(row * 7 % 31) for row in range(100)]
    learner.add(range(100), [*"ab" * 50], losses)
    other = learner.mapped(lambda number: None if number % 4 < 2 else number)
    assert other.items == [number for number in learner.items if number % 4 >= 2]
    assert (len(learner), other.seen) == (8, 100)
    other.add(range(100, 3000), [*"ab" * 1450], [1.0 + number for number in range(2900)])
    assert len(other) == 8
    tasks = Counter("ab"[number % 2] for number in other.items)
    assert other.tasks == tasks


@settings(max_examples=40)
@given(
    strategy=st.sampled_from(sorted(POLICIES)),
    capacity=st.integers(1, 8),
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    stop=st.integers(0, 8),
)
def test_a_buffer_goes_on_from_its_state_as_if_it_had_not_stopped(strategy, capacity, sizes, stop):
    def run(learner, steps):
        mixed = []
        for step in steps:
            batch = batch_of(step * 10, sizes[step], task=[*"abcabc"][: sizes[step]])
            mixed.append(learner.mix_with_replay(batch)["input_ids"].tolist())
            learner.update_buffer(batch, losses=[(step * 5 + row * 3) % 7 for row in range(sizes[step])])
        return mixed

    def fresh():
        return OnlineContinualLearner(capacity, 0.7, strategy, seed=5)

    steps, at_once = range(len(sizes)), fresh()
    expected = run(at_once, steps)
    begun, resumed = fresh(), fresh()
    before = run(begun, steps[:stop])
    state = {
        name: value.clone() if isinstance(value, torch.Tensor) else json.loads(json.dumps(value))
        for name, value in begun.state_dict().items()
    }
    resumed.load_state_dict(state)
    assert before + run(resumed, steps[stop:]) == expected
    assert numbers(resumed.items) == numbers(at_once.items)
    assert resumed.tasks == at_once.tasks


def test_a_state_of_another_buffer_is_refused():
    state = OnlineContinualLearner(5).state_dict()
    with pytest.raises(ConfigError, match="size 5 with strategy 'reservoir', and this one has 6"):
        OnlineContinualLearner(6).load_state_dict(state)
    with pytest.raises(ConfigError, match="'ring'"):
        OnlineContinualLearner(5, selection_strategy="ring").load_state_dict(state)


@pytest.mark.parametrize(
    "damage",
    [lambda state: state.pop("policy"), lambda state: state.update(choices=[3, "00", None]),
     lambda state: state.update(items=state["items"][1:]), lambda state: state.update(draws=None),
     lambda state: state["policy"].update(seen="x"), lambda state: state.pop("tensors.int64")],
)  # fmt: skip
def test_a_state_that_is_not_whole_is_refused_and_changes_nothing(damage):
    learner = OnlineContinualLearner(5)
    learner.update_buffer(batch_of(0, 20))
    state = copy.deepcopy(learner.state_dict())
    damage(state)
    held = numbers(learner.items)
    with pytest.raises(DataError):
        learner.load_state_dict(state)
    assert numbers(learner.items) == held
    assert len(learner.draw(5)) == 5
