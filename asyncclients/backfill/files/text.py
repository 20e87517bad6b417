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
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from shlex import quote
from shutil import which
from typing import Any, BinaryIO, cast

import msgspec

from asyncclients.errors import InputError

MAX_LENGTH = 16 * 2**20
"""Maximum bytes of one line or cell. A longer one means that the file has another format."""
READ_ERRORS = (EOFError, OSError, zlib.error)
"""Errors raised while reading a damaged file."""
EXCEL = "WINDOWS-1252"
"""The usual encoding of a text file that is not UTF-8."""
_HEAD_SIZE = 4096
"""Bytes at the start of a file that its format is recognised by."""
_UNPACK = "Unpack it; gzip is the only compression that is read directly"
_FORMATS = (
    (rb"PK\x03\x04", "is an Excel workbook or a ZIP archive", "Save the sheet as CSV UTF-8"),
    (rb"\xd0\xcf\x11\xe0", "is an Excel workbook", "Save the sheet as CSV UTF-8"),
    (rb"PAR1", "is a Parquet file", "Name it .parquet"),
    (rb"BZh\d1AY&SY", "is compressed with bzip2", _UNPACK),
    (rb"\xfd7zXZ\x00", "is compressed with xz", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "is compressed with zstd", _UNPACK),
    (rb"\x1f\x8b", "is compressed twice", _UNPACK),
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


class ParsedLine(msgspec.Struct, frozen=True, gc=False):
    """One row as read from a file.

    Attributes:
        line: line or row number in the file, from 1.
        data: the values; None if there are none.
        error: why the row cannot be used, else empty.
        size: approximate bytes of the row.
    """

    line: int
    data: Any
    error: str
    size: int


class ChangeDetector:
    """Detects that *file*, open at *path*, is written to while it is read."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._initial = os.fstat(file.fileno())

    def check(self) -> None:
        """Raise `InputError` if the file was written to since it was opened."""
        now, initial = os.fstat(self._file.fileno()), self._initial
        if not stat.S_ISREG(now.st_mode):
            return
        if (now.st_size, now.st_mtime_ns) != (initial.st_size, initial.st_mtime_ns):
            raise InputError(
                f"{self._path} was changed while it was read",
                file=str(self._path),
                advice="Run again when it is complete; rows that were sent are not sent again",
            )


class EncodingCheck:
    """Finds out that *file* is not UTF-8, from its lines that are not ASCII.

    A file with some lines in UTF-8 is UTF-8, and its other lines are damaged.
    """

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._is_utf8 = file.head.startswith(b"\xef\xbb\xbf")
        self._line, self._byte = 0, 0

    def add(self, line: int, text: bytes) -> None:
        """Note the *text* of *line*, which is not ASCII."""
        if self._is_utf8:
            return
        try:
            text.decode()
        except UnicodeDecodeError as bad:
            if not self._line:
                self._line, self._byte = line, text[bad.start]
        else:
            self._is_utf8 = True

    def error(self) -> InputError | None:
        """Return the error of the file, as far as it was read; None if there is none."""
        if self._is_utf8 or not self._line:
            return None
        return self._file.input_error(
            f"is not UTF-8 (byte 0x{self._byte:02X}), and neither is any other line",
            as_utf8(self._file.path, EXCEL),
            self._line,
        )


class TextFile:
    """An open text file, plain or gzip.

    Attributes:
        stream: the unpacked bytes.
        head: the first of them, at most 4,096.

    Raises:
        InputError: the file cannot be read, or has another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._raw = path.open("rb")
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror}",
                file=str(path),
                advice="Check the file's permissions",
            ) from None
        self.check_unchanged = ChangeDetector(path, self._raw).check
        is_gzip = self._raw.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=self._raw) if is_gzip else self._raw
        self.stream = cast("BinaryIO", stream)
        try:
            self.head = stream.peek(_HEAD_SIZE)[:_HEAD_SIZE]
            self._check_format()
        except InputError:
            self.close()
            raise
        except READ_ERRORS as error:
            self.close()
            raise self.read_error(error, 1) from None

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

    def too_long(self, line: int) -> InputError:
        """Return the error for a *line* of `MAX_LENGTH` bytes or more."""
        return self.input_error(
            f"is longer than {MAX_LENGTH // 2**20} MB", "Put each row on a line of its own", line
        )

    def read_error(self, error: Exception, line: int) -> InputError:
        """Return the error for one of `READ_ERRORS`."""
        if isinstance(error, EOFError):
            problem = "ends in the middle of its gzip stream"
        else:
            problem = f"cannot be read further: {error}"
        return self.input_error(problem, "Download or copy it again", line)


# --- Lines ----------------------------------------------------------------------------------------


_AHEAD = 2**16
"""Characters that are read ahead to be compared, and at most one line more."""
_SIZE = 8
"""Bytes of a digest."""
_WINDOW = 64
"""Known lines among which an unexpected line is searched."""


