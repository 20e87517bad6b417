"""Reading files of lines: CSV and JSON lines, plain or gzip, UTF-8 with or without BOM.

Readers run in a thread and yield a `Line` for each row.

CSV: the first line names the columns; an empty cell is left out of its row; a
row with more or fewer cells than columns is a row with a complaint, because it
is usually half of one.

Gzip: a file that ends before its trailer is an error and not a shorter file.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec

from asyncclients.errors import InputError

LONGEST = 16 * 2**20
"""Bytes of one line or cell above which the file is not what it says it is."""
_SHOWN = 200
"""Characters that a complaint quotes."""
FAILED_SUFFIX = ".failed.jsonl"


class Line(msgspec.Struct, frozen=True, gc=False):
    """One row as read; *size* is about how many bytes it takes."""

    line: int
    data: Any
    complaint: str
    size: int


class Reader(Protocol):
    """An open file of rows."""

    columns: tuple[str, ...] | None
    lax: bool

    def __iter__(self) -> Iterator[Line]: ...
    def fraction(self) -> float | None:
        """The share of the file that was read."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class _File:
    """An open file, plain or gzip; what goes wrong with it is an `InputError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        try:
            self._raw = path.open("rb")
        except OSError as refused:
            raise InputError(
                f"cannot read {path}: {refused.strerror}",
                file=str(path),
                advice="Check the file's rights",
            ) from None
        magic = self._raw.peek(3)[:3]
        if magic[:2] in (b"\xff\xfe", b"\xfe\xff"):
            self.close()
            raise self.unusable("is UTF-16", "Save it as UTF-8")
        packed = magic[:2] == b"\x1f\x8b"
        self.stream = cast("BinaryIO", gzip.GzipFile(fileobj=self._raw)) if packed else self._raw

    def fraction(self) -> float | None:
        return self._raw.tell() / self._size if self._size else 1.0

    def close(self) -> None:
        self._raw.close()

    def unusable(self, what: str, advice: str, line: int | None = None) -> InputError:
        where = f", line {line}" if line else ""
        return InputError(
            f"{self.path}{where}: {what}", file=str(self.path), line=line, advice=advice
        )

    def damaged(self, failure: Exception, line: int) -> InputError:
        """The error for what gzip or the disk said."""
        if isinstance(failure, EOFError):
            return self.unusable("ends in the middle of its gzip stream", "Get it again", line)
        return self.unusable(f"cannot be read on: {failure}", "Get it again", line)


_DAMAGE = (EOFError, OSError, zlib.error)


class Cells(dict[str, str]):
    """The cells of a row by column. An empty one is not in it, and reads as an empty text."""

    __slots__ = ("columns",)

    columns: Sequence[str]

    def __missing__(self, column: str) -> str:
        if column in self.columns:
            return ""
        raise KeyError(column)


class CsvReader:
    """Rows of a CSV file as dicts of texts, empty cells left out."""

    lax = True

    def __init__(self, path: Path) -> None:
        self._file = file = _File(path)
        self.fraction, self.close = file.fraction, file.close
        # The limit is the process's; raising it does no harm to others.
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
        text = io.TextIOWrapper(
            file.stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        self._cells = csv.reader(text)
        try:
            self._names = self._header()
        except InputError:
            self.close()
            raise
        self.columns: tuple[str, ...] | None = self._names

    def _header(self) -> tuple[str, ...]:
        nothing: list[str] = []
        header = next(self._records(), nothing)
        if not any(header):
            raise self._file.unusable("is empty", "Its first line must name the columns")
        names = [name.strip() for name in header]
        complaint = _undecodable("".join(names))
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            complaint = f"names the column {twice[0]!r} twice"
        if complaint:
            raise self._file.unusable(complaint, "Correct its first line", 1)
        return tuple(names)

    def _records(self) -> Iterator[list[str]]:
        cells = self._cells
        while True:
            try:
                record = next(cells)
            except StopIteration:
                return
            except csv.Error as bad:
                raise self._file.unusable(
                    f"is not CSV from here on ({bad})",
                    "Look for a quote that is never closed",
                    cells.line_num,
                ) from None
            except _DAMAGE as failure:
                raise self._file.damaged(failure, cells.line_num) from None
            if record:
                yield record

    def __iter__(self) -> Iterator[Line]:
        cells, columns = self._cells, self._names
        all_named = all(columns)
        for record in self._records():
            text = "".join(record)
            complaint = "" if text.isascii() else _undecodable(text)
            if len(record) != len(columns):
                complaint = f"has {len(record)} cells where the header has {len(columns)}"
            if complaint:
                record = [_printable(cell) for cell in record]
            pairs = zip(columns, record, strict=False)
            if all_named and all(record):
                data = Cells(pairs)
            else:
                data = Cells((name, cell) for name, cell in pairs if cell and name)
            data.columns = columns
            yield Line(cells.line_num - text.count("\n"), data, complaint, len(text))


def _undecodable(text: str) -> str:
    """The complaint about the first byte in *text* that is not UTF-8, if there is one."""
    try:
        text.encode()
    except UnicodeEncodeError as bad:
        byte = ord(text[bad.start]) - 0xDC00
        return f"is not UTF-8 (byte 0x{byte:02X}); save the file as UTF-8, or use `iconv -t utf-8`"
    return ""


def _printable(cell: str) -> str:
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class JsonReader:
    """Rows of a file with one JSON object a line.

    A file of failed rows, as a push writes it, gives the rows inside.
    """

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        self._file = _File(path)
        self.fraction, self.close = self._file.fraction, self._file.close
        self.lax = path.name.removesuffix(".gz").endswith(FAILED_SUFFIX)
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def __iter__(self) -> Iterator[Line]:
        for line, text in enumerate(self._lines(), 1):
            stripped = text.removeprefix(b"\xef\xbb\xbf").strip() if line == 1 else text.strip()
            if stripped:
                data, complaint = self._row(stripped)
                yield Line(line, data, complaint, len(stripped))

    def _lines(self) -> Iterator[bytes]:
        for line in range(1, 2**63):
            try:
                text = self._file.stream.readline(LONGEST)
            except _DAMAGE as failure:
                raise self._file.damaged(failure, line) from None
            if len(text) >= LONGEST:
                raise self._file.unusable(
                    f"a line is longer than {LONGEST // 2**20} MB",
                    "Put each object on a line of its own",
                    line,
                )
            if not text:
                return
            yield text

    def _row(self, text: bytes) -> tuple[Any, str]:
        try:
            data = self._decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
            reason = "is not UTF-8" if isinstance(bad, UnicodeDecodeError) else str(bad)
            return text[:_SHOWN].decode("utf-8", "replace"), f"is not a JSON object ({reason})"
        if self.lax:
            return _row_inside(data)
        return data, ""


def _row_inside(record: dict[str, Any]) -> tuple[Any, str]:
    row = record.get("row")
    if isinstance(row, dict) and "reason" in record:
        return cast("dict[str, Any]", row), ""
    if isinstance(row, str):
        return row, "could not be read the first time either; correct it in the file it came from"
    return record, ""
