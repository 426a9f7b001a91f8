"""Rows out of a file, whatever it is: JSON Lines, a JSON array, one JSON object, Parquet, JSON in gzip, a folder.

What a file is shows in its first bytes, not in its name. Rows come one at a time, so memory does not grow with the
file. JSON is read strictly (see `strict`) and outside Arrow, whose type inference gives every call the arguments of
all others as nulls. A row that cannot be read comes as a DataError in its place and reading goes on where the format
allows: at the next line, at the next element of an array. Where it does not, one DataError ends the file.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.parquet import read_parquet
from sage.libs.finetune.agent.sources.strict import STRICT, parse
from sage.libs.finetune.agent.sources.values import LONGEST, READ_FAULTS, read_array, read_objects

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".jsonl.gz", ".ndjson.gz", ".json.gz")
"""The files of a folder that are read; a file given by its own name may have any."""
_TABLES = (".csv", ".tsv", ".xls", ".xlsx")
_BUFFER = 1 << 20
_FIRST = 1 << 16
"""How much of the first line is looked at before it is known that the file has lines."""
_OTHERS = {
    b"PK\x03\x04": "a ZIP archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"ARROW1": "an Arrow file",
}


def read_rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    r"""The rows of a file or folder, each with where it stands.

    A folder's rows are those of all files in it and below with a suffix of `SUFFIXES`, in the order of their names;
    hidden files, and links that lead out of the folder, are left out. Elements of an array that stand on one line are
    told apart as `file:1`, `file:1, value 2`. A Parquet file's rows are `file:row 1` and so on; a field that is null
    there, at any depth, is left out, since Arrow has no other way to say that a row does not have it.

    Args:
        path: JSON Lines, a JSON array, one JSON object or several printed over many lines; any of these in gzip;
            Parquet (needs the extra `parquet`); or a folder of them.

    Yields:
        `(where, row)`, where is `file:line` and the row a dict, or a DataError that says why there is none.

    Raises:
        DataError: for a file that is missing, cannot be opened, is empty or is something else altogether; for a
            folder without files.
        ConfigError: for a Parquet file when pyarrow is missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> _ = path.write_text('{"n": 1}\n{"n": ')
        >>> [row for _, row in read_rows(path)][0]
        {'n': 1}
        >>> [str(row).split(":", 1)[1] for _, row in read_rows(path)][1]
        '2: not JSON (Expecting value at character 6); expected one JSON object a line'
    """
    for file in _files(Path(path)):
        yield from _file_rows(str(file))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if path.suffix.lower() in _TABLES and path.exists():
            raise DataError(f"{path}: a table has no place for messages and calls; give {', '.join(SUFFIXES)}")
        yield path
        return
    root = path.resolve()
    found = False
    for folder, below, names in os.walk(path, onerror=_raise):  # links to folders are not followed
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            inside = file.resolve().is_relative_to(root)
            if inside and file.is_file():
                found = True
                yield file
            else:
                logger.warning(
                    "%s: left out, since it is %s", file, "no file" if inside else "a link out of the folder"
                )
    if not found:
        raise DataError(f"{path}: the folder holds no file to read; expected {', '.join(SUFFIXES)}")


def _raise(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _file_rows(path: str) -> Iterator[tuple[str, Any]]:
    try:
        with io.BufferedReader(io.FileIO(path), _BUFFER) as raw:
            start = raw.peek(8)
            if start.startswith(b"PAR1"):
                yield from _objects(read_parquet(path))
            elif start.startswith(b"\x1f\x8b"):
                yield from _objects(_json_rows(path, io.BufferedReader(_Unpacked(raw), _BUFFER)))
            else:
                yield from _objects(_json_rows(path, raw))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file or folder") from None
    except READ_FAULTS as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({why})") from None


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, piece by piece: reading more at once would lose what stands before a cut."""

    def __init__(self, raw: io.BufferedReader[Any]) -> None:
        self._pieces = gzip.GzipFile(fileobj=raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._pieces.read1(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def _objects(rows: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for where, row in rows:
        if not isinstance(row, dict | DataError):
            row = DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
        yield where, row


def _json_rows(path: str, handle: io.BufferedReader[Any]) -> Iterator[tuple[str, Any]]:
    number, first = _first_line(path, handle)
    if first.startswith(b"["):
        yield from read_array(path, first, handle.read1, number)
        return
    if not first.endswith(b"\n"):
        first += handle.readline(LONGEST + 1 - len(first))
    second = b""
    while first.endswith(b"\n") and not second.strip() and len(second) < _FIRST:
        line = handle.readline(_FIRST)
        if not line:
            break
        second += line
    if second and not second.endswith(b"\n"):
        second += handle.readline(LONGEST + 1)
    if _goes_on(first, second):
        yield from read_objects(path, first + second, handle.read1, number)
        return
    lines = chain(io.BytesIO(first + second), iter(partial(handle.readline, LONGEST + 1), b""))
    yield from _read_lines(path, lines, number)


def _first_line(path: str, handle: io.BufferedReader[Any]) -> tuple[int, bytes]:
    """The first line that is not blank (or its beginning) and its number, without a byte-order mark.

    Raises:
        DataError: when there is none, or the file is no text.
    """
    head = handle.peek(4096)[:4096]
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {what}; expected JSON (UTF-8, or that in gzip) or Parquet")
    if b"\0" in head:
        raise DataError(f"{path}: is no text (it holds zero bytes); expected JSON (UTF-8, or that in gzip) or Parquet")
    number = 1
    line = handle.readline(_FIRST).removeprefix(b"\xef\xbb\xbf")
    while line and not line.strip():
        number += line.endswith(b"\n")
        line = handle.readline(_FIRST)
    if not line:
        raise DataError(f"{path}: the file is empty, it holds no rows; expected one JSON object a line")
    return number, line.lstrip()


def _goes_on(first: bytes, second: bytes) -> bool:
    """Whether an object begins in the first line and goes on in the second, rather than one broken line in JSONL."""
    if not first.startswith(b"{") or not second.strip() or second.lstrip().startswith(b"{"):
        return False
    text = first.decode("utf-8", "replace").rstrip()
    try:
        STRICT.decode(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except (ValueError, RecursionError):
        return False
    return False


def _read_lines(path: str, lines: Iterator[bytes], number: int) -> Iterator[tuple[str, Any]]:
    number -= 1
    while True:
        number += 1
        where = f"{path}:{number}"
        try:
            line = next(lines, b"")
        except READ_FAULTS as error:
            yield where, DataError(f"{where}: the file breaks off here: {error}; what follows was not read")
            return
        if not line:
            return
        if len(line) > LONGEST:
            yield where, DataError(f"{where}: longer than {LONGEST >> 20} MiB; what follows was not read")
            return
        try:
            if text := line.decode("utf-8").strip(" \t\r\n"):
                yield where, parse(text)
        except UnicodeDecodeError as error:
            yield where, DataError(f"{where}: not JSON (no UTF-8 text: byte {line[error.start]:#04x} at {error.start})")
        except ValueError as error:
            yield where, DataError(f"{where}: not JSON ({error}); expected one JSON object a line")
