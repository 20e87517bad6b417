"""Uploads of files to the link that a vendor returned, on another host.

The length of a body is known before its first byte, since storages require it. If a source
turns out shorter or longer, the upload fails before its last piece is sent, so the storage
never receives a complete body and stores nothing. Files are read in threads at explicit
offsets, so two concurrent passes over one file do not interfere.

The link is the credential, and is treated as one: it is in no error, log or event, and it is
redacted where the storage echoes it. The request has no vendor credential and needs no quota;
retries and errors are those of every call.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import parse_qsl

import msgspec
from yarl import URL

from asyncclients.arguments import NaturalInt, check_function, check_value, shown
from asyncclients.base_url import is_encodable, is_loopback
from asyncclients.core.call import Call, ClientConfig
from asyncclients.core.endpoint import Endpoint, Request, Response
from asyncclients.core.error_mapping import safe_location
from asyncclients.core.events import Callback
from asyncclients.core.prepare import PreparedRequest
from asyncclients.errors import ConfigurationError, UnexpectedRedirectError, UploadError
from asyncclients.secret import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncclients.core.pool import SessionPool
    from asyncclients.core.vendor import Vendor

PIECE = 256 * 1024
"""Bytes read from a file at a time."""

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | AsyncIterable[bytes]
Progress = Callable[[int], None]
Read = Callable[[], Awaitable[bytes]]
"""Returns the next piece of a source, empty at its end."""


class UploadBody:
    """The body of one upload; each iteration starts at the beginning.

    If it is *replayable*, a second iteration yields the same bytes.
    """

    def __init__(
        self, length: int, start: Callable[[], Read], *, replayable: bool, progress: Progress | None
    ) -> None:
        self.length, self.replayable, self._start = length, replayable, start
        self._progress = None if progress is None else Callback(progress)
        self._last: _BodyIterator | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._last = _BodyIterator(self, self._start())
        return self._last

    @property
    def sent(self) -> int:
        """Bytes passed to the connection in the last iteration."""
        return 0 if self._last is None else self._last.sent

    @property
    def failure(self) -> Exception | None:
        """The error of the source in the last iteration."""
        return None if self._last is None else self._last.failure

    def report(self, iterator: _BodyIterator) -> None:
        """Report the progress of *iterator*, unless another one was started after it."""
        if iterator is self._last and self._progress is not None:
            self._progress(iterator.sent)


class _SourceFailedError(Exception):
    """Stops the request; the cause is in `UploadBody.failure`."""


class _BodyIterator:
    """One iteration of a body, which checks its length. Unlike a generator, it needs no close."""

    def __init__(self, body: UploadBody, read: Read) -> None:
        self._body, self._read = body, read
        self.sent = 0
        self.failure: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = b""
        try:
            piece = await self._next_checked()
        except Exception as failure:  # noqa: BLE001 - aiohttp would wrap it; `UploadCall` raises it
            self.failure = failure
        if self.failure is not None:
            raise _SourceFailedError
        if not piece:
            raise StopAsyncIteration
        self.sent += len(piece)
        self._body.report(self)
        return piece

    async def _next_checked(self) -> bytes:
        """Return the next piece; the last one only if the source has no more."""
        left = self._body.length - self.sent
        piece = await self._read()
        how = ""
        if not piece and left:
            how = "shorter"
        elif len(piece) > left or (piece and len(piece) == left and await self._read()):
            how = "longer"
        if how:
            raise UploadError(
                f"the source is {how} than the {self._body.length} bytes that were announced",
                advice="Nothing was stored; give the right length, and do not change the file "
                "meanwhile",
            )
        return piece


def _stream(source: AsyncIterable[bytes]) -> Read:
    pieces = aiter(source)

    async def read() -> bytes:
        async for piece in pieces:
            if piece:
                return piece
        return b""

    return read


def _ranges(read_at: Callable[[int], Awaitable[bytes]]) -> Read:
    offset = 0

    async def read() -> bytes:
        nonlocal offset
        piece = await read_at(offset)
        offset += len(piece)
        return piece

    return read


class _File:
    """A file for reads in threads, which may outlive the iteration that started them."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # `os.fspath` rejects numbers, which `open` would use as file descriptors.
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
        """Return the current size in bytes."""
        with self._lock:
            return os.fstat(self._open().fileno()).st_size

    def read_at(self, offset: int) -> bytes:
        """Return the piece at *offset*, empty at the end."""
        with self._lock:
            file = self._open()
            file.seek(offset)
            return file.read(PIECE)

    def close(self) -> None:
        """Close the file; later reads fail."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


@asynccontextmanager
async def open_content(
    source: Source, length: int | None, progress: Progress | None
) -> AsyncGenerator[UploadBody]:
    """Provide the body of *source* inside the block.

    Raises:
        ValueError: a stream has no *length*, *length* is not that of the bytes or file, or the
            path is not a regular file.
        OSError: the file cannot be read.
    """
    check_source(source, length, progress)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        _check_length(len(data), length)

        async def slice_at(offset: int) -> bytes:
            return data[offset : offset + PIECE]

        yield UploadBody(len(data), lambda: _ranges(slice_at), replayable=True, progress=progress)
    elif isinstance(source, AsyncIterable):
        if length is None:
            raise ValueError("an upload from an async iterable needs its length= in bytes")
        yield UploadBody(length, lambda: _stream(source), replayable=False, progress=progress)
    else:
        file = _File(source)
        try:
            size = await asyncio.to_thread(file.size)
            _check_length(size, length)

            async def read_at(offset: int) -> bytes:
                return await asyncio.to_thread(file.read_at, offset)

            yield UploadBody(size, lambda: _ranges(read_at), replayable=True, progress=progress)
        finally:
            # Shielded: after a cancellation, a queued thread would never close the file.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, file.close))


def check_source(source: Any, length: Any, progress: Any) -> None:
    """Raise `ConfigurationError` if an argument of an upload has the wrong type."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, AsyncIterable)
    if not isinstance(source, kinds):
        raise ConfigurationError(
            f"an upload's source must be a path, bytes, or an async iterable of bytes with its "
            f"length=, not {shown(source)}",
            advice="As in upload_csv('1', 'rows.csv')",
        )
    if length is not None:
        check_value("length", length, NaturalInt, advice="Give the size of the source in bytes")
    check_function("progress", progress, advice="As in progress=print")


