"""Read JSON lines: one JSON object per line, plain or gzip.

| found in the file                                   | result                                 |
|-----------------------------------------------------|----------------------------------------|
| an array, or an object over several lines           | `InputError` when the file is opened   |
| a line that is not one object                       | a row with an error                    |
| a name twice in one object                          | a row with an error                    |
| another encoding in all its rows that are not ASCII | `InputError` when the rows are counted |
| bytes that are not UTF-8                            | a row with an error                    |
| an empty line                                       | no row                                 |
| gzip without its trailer; a change while it is read | `InputError`                           |
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import msgspec

from asyncclients.backfill.files.text import ParsedRow, TextReader
from asyncclients.own_files import FAILED_SUFFIX

_EXCERPT_LENGTH = 200
"""Bytes of an unreadable line that its error shows."""
_name_ends = re.compile(rb'"[ \t\r]*:').findall
"""Finds the end of each name of an object, and possibly more inside of texts."""


class JsonReader(TextReader):
    """Rows of a file with one JSON object per line.

    A file of failed rows, as a push writes it, gives the rows inside of its records.
    """

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        # Latin-1 keeps every byte; lines end in each of the three ways.
        super().__init__(path, file, "latin-1", newline=None)
        self.coerce = path.name.removesuffix(".gz").endswith(FAILED_SUFFIX)
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode
        head = self.head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if head[:1] == b"[" or re.match(rb"\{\s*\n", head):
            found = "an array" if head[:1] == b"[" else "an object over several lines"
            raise self.input_error(
                f"begins with {found}; JSON lines have one object in each line",
                "Convert it, as with `jq -c '.[]'` for an array, or `jq -c .` for objects",
            )

    def __iter__(self) -> Iterator[ParsedRow]:
        for line, text, _ in self.records():
            data, error = self._parse(text)
            yield line, data or None, error

    def records(self) -> Iterator[tuple[int, bytes, str]]:
        """Yield the number and the text of each line that is not empty, and no error."""
        for line in self.read_lines():
            text = line.encode("latin-1")
            text = text.removeprefix(b"\xef\xbb\xbf").strip() if self.number == 1 else text.strip()
            if text:
                yield self.number, text, ""

    def _parse(self, text: bytes) -> tuple[Any, str]:
        """Return the object in *text* and "", or an excerpt and the error."""
        try:
            data = self._decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
            reason = "is not UTF-8" if isinstance(bad, UnicodeDecodeError) else str(bad)
            return _excerpt(text), f"is not a JSON object ({reason})"
        # If the text has no more names than the object, none occurs twice.
        if len(_name_ends(text)) > len(data) and (name := _repeated_name(text)):
            return _excerpt(text), f"has the name {name!r} twice"
        if self.coerce:
            return _row_of_dead_letter(data)
        return data, ""


def _excerpt(text: bytes) -> str:
    return text[:_EXCERPT_LENGTH].decode("utf-8", "replace")


class _RepeatedNameError(Exception):
    """An object has a name twice."""


def _repeated_name(text: bytes) -> str:
    """Return a name that occurs twice in one object of *text*, or ""."""
    try:
        json.loads(text, object_pairs_hook=_check_names, parse_int=str)
    except _RepeatedNameError as error:
        return str(error)
    except RecursionError:
        pass  # msgspec decoded it, so it is valid; deeply nested objects are not checked
    return ""


def _check_names(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise _RepeatedNameError(name)
        names.add(name)


def row_checksum(row: Any) -> int:
    """Return the checksum that a file of failed rows has of *row*, decoded from JSON."""
    return crc32(msgspec.json.encode(row))


def _row_of_dead_letter(record: dict[str, Any]) -> tuple[Any, str]:
    row: Any = record.get("row")
    if isinstance(row, dict) and "reason" in record:
        row = cast("dict[str, Any]", row)
        unreadable = record.get("error") == "UnreadableRowError"
        if unreadable and row_checksum(row) == record.get("checksum"):
            return row, f"was unreadable and is not corrected: {record['reason']}"
        return row, ""
    if isinstance(row, str):
        return row, "was unreadable the first time too; correct it in the file it came from"
    return record, ""
