"""JSON Lines and whole files, written so that a kill at any moment leaves nothing broken.

A whole file is written beside its place, synced and renamed over it. A growing file gets one synced line per object;
what a kill left of a half-written last line is dropped when the file is opened again. NaN and infinities are refused
both ways, since they are not JSON and other readers choke on them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sage.libs.finetune.agent.errors import DataError

logger = logging.getLogger(__name__)


def encode(obj: object, *, indent: int | None = None) -> bytes:
    """The UTF-8 bytes of `obj` as JSON, without a line end.

    Raises:
        TypeError: for a value that JSON has no form for.
        ValueError: for NaN, an infinity, or text that is no valid Unicode.

    Example:
        >>> encode({"city": "Zürich"}).decode()
        '{"city": "Zürich"}'
    """
    return json.dumps(obj, ensure_ascii=False, allow_nan=False, indent=indent).encode("utf-8")


def decode(line: bytes) -> Any:
    """The inverse of `encode`; raises ValueError for anything that is not strict JSON in UTF-8."""
    return json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` for each line, counted from 1; blank lines are skipped.

    Raises:
        DataError: for a file that cannot be opened, and, as `file:line: ...`, for a line that is no JSON object.
    """
    for number, line in enumerate(_lines(path), start=1):
        line = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
        if not line:
            continue
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error}); each line must be one JSON object") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def check_output(path: str | Path) -> None:
    """Find out before the work whether a file could be written at `path`; nothing is made.

    Raises:
        DataError: naming `path`, when it is a directory, or its folder is none or not to be written to.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a directory; give a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise _unwritable(path, str(error.strerror)) from error
    if not folder.is_dir():
        raise _unwritable(path, f"{folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(path, f"no permission to write in {folder}")


def write_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Write one JSON object a line, atomically.

    Raises:
        DataError: naming the line, for a row that JSON has no form for, or the file, when it cannot be written; the
            file is then left as it was.
    """
    with _replacement(path) as handle:
        for number, row in enumerate(rows, start=1):
            handle.write(_encode_for(f"{path}:{number}", row) + b"\n")


def write_json(path: str | Path, obj: object) -> None:
    """Write one indented JSON document, atomically.

    Raises:
        DataError: when JSON has no form for `obj`, or the file cannot be written; it is then left as it was.
    """
    with _replacement(path) as handle:
        handle.write(_encode_for(str(path), obj, indent=2) + b"\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically and with the line ends it has.

    Raises:
        DataError: when the file cannot be written.
    """
    with _replacement(path) as handle:
        handle.write(text.encode("utf-8"))


def read_json(path: str | Path) -> Any:
    """One JSON value; NaN is refused.

    Raises:
        DataError: naming the file, when it cannot be read or is not JSON.
    """
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON: {error}") from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class JsonlAppender:
    """Appends objects to a JSONL file, each on disk before `append` returns.

    Opening continues an existing file. A last line without its line end is kept if it is a whole JSON object, else it
    is the remains of a killed writer and is dropped (`dropped` counts its bytes).

    Raises:
        DataError: when the file cannot be opened for writing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> with JsonlAppender(path) as rows:
        ...     rows.append({"n": 1})
        >>> list(read_jsonl(path))
        [(1, {'n': 1})]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self.path.open("a+b")
        except OSError as error:
            raise _unwritable(self.path, str(error.strerror)) from error
        self.dropped = _mend_last_line(self._handle)
        if self.dropped:
            logger.warning("%s: dropped a half-written last line (%d bytes)", self.path, self.dropped)

    def append(self, obj: object) -> None:
        """Write one line and sync it.

        Raises:
            DataError: when JSON has no form for `obj`; nothing is written then.
        """
        self._handle.write(_encode_for(str(self.path), obj) + b"\n")
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _replacement(path: str | Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place when the block ends without an exception; a link stays one."""
    path = Path(os.path.realpath(path))
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, path)
    except OSError as error:
        if error.filename not in (None, str(beside)):  # another file's, out of whatever gave the rows
            raise
        raise _unwritable(path, str(error.strerror)) from error
    finally:
        beside.unlink(missing_ok=True)


def _unwritable(path: Path, why: str) -> DataError:
    return DataError(f"{path}: cannot be written ({why}); give a file in a folder that can be written to")


def _lines(path: str | Path) -> Iterator[bytes]:
    try:
        with Path(path).open("rb") as handle:
            yield from handle
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the path of a JSONL file") from error


def _mend_last_line(handle: BinaryIO) -> int:
    """End the last line if it is whole, else cut it off; returns the bytes cut."""
    size = handle.seek(0, os.SEEK_END)
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        block = min(start, 1 << 16)
        start -= block
        handle.seek(start)
        tail = handle.read(block) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    handle.seek(0, os.SEEK_END)
    if not tail:
        return 0
    try:
        whole = isinstance(decode(tail), dict)
    except ValueError:
        whole = False
    if whole:
        handle.write(b"\n")
        return 0
    handle.truncate(size - len(tail))
    return len(tail)


def _encode_for(where: str, obj: object, indent: int | None = None) -> bytes:
    try:
        return encode(obj, indent=indent)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: cannot be written as JSON ({error}); use text, finite numbers, booleans, null, lists and dicts"
        ) from error


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
