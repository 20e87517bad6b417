"""Open the source of a push: a CSV, JSON lines or Parquet file, or any iterable.

* Rows are numbered from 1 in reading order.
* Files are read in a thread, a bounded chunk at a time.
* An iterable that may block, such as a generator that reads a database, runs in one thread from
  its first row to its close, because files and connections often belong to the thread that opened
  them. The thread reads some rows ahead; rows that are ready are returned even while the next one
  blocks.
* An unreadable row becomes a `Row` with an error, and reading continues. An unreadable file
  raises `InputError`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from array import array
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sized
from contextlib import closing, suppress
from inspect import isgenerator
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any, NamedTuple, TypeGuard, TypeVar, cast

import msgspec

from asyncclients.backfill.files.csv import CsvReader
from asyncclients.backfill.files.jsonl import JsonReader
from asyncclients.backfill.files.parquet import ParquetReader
from asyncclients.backfill.files.text import TextReader
from asyncclients.core.events import logger
from asyncclients.errors import InputError, encodable, error_text
from asyncclients.own_files import finish_before_cancel, in_thread, outcome_of

_CHUNK_ROWS = 256
_CHUNK_BYTES = 2**20
_SKIPPED_LINES = 2**14
_COUNTED_ROWS = 2**15
"""Rows that are counted before a cancellation is noticed."""
_READ_AHEAD = 256
"""Maximum number of rows read ahead."""
_CLOSE_GRACE = 5.0
"""Seconds that closing waits for a blocked iterator."""
_IN_MEMORY = (list, tuple, range, set, frozenset, dict, deque, str, bytes)

T = TypeVar("T")
Rows = str | os.PathLike[str] | Iterable[Any] | AsyncIterable[Any]


class UnreadableRowError(ValueError):
    """A row cannot be read from its file."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of the input.

    Attributes:
        number: position among all rows, from 1.
        line: first line in the file, from 1; equal to *number* if the source has no lines.
        data: the values; None if there are none; an excerpt if the row is unreadable.
        error: why the row is unreadable, else empty.
        is_edited: a person has edited *data* after the row had failed.
    """

    number: int
    line: int
    data: Any
    error: str = ""
    is_edited: bool = False


class Block(NamedTuple):
    """Consecutive rows of a file that was compared with the lines of an earlier one.

    Attributes:
        known: places of their lines among the known ones; empty if they are new.
        rows: the rows, if they are new.
        lines: digest of the line of each of *rows*, 0 if it has several.
    """

    known: range
    rows: list[Row]
    lines: array[int]


def is_path(source: Rows) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether *source* is the path of a file."""
    return isinstance(source, (str, os.PathLike))


async def open_source(rows: Rows) -> FileSource | IterableSource:
    """Return the source for *rows*, a file or an iterable; raise `InputError` for a bad file."""
    if isinstance(rows, (str, os.PathLike)):
        return FileSource(Path(rows), await _open(Path(rows)))
    return IterableSource(rows)


async def _open(path: Path) -> CsvReader | JsonReader | ParquetReader:
    opening = asyncio.get_running_loop().run_in_executor(None, _reader, path)
    try:
        return await finish_before_cancel(opening)
    except asyncio.CancelledError:
        if not opening.cancelled() and opening.exception() is None:
            opening.result().close()
        raise


class FileSource:
    """Rows of a file.

    Attributes:
        name: of the file, as stored in the state file.
        columns: the columns that all rows share; None if each row names its own.
        coerce: values are texts that may stand for numbers, as in CSV.
    """

    def __init__(self, path: Path, file: CsvReader | JsonReader | ParquetReader) -> None:
        self.name = encodable(path.name)
        self.columns, self.coerce = file.columns, file.coerce
        self._path, self._file = path, file
        self._count = 0
        self._lines: TextReader | None = None  # to be compared with known ones
        self._rows = iter(file)

    @property
    def has_lines(self) -> bool:
        """True if lines can be known."""
        return isinstance(self._file, TextReader)

    def expect(self, digests: array[int]) -> None:
        """Skip the lines with *digests*, those of an earlier file; see `TextReader.expect`."""
        if isinstance(self._file, TextReader):
            self._lines = self._file
            self._lines.expect(digests)

    async def chunk(self) -> list[Row]:
        """Return the next rows; an empty list at the end."""
        return [row for block in await self.blocks() for row in block.rows]

    async def blocks(self) -> list[Block]:
        """Return the next rows, those in known lines by their places; an empty list at the end."""
        return await in_thread(self._blocks)  # a cancellation waits for the thread

    def _blocks(self) -> list[Block]:
        blocks: list[Block] = []
        lines, read = self._lines, 0
        end_line = _SKIPPED_LINES + (0 if lines is None else lines.number)
        end_size = self._file.size + _CHUNK_BYTES
        while read < _CHUNK_ROWS and self._file.size <= end_size:
            if lines is not None:
                if lines.number >= end_line:
                    break
                if places := lines.skip_known():
                    blocks.append(Block(places, [], array("q")))
                    self._count += len(places)
                    continue
            parsed = next(self._rows, None)
            if parsed is None:
                break
            line, data, error = parsed
            read, self._count = read + 1, self._count + 1
            if not blocks or blocks[-1].known:
                blocks.append(Block(range(0), [], array("q")))
            blocks[-1].rows.append(Row(self._count, line, data, error))
            is_line = lines is not None and line == lines.number
            blocks[-1].lines.append(lines.last_digest() if lines and is_line else 0)
        self._file.check_unchanged()
        return blocks

    async def count(self) -> int | None:
        """Return the number of all rows; None if it is unknown.

        The file is read once more, in a thread. A file that cannot be read to its end has no known
        number of rows; the rows before the damage can still be read.
        """
        if not self._path.is_file():  # a pipe can be read only once
            return None
        total, error = 0, None
        try:
            with closing(await _open(self._path)) as reader:
                while found := await in_thread(reader.count, _COUNTED_ROWS):
                    total += found
                error = reader.encoding_error()
        except InputError:
            return None
        if error is not None:
            raise error
        return total

    def check_encoding(self) -> None:
        """Raise `InputError` if no row that was read, and is not ASCII, is UTF-8."""
        if error := self._file.encoding_error():
            raise error

    async def aclose(self) -> None:
        """Close the file, even when cancelled."""
        await in_thread(self._file.close)


