"""Buffers on disk: round trips of any item, the same bytes for the same buffer, kills and damage."""

import json
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.libs.finetune.agent import DataError, jsonl
from sage.libs.finetune.agent.continual.learner import OnlineContinualLearner
from sage.libs.finetune.agent.continual.storage import pack, unpack

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aß$\n"'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def filled(strategy="reservoir", size=6):
    learner = OnlineContinualLearner(size, 0.5, strategy, seed=2, pad_id=3)
    for start in range(0, 40, 4):
        batch = {"input_ids": torch.arange(start, start + 8).view(4, 2), "weight": torch.ones(4), "task": [*"abab"]}
        learner.update_buffer(batch, losses=[start, 1, 2, 3])
    return learner


@given(st.lists(JSON, max_size=4))
def test_plain_items_come_back_as_they_were(items):
    plain, tensors = pack(items)
    assert tensors == {}
    assert unpack(json.loads(json.dumps(plain)), tensors, str) == items


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor(3), torch.tensor([1.5, math.nan]), torch.zeros(0, 4), torch.ones(2, 3, dtype=torch.bfloat16),
     torch.tensor([True]), torch.arange(6).view(2, 3).T, np.arange(6, dtype=np.uint8).reshape(2, 3), np.array(1.5)],
)  # fmt: skip
def test_tensors_and_arrays_come_back_as_they_were(tensor):
    plain, tensors = pack([{"a": [tensor, 1]}, {"a": [torch.tensor([7]), 2]}])
    [first, second] = unpack(json.loads(json.dumps(plain)), tensors, str)
    back = first["a"][0]
    assert type(back) is type(tensor)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert np.array_equal(np.asarray(torch.as_tensor(back).float()), np.asarray(torch.as_tensor(tensor).float()), True)
    assert second["a"][0].tolist() == [7]


@pytest.mark.parametrize("strategy", ["reservoir", "balanced", "ring", "surprise"])
def test_a_saved_buffer_goes_on_as_if_it_had_not_stopped(strategy, tmp_path):
    learner = filled(strategy)
    learner.save(tmp_path / "deep" / "buffer")
    loaded = OnlineContinualLearner.load(tmp_path / "deep" / "buffer")
    assert (loaded.buffer_size, loaded.replay_ratio, loaded.selection_strategy, loaded.seed, loaded.pad_id) == (
        6, 0.5, strategy, 2, 3,
    )  # fmt: skip
    assert (loaded.seen, loaded.tasks) == (40, learner.tasks)
    for one in (learner, loaded):
        one.add([{"n": n} for n in range(50)], ["c"] * 50, [float(n) for n in range(50)])
    assert str(loaded.items) == str(learner.items)
    assert str(loaded.draw(4)) == str(learner.draw(4))


def test_the_same_buffer_is_the_same_bytes_and_replaces_what_was_there(tmp_path):
    one, other, learner = tmp_path / "one", tmp_path / "other", filled()
    learner.save(one)
    (one / "notes.txt").write_text("mine")
    learner.save(other)
    OnlineContinualLearner.load(other).save(other)
    names = sorted(path.name.split("-")[0] for path in other.iterdir())
    assert names == ["items", "state.json", "tensors"]
    assert contents(one) == {**contents(other), "notes.txt": b"mine"}
    learner.clear_buffer()
    learner.add(["text only"])
    learner.save(one)
    assert sorted(path.name.split("-")[0] for path in one.iterdir()) == ["items", "notes.txt", "state.json"]
    assert OnlineContinualLearner.load(one).items == ["text only"]


def test_a_kill_while_saving_leaves_the_buffer_that_was_there(tmp_path, monkeypatch):
    learner = filled()
    learner.save(tmp_path)
    before = str(OnlineContinualLearner.load(tmp_path).items)
    learner.add(["a new item"] * 50)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            learner.save(tmp_path)
    assert str(OnlineContinualLearner.load(tmp_path).items) == before
    learner.save(tmp_path)
    assert len(list(tmp_path.glob("items-*"))) == 1
    assert str(OnlineContinualLearner.load(tmp_path).items) == str(learner.items)


