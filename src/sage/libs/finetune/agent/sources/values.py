"""JSON values that span lines: the elements of an array, or objects printed over several lines, one after another.

The text comes in chunks into a buffer that holds little more than the value being read. A value that the buffer cuts
off is read again once the buffer has doubled, so a long value costs twice its length, not its square.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from sage.libs.finetune.agent.errors import DataError
from sage.libs.finetune.agent.sources.strict import LENIENT, STRICT, check_depth, reason

LONGEST = 64 << 20
"""The longest row read, in bytes or characters; a file without line ends is not held in memory."""
READ_FAULTS = (OSError, EOFError, zlib.error)
"""What reading a file raises; the last two come from a gzip file that is cut off or damaged."""
_CHUNK = 1 << 20
_CUT = 16
"""A fault this near to the buffer's end may come from the cut: the longest word of JSON, `-Infinity`, has 9 letters."""
_BLANKS = re.compile(r"[ \t\n\r]*")


def read_array(path: str, start: bytes, read: Callable[[int], bytes], line: int) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON array, each with the line it starts on; a broken array ends with one DataError.

    Args:
        path: Name of the file, for `where`.
        start: The text read so far, from the bracket on.
        read: Gives up to so many further bytes, none at the end of the file.
        line: The line that `start` begins on.
    """
    values = _Values(path, start, read, line)
    return values.guarded(values.elements())


def read_objects(path: str, start: bytes, read: Callable[[int], bytes], line: int) -> Iterator[tuple[str, Any]]:
    """One JSON object, or several with nothing between them, printed over as many lines as they like."""
    values = _Values(path, start, read, line)
    return values.guarded(values.objects())


class _Broken(Exception):
    """The text cannot be read on from here."""


class _Values:
    def __init__(self, path: str, start: bytes, read: Callable[[int], bytes], line: int) -> None:
        self.path = path
        self.text, self.at = "", 0
        self.chunks = _decoded(start, read)
        self.fault: _Broken | None = None  # ends the text, once it is used up
        self.line, self.line_at = line, 0  # the line of one character, from which others are counted
        self.counted, self.last_line = 0, 0

    def guarded(self, rows: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """`rows`, and in place of a fault that ends the reading one DataError with the line it is on."""
        try:
            yield from rows
        except _Broken as error:
            where = f"{self.path}:{self.line_of(self.at)}"
            yield where, DataError(f"{where}: not JSON ({error}); what follows was not read")

    def elements(self) -> Iterator[tuple[str, Any]]:
        self.next_character()
        self.at += 1  # the opening bracket
        more = self.next_character() != "]"
        while more:
            yield self.value()
            mark = self.next_character()
            if mark not in (",", "]"):
                raise _Broken(f"expected ',' or ']' after an element, found {self.found()}")
            more = mark == ","
            self.at += more
        self.at += 1
        if self.next_character():
            raise _Broken(f"expected nothing after the array, found {self.found()}")

    def objects(self) -> Iterator[tuple[str, Any]]:
        while mark := self.next_character():
            if mark != "{":
                raise _Broken(f"expected an object, found {self.found()}")
            yield self.value()

    def value(self) -> tuple[str, Any]:
        """The next value, or a DataError in its place if it is refused but its end can be found."""
        self.next_character()
        while True:
            try:
                return self.parsed()
            except (json.JSONDecodeError, RecursionError) as error:
                at = error.pos if isinstance(error, json.JSONDecodeError) else self.at
                cut = "Unterminated string" in str(error) or at >= len(self.text) - _CUT
                if cut and self.grow():
                    continue
                self.at = min(at, len(self.text))
                if "Unterminated" in str(error) or self.at >= len(self.text.rstrip()):
                    raise _Broken("the file breaks off here") from None
                detail = error.msg if isinstance(error, json.JSONDecodeError) else reason(error)
                raise _Broken(f"{detail}, found {self.found()}") from None
            except ValueError as error:  # a number of thousands of digits
                raise _Broken(reason(error)) from None

    def parsed(self) -> tuple[str, Any]:
        start, value = self.at, None
        try:
            value, end = STRICT.raw_decode(self.text, start)
            if end == len(self.text) and self.text[-1] not in '}]"' and self.grow():
                return self.parsed()  # a number may go on in the next chunk
            check_depth(value, self.text.count("[", start, end) + self.text.count("{", start, end))
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            value, (_, end) = error, LENIENT.raw_decode(self.text, start)
        line = self.line_of(start)
        self.counted = self.counted + 1 if line == self.last_line else 1
        self.last_line = line
        where = f"{self.path}:{line}" if self.counted == 1 else f"{self.path}:{line}, value {self.counted}"
        self.at = end
        if isinstance(value, ValueError):
            value = DataError(f"{where}: not JSON ({value}); expected one JSON object")
        return where, value

    def grow(self) -> bool:
        """Read until what is left of the text has doubled; False at the end of the file."""
        left = len(self.text) - self.at
        if left > LONGEST:
            raise _Broken(f"a row longer than {LONGEST >> 20} MiB")
        self.line_of(self.at)
        parts = [self.text[self.at :]]
        added = 0
        try:
            while added <= left and (chunk := next(self.chunks, "")):
                parts.append(chunk)
                added += len(chunk)
        except _Broken as fault:
            self.fault = fault
        self.text, self.at, self.line_at = "".join(parts), 0, 0
        if self.fault and not added:
            self.at = len(self.text)
            raise self.fault
        return added > 0

    def next_character(self) -> str:
        """The next character that is no blank (it is not taken), empty at the end."""
        while True:
            self.at = _BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]  # matches nothing too
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def found(self) -> str:
        near = self.text[self.at : self.at + 20].split("\n")[0]
        return repr(near) if near else "the end of the line" if self.at < len(self.text) else "the end of the file"

    def line_of(self, at: int) -> int:
        """The line of a character no earlier than the one asked for before."""
        self.line += self.text.count("\n", self.line_at, at)
        self.line_at = max(self.line_at, at)
        return self.line


def _decoded(start: bytes, read: Callable[[int], bytes]) -> Iterator[str]:
    """The text in chunks; raises `_Broken` after the last whole character before bytes that are no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk, last = start, False
    while not last:
        try:
            text = decoder.decode(chunk)
            if text:
                yield text
            try:
                chunk = read(_CHUNK)
            except READ_FAULTS as error:
                raise _Broken(f"the file breaks off here: {error}") from None
            if not chunk:
                last = True
                if text := decoder.decode(b"", final=True):
                    yield text
        except UnicodeDecodeError as error:
            yield error.object[: error.start].decode("utf-8")
            raise _Broken(f"no UTF-8 text: byte {error.object[error.start]:#04x}") from None