_READERS: dict[str, type[CsvReader | JsonReader | ParquetReader]] = {
    ".csv": CsvReader,
    ".jsonl": JsonReader,
    ".ndjson": JsonReader,
    ".parquet": ParquetReader,
}


def _reader(path: Path) -> CsvReader | JsonReader | ParquetReader:
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        if isinstance(error, FileNotFoundError):
            problem = "does not exist"
        elif path.is_dir():
            problem = "is a directory"
        raise InputError(
            f"{path} {problem}", file=str(path), advice="Check the path and its permissions"
        ) from None
    suffixes = [suffix for suffix in path.suffixes if suffix.lower() != ".gz"]
    reader = _READERS.get(suffixes[-1].lower() if suffixes else "")
    if reader is None:
        file.close()
        raise InputError(
            f"cannot tell the format of {path} from its name",
            file=str(path),
            advice="Name it .csv, .jsonl or .parquet (.csv.gz and .jsonl.gz work too)",
        )
    try:
        return reader(path, file)
    except BaseException:
        file.close()
        raise


class IterableSource:
    """Rows of an iterable; the attributes are those of `FileSource`."""

    def __init__(self, rows: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.name = "iterable"
        self.columns: tuple[str, ...] | None = None
        self.coerce = False
        self._length = len(rows) if isinstance(rows, Sized) else None
        self._numbers = itertools.count(1)
        self._rows = _iterate(rows) if isinstance(rows, AsyncIterable) else iterate(rows)

    async def chunk(self) -> list[Row]:
        """Return the next row in a list; an empty list at the end."""
        async for data in self._rows:
            number = next(self._numbers)
            return [Row(number, number, data)]
        return []

    def expect(self, _: array[int]) -> None:
        """Do nothing: the rows have no lines."""

    async def blocks(self) -> list[Block]:
        """Return the next rows, some hundreds; an empty list at the end."""
        rows: list[Row] = []
        while len(rows) < _CHUNK_ROWS and (chunk := await self.chunk()):
            rows += chunk
        return [Block(range(0), rows, array("q", bytes(8 * len(rows))))] if rows else []

    async def count(self) -> int | None:
        """Return the number of rows; None if the iterable does not know it."""
        return self._length

    def check_encoding(self) -> None:
        """Do nothing: the rows are objects."""

    async def aclose(self) -> None:
        """Close the iterator."""
        await self._rows.aclose()


async def _iterate(rows: AsyncIterable[Any]) -> AsyncGenerator[Any]:
    async for row in rows:
        yield row


Source = FileSource | IterableSource


# --- Iterables that may block -----------------------------------------------------------------


async def iterate(rows: Iterable[T]) -> AsyncGenerator[T]:
    """Yield each of *rows*; read them in another thread unless they are in memory."""
    if isinstance(rows, _IN_MEMORY):
        for row in cast("Iterable[T]", rows):
            yield row
        return
    reader = _ReadingThread(rows)
    try:
        while (row := await reader.ready.get()) is not reader:
            reader.room.release()
            yield row
        if reader.error is not None:
            raise reader.error
    finally:
        await reader.aclose()


class _ReadingThread(Thread):
    """Reads *rows*, in a daemon thread: it does not delay the end of the process.

    Attributes:
        ready: the rows read ahead; after the last one this object itself.
        room: for further rows to be read ahead.
        error: raised by *rows*.
    """

    def __init__(self, rows: Iterable[Any]) -> None:
        super().__init__(name="asyncclients-source", daemon=True)
        self._source, self._loop = rows, asyncio.get_running_loop()
        self._is_stopped = False
        self._closed: asyncio.Future[BaseException | None] = self._loop.create_future()
        self.ready: asyncio.Queue[Any] = asyncio.Queue()
        self.room = Semaphore(_READ_AHEAD)
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Read the rows, then close a generator."""
        with suppress(RuntimeError):  # the loop was closed
            self.error = outcome_of(self._read).error
            self._loop.call_soon_threadsafe(self.ready.put_nowait, self)
            error = outcome_of(self._close).error
            self._loop.call_soon_threadsafe(self._closed.set_result, error)

    def _read(self) -> None:
        for row in self._source:
            self._loop.call_soon_threadsafe(self.ready.put_nowait, row)
            self.room.acquire()
            if self._is_stopped:
                return

    def _close(self) -> None:
        if isgenerator(self._source):
            self._source.close()

    async def aclose(self) -> None:
        """Close the generator in its thread; abandon it if it stays blocked."""
        self._is_stopped = True
        self.room.release()
        await asyncio.wait([self._closed], timeout=_CLOSE_GRACE)
        if not self._closed.done():
            logger.warning(
                "the iterable of rows is still blocked after %.0f s: its thread is abandoned",
                _CLOSE_GRACE,
            )
        elif (error := self._closed.result()) is not None:
            logger.warning("closing the iterable of rows failed: %s", error_text(error))
