"""Where the rows of a push come from: CSV, JSON lines, Parquet, any iterable.

* Rows are numbered from 1 in reading order; `line` is where a person finds them.
* Files are read in a thread, a bounded chunk at a time, gzip or not.
* A row that cannot be read is a row with a complaint, and the reading goes on;
  a file that cannot be read is an `InputError`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from asyncclients.backfill import blocking, lines, parquet
from asyncclients.backfill.completion import finish_before_cancel, in_thread
from asyncclients.errors import InputError, encodable

_CHUNK_ROWS = 256
_CHUNK_BYTES = 2**20

Rows = str | os.PathLike[str] | Iterable[Any] | AsyncIterable[Any]


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of the input.

    Attributes:
        number: its place among all rows, from 1.
        line: where it begins in the file, from 1; its number where there are no lines.
        data: its values, None if it has none; or as much of an unreadable line as helps to
            find it.
        error: why it could not be read, else empty.
    """

    number: int
    line: int
    data: Any
    error: str = ""


class Source(Protocol):
    """Rows in order, a chunk at a time.

    Attributes:
        name: of the job's input, as its state file keeps it.
        columns: the columns that every row has, None where rows name their own.
        coerce: values are texts that may mean numbers.
    """

    name: str
    columns: tuple[str, ...] | None
    coerce: bool

    async def chunk(self) -> list[Row]:
        """The next rows; none at the end."""
        ...

    def fraction(self) -> float | None:
        """The share that was read, None where that cannot be told."""
        ...

    async def aclose(self) -> None:
        """Close the file."""
        ...


async def open_source(rows: Rows) -> Source:
    """The source for *rows*: a path by its suffix, anything else by iterating.

    Raises:
        InputError: if the file cannot be used.
    """
    if isinstance(rows, (str, os.PathLike)):
        return await _open_file(Path(rows))
    return IterableSource(rows)


async def _open_file(path: Path) -> FileSource:
    opening = asyncio.get_running_loop().run_in_executor(None, FileSource, path)
    try:
        return await finish_before_cancel(opening)
    except asyncio.CancelledError:
        if not opening.cancelled() and opening.exception() is None:
            await opening.result().aclose()
        raise


class FileSource:
    """Rows of a file."""

    def __init__(self, path: Path) -> None:
        self.name = encodable(path.name)
        reader = _reader(path)
        self.columns, self.coerce = reader.columns, reader.coerce
        self._file = reader
        self._numbers = itertools.count(1)
        self._rows = iter(reader)

    async def chunk(self) -> list[Row]:
        """The next rows; none at the end."""
        return await in_thread(self._chunk)  # never closed while it reads

    def _chunk(self) -> list[Row]:
        chunk: list[Row] = []
        size = 0
        numbers = self._numbers
        for read in itertools.islice(self._rows, _CHUNK_ROWS):
            chunk.append(Row(next(numbers), read.line, read.data, read.error))
            size += read.size
            if size > _CHUNK_BYTES:
                break
        self._file.check_unchanged()
        return chunk

    def fraction(self) -> float | None:
        """The share of the file's bytes that was read."""
        return self._file.fraction()

    async def aclose(self) -> None:
        """Close the file, also when cancelled."""
        await in_thread(self._file.close)


def _reader(path: Path) -> lines.Reader:
    check_file(path)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind == ".csv":
        return lines.CsvReader(path)
    if kind in (".jsonl", ".ndjson"):
        return lines.JsonReader(path)
    if kind == ".parquet":
        return parquet.ParquetReader(path)
    raise InputError(
        f"cannot tell what {path} is from its name",
        file=str(path),
        advice="Name it .csv, .jsonl or .parquet (.csv.gz and .jsonl.gz work too)",
    )


def check_file(path: Path) -> None:
    """Raise `InputError` unless *path* is a file that is there."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist", file=str(path), advice="Check the path"
        ) from None
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
        words = getattr(failure, "strerror", None) or str(failure)
        raise InputError(
            f"cannot read {path}: {words}", file=str(path), advice="Check the path and its rights"
        ) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a directory", file=str(path), advice="Give a file in it")


class IterableSource:
    """Rows that a program makes."""

    def __init__(self, rows: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.name = "iterable"
        self.columns: tuple[str, ...] | None = None
        self.coerce = False
        self._numbers = itertools.count(1)
        self._rows = _iterate(rows) if isinstance(rows, AsyncIterable) else blocking.iterate(rows)

    async def chunk(self) -> list[Row]:
        """The next rows; none at the end. A slow iterable gives them one by one."""
        async for data in self._rows:
            number = next(self._numbers)
            return [Row(number, number, data)]
        return []

    def fraction(self) -> float | None:
        """Not known."""
        return None

    async def aclose(self) -> None:
        """Close the iterator."""
        await self._rows.aclose()


async def _iterate(rows: AsyncIterable[Any]) -> AsyncGenerator[Any]:
    async for row in rows:
        yield row