def test_an_empty_buffer_is_saved(tmp_path):
    OnlineContinualLearner().save(tmp_path)
    assert len(OnlineContinualLearner.load(tmp_path)) == 0


@pytest.mark.parametrize(
    ("item", "found"),
    [({1, 2}, "a set"), (math.inf, "not finite"), ({1: "a"}, "keys"), ({"$tensor": 1}, "keys"), ("\ud800", "Unicode"),
     (np.array(["a"]), "a ndarray")],
)  # fmt: skip
def test_an_item_that_cannot_be_saved_is_named_and_nothing_is_written(item, found, tmp_path):
    learner = OnlineContinualLearner()
    learner.add(["fine", {"deep": [item]}])
    with pytest.raises(DataError, match=f"item 1: .*{found}"):
        learner.save(tmp_path / "buffer")
    assert not (tmp_path / "buffer").exists()


def items_file(folder):
    return next(folder.glob("items-*"))


def edit_lines(folder, change):
    path = items_file(folder)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def edit_state(folder, **more):
    jsonl.write_json(folder / "state.json", {**jsonl.read_json(folder / "state.json"), **more})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "state.json").unlink(), "no state.json there"),
        (lambda folder: (folder / "state.json").write_text("{"), "state.json: is not valid JSON"),
        (lambda folder: (folder / "state.json").write_text("[1]"), "state.json: is not the state of a replay buffer"),
        (lambda folder: edit_state(folder, buffer_size=0), "state.json: does not have the settings"),
        (lambda folder: edit_state(folder, policy={}), "state.json: is not whole"),
        (lambda folder: items_file(folder).unlink(), r"items-\w+.jsonl: cannot be read"),
        (lambda folder: edit_lines(folder, lambda lines: lines[1:]), r"items-\w+.jsonl: has 5 rows and .* tells of 6"),
        (lambda folder: edit_lines(folder, lambda lines: [lines[0], b"{\n", *lines[2:]]), r"-\w+.jsonl:2: not JSON"),
        (lambda folder: edit_lines(folder, lambda lines: [b'{"a": 1}\n', *lines[1:]]), r"-\w+.jsonl:1: expected"),
        (lambda folder: edit_lines(folder, lambda lines: [line.replace(b"int64", b"int8") for line in lines]),
         r"items-\w+.jsonl:1: its tensor"),
        (lambda folder: next(folder.glob("tensors-*")).unlink(), r"tensors-\w+.safetensors: cannot be read"),
        (lambda folder: next(folder.glob("tensors-*")).write_bytes(b"x" * 30), r"tensors-\w+.safetensors: is no"),
    ],
)  # fmt: skip
def test_damage_is_named_with_file_and_line(damage, message, tmp_path):
    filled().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        OnlineContinualLearner.load(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        filled().save(tmp_path / "file")


def test_a_full_disk_while_the_same_rows_are_saved_again_leaves_them(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    learner = OnlineContinualLearner(4)
    learner.add(["a", "b"])
    learner.save(tmp_path)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError):
            learner.save(tmp_path)
    assert contents(tmp_path) == before and len(OnlineContinualLearner.load(tmp_path)) == 2


def test_a_state_that_names_a_file_elsewhere_is_refused(tmp_path):
    learner = OnlineContinualLearner(4)
    learner.add(["a"])
    learner.save(tmp_path / "buffer")
    state = jsonl.read_json(tmp_path / "buffer" / "state.json")
    state["files"]["items"] = f"../buffer/{state['files']['items']}"
    jsonl.write_json(tmp_path / "buffer" / "state.json", state)
    with pytest.raises(DataError, match="outside its folder"):
        OnlineContinualLearner.load(tmp_path / "buffer")