class Lines:
    """The lines of *text*, which is the text of *file* read as *codec*.

    Attributes:
        encoding: finds out whether they are UTF-8.
        number: of the last line that was read or skipped, from 1.
        last: the last line that was read.
        is_at_end: all lines have been read.
    """

    def __init__(self, file: TextFile, text: io.TextIOWrapper, codec: str) -> None:
        self._file, self._text = file, text  # the wrapper closes the file when it is collected
        self._codec = codec
        self.encoding = EncodingCheck(file)
        self._ahead: list[str] = []
        self._digests = b""
        self._place = 0
        self.number, self.last, self.is_at_end = 0, "", False

    def __iter__(self) -> Iterator[str]:
        """Yield the lines that are not skipped, with their ends.

        Raises:
            InputError: a line is too long.
            OSError, EOFError, zlib.error: the file cannot be read further.
        """
        readline = self._text.readline
        while True:
            if self._place < len(self._ahead):
                line = self._ahead[self._place]
                self._place += 1
            else:
                line = readline(MAX_LENGTH)
            if not line:
                break
            self.number += 1
            self._check_length(line, self.number)
            self.last = line
            if not line.isascii():
                self.encoding.add(self.number, self._bytes(line))
            yield line
        self.is_at_end = True

    def _check_length(self, line: str, number: int) -> None:
        if len(line) >= MAX_LENGTH:
            raise self._file.too_long(number)

    def last_digest(self) -> int:
        """Return the digest of the last line, as a number of an array.

        It is 0 for a line with a byte order mark, which is valid in the first line only.
        """
        if self._bytes(self.last).startswith(BOM_UTF8):
            return 0
        return array("q", self._digest(self.last))[0]

    def _bytes(self, line: str) -> bytes:
        return line.encode(self._codec, "surrogateescape")

    def _digest(self, line: str) -> bytes:
        return blake2b(self._bytes(line), digest_size=_SIZE).digest()

    def next_digests(self) -> bytes:
        """Return the digests of some of the next lines, one after the other; none at the end.

        Raises:
            InputError: the file cannot be read further.
        """
        if self._place == len(self._ahead):
            try:
                self._read_ahead()
            except READ_ERRORS as error:
                raise self._file.read_error(error, self.number + 1) from None
        return self._digests[self._place * _SIZE :]

    def _read_ahead(self) -> None:
        lines: list[str] = []
        readline, size = self._text.readline, 0
        while size < _AHEAD and (line := readline(MAX_LENGTH)):
            lines.append(line)
            size += len(line)
            self._check_length(line, self.number + len(lines))
        self._ahead, self._place = lines, 0
        self._digests = b"".join([self._digest(line) for line in lines])

    def skip(self, count: int) -> None:
        """Skip *count* of the lines whose digests were returned last."""
        skipped = self._ahead[self._place : self._place + count]
        if not "".join(skipped).isascii():
            for number, line in enumerate(skipped, self.number + 1):
                if not line.isascii():
                    self.encoding.add(number, self._bytes(line))
        self._place += count
        self.number += count


class KnownLines:
    """Digests of lines that are known, in the order of the file in which they were.

    Each is recognised once at most, and none that is before one that was recognised. Lines that
    have moved count as new.
    """

    def __init__(self, digests: array[int] | None = None) -> None:
        self._digests = b"" if digests is None else digests.tobytes()
        self._next = self._unexpected = 0

    def skip(self, lines: Lines) -> range:
        """Skip the next of *lines* as far as they are known; return their places in `digests`."""
        if self._next * _SIZE >= len(self._digests) or not (found := lines.next_digests()):
            return range(0)
        first = self._find(found[:_SIZE])
        if first < 0:
            self._unexpected += 1
            return range(0)
        count = _equal(found, self._digests[first * _SIZE : first * _SIZE + len(found)])
        lines.skip(count)
        self._next, self._unexpected = first + count, 0
        return range(first, self._next)

    def _find(self, digest: bytes) -> int:
        """Return the place of *digest* among the next known lines, -1 if it is none of them.

        After 2, 4, 8, ... unexpected lines it looks as many times further ahead, since that many
        known lines may have been removed.
        """
        count = self._unexpected
        window = _WINDOW * (count if count & (count - 1) == 0 else 1)
        start, end = self._next * _SIZE, (self._next + max(window, _WINDOW)) * _SIZE
        while (place := self._digests.find(digest, start, end)) % _SIZE and place >= 0:
            start = place + 1  # across two digests
        return place // _SIZE


def _equal(one: bytes, other: bytes) -> int:
    """Return how many digests at the beginning of *one* and *other* are equal."""
    if one == other:
        return len(one) // _SIZE
    pairs = zip(array("q", one), array("q", other), strict=False)
    count = 0
    for mine, yours in pairs:
        if mine != yours:
            break
        count += 1
    return count
