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
import stat
from array import array
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sized
from concurrent.futures import Executor, Future
from contextlib import closing
from inspect import isgenerator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, ParamSpec, TypeGuard, TypeVar, cast

import msgspec

from asyncclients.backfill.files.csv import CsvReader
from asyncclients.backfill.files.jsonl import JsonReader
from asyncclients.backfill.files.parquet import ParquetReader
from asyncclients.backfill.files.text import KnownLines, Lines
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
_POLL = 0.02
"""Seconds after which a partial chunk is returned."""
_CLOSE_GRACE = 5.0
"""Seconds that closing waits for a blocked iterator."""
_IN_MEMORY = (list, tuple, range, set, frozenset, dict, deque, str, bytes)

T = TypeVar("T")
P = ParamSpec("P")
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
    """Return the source for *rows*: the path of a file, or an iterable.

    Raises:
        InputError: the file cannot be used.
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
    """Rows of a file.

    Attributes:
        name: of the file, as stored in the state file.
        columns: the columns that all rows share; None if each row names its own.
        coerce: values are texts that may stand for numbers, as in CSV.
    """

    def __init__(self, path: Path) -> None:
        self.name = encodable(path.name)
        reader = _reader(path)
        self.columns, self.coerce = reader.columns, reader.coerce
        self._path, self._file = path, reader
        self._lines = None if isinstance(reader, ParquetReader) else reader.lines
        self._count = 0
        self._rows = iter(reader)
        self._encoding_error: InputError | None = None

    async def chunk(self) -> list[Row]:
        """Return the next rows; an empty list at the end."""
        return await in_thread(self._chunk)  # a cancellation waits for the thread

    def _chunk(self) -> list[Row]:
        chunk: list[Row] = []
        size = 0
        for number, parsed in enumerate(itertools.islice(self._rows, _CHUNK_ROWS), self._count + 1):
            chunk.append(Row(number, parsed.line, parsed.data, parsed.error))
            size += parsed.size
            if size > _CHUNK_BYTES:
                break
        self._count += len(chunk)
        self._file.check_unchanged()
        return chunk

    @property
    def has_lines(self) -> bool:
        """True if `blocks` can be used in place of `chunk`."""
        return self._lines is not None

    async def blocks(self, known: KnownLines) -> list[Block]:
        """Return the next rows, without reading those in *known* lines; an empty list at the end."""
        assert self._lines is not None
        return await in_thread(self._blocks, self._lines, known)

    def _blocks(self, lines: Lines, known: KnownLines) -> list[Block]:
        blocks: list[Block] = []
        end, read, size = lines.number + _SKIPPED_LINES, 0, 0
        while lines.number < end and read < _CHUNK_ROWS and size <= _CHUNK_BYTES:
            if places := known.skip(lines):
                blocks.append(Block(places, [], array("q")))
                self._count += len(places)
                continue
            parsed = next(self._rows, None)
            if parsed is None:
                break
            self._count += 1
            if not blocks or blocks[-1].known:
                blocks.append(Block(range(0), [], array("q")))
            blocks[-1].rows.append(Row(self._count, parsed.line, parsed.data, parsed.error))
            is_line = parsed.line == lines.number
            blocks[-1].lines.append(lines.last_digest() if is_line else 0)
            read, size = read + 1, size + parsed.size
        self._file.check_unchanged()
        return blocks

    async def count(self) -> int | None:
        """Return the number of all rows; None if it is unknown.

        The file is read once more, in a thread. A file that cannot be read to its end has no
        known number of rows; the rows before the damage can still be read.

        Raises:
            InputError: see `check_encoding`.
        """
        if not self._path.is_file():  # a pipe can be read only once
            return None
        counts = self._counts()

        def count_part() -> int:
            return next(counts, 0)

        total = 0
        try:
            while part := await in_thread(count_part):
                total += part
        except InputError:
            return None
        finally:
            await in_thread(counts.close)
        self.check_encoding()
        return total

    def _counts(self) -> Generator[int]:
        """Yield the numbers of rows of consecutive parts of the file."""
        with closing(_reader(self._path)) as reader:
            while found := reader.count(_COUNTED_ROWS):
                yield found
            self._encoding_error = reader.encoding_error()

    def check_encoding(self) -> None:
        """Check the encoding of the rows that were read or counted.

        Raises:
            InputError: those that are not ASCII are all in another encoding than UTF-8.
        """
        if error := self._encoding_error or self._file.encoding_error():
            raise error

    async def aclose(self) -> None:
        """Close the file, even when cancelled."""
        await in_thread(self._file.close)


def _reader(path: Path) -> CsvReader | JsonReader | ParquetReader:
    _check_exists(path)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".csv":
        return CsvReader(path)
    if suffix in (".jsonl", ".ndjson"):
        return JsonReader(path)
    if suffix == ".parquet":
        return ParquetReader(path)
    raise InputError(
        f"cannot tell the format of {path} from its name",
        file=str(path),
        advice="Name it .csv, .jsonl or .parquet (.csv.gz and .jsonl.gz work too)",
    )


def _check_exists(path: Path) -> None:
    """Raise `InputError` unless *path* is an existing file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist", file=str(path), advice="Check the path"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot read {path}: {reason}",
            file=str(path),
            advice="Check the path and its permissions",
        ) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a directory", file=str(path), advice="Give a file in it")


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
    reader = _Reader(rows)
    try:
        while chunk := await reader.chunk():
            for row in chunk:
                yield row
    finally:
        await reader.aclose()


class _Reader:
    """Reads *rows* in a thread, a chunk at a time."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._source = rows
        self._rows: Iterable[Any] | None = None
        self._ready: deque[Any] = deque()
        self._thread = _DaemonThread("asyncclients-source")
        self._reading: asyncio.Future[Any] | None = None

    async def chunk(self) -> list[Any]:
        """Return the next rows; an empty list at the end."""
        while True:
            if self._reading is None:
                self._reading = self._run(self._read)
            await asyncio.wait([self._reading], timeout=_POLL)
            ended = self._reading.done()
            if self._ready:
                return [self._ready.popleft() for _ in range(len(self._ready))]
            if ended:
                outcome, self._reading = self._reading.result(), None
                if outcome.error is not None:
                    raise outcome.error
                if not outcome.result:
                    return []

    def _read(self) -> int:
        """Read some rows; return their number."""
        if self._rows is None:
            self._rows = iter(self._source)
        count = 0
        for row in itertools.islice(self._rows, _READ_AHEAD):
            self._ready.append(row)
            count += 1
        return count

    async def aclose(self) -> None:
        """Close the generator in its thread; abandon it if it stays blocked."""
        closing = self._run(self._close)
        self._thread.shutdown()
        ended, _ = await asyncio.wait([closing], timeout=_CLOSE_GRACE)
        if not ended:
            logger.warning(
                "the iterable of rows is still blocked after %.0f s: its thread is abandoned",
                _CLOSE_GRACE,
            )
        elif (error := closing.result().error) is not None:
            logger.warning("closing the iterable of rows failed: %s", error_text(error))

    def _close(self) -> None:
        if isgenerator(self._source):
            self._source.close()

    def _run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._thread, outcome_of, work)


class _DaemonThread(Executor):
    """One daemon thread, which does not delay the end of the process. Work must not raise."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._do, name=name, daemon=True).start()

    def _do(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(fn(*args, **kwargs))

        self._work.put(work)
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as in `Executor`
        """End the thread after the work submitted so far."""
        self._work.put(None)
