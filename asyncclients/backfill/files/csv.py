"""Read CSV: a header, then one record per row, plain or gzip.

| found in the file                                   | result                                  |
|-----------------------------------------------------|-----------------------------------------|
| another format, encoding or separator               | `InputError` when the file is opened    |
| a quote that is not closed, or closed in a later row | `InputError` with both lines           |
| a quote inside a quoted cell, in one line           | a row with an error                     |
| more or fewer cells than columns                    | a row with an error: it is usually half of one |
| another encoding in all its rows that are not ASCII | `InputError` when the rows are counted  |
| bytes that are not UTF-8, NUL bytes                 | a row with an error                     |
| empty cells beyond the last column                  | ignored                                 |
| an empty cell                                       | left out of its row                     |
| no value in any cell                                | a row without data, which is skipped    |
| an empty line                                       | no row                                  |
| gzip without its trailer; a change while it is read | `InputError`                            |
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncclients.backfill.files.text import EXCEL, MAX_LENGTH, ParsedRow, TextReader, as_utf8
from asyncclients.core.events import logger

_DIGITS = 3
"""Least digits of the numbers that are taken for ids of rows."""
_MIN_SEPARATORS = 6
"""A quoted cell whose lines have at least this many separators is taken for several rows."""
_MAX_LINES = 100
"""Lines of a cell in a file of one column above which it is taken for several rows."""
_RUN = re.compile(r"\d+|[^\W\d_]+")
_LINE_END = re.compile(r"\r\n|\r|\n")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "pipes"}


class Cells(dict[str, str]):
    """The cells of a row by column. Empty cells are left out, and read as an empty text."""

    __slots__ = ("columns",)

    columns: Sequence[str]

    def __missing__(self, column: str) -> str:
        if column in self.columns:
            return ""
        raise KeyError(column)

    def replaced(self, values: Mapping[str, Any]) -> Cells:
        """Return the same row with *values*, as a person has edited them."""
        cells = Cells((name, value) for name, value in values.items() if value != "")
        cells.columns = self.columns
        return cells


class CsvReader(TextReader):
    """Rows of a CSV file as dicts of texts, empty cells left out."""

    coerce = True

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        super().__init__(path, file, "utf-8-sig", newline="")
        # The limit is global to the process; raising it is harmless to other code.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LENGTH))
        self._csv = csv.reader(self.read_lines(), strict=True)
        self._ends_in_crlf = self.head.partition(b"\n")[0].endswith(b"\r")
        self._has_warned_unnamed = False
        self.columns = self._header()

    def _repeats_header(self, record: list[str]) -> bool:
        names = [cell.removeprefix("\ufeff").strip() for cell in record]
        return len(names) > 1 and names == [*self.columns]

    def _header(self) -> tuple[str, ...]:
        records, nothing = self.records(), list[str]()
        _, header, error = next(records, (0, nothing, ""))
        if header == ["sep=", ""]:  # the hint to Excel that commas follow
            _, header, error = next(records, (0, nothing, ""))
        if error:
            self._check_separator(header)
            raise self.input_error(error, "Correct its first line", 1)
        if not any(cell.strip() for cell in header):
            raise self.input_error("is empty", "Its first line must name the columns")
        names, self._last_name = [name.strip() for name in header], header[-1]
        self._check_separator(names)
        if error := _encoding_error("".join(names)):
            raise self.input_error(error, as_utf8(self.path, EXCEL), 1)
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            error = f"names the column {twice[0]!r} twice"
        if quoted := [name for name in names if '"' in name]:
            error = f"has a quote in the name of the column {quoted[0]!r}"
        if error:
            raise self.input_error(error, "Correct its first line", 1)
        return tuple(names)

    def _check_separator(self, names: list[str]) -> None:
        """Raise `InputError` if the file is JSON or has another separator than a comma."""
        if re.match(rb'\s*(?:\{\s*"|\[\s*[\[{"])', self.head.removeprefix(b"\xef\xbb\xbf")):
            raise self.input_error("is JSON", "Put one object in each line, and name it .jsonl")
        for separator, words in _SEPARATORS.items():
            if len(names) == 1 and separator in names[0]:
                raise self.input_error(
                    f"is separated by {words} ({separator!r}), not by commas",
                    "Save it again with commas: a spreadsheet asks for the field separator",
                    1,
                )

    def records(self) -> Iterator[tuple[int, list[str], str]]:
        """Yield the first line of each record, its cells, and its error."""
        while True:
            first = self.number + 1
            try:
                record = next(self._csv)
            except StopIteration:
                return
            except csv.Error as bad:
                yield first, [self.last.rstrip("\r\n")], self._quote_error(first, bad)
            else:
                if record:
                    yield first, record, ""

    def _quote_error(self, first: int, bad: csv.Error) -> str:
        """Return the error of a misplaced quote; raise it if it affects other lines."""
        last = self.number
        if self.is_at_end:
            problem = "the file ends inside a quoted cell that begins here"
        elif last == first and self.last.count('"') % 2 == 0:
            return f"has a quote inside a quoted cell, which must be written twice ({bad})"
        elif last == first:
            problem = f"a quote is opened and not closed before the line ends ({bad})"
        else:
            problem = f"a quoted cell begins here and ends wrongly in line {last} ({bad})"
        raise self.input_error(
            problem, "Look for a quote that is not closed, or for a file that was cut off", first
        )

    def __iter__(self) -> Iterator[ParsedRow]:
        columns = self.columns
        all_named = all(columns)
        for first, record, error in self.records():
            text = "".join(record)
            if error:
                yield first, _printable(text), error
                continue
            if not text or text.isspace():
                yield first, None, ""
                continue
            if not text.isascii():
                error = _encoding_error(text)
                error += f". {as_utf8(self.path, EXCEL)}" if error else ""
            if record[-1] == self._last_name and self._repeats_header(record):
                error = "repeats the header; the file may be two files joined together"
            if "\0" in text:
                error = "has a NUL byte; the file is damaged, or is not text"
            if "\n" in text or "\r" in text:
                self._check_multiline(first, record)
            if any(cell.strip() for cell in record[len(columns) :]) or len(record) < len(columns):
                error = f"has {len(record)} cells where the header has {len(columns)}"
            if error:
                record = [_printable(cell) for cell in record]
            pairs = zip(columns, record, strict=False)
            if all_named and all(record):
                data = Cells(pairs)
            else:
                data = Cells((name, cell) for name, cell in pairs if cell and name)
                if not self._has_warned_unnamed and not all_named:
                    self._warn_unnamed(first, record)
            data.columns = columns
            yield first, data, error

    def _check_multiline(self, first: int, record: list[str]) -> None:
        """Raise `InputError` if *record* is probably several rows between two stray quotes.

        A quoted cell may have any number of lines, but if they look like rows, it is not one cell.
        """
        text, separators = ",".join(record), len(self.columns) - 1
        if self._ends_in_crlf and "\r" not in text:
            return  # rows end with CRLF and these lines do not
        if _look_like_rows([line for line in _LINE_END.split(text) if line], separators):
            raise self.input_error(
                f"a quoted cell begins here and ends in line {self.number}, and its "
                "lines look like rows",
                "Look for a stray quote in both lines. If it is one cell, use JSON lines instead",
                first,
            )

    def _warn_unnamed(self, line: int, record: list[str]) -> None:
        for column, (name, cell) in enumerate(zip(self.columns, record, strict=False), 1):
            if cell and not name:
                self._has_warned_unnamed = True
                logger.warning(
                    "%s, line %d: column %d has no name in the header: its values are ignored",
                    self.path,
                    line,
                    column,
                )
                return


def _look_like_rows(lines: list[str], separators: int) -> bool:
    """Return whether *lines* are probably rows with *separators* commas each.

    At least 80 % of them must have that number of commas. In addition there must be many of
    them, or their first cells must have the same pattern, such as `row12` and `row13`, or be
    different numbers with the same number of digits, at least three.
    """
    matching = [line for line in lines if line.count(",") == separators]
    if len(matching) < 0.8 * len(lines):
        return False
    if separators == 0:
        return len(matching) > _MAX_LINES
    cells = [line.partition(",")[0] for line in lines]
    patterns = {_RUN.sub(lambda run: "9" if run[0].isdigit() else "a", cell) for cell in cells}
    # `a9` for `row12`, `a@a.a` for an address. A single word or a short number is no evidence.
    is_evidence = any(len(pattern) > 1 for pattern in patterns) or (
        patterns == {"9"}
        and len(cells[0]) >= _DIGITS
        and {*map(len, cells)} == {len(cells[0])}
        and len({*cells}) == len(cells)
    )
    same_pattern = len(patterns) == 1 and is_evidence and len(matching) == len(lines) > 1
    return same_pattern or len(matching) * separators >= _MIN_SEPARATORS


def _encoding_error(text: str) -> str:
    """Return the error for the first byte of *text* that is not UTF-8, or ""."""
    try:
        text.encode()
    except UnicodeEncodeError as bad:
        byte = ord(text[bad.start]) - 0xDC00
        return f"is not UTF-8 (byte 0x{byte:02X})"
    return ""


def _printable(cell: str) -> str:
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
