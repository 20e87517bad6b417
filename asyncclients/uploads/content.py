"""What is uploaded, piece by piece: a file, bytes, or a stream of bytes.

Its length is known before the first byte is sent, because storages want it
announced. A source that turns out shorter or longer is an error, found before its
last piece goes out, so that the storage never sees a whole body and keeps nothing.
Files are read in a thread, at offsets: two passes over one file cannot mix.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from asyncclients.arguments import check_count, shown
from asyncclients.core.events import Callback
from asyncclients.errors import ConfigurationError, UploadError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PIECE = 256 * 1024
"""Bytes read from a file at a time."""

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | AsyncIterable[bytes]
Progress = Callable[[int], None]
Read = Callable[[int], Awaitable[bytes]]


class UploadBody:
    """The body of one upload; each pass over it starts anew.

    Attributes:
        length: bytes in it, as announced.
        replayable: whether a second pass gives the same bytes.
        sent: bytes handed to the connection in the last pass.
        failure: what the source raised in the last pass.
    """

    def __init__(
        self,
        length: int,
        passes: Callable[[], AsyncIterator[bytes]],
        *,
        replayable: bool,
        progress: Progress | None,
    ) -> None:
        self.length, self.replayable = length, replayable
        self._passes = passes
        self._progress = None if progress is None else Callback(progress)
        self._last: _BodyIterator | None = None
        self.sent = 0
        self.failure: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.sent, self.failure = 0, None
        self._last = _BodyIterator(self, self._passes())
        return self._last

    def moved(self, by: _BodyIterator, sent: int) -> None:
        """The pass *by* has handed *sent* bytes to the connection."""
        if by is self._last:
            self.sent = sent
            if self._progress is not None:
                self._progress(sent)

    def failed(self, by: _BodyIterator, failure: Exception) -> None:
        """The pass *by* ends with *failure*."""
        if by is self._last:
            self.failure = failure


class _SourceFailedError(Exception):
    """Stops the request; what happened is in `Content.failure`."""


class _BodyIterator:
    """One pass over a content, held to its length. No generator: nothing has to close it."""

    def __init__(self, content: UploadBody, pieces: AsyncIterator[bytes]) -> None:
        self._content, self._pieces = content, pieces
        self._sent = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._checked()
            if piece is not None:
                self._sent += len(piece)
                self._content.moved(self, self._sent)
        except Exception as failure:  # noqa: BLE001 - raised again where aiohttp is not around
            self._content.failed(self, failure)
        else:
            if piece is None:
                raise StopAsyncIteration
            return piece
        raise _SourceFailedError

    async def _checked(self) -> bytes | None:
        """The next piece, None at the end; the last is given only when it is the last."""
        left = self._content.length - self._sent
        piece = await self._read()
        if piece is None:
            if left:
                raise _mismatch("shorter", self._content)
            return None
        if len(piece) > left or (len(piece) == left and await self._read() is not None):
            raise _mismatch("longer", self._content)
        return piece

    async def _read(self) -> bytes | None:
        async for piece in self._pieces:
            if piece:
                return piece
        return None


def _mismatch(how: str, content: UploadBody) -> UploadError:
    return UploadError(
        f"the source is {how} than the {content.length} bytes that were announced",
        advice="Nothing was stored; give the right length, and leave a file alone meanwhile",
    )


class _Ranges:
    """Pieces of what can be read at any offset."""

    def __init__(self, read: Read) -> None:
        self._read, self._offset = read, 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._read(self._offset)
        if not piece:
            raise StopAsyncIteration
        self._offset += len(piece)
        return piece


class _File:
    """A file that threads read; a straggler of an abandoned pass does no harm."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A bare number would be read, and closed, as somebody's file descriptor.
        self._path, self._lock = os.fspath(path), threading.Lock()
        self._file: BinaryIO | None = None
        self._closed = False

    def _open(self) -> BinaryIO:
        if self._closed:
            raise ValueError("the upload is over")
        if self._file is None:
            if not stat.S_ISREG(os.stat(self._path).st_mode):  # noqa: PTH116
                raise ValueError(
                    f"{self._path!r} is not a regular file: give a stream and its length"
                )
            self._file = open(self._path, "rb")  # noqa: SIM115, PTH123 - closed in `close`
        return self._file

    def size(self) -> int:
        """Bytes in the file now."""
        with self._lock:
            return os.fstat(self._open().fileno()).st_size

    def read_at(self, offset: int) -> bytes:
        """A piece from *offset* on; empty at the end."""
        with self._lock:
            file = self._open()
            file.seek(offset)
            return file.read(PIECE)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


@asynccontextmanager
async def open_content(
    source: Source, length: int | None, progress: Progress | None
) -> AsyncGenerator[UploadBody]:
    """The content of *source*, for as long as the block lasts.

    Raises:
        ValueError: a stream without *length*, a *length* that is not that of the
            bytes or file, or a path to something else than a file.
        OSError: the file cannot be read.
    """
    check_source(source, length, progress)
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield _of_bytes(bytes(source), length, progress)
    elif isinstance(source, AsyncIterable):
        if length is None:
            raise ValueError("an upload from an async iterable needs its length= in bytes")
        yield UploadBody(length, source.__aiter__, replayable=False, progress=progress)
    else:
        file = _File(source)
        try:
            size = await asyncio.to_thread(file.size)
            _check_length(size, length)

            async def read(offset: int) -> bytes:
                return await asyncio.to_thread(file.read_at, offset)

            yield UploadBody(size, lambda: _Ranges(read), replayable=True, progress=progress)
        finally:
            # Also when cancelled: a thread that is not free yet would never get to it.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, file.close))


def check_source(source: Any, length: Any, progress: Any) -> None:
    """See that an upload can be made of these.

    Raises:
        ConfigurationError: naming the argument and its right form.
    """
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, AsyncIterable)
    if not isinstance(source, kinds):
        raise ConfigurationError(
            f"an upload's source must be a path, bytes, or an async iterable of bytes with its "
            f"length=, not {shown(source)}",
            advice="As in upload_csv('1', 'rows.csv')",
        )
    if length is not None:
        check_count("length", length, least=0, advice="Give the size of the source in bytes")
    if progress is not None and (not callable(progress) or iscoroutinefunction(progress)):
        raise ConfigurationError(
            "progress must be a function that takes the number of bytes sent",
            advice="Write it as in progress=print",
        )


def _of_bytes(data: bytes, length: int | None, progress: Progress | None) -> UploadBody:
    _check_length(len(data), length)

    async def read(offset: int) -> bytes:
        return data[offset : offset + PIECE]

    return UploadBody(len(data), lambda: _Ranges(read), replayable=True, progress=progress)


def _check_length(size: int, length: int | None) -> None:
    if length is not None and length != size:
        raise ValueError(f"length is {length}, and the source has {size} bytes")
