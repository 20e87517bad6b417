"""Reading files of lines: CSV and JSON lines, plain or gzip, UTF-8 with or without BOM.

Readers run in a thread and yield a `Line` for each row.

| found in a file                                          | becomes                          |
|----------------------------------------------------------|----------------------------------|
| another format, encoding or separator                    | `InputError` when it is opened   |
| CSV: a quote that is not closed, or closed in a later row | `InputError` with both lines     |
| CSV: a quote inside a quoted cell, in one line           | a row with a complaint           |
| CSV: more or fewer cells than columns                    | a row with a complaint, because it is usually half of one |
| CSV: empty cells beyond the last column                  | nothing                          |
| CSV: an empty cell                                       | left out of its row              |
| CSV: no value in any cell                                | a row without data: it is skipped |
| JSON lines: a line that is not one object                | a row with a complaint           |
| JSON lines: a name twice in one object                   | a row with a complaint           |
| bytes that are not UTF-8, NUL bytes                      | a row with a complaint           |
| an empty line                                            | no row                           |
| gzip that ends before its trailer; a file that changes while it is read | `InputError`      |
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec

from asyncclients.errors import InputError

LONGEST = 16 * 2**20
"""Bytes of one line or cell above which the file is not what it says it is."""
_SHOWN = 200
"""Characters that a complaint quotes."""
FAILED_SUFFIX = ".failed.jsonl"
_EVIDENCE = 6
"""Separators in lines that look like rows, from which on one quoted cell is several rows."""
_MANY_LINES = 100
"""Lines of one cell that is the only one of its row, from which on it is several rows."""
_NAMES = re.compile(rb'"[ \t\r]*:').findall
"""Finds the end of each name of an object, and at most some more in texts."""
_RUN = re.compile(r"\d+|[^\W\d_]+")
_BREAK = re.compile(r"\r\n|\r|\n")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "pipes"}
_AS_UTF8 = "Save it as UTF-8, or convert it, as with `iconv -f UTF-16 -t UTF-8`"
_UNPACK = "Unpack it; only gzip is read as it is"
_FORMATS = (
    (rb"\xff\xfe|\xfe\xff", "is UTF-16", _AS_UTF8),
    (rb"PK\x03\x04", "is an Excel workbook or a ZIP archive", "Save the sheet as CSV UTF-8"),
    (rb"\xd0\xcf\x11\xe0", "is an Excel workbook", "Save the sheet as CSV UTF-8"),
    (rb"PAR1", "is a Parquet file", "Name it .parquet"),
    (rb"BZh\d1AY&SY", "is compressed with bzip2", _UNPACK),
    (rb"\xfd7zXZ\x00", "is compressed with xz", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "is compressed with zstd", _UNPACK),
    (rb"\x1f\x8b", "is compressed twice", _UNPACK),
    (rb"SQLite format 3\x00", "is an SQLite database", "Export the table as CSV"),
    (rb"%PDF-", "is a PDF document", "Export the table as CSV"),
    (rb"[^\n]*\x00", "is UTF-16 without a byte order mark, or not text", _AS_UTF8),
    (
        rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml)",
        "is a web page or XML",
        "Get the file itself; its address may have led to a login page",
    ),
)
"""How files begin that are neither CSV nor JSON lines, what they are, and what to do."""
_log = logging.getLogger(__name__)


class ParsedLine(msgspec.Struct, frozen=True, gc=False):
    """One row as read; *size* is about how many bytes it takes."""

    line: int
    data: Any
    error: str
    size: int


class Reader(Protocol):
    """An open file of rows."""

    columns: tuple[str, ...] | None
    coerce: bool

    def __iter__(self) -> Iterator[ParsedLine]: ...
    def fraction(self) -> float | None:
        """The share of the file that was read."""
        ...

    def check_unchanged(self) -> None:
        """Raise `InputError` if the file was written to since it was opened."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


_DAMAGE = (EOFError, OSError, zlib.error)
_HEAD = 4096
"""Bytes at the start of a file by which it is recognised."""


