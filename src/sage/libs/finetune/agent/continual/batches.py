"""Rows out of a batch, and back into another one.

A batch is a mapping from names to columns of one length: lists of anything, tensors or arrays of shape [B, ...]. A row
is a plain dict of one value a column: numbers, text, lists, tensors on the CPU. It holds no padding and nothing of the
batch's memory.

Padding is known by `attention_mask`, never by the pad id: in many tokenizers pad is eos. Without a mask nobody can
tell padding from tokens, and rows stay as long as the batch was. Rows go back behind the new ones, padded on the right
to the longest, or to the batch's own length when that is more.

`attention_mask` and `weights` may be there in some rows and not in others, since not having them means something:
every token is seen, every trained token counts 1. Any other column must be in the batch and in all rows, or in none.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.tokenization.render import IGNORED

Row = dict[str, Any]

_MASK = "attention_mask"
_WEIGHTS = "weights"
_PADDING = {"labels": IGNORED, _MASK: 0, _WEIGHTS: 0, "token_type_ids": 0, "position_ids": 0}
_PLAIN = (str, int, float, bool, type(None))
_ARRAY_KINDS = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3, "S": 4, "U": 5}
"""NumPy's kinds of dtype that a column can have; a value goes into a column of its own or a higher kind."""


def count_rows(batch: Mapping[str, Any]) -> int:
    """How many rows a batch has.

    Raises:
        DataError: for anything but a mapping; naming a column that has no rows, or not as many as the first one.

    Example:
        >>> count_rows({"input_ids": [[1, 2], [3]], "task": ["a", "b"]})
        2
    """
    if not isinstance(batch, Mapping):
        raise DataError(f"a batch is a dict of columns, not {type(batch).__name__}")
    counts = {name: _length(name, column) for name, column in batch.items()}
    for name, count in counts.items():
        first = next(iter(counts))
        if count != counts[first]:
            raise DataError(f"column {name!r} has {count} rows and {first!r} has {counts[first]}; give one value a row")
    return next(iter(counts.values()), 0)


def take_rows(batch: Mapping[str, Any], numbers: Sequence[int]) -> list[Row]:
    """Copies of some rows, without their padding.

    Args:
        batch: The columns.
        numbers: Which rows.

    Example:
        >>> take_rows({"input_ids": [[5, 6, 0]], "attention_mask": [[1, 1, 0]], "task": ["a"]}, [0])
        [{'input_ids': [5, 6], 'attention_mask': [1, 1], 'task': 'a'}]
    """
    here = {name: column.detach().cpu() if is_tensor(column) else column for name, column in batch.items()}
    return [_copied_row({name: column[number] for name, column in here.items()}) for number in numbers]


def append_rows(batch: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], pad_id: int = 0) -> dict[str, Any]:
    """The batch with rows behind its own; the batch itself stays as it is.

    Args:
        batch: The columns; not empty.
        rows: From `take_rows`.
        pad_id: Fills `input_ids`.

    Returns:
        Columns of the batch's kinds, dtypes and devices. Lists of tokens stay as long as they are, unless the batch's
        own lists are padded, that is, some number of its `attention_mask` is 0.

    Raises:
        DataError: naming a column that only one side has, whose rows have other shapes, or of another dtype.

    Example:
        >>> append_rows({"input_ids": [[1, 2], [3]]}, [{"input_ids": [7, 8, 9]}])
        {'input_ids': [[1, 2], [3], [7, 8, 9]]}
    """
    if not rows:
        return dict(batch)
    batch, rows = _with_optional_columns(batch, rows)
    for row in rows:
        for name in batch.keys() ^ row.keys():
            here, there = ("batch", "replayed row") if name in batch else ("replayed row", "batch")
            raise DataError(
                f"column {name!r} is in a {here} and not in a {there}; give every batch the same columns, or clear the "
                f"buffer (clear_buffer) when they change"
            )
    padding: dict[str, float] = {"input_ids": pad_id, **_PADDING}
    pad_lists = _MASK in batch and not _is_block(batch[_MASK]) and any(0 in _plain(mask) for mask in batch[_MASK])
    joined: dict[str, Any] = {}
    for name, column in batch.items():
        values = [row[name] for row in rows]
        fill = padding.get(name)
        if is_tensor(column):
            joined[name] = _joined_tensors(name, column, values, fill)
        elif is_array(column):
            joined[name] = _joined_arrays(name, column, values, fill)
        else:
            joined[name] = _joined_lists(name, column, values, fill if pad_lists else None)
    return joined


