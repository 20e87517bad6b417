"""The target of a pull: a file, or the user's own `Sink`.

A file is written as JSON lines to `<name>.part`, fsynced before each checkpoint, and cut back to
the checkpoint on resume. It gets its own name when it is complete. A .csv or .parquet file, whose
columns depend on all items, is converted at that point.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import msgspec

from asyncclients.backfill.files.export import write_csv, write_parquet
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.backfill.state.stored_rows import Mark, encode_row, json_problem
from asyncclients.core import codec
from asyncclients.errors import (
    BackfillStoppedError,
    InputError,
    StateInUseError,
    StateMismatchError,
    encodable,
)
from asyncclients.own_files import (
    ForeignFileError,
    fcntl,
    in_thread,
    lock_or_fail,
    open_own,
    open_to_read,
    sync_folder,
    target_of,
    temporary_of,
)
from asyncclients.paging import InvalidItem, Page

T = TypeVar("T")

_CONVERT = {".csv": write_csv, ".parquet": write_parquet}
_BUFFER = 2**20
"""Bytes buffered before a write."""


@runtime_checkable
class Sink(Protocol):
    """Stores the items of a pull. All calls come from one task, so they never overlap."""

    async def open(self, position: Any) -> None:
        """Start; or resume at *position*, which `flush` returned, and discard everything after it."""

    async def write(self, items: Sequence[Any]) -> None:
        """Add *items*."""

    async def flush(self) -> Any:
        """Make everything durable; return the position, any JSON value but None."""

    async def finish(self) -> None:
        """Publish the result, after everything was flushed. May be called again after a crash."""

    async def close(self) -> None:
        """Release resources; called after success and after failure."""


@runtime_checkable
class UpsertSink(Sink, Protocol):
    """A sink whose result can be brought up to date, with `pull(refresh=True)`.

    A refresh calls `upsert` instead of `write`, and `flush` before it counts anything as stored.
    After a crash it may repeat calls since the last `flush`.
    """

    async def upsert(self, items: Sequence[Any]) -> None:
        """Add *items*, each in place of the item with the same key, if there is one."""

    async def remove(self, keys: Sequence[Any]) -> None:
        """Remove the items with these keys; those that do not exist are removed already."""


class FileSink:
    """Writes JSON lines to a `.part` file, in a thread, and at the end *path*.

    Attributes:
        mark: size and checksum of the finished file.
        keeps_part: whether an unfinished `.part` file is kept, and continued by the next run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._convert = _CONVERT.get(path.suffix.lower())
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._position = 0
        self._file: BinaryIO | None = None
        self._target: BinaryIO | None = None
        self._finished = False
        self.mark = Mark()
        self.keeps_part = True

    @property
    def has_lines(self) -> bool:
        """True if the finished file is one of JSON lines."""
        return self._convert is None

    @property
    def files(self) -> list[Path]:
        """All files that this sink may write."""
        return [self.path, self.part, temporary_of(self.path)]

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await in_thread(work, *arguments)
        except OSError as error:
            reason, file = error.strerror or str(error), error.filename or self.path
        raise BackfillStoppedError(
            f"cannot write {file}: {reason}",
            advice="Free space or correct the permissions, then run again with the same state: "
            "everything saved before is intact",
        )

    async def open(self, position: Any) -> None:
        """Open the part file, empty or cut back to *position* bytes."""
        position = position if self.keeps_part else None
        try:
            await self._run(self._open, position)
        except BaseException:
            self.keeps_part = True  # the file may be that of another job or program
            await self.close()
            raise
        self._position = position or 0

    def _open(self, position: int | None) -> None:
        self._lock_target()
        if position is not None and not self.part.exists() and _size(self.path) == position:
            self.path.replace(self.part)  # the last run was killed just after the rename
            target, self._target = self._target, None
            if target is not None:
                target.close()
        if position is not None and _size(self.part) < position:
            raise StateMismatchError(
                f"{self.part} is missing or shorter than its state says ({position} bytes)",
                file=str(self.part),
                advice="Restore it, or delete the state file to start over",
            )
        try:
            descriptor = open_own(self.part, os.O_RDWR | os.O_CREAT)
        except ForeignFileError as error:
            raise self._foreign(error.strerror or "") from None
        self._file = os.fdopen(descriptor, "rb+")
        lock_or_fail(descriptor, self._in_use())
        if position is None and not _is_ours(self._file):
            raise self._foreign("is not one of asyncclients")
        self._file.truncate(position or 0)
        self._file.seek(position or 0)

    def _lock_target(self) -> None:
        """Lock the existing file at *path*: another job may write it under another name."""
        if fcntl is None:
            return  # Windows replaces no open file
        with suppress(OSError):
            descriptor = open_to_read(self.path)
            self._target = os.fdopen(descriptor, "rb")
            lock_or_fail(descriptor, self._in_use())

    def _in_use(self) -> StateInUseError:
        return StateInUseError(
            f"{self.path} is being written by another job",
            file=str(self.path),
            advice="Wait for it, stop it, or pull into another file",
        )

    def _foreign(self, problem: str) -> InputError:
        return InputError(
            f"{self.part}, the temporary file for {self.path.name}, {problem}",
            file=str(self.part),
            advice="Move it away, or pull into another file; it was not touched",
        )

    def check_complete(self) -> None:
        """Raise `StateMismatchError` unless the file of a complete pull exists."""
        if not self.path.is_file():
            raise StateMismatchError(
                f"{self.path} is missing, although its pull is complete",
                file=str(self.path),
                advice="Restore it, or delete the state file to start over",
            )

    async def check_unchanged(self, mark: Mark | None) -> None:
        """Raise `StateMismatchError` unless the finished file has *mark*; None if it is unknown."""
        self.check_complete()
        if mark is not None and await self._run(_mark_of, self.path) != mark:
            raise StateMismatchError(
                f"{self.path} was changed by something else since the last run with this state",
                file=str(self.path),
                advice="A refresh would overwrite it. Restore it, or delete the state file to "
                "start over",
            )

    def encode(self, page: Page[Any]) -> tuple[Page[Any], list[bytes]]:
        """Return *page* and its items as JSON lines.

        Items that the file cannot hold become invalid items of the page returned.
        """
        try:
            text = codec.encode_lines(page.items)
        except Exception:  # noqa: BLE001 - `to_wire` may raise anything
            text = b""
        lines = text.split(b"\n")[:-1]
        writable = len(lines)
        if self._convert:
            writable = text.count(b"\n{") + text.startswith(b"{")
        if writable != len(page.items):
            page = self._without_unwritable(page)
            lines = codec.encode_lines(page.items).split(b"\n")[:-1]
        return page, lines

    def _without_unwritable(self, page: Page[Any]) -> Page[Any]:
        pairs = [(item, self._problem_of(item)) for item in page.items]
        invalid = [
            InvalidItem(raw=encode_row(item), reason=reason) for item, reason in pairs if reason
        ]
        return msgspec.structs.replace(
            page,
            items=[item for item, reason in pairs if not reason],
            invalid_items=[*page.invalid_items, *invalid],
        )

    def _problem_of(self, item: Any) -> str:
        """Return why *item* cannot be written, "" if it can."""
        problem = json_problem(item)
        if not problem and self._convert and not codec.encode(item).startswith(b"{"):
            return f"has no columns: an item of type {type(item).__name__}"
        return problem

    async def write_lines(self, lines: Sequence[bytes]) -> None:
        """Add *lines*, items as `encode` returns them."""
        text = b"\n".join([*lines, b""])
        self._buffer.append(text)
        self._buffered += len(text)
        if self._buffered > _BUFFER:
            await self._write_out(durable=False)

    async def flush(self) -> int:
        """Make everything durable; the position is the number of bytes."""
        await self._write_out(durable=True)
        return self._position

    async def _write_out(self, *, durable: bool) -> None:
        assert self._file is not None
        lines, self._buffer = self._buffer, []
        self._position, self._buffered = self._position + self._buffered, 0
        await self._run(_write, self._file, lines, durable)

    async def finish(self) -> None:
        """Rename or convert the part file to *path*."""
        await self._run(self._finish)

    def _finish(self) -> None:
        if self._convert is not None:
            self._convert(self.part, self.path)
        else:
            if fcntl is None and self._file is not None:
                self._file.close()  # Windows renames no open file; elsewhere it stays locked
            self.part.replace(self.path)
        sync_folder(self.path.parent)
        self.mark = _mark_of(self.path)
        self._finished = True

    async def close(self) -> None:
        """Close the files; keep the part file unless the sink is finished."""
        file, self._file = self._file, None
        converted = self._finished and not self.has_lines
        unwanted = file is not None and (converted or not self.keeps_part)
        if unwanted and fcntl is not None:  # while it is locked
            self.part.unlink(missing_ok=True)
        # In one step: a cancellation between two would leave the second file open, and locked.
        opened = [each for each in (file, self._target) if each is not None]
        if opened:
            await in_thread(_close, opened)
        if unwanted and fcntl is None:  # Windows deletes no open file
            self.part.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.lstat().st_size if path.exists() else -1


def _is_ours(file: BinaryIO) -> bool:
    """True if *file* is empty or begins with an item, as an abandoned pull leaves it."""
    line = file.readline()
    try:
        return not line or isinstance(msgspec.json.decode(line), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _mark_of(path: Path) -> Mark:
    """Return the size and checksum of the file *path*."""
    mark = Mark()
    with path.open("rb") as file:
        while block := file.read(_BUFFER):
            mark = mark.after(block)
    return mark


def _write(file: BinaryIO, lines: Sequence[bytes], durable: bool) -> None:
    file.write(b"".join(lines))
    file.flush()
    if durable:
        os.fsync(file.fileno())


def _close(files: Sequence[BinaryIO]) -> None:
    for file in files:
        with suppress(OSError):
            file.close()


def open_sink(to: str | os.PathLike[str] | Sink) -> tuple[FileSink | Sink, str]:
    """Return the sink for *to*, and its name; raise `InputError` if it cannot be written."""
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
