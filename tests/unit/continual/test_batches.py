"""Rows out of a batch and back: values, shapes, padding, kinds, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.finetune.agent import DataError
from sage.libs.finetune.agent.continual.batches import append_rows, count_rows, take_rows


def plain(batch):
    return {name: column.tolist() if hasattr(column, "tolist") else column for name, column in batch.items()}


def tensors(**columns):
    return {name: torch.tensor(column) for name, column in columns.items()}


PADDED = {
    "input_ids": [[5, 6, 0, 0], [7, 8, 9, 1]],
    "labels": [[-100, 6, -100, -100], [-100, -100, 9, 1]],
    "attention_mask": [[1, 1, 0, 0], [1, 1, 1, 1]],
    "weights": [[0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]],
}
STRIPPED = {"input_ids": [5, 6], "labels": [-100, 6], "attention_mask": [1, 1], "weights": [0.0, 0.5]}


@pytest.mark.parametrize("kind", [torch.tensor, np.asarray, list])
def test_a_row_holds_no_padding_and_is_padded_anew(kind):
    batch = {name: kind(column) for name, column in PADDED.items()}
    [row] = take_rows(batch, [0])
    assert plain(row) == STRIPPED
    longer = {
        "input_ids": kind([[1, 2, 3, 4, 5, 6]]),
        "labels": kind([[1, 2, 3, 4, 5, 6]]),
        "attention_mask": kind([[1, 1, 1, 1, 1, 0]]),
        "weights": kind([[1.0] * 6]),
    }
    mixed = append_rows(longer, [row], pad_id=99)
    assert plain({name: column[1] for name, column in mixed.items()}) == {
        "input_ids": [5, 6, 99, 99, 99, 99],
        "labels": [-100, 6, -100, -100, -100, -100],
        "attention_mask": [1, 1, 0, 0, 0, 0],
        "weights": [0.0, 0.5, 0.0, 0.0, 0.0, 0.0],
    }
    shorter = {name: column[:, :1] if hasattr(column, "ndim") else [[row[0]] for row in column]
               for name, column in batch.items()}  # fmt: skip
    mixed = append_rows(shorter, [row], pad_id=99)
    if kind is list:  # lists that are not padded themselves stay as long as they are
        assert mixed["input_ids"] == [[5], [7], [5, 6]]
    else:
        assert plain(mixed)["input_ids"] == [[5, 99], [7, 99], [5, 6]]
        assert plain(mixed)["labels"] == [[-100, -100], [-100, -100], [-100, 6]]
        assert plain(mixed)["attention_mask"] == [[1, 0], [1, 0], [1, 1]]


def test_padding_on_the_left_is_taken_off_and_holes_in_the_mask_are_not():
    batch = tensors(
        input_ids=[[0, 0, 5, 6, 7, 0]], attention_mask=[[0, 0, 1, 0, 1, 0]], position_ids=[[0, 0, 0, 1, 2, 0]]
    )
    assert plain(take_rows(batch, [0])[0]) == {
        "input_ids": [5, 6, 7], "attention_mask": [1, 0, 1], "position_ids": [0, 1, 2],
    }  # fmt: skip


def test_without_a_mask_rows_stay_as_long_as_the_batch():
    batch = tensors(input_ids=[[5, 0, 0]], labels=[[5, -100, -100]])
    assert plain(take_rows(batch, [0])[0]) == {"input_ids": [5, 0, 0], "labels": [5, -100, -100]}


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.bfloat16, torch.float64])
def test_dtypes_of_the_batch_are_those_of_the_result(dtype):
    batch = {"input_ids": torch.tensor([[1, 2]]), "weights": torch.tensor([[1, 0]], dtype=dtype)}
    mixed = append_rows(batch, take_rows({"input_ids": torch.tensor([[3]]), "weights": batch["weights"][:, :1]}, [0]))
    assert mixed["weights"].dtype == dtype
    assert mixed["weights"].tolist() == [[1, 0], [1, 0]]


def test_gradients_stay_with_the_new_rows_and_out_of_the_buffer():
    batch = {"hidden": torch.ones(2, 3, requires_grad=True)}
    [row] = take_rows(batch, [1])
    assert not row["hidden"].requires_grad
    append_rows(batch, [row])["hidden"].sum().backward()
    assert batch["hidden"].grad.tolist() == [[1.0] * 3] * 2


def test_numbers_text_and_images_go_along():
    batch = {
        "number": torch.tensor([1.5, 2.5], dtype=torch.float64),
        "name": np.array(["a", "b"]),
        "image": np.zeros((2, 3, 4, 4), dtype=np.uint8),
        "any": [{"k": {1}}, None],
        "ragged": [torch.tensor([1, 2]), torch.tensor([3])],
        "pair": ((1, 2), (3, 4)),
    }
    row = take_rows(batch, [0])[0] | {"name": "a longer name", "number": 0.1}
    mixed = append_rows(batch, [row])
    assert mixed["number"].tolist() == [1.5, 2.5, 0.1]
    assert mixed["name"].tolist() == ["a", "b", "a longer name"]
    assert mixed["image"].shape == (3, 3, 4, 4)
    assert mixed["image"].dtype == np.uint8
    assert mixed["any"] == [{"k": {1}}, None, {"k": {1}}]
    assert [each.tolist() for each in mixed["ragged"]] == [[1, 2], [3], [1, 2]]
    assert mixed["pair"] == [(1, 2), (3, 4), (1, 2)]


def test_a_row_of_lists_goes_into_tensors_and_the_other_way_round():
    [row] = take_rows({"input_ids": [[1, 2, 3]]}, [0])
    assert append_rows(tensors(input_ids=[[4]]), [row])["input_ids"].tolist() == [[4, 0, 0], [1, 2, 3]]
    [row] = take_rows(tensors(input_ids=[[1, 2, 3]]), [0])
    assert append_rows({"input_ids": [[4]]}, [row])["input_ids"] == [[4], [1, 2, 3]]
    assert append_rows({"input_ids": np.array([[4]])}, [row])["input_ids"].tolist() == [[4, 0, 0], [1, 2, 3]]


@pytest.mark.parametrize("kind", [torch.tensor, np.asarray, list])
def test_a_missing_mask_means_all_tokens_and_missing_weights_mean_one_on_each_trained_token(kind):
    bare = {"input_ids": kind([[1, 2, 3]]), "labels": kind([[-100, 2, 3]])}
    full = {**bare, "attention_mask": kind([[1, 1, 0]]), "weights": kind([[0.0, 0.5, 0.0]])}
    expected = {"attention_mask": [1, 1, 1], "weights": [0.0, 1.0, 1.0]}
    mixed = append_rows(bare, take_rows(full, [0]))
    assert plain({name: mixed[name][0] for name in expected}) == expected
    assert plain({name: mixed[name][1] for name in expected})["weights"][:2] == [0.0, 0.5]
    if kind is not list:
        assert str(mixed["attention_mask"].dtype).endswith("int64")
        assert str(mixed["weights"].dtype).endswith("float32")
    mixed = append_rows(full, take_rows(bare, [0]))
    assert plain({name: mixed[name][1] for name in expected}) == expected


def test_missing_weights_of_whole_rows_are_one():
    [row] = take_rows({"input_ids": [[1, 2]]}, [0])
    assert append_rows({"input_ids": [[3]], "weights": [0.5]}, [row])["weights"] == [0.5, 1.0]


@pytest.mark.parametrize(("here", "there"), [(("task",), ()), ((), ("task",))])
def test_any_other_column_must_be_on_both_sides(here, there):
    batch = {"input_ids": [[1]], **{name: ["a"] for name in here}}
    [row] = take_rows({"input_ids": [[2]], **{name: ["b"] for name in there}}, [0])
    with pytest.raises(DataError, match=r"column 'task' is in a .* and not in a .*clear_buffer"):
        append_rows(batch, [row])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([[1, 2]], "a batch is a dict of columns, not list"),
        ({"input_ids": [[1]], "task": ["a", "b"]}, "column 'task' has 2 rows and 'input_ids' has 1"),
        ({"input_ids": [[1]], "tokens": 5}, "column 'tokens' is of type int"),
        ({"input_ids": [[1]], "task": "a"}, "column 'task' is of type str"),
        ({"input_ids": [[1]], "weights": None}, "column 'weights' is of type NoneType"),
        ({"loss": torch.tensor(1.0)}, "column 'loss' is a single number"),
        ({"any": np.array([{}], dtype=object)}, "column 'any' is an array of dtype object"),
    ],
)
def test_a_column_without_rows_is_named(batch, message):
    with pytest.raises(DataError, match=message):
        count_rows(batch)


@pytest.mark.parametrize(
    ("stored", "batch", "message"),
    [
        (tensors(x=[[1, 2]]), tensors(x=[[1, 2, 3]]), r"column 'x': a replayed row has shape \(2,\) .* \(3,\)"),
        (tensors(x=[1]), tensors(x=[[1, 2, 3]]), r"column 'x': a replayed row has shape \(\)"),
        (tensors(x=[[1.5]]), tensors(x=[[1]]), "column 'x': .*torch.float32 .*torch.int64"),
        ({"x": ["a"]}, tensors(x=[1]), "column 'x': .*of type str"),
        ({"x": [1.5]}, {"x": np.array([1])}, "column 'x': .*float64 .*int64"),
        ({"x": [1]}, {"x": np.array(["a"])}, "column 'x': .*int64 .*U1"),
        ({"x": [None]}, {"x": np.array([1])}, "column 'x': .*object .*int64"),
        ({"x": [1.5]}, {"x": [torch.tensor([1])]}, "column 'x'"),
    ],
)
def test_rows_that_do_not_fit_name_the_column(stored, batch, message):
    with pytest.raises(DataError, match=message):
        append_rows(batch, take_rows(stored, [0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_columns_stay_on_their_device():
    batch = {"input_ids": torch.tensor([[1, 2]], device="cuda")}
    [row] = take_rows(batch, [0])
    assert row["input_ids"].device.type == "cpu"
    assert append_rows(batch, [row])["input_ids"].device.type == "cuda"


TOKENS = st.lists(st.integers(0, 9), max_size=6)


@st.composite
def batches(draw, kind):
    """A batch of one kind with a mask, labels and, at times, weights; and its rows without padding."""
    rows = draw(st.lists(TOKENS, min_size=1, max_size=5))
    weighted = draw(st.booleans())
    longest = max(map(len, rows))
    left = draw(st.booleans()) and kind != "lists"

    def column(fill, values, dtype):
        padded = [[*[fill] * (longest - len(v)), *v] if left else [*v, *[fill] * (longest - len(v))] for v in values]
        if kind == "lists":
            return values
        return torch.tensor(padded, dtype=dtype) if kind == "tensors" else np.array(padded, dtype=str(dtype)[6:])

    batch = {
        "input_ids": column(0, rows, torch.int64),
        "labels": column(-100, rows, torch.int64),
        "attention_mask": column(0, [[1] * len(row) for row in rows], torch.int64),
        "task": [f"t{len(row)}" for row in rows],
    }
    if weighted:
        batch["weights"] = column(0.0, [[0.5] * len(row) for row in rows], torch.float32)
    return rows, batch, weighted


@settings(max_examples=150)
@given(data=st.data(), first=st.sampled_from(["tensors", "arrays", "lists"]),
       second=st.sampled_from(["tensors", "arrays", "lists"]))  # fmt: skip
def test_any_row_comes_back_as_it_was(data, first, second):
    stored_rows, stored, stored_weighted = data.draw(batches(first))
    rows, batch, weighted = data.draw(batches(second))
    before = plain(batch)
    taken = take_rows(stored, range(len(stored_rows)))
    mixed = append_rows(batch, taken, pad_id=77)
    assert plain(batch) == before
    assert count_rows(mixed) == len(rows) + len(stored_rows)
    again = take_rows(mixed, range(len(rows) + len(stored_rows)))
    assert [plain(row)["input_ids"] for row in again] == [*rows, *stored_rows]
    assert [plain(row)["labels"] for row in again] == [*rows, *stored_rows]
    assert [row["task"] for row in again] == [*batch["task"], *stored["task"]]
    if weighted or stored_weighted:
        expected = [[0.5 if weighted else 1.0] * len(row) for row in rows]
        expected += [[0.5 if stored_weighted else 1.0] * len(row) for row in stored_rows]
        assert [plain(row)["weights"] for row in again] == expected
    if second != "lists":
        assert all(type(mixed[name]) is type(batch[name]) for name in batch)
        seen = mixed["attention_mask"][len(rows) :] == 0
        assert set(mixed["input_ids"][len(rows) :][seen].tolist()) <= {77}
        assert set(mixed["labels"][mixed["attention_mask"] == 0].tolist()) <= {-100}
