"""Text files, plain or gzip: recognise those in another format, and read their lines.

CSV and JSON lines are read as UTF-8 with or without a byte order mark. Readers run in a thread.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
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
        number: of the last line that was read, from 1.
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
        """Yield the lines, with their ends."""
        while line := self._readline():
            self.number += 1
            self.size += len(line)
            self.last = line
            if not (self._is_utf8 or line.isascii()):
                self._check_utf8(line)
            yield line
        self.is_at_end = True

    def _readline(self) -> str:
        try:
            line = self._text.readline(MAX_LENGTH)
        except _READ_ERRORS as error:
            raise self._read_error(error) from None
        if len(line) >= MAX_LENGTH:
            problem = f"is longer than {MAX_LENGTH // 2**20} MB"
            raise self.input_error(problem, "Put each row on a line of its own", self.number + 1)
        return line

    def _check_utf8(self, line: str) -> None:
        text = line.encode(self._codec, "surrogateescape")
        try:
            text.decode()
        except UnicodeDecodeError as bad:
            self._not_utf8 = self._not_utf8 or (self.number, text[bad.start])
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