class Unchanged:
    """Notices that *file*, open at *path*, is written to while it is read."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._found = os.fstat(file.fileno())

    def check(self) -> None:
        """Raise `InputError` if the file was written to since it was opened."""
        now, found = os.fstat(self._file.fileno()), self._found
        if not stat.S_ISREG(now.st_mode):
            return
        if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise InputError(
                f"{self._path} was changed while it was read",
                file=str(self._path),
                advice="Run again when it is complete; rows that were sent are not sent again",
            )


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
        self.check_unchanged = Unchanged(path, self._raw).check
        packed = self._raw.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=self._raw) if packed else self._raw
        self.stream = cast("BinaryIO", stream)
        try:
            self.head = stream.peek(_HEAD)[:_HEAD]
            self._check_format()
        except InputError:
            self.close()
            raise
        except _DAMAGE as failure:
            self.close()
            raise self.damaged(failure, 1) from None

    def _check_format(self) -> None:
        for pattern, what, advice in _FORMATS:
            if re.match(pattern, self.head):
                raise self.unusable(what, advice)

    def fraction(self) -> float | None:
        return self._raw.tell() / self._size if self._size else 1.0

    def close(self) -> None:
        self._raw.close()

    def unusable(self, what: str, advice: str, line: int | None = None) -> InputError:
        where = f", line {line}" if line else ""
        return InputError(
            f"{self.path}{where}: {what}", file=str(self.path), line=line, advice=advice
        )

    def too_long(self, line: int) -> InputError:
        return self.unusable(
            f"is longer than {LONGEST // 2**20} MB", "Put each row on a line of its own", line
        )

    def damaged(self, failure: Exception, line: int) -> InputError:
        """The error for what gzip or the disk said."""
        if isinstance(failure, EOFError):
            return self.unusable("ends in the middle of its gzip stream", "Get it again", line)
        return self.unusable(f"cannot be read on: {failure}", "Get it again", line)


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

    coerce = True

    def __init__(self, path: Path) -> None:
        self._file = file = _File(path)
        self.fraction, self.close = file.fraction, file.close
        self.check_unchanged = file.check_unchanged
        # The limit is the process's; raising it does no harm to others.
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
        text = io.TextIOWrapper(
            file.stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        self._text = text  # closes the file when it goes
        self._cells = csv.reader(self._noted(text), strict=True)
        self._raw_line, self._ended = "", False
        self._ends_in_crlf = file.head.partition(b"\n")[0].endswith(b"\r")
        self._unnamed_told = False
        try:
            self._names = self._header()
        except InputError:
            self.close()
            raise
        self.columns: tuple[str, ...] | None = self._names

    def _repeats_header(self, record: list[str]) -> bool:
        names = [cell.removeprefix("\ufeff").strip() for cell in record]
        return len(names) > 1 and names == [*self._names]

    def _noted(self, text: io.TextIOWrapper) -> Iterator[str]:
        """The lines of *text*; the last one is kept, to be looked at after an error."""
        for line in iter(partial(text.readline, LONGEST), ""):
            if len(line) >= LONGEST:
                raise self._file.too_long(self._cells.line_num + 1)
            self._raw_line = line
            yield line
        self._ended = True

    def _header(self) -> tuple[str, ...]:
        records, nothing = self._records(), list[str]()
        _, header, complaint = next(records, (0, nothing, ""))
        if header == ["sep=", ""]:  # the hint to Excel that commas follow
            _, header, complaint = next(records, (0, nothing, ""))
        if complaint:
            self._check_separator(header)
            raise self._file.unusable(complaint, "Correct its first line", 1)
        if not any(cell.strip() for cell in header):
            raise self._file.unusable("is empty", "Its first line must name the columns")
        names, self._last_name = [name.strip() for name in header], header[-1]
        self._check_separator(names)
        complaint = _undecodable("".join(names))
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            complaint = f"names the column {twice[0]!r} twice"
        if quoted := [name for name in names if '"' in name]:
            complaint = f"has a quote in the name of the column {quoted[0]!r}"
        if complaint:
            raise self._file.unusable(complaint, "Correct its first line", 1)
        return tuple(names)

    def _check_separator(self, names: list[str]) -> None:
        if re.match(rb'\s*(?:\{\s*"|\[\s*[\[{"])', self._file.head.removeprefix(b"\xef\xbb\xbf")):
            raise self._file.unusable("is JSON", "Put one object in each line, and name it .jsonl")
        for separator, words in _SEPARATORS.items():
            if len(names) == 1 and separator in names[0]:
                raise self._file.unusable(
                    f"is separated by {words} ({separator!r}), not by commas",
                    "Save it again with commas: a spreadsheet asks for the field separator",
                    1,
                )

    def _records(self) -> Iterator[tuple[int, list[str], str]]:
        """The first line of each record, its cells, and a complaint.

        Raises:
            InputError: from here on nobody can tell where rows begin.
        """
        cells = self._cells
        while True:
            first = cells.line_num + 1
            try:
                record = next(cells)
            except StopIteration:
                return
            except csv.Error as bad:
                yield first, [self._raw_line.rstrip("\r\n")], self._misquoted(first, bad)
            except _DAMAGE as failure:
                raise self._file.damaged(failure, cells.line_num) from None
            else:
                if record:
                    yield first, record, ""

    def _misquoted(self, first: int, bad: csv.Error) -> str:
        """The complaint about a record with a misplaced quote, if it concerns its line alone."""
        last = self._cells.line_num
        if self._ended:
            what = "the file ends inside a quoted cell that begins here"
        elif last == first and self._raw_line.count('"') % 2 == 0:
            return f"has a quote inside a quoted cell, which must be written twice ({bad})"
        elif last == first:
            what = f"a quote is opened and not closed before the line ends ({bad})"
        else:
            what = f"a quoted cell begins here and goes wrong in line {last} ({bad})"
        raise self._file.unusable(
            what, "Look for a quote that is not closed, or for a file that was cut off", first
        )

    def __iter__(self) -> Iterator[ParsedLine]:
        columns = self._names
        all_named = all(columns)
        for first, record, complaint in self._records():
            text = "".join(record)
            if complaint:
                yield ParsedLine(first, _printable(text), complaint, len(text))
                continue
            if not text or text.isspace():
                yield ParsedLine(first, None, "", len(record))
                continue
            if not text.isascii():
                complaint = _undecodable(text)
            if record[-1] == self._last_name and self._repeats_header(record):
                complaint = "repeats the header; the file may be two files, one after the other"
            if "\0" in text:
                complaint = "holds a NUL byte; the file is damaged, or is not text"
            if "\n" in text or "\r" in text:
                self._check_lines(first, record)
            if (
                len(record) != len(columns) and (complaint := self._surplus(record) or complaint)
            ) or complaint:
                record = [_printable(cell) for cell in record]
            pairs = zip(columns, record, strict=False)
            if all_named and all(record):
                data = Cells(pairs)
            else:
                data = Cells((name, cell) for name, cell in pairs if cell and name)
                if not self._unnamed_told and not all_named:
                    self._tell_of_unnamed(first, record)
            data.columns = columns
            yield ParsedLine(first, data, complaint, len(text))

    def _surplus(self, record: list[str]) -> str:
        """The complaint about a *record* with too few cells, or with values in too many."""
        width = len(self._names)
        if len(record) > width and not any(cell.strip() for cell in record[width:]):
            return ""
        return f"has {len(record)} cells where the header has {width}"

    def _check_lines(self, first: int, record: list[str]) -> None:
        """See that a *record* of several lines is not several rows between two stray quotes.

        Quotes do not show how many lines a cell should have. But where each line of it looks
        like a row, it is not one cell.
        """
        text, separators = ",".join(record), len(self._names) - 1
        if self._ends_in_crlf and "\r" not in text:
            return  # rows end in another way than these lines
        if _look_like_rows([line for line in _BREAK.split(text) if line], separators):
            raise self._file.unusable(
                f"a quoted cell begins here and ends in line {self._cells.line_num}, and the lines "
                "of it look like rows",
                "Look for a stray quote in both lines. If it is one cell, use JSON lines instead",
                first,
            )

    def _tell_of_unnamed(self, line: int, record: list[str]) -> None:
        for place, (name, cell) in enumerate(zip(self._names, record, strict=False), 1):
            if cell and not name:
                self._unnamed_told = True
                _log.warning(
                    "%s, line %d: column %d has no name in the header: its values are left out",
                    self._file.path,
                    line,
                    place,
                )
                return


def _look_like_rows(lines: list[str], separators: int) -> bool:
    """Whether *lines* are rows with so many *separators*: many of them, or with like first cells."""
    alike = [line for line in lines if line.count(",") == separators]
    if len(alike) < 0.8 * len(lines):
        return False
    if separators == 0:
        return len(alike) > _MANY_LINES
    shapes = {_RUN.sub(_kind_of_run, line.partition(",")[0]) for line in lines}
    # As `a9` for `row12` and `a@a.a` for an address. One word or number says little.
    compound = len(shapes) == 1 and len(shapes.pop()) > 1 and len(alike) == len(lines) > 1
    return compound or len(alike) * separators >= _EVIDENCE


def _kind_of_run(run: re.Match[str]) -> str:
    return "9" if run[0].isdigit() else "a"


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
        self._file = file = _File(path)
        self.fraction, self.close = file.fraction, file.close
        self.check_unchanged = file.check_unchanged
        self.coerce = path.name.removesuffix(".gz").endswith(FAILED_SUFFIX)
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode
        # Latin-1 keeps each byte; this is here for the three kinds of line ends alone.
        self._text = io.TextIOWrapper(file.stream, encoding="latin-1", newline=None)
        head = file.head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if head[:1] == b"[" or re.match(rb"\{\s*\n", head):
            self.close()
            what = "an array" if head[:1] == b"[" else "an object over several lines"
            raise file.unusable(
                f"begins with {what}; JSON lines have one object in each line",
                "Convert it, as with `jq -c '.[]'` for an array, or `jq -c .` for objects",
            )

    def __iter__(self) -> Iterator[ParsedLine]:
        for line, text in enumerate(self._lines(), 1):
            stripped = text.removeprefix(b"\xef\xbb\xbf").strip() if line == 1 else text.strip()
            if stripped:
                data, complaint = self._row(stripped)
                yield ParsedLine(line, data or None, complaint, len(stripped))

    def _lines(self) -> Iterator[bytes]:
        text = self._text
        for line in range(1, 2**63):
            try:
                read = text.readline(LONGEST)
            except _DAMAGE as failure:
                raise self._file.damaged(failure, line) from None
            if len(read) >= LONGEST:
                raise self._file.too_long(line)
            if not read:
                return
            yield read.encode("latin-1")

    def _row(self, text: bytes) -> tuple[Any, str]:
        try:
            data = self._decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
            reason = "is not UTF-8" if isinstance(bad, UnicodeDecodeError) else str(bad)
            return text[:_SHOWN].decode("utf-8", "replace"), f"is not a JSON object ({reason})"
        # Where there are no more names in the text than in the object, none came twice.
        if len(_NAMES(text)) > len(data) and (name := _repeated_name(text)):
            return text[:_SHOWN].decode("utf-8", "replace"), f"has the name {name!r} twice"
        if self.coerce:
            return _row_inside(data)
        return data, ""


class _RepeatedNameError(Exception):
    """An object has a name twice."""


def _repeated_name(text: bytes) -> str:
    """A name that one object in *text* has twice, "" if there is none."""
    try:
        json.loads(text, object_pairs_hook=_check_names, parse_int=str)
    except _RepeatedNameError as found:
        return str(found)
    except RecursionError:
        pass  # it was decoded, so it is a value; deep ones are not looked into
    return ""


def _check_names(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise _RepeatedNameError(name)
        names.add(name)


def _row_inside(record: dict[str, Any]) -> tuple[Any, str]:
    row = record.get("row")
    if isinstance(row, dict) and "reason" in record:
        return cast("dict[str, Any]", row), ""
    if isinstance(row, str):
        return row, "could not be read the first time either; correct it in the file it came from"
    return record, ""