def is_tensor(value: object) -> bool:
    """Whether it is a tensor, without loading torch to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: object) -> bool:
    """Whether it is a NumPy array, without loading NumPy to find out."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def copied(value: Any) -> Any:
    """A copy that shares nothing with `value`; tensors come to the CPU, single numbers become Python's."""
    if isinstance(value, _PLAIN) and type(value) in _PLAIN:
        return value
    if is_tensor(value):
        return value.detach().cpu().clone() if value.ndim else value.item()
    if is_array(value):
        return value.copy() if value.ndim else value.item()
    if (numpy := sys.modules.get("numpy")) is not None and isinstance(value, numpy.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    if type(value) is dict:
        return {key: copied(each) for key, each in value.items()}
    return copy.deepcopy(value)


def _is_block(column: object) -> bool:
    return is_tensor(column) or is_array(column)


def _length(name: str, column: Any) -> int:
    if is_array(column) and column.dtype.kind not in _ARRAY_KINDS:
        raise DataError(f"column {name!r} is an array of dtype {column.dtype}; give numbers or text, or a list")
    if _is_block(column) and column.ndim:
        return int(column.shape[0])
    if isinstance(column, Sequence) and not isinstance(column, str | bytes):
        return len(column)
    found = "a single number" if _is_block(column) else f"of type {type(column).__name__}"
    raise DataError(
        f"column {name!r} is {found}; each column of a batch is a list, tensor or array with one value a row "
        f"(take what is about the whole batch out of it first)"
    )


def _is_tokens(value: Any) -> bool:
    """Whether it is a flat sequence: one value a token."""
    return value.ndim == 1 if _is_block(value) else isinstance(value, list | tuple)


def _plain(value: Any) -> Any:
    return value.tolist() if _is_block(value) else value


def _copied_row(row: Mapping[str, Any]) -> Row:
    mask = row.get(_MASK)
    cut: dict[str, Any] = {}
    if mask is not None and _is_tokens(mask):
        seen = [position for position, number in enumerate(_plain(mask)) if number]
        span = slice(seen[0], seen[-1] + 1) if seen else slice(0, 0)
        of_tokens = [name for name in ("input_ids", *_PADDING) if name in row and _is_tokens(row[name])]
        cut = {name: row[name][span] for name in of_tokens if len(row[name]) == len(mask)}
    return {name: copied(cut.get(name, value)) for name, value in row.items()}


def _with_optional_columns(
    batch: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """Both with `attention_mask` and `weights`, when one side has them and both have tokens."""
    for name in (_MASK, _WEIGHTS):
        having = [row for row in rows if name in row]
        everywhere = name in batch and len(having) == len(rows)
        nowhere = name not in batch and not having
        if everywhere or nowhere or any("input_ids" not in each for each in (batch, *rows)):
            continue
        example = having[0][name] if having else batch[name][0]
        rows = [row if name in row else {**row, name: _default(name, row, example)} for row in rows]
        if name not in batch:
            known = {key: batch[key] for key in ("input_ids", "labels") if key in batch}
            own = [{key: column[number] for key, column in known.items()} for number in range(count_rows(batch))]
            batch = {**batch, name: _column_like(batch["input_ids"], [_default(name, row, example) for row in own])}
    return batch, rows


def _default(name: str, row: Mapping[str, Any], example: Any) -> Any:
    """What not having the column means: all tokens are seen, all trained ones count 1."""
    if name == _MASK:
        return [1] * len(row["input_ids"])
    if not _is_tokens(example):
        return 1.0
    if "labels" in row and _is_tokens(row["labels"]):
        return [float(label != IGNORED) for label in _plain(row["labels"])]
    return [1.0] * len(row["input_ids"])


def _column_like(column: Any, values: list[Any]) -> Any:
    """A new column of the same kind: int64 or float32."""
    if is_tensor(column):
        import torch

        return torch.tensor(values, device=column.device)
    if is_array(column):
        import numpy as np

        array = np.asarray(values)
        return array.astype(np.float32) if array.dtype.kind == "f" else array
    return values


def _joined_tensors(name: str, column: Any, values: list[Any], fill: float | None) -> Any:
    import torch

    rows = [_as_tensor(name, value, column.dtype) for value in values]
    if fill is not None and column.ndim == 2 and all(row.ndim == 1 for row in rows):
        longest = max(column.shape[1], *map(len, rows))
        column = torch.nn.functional.pad(column, (0, longest - column.shape[1]), value=fill)
        rows = [torch.nn.functional.pad(row, (0, longest - len(row)), value=fill) for row in rows]
    _check_shapes(name, column, rows)
    return torch.cat([column, torch.stack(rows).to(column.device)])


def _joined_arrays(name: str, column: Any, values: list[Any], fill: float | None) -> Any:
    import numpy as np

    rows = [_as_array(name, value, column.dtype) for value in values]
    if fill is not None and column.ndim == 2 and all(row.ndim == 1 for row in rows):
        longest = max(column.shape[1], *map(len, rows))
        column = np.pad(column, ((0, 0), (0, longest - column.shape[1])), constant_values=fill)
        rows = [np.pad(row, (0, longest - len(row)), constant_values=fill) for row in rows]
    _check_shapes(name, column, rows)
    return np.concatenate([column, np.stack(rows)])


def _joined_lists(name: str, column: Sequence[Any], values: list[Any], fill: float | None) -> list[Any]:
    example = column[0]
    if is_tensor(example):
        return [*column, *(_as_tensor(name, value, example.dtype).to(example.device) for value in values)]
    if is_array(example):
        return [*column, *(_as_array(name, value, example.dtype) for value in values)]
    joined = [*column, *map(_plain, values)]
    if fill is not None and all(isinstance(each, list | tuple) for each in joined):
        longest = max(map(len, joined))
        return [[*each, *[fill] * (longest - len(each))] for each in joined]
    return joined


def _as_tensor(name: str, value: Any, dtype: Any) -> Any:
    import torch

    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise _unfit(name, f"of type {type(value).__name__}", dtype) from None
    if found.numel() and not torch.can_cast(found.dtype, dtype):
        raise _unfit(name, f"of dtype {found.dtype}", dtype)
    return torch.as_tensor(value, dtype=dtype)


def _as_array(name: str, value: Any, dtype: Any) -> Any:
    import numpy as np

    found = np.asarray(value)
    rank, own = _ARRAY_KINDS.get(found.dtype.kind, len(_ARRAY_KINDS)), _ARRAY_KINDS[dtype.kind]
    if dtype.kind in "US":
        if rank != own:
            raise _unfit(name, f"of dtype {found.dtype}", dtype)
        return found  # as long as it is: concatenating makes room
    if found.size and rank > own:
        raise _unfit(name, f"of dtype {found.dtype}", dtype)
    return found.astype(dtype)


def _unfit(name: str, found: str, dtype: Any) -> DataError:
    return DataError(
        f"column {name!r}: a replayed row's value is {found} and the batch has {dtype}; give every batch the same "
        f"dtype, or clear the buffer (clear_buffer) when it changes"
    )


def _check_shapes(name: str, column: Any, rows: Sequence[Any]) -> None:
    for row in rows:
        if tuple(row.shape) != tuple(column.shape[1:]):
            raise DataError(
                f"column {name!r}: a replayed row has shape {tuple(row.shape)} and the batch's rows have "
                f"{tuple(column.shape[1:])}; bring it to one shape, or give it as a list with one value a row (padded "
                f"are only input_ids, {', '.join(_PADDING)})"
            )
