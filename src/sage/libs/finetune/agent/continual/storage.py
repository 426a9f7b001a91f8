"""A buffer's state as tensors and plain JSON, and as files.

Rows hold many small tensors. All of one dtype lie end to end in one flat tensor, `tensors.int64` for example; where one
stood in an item there is `{"$tensor": [dtype, start, *shape]}`, `{"$array": ...}` for a NumPy array.

A folder has `state.json` (settings, the policy's state, random numbers), `items-*.jsonl` (`{"task", "item"}` a line,
in the order of the slots) and, when items hold tensors, `tensors-*.safetensors`. The names of the last two come from
their content and stand in `state.json`, which is replaced as the last step: a kill leaves the buffer that was there
before, or the new one. The same buffer is written as the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.libs.finetune.agent import jsonl
from sage.libs.finetune.agent.continual.batches import is_array, is_tensor
from sage.libs.finetune.agent.errors import DataError

STATE_FILE = "state.json"
_TENSORS = "tensors."
_MARKS = {"$tensor", "$array"}


@dataclass
class _Flat:
    """Tensors of one dtype, to be laid end to end."""

    parts: list[Any] = field(default_factory=list)
    length: int = 0


def pack(items: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Items as plain JSON, and the tensors that were in them.

    Returns:
        The items, tuples as lists; flat CPU tensors by name.

    Raises:
        DataError: naming the item that holds something else than text, finite numbers, booleans, None, lists, dicts
            with names as keys, tensors and arrays of numbers.

    Example:
        >>> pack([7, {"prompt": "Add 1 and 2.", "tokens": (5, 6)}])
        ([7, {'prompt': 'Add 1 and 2.', 'tokens': [5, 6]}], {})
    """
    flats: dict[str, _Flat] = {}
    plain = [_plain(item, flats, number) for number, item in enumerate(items)]
    if not flats:
        return plain, {}
    import torch

    return plain, {_TENSORS + dtype: torch.cat(flat.parts) for dtype, flat in flats.items()}


def unpack(plain: Sequence[Any], tensors: Mapping[str, Any], where: Callable[[int], str]) -> list[Any]:
    """The inverse of `pack`.

    Args:
        plain: The items.
        tensors: The flat tensors by name.
        where: What to call an item of that number in an error.

    Raises:
        DataError: for a tensor that is not there.

    Example:
        >>> unpack([{"tokens": [5, 6]}], {}, str)
        [{'tokens': [5, 6]}]
    """
    return [_restored(item, tensors, number, where) for number, item in enumerate(plain)]