def _check_length(size: int, length: int | None) -> None:
    if length is not None and length != size:
        raise ValueError(f"length is {length}, but the source has {size} bytes")


_PUBLIC = frozenset(
    {"x-amz-algorithm", "x-amz-date", "x-amz-expires", "x-amz-signedheaders", "x-id"}
)
"""Query parameters of a presigned URL that are not secret."""


class UploadReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The host that stored a file, and the number of bytes."""

    host: str
    bytes_sent: int


class PresignedUrl:
    """A presigned URL; its repr and `shown` have only the host and path."""

    def __init__(self, location: Secret) -> None:
        self._location = location
        self.shown = safe_location(location.reveal())
        self.origin = ""
        self.path = "/"
        if (url := self._url()) is not None:
            self.origin, self.path = str(url.origin()), url.raw_path

    @property
    def usable(self) -> bool:
        """True if a file may be sent there: by https, or to this machine."""
        return bool(self.origin)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The secret values of the query, such as the signature."""
        fields = parse_qsl(self._location.reveal().partition("?")[2])
        return tuple(Secret(value) for name, value in fields if name.lower() not in _PUBLIC)

    def _url(self) -> URL | None:
        try:
            url = URL(self._location.reveal(), encoded=True)
            host, _ = url.host, url.port
        except ValueError:
            return None
        if not host or not is_encodable(host) or url.user is not None or url.password is not None:
            return None
        trusted = url.scheme == "https" or (url.scheme == "http" and is_loopback(host))
        return url if trusted else None

    def wire(self, content: UploadBody) -> PreparedRequest:
        """Return the PUT request of *content*, with signed headers only."""
        url = URL(self._location.reveal(), encoded=True)
        signed = url.query.get("X-Amz-SignedHeaders", "").lower().split(";")
        headers = {"Content-Length": str(content.length)}
        if "content-type" in signed:
            headers["Content-Type"] = "text/csv"
        return PreparedRequest("PUT", url, headers, content)

    def __repr__(self) -> str:
        return f"<PresignedUrl {self.shown}>"


class UploadCall(Call[Response]):
    """A call that uploads *content* to *link*; *secrets* are those of the vendor's credential."""

    def __init__(
        self,
        config: ClientConfig,
        request: Request[Response],
        link: PresignedUrl,
        content: UploadBody,
        secrets: tuple[Secret, ...],
    ) -> None:
        super().__init__(config, request)
        self._link, self._content, self._sent = link, content, secrets

    def prepare(self) -> None:
        """Resolve the scope and prepare the request."""
        self._scope = self._config.scope()
        self._prepared = self._link.wire(self._content)
        if self.events is not None:
            self.events.on_start(self._config.base_url)

    async def attempt(self) -> Any:
        """Make one attempt; raise the error of the source, if it failed."""
        outcome = await super().attempt()
        if self._content.failure is not None:
            raise self._content.failure
        return outcome

    def _secrets(self) -> tuple[Secret, ...]:
        return (*self._link.secrets, *self._sent)


class Uploader:
    """Sends files to the links of a vendor."""

    def __init__(self, pool: SessionPool, vendor: Vendor, config: ClientConfig) -> None:
        self._pool, self._vendor, self._config = pool, vendor, config

    async def put(
        self, endpoint: Endpoint[Response], reply: Response, content: UploadBody, began: float
    ) -> UploadReceipt:
        """Send *content* to the `Location` in *reply*; the call began at loop time *began*.

        Raises:
            UnexpectedRedirectError: the location is unsafe, see `PresignedUrl.usable`.
            UploadError: the source has another length than announced.
        """
        link = PresignedUrl(Secret(reply.headers.get("Location", "")))
        if not link.usable:
            raise UnexpectedRedirectError(
                f"the response has an unsafe upload link: {link.shown or 'no Location header'}",
                vendor=self._vendor.name,
                operation=endpoint.operation,
                method=endpoint.method,
                status=reply.status,
                location=link.shown,
                advice="The file was not sent: a link must be https with a valid host name. "
                "Check base_url, and ask the vendor",
            )
        request: Request[Response] = Request(
            endpoint=endpoint, path=link.path, idempotent=content.replayable
        )
        login = self._config.login
        secrets = () if login is None else login.secrets
        upload = partial(UploadCall, link=link, content=content, secrets=secrets)
        await self._config_at(link, began).send(request, upload)
        return UploadReceipt(host=URL(link.origin).host or "", bytes_sent=content.sent)

    def _config_at(self, link: PresignedUrl, began: float) -> ClientConfig:
        """Return the client's configuration for *link*: no credential or headers, less time."""
        pool, vendor, options = self._pool, self._vendor, self._config.options
        deadline = options.deadline
        if deadline is not None:
            passed = asyncio.get_running_loop().time() - began
            deadline = max(deadline - passed, 1e-6)
        return msgspec.structs.replace(
            self._config,
            scope=pool.handle(vendor, link.origin, None, (), None),
            vendor=vendor,
            login=None,
            base_url=link.origin + "/",
            options=msgspec.structs.replace(options, headers=None, deadline=deadline),
        )
