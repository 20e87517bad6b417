"""Text files, plain or gzip: recognise those in another format, and read their lines.

CSV and JSON lines are read as UTF-8 with or without a byte order mark. Readers run in a thread.

A reader takes one line at a time. Between two rows it can skip lines that an earlier run has read:
a line that was one whole row, and follows the end of a row, is the same row again.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import zlib
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from itertools import islice, takewhile
from pathlib import Path
from shlex import quote
from shutil import which
from typing import Any, BinaryIO, cast

from asyncclients.errors import InputError

MAX_LENGTH = 16 * 2**20
"""Maximum bytes of one line or cell. A longer one means that the file has another format."""
_READ_ERRORS = (EOFError, OSError, zlib.error)
"""Errors raised while reading a damaged file."""
EXCEL = "WINDOWS-1252"
"""The usual encoding of a text file that is not UTF-8."""
_HEAD_SIZE = 4096
"""Bytes at the start of a file that its format is recognised by."""
_FORMATS = (
    (rb"PK\x03\x04", "is an Excel workbook or a ZIP archive", "Save the sheet as CSV UTF-8"),
    (rb"\xd0\xcf\x11\xe0", "is an Excel workbook", "Save the sheet as CSV UTF-8"),
    (rb"PAR1", "is a Parquet file", "Name it .parquet"),
    (
        rb"BZh\d1AY&SY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|\x1f\x8b",
        "is compressed with bzip2, xz or zstd, or compressed twice",
        "Unpack it; gzip is the only compression that is read directly",
    ),
    (rb"SQLite format 3\x00", "is an SQLite database", "Export the table as CSV"),
    (rb"%PDF-", "is a PDF document", "Export the table as CSV"),
    (
        rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml)",
        "is a web page or XML",
        "Download the file itself; its address may have led to a login page",
    ),
)
"""(pattern of the first bytes, problem, advice) of formats that are neither CSV nor JSON lines."""
_ENCODINGS = (
    (rb"\xff\xfe|\xfe\xff", "is UTF-16", "UTF-16"),
    (rb"\x00", "is UTF-16 without a byte order mark, or not text", "UTF-16BE"),
    (rb"[^\n]*\x00", "is UTF-16 without a byte order mark, or not text", "UTF-16LE"),
)
"""(pattern of the first bytes, problem, name of the encoding for iconv), after the formats."""
_AHEAD = 2**16
"""Characters that are read ahead to be compared, and at most one line more."""
_SIZE = 8
"""Bytes of a digest."""
_SEARCHED_LINES = 4096
"""Known lines among which an unexpected line is searched. If more were removed, the rest is read."""


@lru_cache(maxsize=16)
def as_utf8(path: Path, encoding: str) -> str:
    """Return the advice for the file at *path*, whose text is in *encoding*.

    With a command, if this machine has iconv, which Windows lacks.
    """
    if which("iconv") is None:
        return f"Save the file as UTF-8; its text is probably {encoding}"
    source, plain = quote(str(path)), path.with_suffix("") if path.suffix == ".gz" else path
    target = quote(str(plain.with_name(f"utf8-{plain.name}")))
    command = f"iconv -f {encoding} -t UTF-8 {source} > {target}"
    if plain is not path:
        command = f"gzip -dc {source} | iconv -f {encoding} -t UTF-8 > {target}"
    return f"Save the file as UTF-8, or convert it: {command}"


ParsedRow = tuple[int, Any, str]
"""The first line of a row in its file, its values (None if there are none), and its error or ""."""


def change_check(path: Path, file: BinaryIO) -> Callable[[], None]:
    """Return a function that raises `InputError` if *file*, open at *path*, was written to since."""
    before = os.fstat(file.fileno())

    def check() -> None:
        now = os.fstat(file.fileno())
        is_same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        if stat.S_ISREG(now.st_mode) and not is_same:
            raise InputError(
                f"{path} was changed while it was read",
                file=str(path),
                advice="Run again when it is complete; rows that were sent are not sent again",
            )

    return check


class TextReader:
    """Reads the lines of *file*, open at *path*: plain or gzip, decoded with *codec*.

    Attributes:
        head: the first bytes, unpacked, at most 4,096.
        number: of the last line that was read or skipped, from 1.
        last: the last line that was read.
        is_at_end: all lines have been read.
        size: number of characters of the lines that were read.

    Raises:
        InputError: the file cannot be read, or has another format.
    """

    def __init__(
        self, path: Path, file: io.BufferedReader, codec: str, newline: str | None
    ) -> None:
        self.path, self._raw, self._codec = path, file, codec.removesuffix("-sig")
        self.check_unchanged = change_check(path, file)
        self.number, self.size, self.last, self.is_at_end = 0, 0, "", False
        self._ahead: list[str] = []
        self._digests = b""
        self._place = 0
        self._known, self._end_of_known = b"", 0
        try:
            is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
            stream = cast("io.BufferedReader", gzip.GzipFile(fileobj=file) if is_gzip else file)
            self.head = stream.peek(_HEAD_SIZE)[:_HEAD_SIZE]
        except _READ_ERRORS as error:
            raise self._read_error(error) from None
        self._check_format()
        self._text = io.TextIOWrapper(stream, codec, "surrogateescape", newline)
        self._is_utf8 = self.head.startswith(BOM_UTF8)
        self._not_utf8: tuple[int, int] | None = None  # line and byte

    def _check_format(self) -> None:
        for pattern, problem, advice in _FORMATS:
            if re.match(pattern, self.head):
                raise self.input_error(problem, advice)
        for pattern, problem, encoding in _ENCODINGS:
            if re.match(pattern, self.head):
                raise self.input_error(problem, as_utf8(self.path, encoding))

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def input_error(self, problem: str, advice: str, line: int | None = None) -> InputError:
        """Return the error for *problem* of this file."""
        where = f", line {line}" if line else ""
        return InputError(
            f"{self.path}{where}: {problem}", file=str(self.path), line=line, advice=advice
        )

    def _read_error(self, error: Exception) -> InputError:
        problem = f"cannot be read further: {error}"
        if isinstance(error, EOFError):
            problem = "ends in the middle of its gzip stream"
        return self.input_error(problem, "Download or copy it again", self.number + 1)

    # --- Lines ----------------------------------------------------------------------------

    def records(self) -> Iterator[ParsedRow]:
        """Yield the rows whose values are not parsed yet."""
        raise NotImplementedError

    def count(self, most: int) -> int:
        """Read at most *most* further rows; return their number, less than *most* at the end."""
        return sum(1 for _ in islice(self.records(), most))

    def read_lines(self) -> Iterator[str]:
        """Yield the lines that are not skipped, with their ends."""
        while True:
            if self._place < len(self._ahead):
                line = self._ahead[self._place]
                self._place += 1
            else:
                line = self._readline(self.number + 1)
            if not line:
                break
            self.number += 1
            self.size += len(line)
            self.last = line
            if not line.isascii():
                self._check_utf8(self.number, line)
            yield line
        self.is_at_end = True

    def _readline(self, number: int) -> str:
        try:
            line = self._text.readline(MAX_LENGTH)
        except _READ_ERRORS as error:
            raise self._read_error(error) from None
        if len(line) >= MAX_LENGTH:
            problem = f"is longer than {MAX_LENGTH // 2**20} MB"
            raise self.input_error(problem, "Put each row on a line of its own", number)
        return line

    def _bytes(self, line: str) -> bytes:
        return line.encode(self._codec, "surrogateescape")

    def _check_utf8(self, number: int, line: str) -> None:
        if not self._is_utf8:
            text = self._bytes(line)
            try:
                text.decode()
            except UnicodeDecodeError as bad:
                self._not_utf8 = self._not_utf8 or (number, text[bad.start])
            else:
                self._is_utf8 = True

    def encoding_error(self) -> InputError | None:
        """Return the error of a file that is not UTF-8 in any of its lines that are not ASCII.

        A file with some lines in UTF-8 is UTF-8, and its other lines are damaged.
        """
        if self._is_utf8 or self._not_utf8 is None:
            return None
        line, byte = self._not_utf8
        problem = f"is not UTF-8 (byte 0x{byte:02X}), and neither is any other line"
        return self.input_error(problem, as_utf8(self.path, EXCEL), line)

    # --- Known lines ----------------------------------------------------------------------

    def last_digest(self) -> int:
        """Return the digest of the last line, as a number of an array.

        It is 0 for a line with a byte order mark, which is valid in the first line only.
        """
        if self._bytes(self.last).startswith(BOM_UTF8):
            return 0
        return array("q", self._digest(self.last))[0]

    def _digest(self, line: str) -> bytes:
        return blake2b(self._bytes(line), digest_size=_SIZE).digest()

    def expect(self, digests: array[int]) -> None:
        """Recognise the lines with *digests*, those of an earlier file, in the order in which it had them.

        Each is recognised once at most, and none that is before one that was recognised. Lines
        that have moved count as new.
        """
        self._known = digests.tobytes()

    def skip_known(self) -> range:
        """Skip the next lines as far as they are known; return their places in the earlier file."""
        start = self._end_of_known
        if start >= len(self._known) or not (found := self._next_digests()):
            return range(0)
        end = start + _SEARCHED_LINES * _SIZE
        while (place := self._known.find(found[:_SIZE], start, end)) % _SIZE and place >= 0:
            start = place + 1  # across two digests
        if place < 0:
            return range(0)
        count = _equal(found, self._known[place : place + len(found)])
        for line in self._ahead[self._place : self._place + count]:
            self.number += 1
            if not line.isascii():
                self._check_utf8(self.number, line)
        self._place += count
        self._end_of_known = place + count * _SIZE
        return range(place // _SIZE, self._end_of_known // _SIZE)

    def _next_digests(self) -> bytes:
        """Return the digests of some of the next lines, one after the other; none at the end."""
        if self._place == len(self._ahead):
            lines: list[str] = []
            size = 0
            while size < _AHEAD and (line := self._readline(self.number + len(lines) + 1)):
                lines.append(line)
                size += len(line)
            self._ahead, self._place = lines, 0
            self._digests = b"".join([self._digest(line) for line in lines])
        return self._digests[self._place * _SIZE :]


def _equal(one: bytes, other: bytes) -> int:
    """Return how many digests at the beginning of *one* and *other* are equal."""
    if one == other:
        return len(one) // _SIZE
    pairs = zip(array("q", one), array("q", other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