def write_folder(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state with `tasks` and `items` as lists of one length, tensors, and any other plain JSON.

    Raises:
        DataError: when a file cannot be written; what was in the folder is then as it was.
    """
    lines = list(map(_line, range(len(state["items"])), state["tasks"], state["items"]))
    tensors = {name: value for name, value in state.items() if name.startswith(_TENSORS)}
    files = {"items": _write_named(folder, "items", "jsonl", b"".join(lines))}
    if tensors:
        from safetensors.torch import save

        files["tensors"] = _write_named(folder, "tensors", "safetensors", save(tensors))
    rest = {name: value for name, value in state.items() if name not in {*tensors, "tasks", "items"}}
    jsonl.write_json(folder / STATE_FILE, {**rest, "rows": len(lines), "files": files})
    for old in [*folder.glob("items-*.jsonl"), *folder.glob("tensors-*.safetensors")]:
        if old.name not in files.values():
            old.unlink(missing_ok=True)


def read_folder(folder: Path) -> tuple[dict[str, Any], Callable[[int], str]]:
    """The state that `write_folder` wrote, and the file and line of each item.

    Raises:
        DataError: naming the file, and the line, that is missing or is not what it should be.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise DataError(
            f"{folder}: no {STATE_FILE} there; give a folder that OnlineContinualLearner.save wrote, such as "
            "RUN/replay_buffer"
        )
    state = jsonl.read_json(path)
    files = state.pop("files", None) if isinstance(state, dict) else None
    if not isinstance(files, dict) or not isinstance(files.get("items"), str):
        raise DataError(f"{path}: is not the state of a replay buffer; give a folder of OnlineContinualLearner.save")
    if any(Path(str(name)).name != name for name in files.values() if name is not None):
        raise DataError(f"{path}: names files outside its folder; give a folder of OnlineContinualLearner.save")
    lines = list(jsonl.read_jsonl(folder / files["items"]))
    for number, line in lines:
        if line.keys() != {"task", "item"} or not isinstance(line["task"], str):
            raise DataError(f'{folder / files["items"]}:{number}: expected {{"task": text, "item": ...}}')
    rows = state.pop("rows", None)
    if rows != len(lines):
        raise DataError(
            f"{folder / files['items']}: has {len(lines)} rows and {path} tells of {rows}; restore both files"
        )
    state |= {"tasks": [line["task"] for _, line in lines], "items": [line["item"] for _, line in lines]}
    if files.get("tensors") is not None:
        state |= _read_tensors(folder / str(files["tensors"]))
    return state, lambda item: f"{folder / files['items']}:{lines[item][0]}"


def _line(number: int, task: str, item: Any) -> bytes:
    try:
        return jsonl.encode({"task": task, "item": item}) + b"\n"
    except ValueError as error:
        raise DataError(
            f"item {number}: its text is no valid Unicode ({error}); repair it before it is saved"
        ) from error


def _write_named(folder: Path, stem: str, ending: str, content: bytes) -> str:
    """Write a file named after its content, synced; nothing refers to it yet, so it need not appear at once."""
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}.{ending}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        if path.is_file() and path.read_bytes() == content:  # state.json may refer to it: it is not touched
            return name
        with path.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise DataError(f"{folder / name}: cannot be written ({error.strerror}); give a folder to write to") from error
    return name


def _read_tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it, or begin with a new buffer") from None
    except SafetensorError as error:
        raise DataError(f"{path}: is no safetensors file ({error}); restore it, or begin with a new buffer") from None


def _plain(value: Any, flats: dict[str, _Flat], number: int) -> Any:
    kind = type(value)
    if kind in (int, str, bool) or value is None or (kind is float and math.isfinite(value)):
        return value
    if kind in (list, tuple):
        return [_plain(each, flats, number) for each in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value) or value.keys() & _MARKS:
            raise DataError(f"item {number}: the keys of a dict must be text, and none of {', '.join(sorted(_MARKS))}")
        return {key: _plain(each, flats, number) for key, each in value.items()}
    if is_tensor(value):
        return {"$tensor": _laid_down(value, flats)}
    if is_array(value) and value.dtype.kind in "biuf":
        import torch

        return {"$array": _laid_down(torch.from_numpy(value.copy()), flats)}
    found = "a number that is not finite" if kind is float else f"a {kind.__name__}"
    raise DataError(
        f"item {number}: holds {found}; a buffer that is saved holds text, finite numbers, booleans, None, lists, "
        f"dicts, tensors and arrays of numbers"
    )


def _laid_down(tensor: Any, flats: dict[str, _Flat]) -> list[Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    flat = flats.setdefault(dtype, _Flat())
    start = flat.length
    flat.parts.append(tensor.detach().cpu().reshape(-1))
    flat.length += tensor.numel()
    return [dtype, start, *tensor.shape]


def _restored(value: Any, tensors: Mapping[str, Any], number: int, where: Callable[[int], str]) -> Any:
    if type(value) is list:
        return [_restored(each, tensors, number, where) for each in value]
    if type(value) is not dict:
        return value
    if not (len(value) == 1 and value.keys() <= _MARKS):
        return {key: _restored(each, tensors, number, where) for key, each in value.items()}
    [(mark, place)] = value.items()
    try:
        dtype, start, *shape = place
        size = math.prod(shape)
        found = tensors[_TENSORS + dtype][start : start + size].reshape(shape)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise DataError(
            f"{where(number)}: its tensor {place} is not among the saved ones; restore the buffer"
        ) from None
    return found.numpy().copy() if mark == "$array" else found.clone()
