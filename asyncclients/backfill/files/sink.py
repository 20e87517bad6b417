"""Where the items of a pull go: a file by its suffix, or the user's own `Sink`.

A file is written as JSON lines under `<name>.part`, fsynced before each
checkpoint, and cut back to the checkpoint on resume. Under its own name it
appears only when it is whole: renamed, or for .csv and .parquet, whose form
depends on all items, converted first.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import msgspec

from asyncclients.backfill.completion import finish_before_cancel, in_thread
from asyncclients.backfill.encoding import encode_row, json_fault
from asyncclients.backfill.files.export import write_csv, write_parquet
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.backfill.state.lock import lock_or_fail
from asyncclients.core import codec
from asyncclients.errors import (
    BackfillStoppedError,
    InputError,
    StateInUseError,
    StateMismatchError,
    encodable,
)
from asyncclients.own_files import open_own, target_of, temporary_of
from asyncclients.paging import InvalidItem

T = TypeVar("T")

_BUFFER = 2**20
"""Bytes that wait in memory before they are given to the disk; as many more are on their way."""


@runtime_checkable
class Sink(Protocol):
    """Takes the items of a pull. All calls come one after another, not all from one task."""

    async def open(self, position: Any) -> None:
        """Begin; or go on from *position*, which `flush` returned, and forget what came after."""

    async def write(self, items: Sequence[Any]) -> None:
        """Take *items*."""

    async def flush(self) -> Any:
        """Make everything durable, and return the position: any JSON value but None."""

    async def finish(self) -> None:
        """All is written and flushed: make it visible. May be called again after a crash."""

    async def close(self) -> None:
        """Let go; called at every end, good or bad."""


@runtime_checkable
class OverlappingSink(Sink, Protocol):
    """A sink that takes items while it makes durable what it had before."""

    async def begin_flush(self) -> tuple[Any, Awaitable[object]]:
        """The position of what was written until now, and what to await until that is durable.

        `write` may be called before it is, `flush` and `begin_flush` not.
        """
        ...


class UnwritableItemsError(Exception):
    """Some of the items given to a sink have no form there; none of them was taken.

    Attributes:
        good: the others.
        spoiled: those without a form, each with its reason.
    """

    def __init__(self, items: Sequence[Any], fault_of: Callable[[Any], str]) -> None:
        faults = [fault_of(item) for item in items]
        self.good = [item for item, fault in zip(items, faults, strict=True) if not fault]
        self.spoiled = [
            InvalidItem(raw=encode_row(item), reason=fault)
            for item, fault in zip(items, faults, strict=True)
            if fault
        ]


class FileSink:
    """JSON lines in a `.part` file, and at the end *path*.

    Two buffers take turns, and are used again and again: one is filled while a thread
    writes the other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._suffix = path.suffix.lower()
        self._filling, self._other = BytesIO(), BytesIO()
        self._pouring: asyncio.Future[None] | None = None
        self._position = 0
        self._file: BinaryIO | None = None
        self._target: BinaryIO | None = None
        self._finished = False

    @property
    def files(self) -> list[Path]:
        """Every file that this sink may write."""
        return [self.path, self.part, temporary_of(self.path)]

    async def _run(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except OSError as failure:
            words, file = failure.strerror or str(failure), failure.filename or self.path
        raise BackfillStoppedError(
            f"cannot write {file}: {words}",
            advice="Make room or correct the rights, then run again with the same state: "
            "what was saved before is intact",
        )

    async def open(self, position: Any) -> None:
        """Begin, or cut the part file back to *position* bytes."""
        try:
            await self._run(in_thread(self._open, position))
        except BaseException:
            await self.close()
            raise
        self._position = position or 0

    def _open(self, position: int | None) -> None:
        self._lock_target()
        if position is not None and not self.part.exists() and self._size(self.path) == position:
            self.path.replace(self.part)  # the run before was killed just after its last step
            self._unlock_target()
        if position is not None and self._size(self.part) < position:
            raise StateMismatchError(
                f"{self.part} is gone or shorter than its state says ({position} bytes)",
                file=str(self.part),
                advice="Restore it, or delete the state file to pull anew",
            )
        try:
            descriptor = open_own(self.part, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EEXIST):
                raise
            raise self._foreign(error.strerror or "") from None
        self._file = os.fdopen(descriptor, "rb+")
        lock_or_fail(descriptor, self._in_use())
        if position is None and not _is_ours(self._file):
            raise self._foreign("is not one of asyncclients")
        self._file.truncate(position or 0)
        self._file.seek(position or 0)

    def _lock_target(self) -> None:
        """Lock the file that is there under its own name: it may have others."""
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._target = os.fdopen(descriptor, "rb")
            lock_or_fail(descriptor, self._in_use())

    def _unlock_target(self) -> None:
        target, self._target = self._target, None
        if target is not None:
            target.close()

    def _in_use(self) -> StateInUseError:
        return StateInUseError(
            f"{self.path} is being written by another job",
            file=str(self.path),
            advice="Wait for it, stop it, or pull into another file",
        )

    def _foreign(self, problem: str) -> InputError:
        return InputError(
            f"{self.part}, where the items for {self.path.name} belong, {problem}",
            file=str(self.part),
            advice="Move it away, or pull into another file; it was not touched",
        )

    def check_complete(self) -> None:
        """Raise `StateMismatchError` unless the file of a complete pull is there."""
        if not self.path.is_file():
            raise StateMismatchError(
                f"{self.path} is gone, although its pull is complete",
                file=str(self.path),
                advice="Restore it, or delete the state file to pull anew",
            )

    @staticmethod
    def _size(path: Path) -> int:
        return path.lstat().st_size if path.exists() else -1

    async def write(self, items: Sequence[Any]) -> None:
        """Take *items*; they reach the disk a megabyte at a time.

        Raises:
            UnwritableItemsError: some of them have no JSON form; none was taken.
        """
        assert self._file is not None
        self._filling.write(self._lines_of(items))
        if self._filling.tell() > _BUFFER:
            await self._pour(durable=False)

    def _lines_of(self, items: Sequence[Any]) -> bytes:
        try:
            lines = codec.encode_lines(items)
        except Exception:  # noqa: BLE001 - `to_wire` may raise anything
            lines = b""
        objects = lines.count(b"\n{") + lines.startswith(b"{")
        if len(items) != (objects if self._suffix in _CONVERT else lines.count(b"\n")):
            raise UnwritableItemsError(items, self._fault_of)
        return lines

    def _fault_of(self, item: Any) -> str:
        """Why *item* cannot be written, "" if it can."""
        fault = json_fault(item)
        if not fault and self._suffix in _CONVERT and not codec.encode(item).startswith(b"{"):
            return f"has no columns: an item of type {type(item).__name__}"
        return fault

    async def _pour(self, *, durable: bool) -> asyncio.Future[None]:
        """Have a thread write what the buffer holds, and go on with the other one."""
        assert self._file is not None
        await self._poured()
        full, self._filling = self._filling, self._other
        self._other, self._position = full, self._position + full.tell()
        loop = asyncio.get_running_loop()
        pouring = loop.run_in_executor(None, _pour, full, self._file, durable)
        self._pouring = pouring
        return pouring

    async def _poured(self) -> None:
        """What was given to a thread is written."""
        pouring, self._pouring = self._pouring, None
        if pouring is not None:
            await self._run(finish_before_cancel(pouring))

    async def begin_flush(self) -> tuple[int, Awaitable[None]]:
        """Begin to make all durable; the position is the number of bytes."""
        pouring = await self._pour(durable=True)
        return self._position, self._run(finish_before_cancel(pouring))

    async def flush(self) -> int:
        """Make all durable; the position is the number of bytes."""
        position, durable = await self.begin_flush()
        await durable
        return position

    async def finish(self) -> None:
        """Put the file in its place."""
        await self._run(in_thread(self._finish))

    def _finish(self) -> None:
        if self._suffix in _CONVERT:
            _CONVERT[self._suffix](self.part, self.path)
        else:
            self.part.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._finished = True

    async def close(self) -> None:
        """Close the file; the part file stays unless all is done."""
        file, self._file = self._file, None
        try:
            # What is still on its way was never counted; a full disk need not be told twice.
            with suppress(BackfillStoppedError):
                await self._poured()
        finally:
            if self._finished and self._suffix in _CONVERT:
                self.part.unlink(missing_ok=True)
            for opened in (file, self._target):
                if opened is not None:
                    await in_thread(_close, opened)


def _is_ours(file: BinaryIO) -> bool:
    """True if *file* is empty, or begins with an item as a pull that was given up leaves it."""
    line = file.readline()
    try:
        return not line or isinstance(msgspec.json.decode(line), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _pour(buffer: BytesIO, file: BinaryIO, durable: bool) -> None:
    """Write to *file* what *buffer* has, and have it filled anew."""
    with buffer.getbuffer() as view, view[: buffer.tell()] as lines:
        file.write(lines)
    file.flush()
    buffer.seek(0)
    if durable:
        os.fsync(file.fileno())


def _close(file: BinaryIO) -> None:
    with suppress(OSError):
        file.close()


_CONVERT = {".csv": write_csv, ".parquet": write_parquet}


def open_sink(to: str | os.PathLike[str] | Sink) -> tuple[Sink, str]:
    """The sink that *to* means, and its name.

    Raises:
        InputError: the file cannot be written, or its suffix says nothing.
    """
    if not isinstance(to, (str, os.PathLike)):
        return to, type(to).__qualname__
    path = target_of(to)
    problem = ""
    if path.is_dir():
        problem = "is a directory; give a file in it"
    elif not path.parent.is_dir():
        problem = "is in a directory that does not exist"
    elif path.suffix.lower() not in (".jsonl", ".ndjson", *_CONVERT):
        problem = "has no known suffix; name it .jsonl, .csv or .parquet"
    elif not os.access(path.parent, os.W_OK):
        problem = "is in a directory that cannot be written to"
    if problem:
        raise InputError(f"{path} {problem}", file=str(path))
    if path.suffix.lower() == ".parquet":
        pyarrow()
    return FileSink(path), encodable(path.name)
