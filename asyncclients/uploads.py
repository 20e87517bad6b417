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
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO
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
from asyncclients.own_files import in_thread
from asyncclients.secret import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncclients.core.pool import SessionPool
    from asyncclients.core.vendor import Vendor

PIECE = 256 * 1024
"""Bytes read from a file at a time."""

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | AsyncIterable[bytes]
Progress = Callable[[int], None]


class _SourceFailedError(Exception):
    """Stops the request; its cause is in `UploadBody.failure`."""


class UploadBody:
    """The body of one upload; each iteration is a pass that starts at the beginning.

    Attributes:
        length: in bytes.
        replayable: whether each pass yields the same bytes.
        sent: bytes passed to the connection in the last pass.
        failure: the error of the source in the last pass.
    """

    def __init__(
        self,
        length: int,
        pieces: Callable[[], AsyncIterator[bytes]],
        *,
        replayable: bool,
        progress: Progress | None,
    ) -> None:
        self.length, self.replayable, self._pieces = length, replayable, pieces
        self._progress = None if progress is None else Callback(progress)
        self._passes = self.sent = 0
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._passes += 1
        number, sent, self.sent, self.failure = self._passes, 0, 0, None
        try:
            async for piece in self._checked():
                sent += len(piece)
                if number == self._passes:
                    self.sent = sent
                    if self._progress is not None:
                        self._progress(sent)
                yield piece
        except Exception as failure:  # noqa: BLE001 - `UploadCall` raises it
            if number == self._passes:
                self.failure = failure
            # The frames of aiohttp that this passes hold the request with its signed URL.
            raise _SourceFailedError from None

    async def _checked(self) -> AsyncIterator[bytes]:
        """Yield the pieces; the last one only if the source has no more."""
        left, last = self.length, b""
        async for piece in self._pieces():
            left -= len(piece)
            if left < 0:
                raise self._wrong("longer")
            if not left:
                last = last or piece
            elif piece:
                yield piece
        if left:
            raise self._wrong("shorter")
        if last:
            yield last

    def _wrong(self, how: str) -> UploadError:
        return UploadError(
            f"the source is {how} than the {self.length} bytes that were announced",
            advice="Nothing was stored; give the right length, and do not change the file meanwhile",
        )


class _File:
    """A regular file for reads in threads, which may outlive the pass that started them."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # `os.fspath` rejects numbers, which `open` would use as file descriptors.
        self._path, self._lock = os.fspath(path), threading.Lock()
        self._file: BinaryIO | None = None

    def open(self) -> int:
        """Open the file and return its size in bytes."""
        if not stat.S_ISREG(os.stat(self._path).st_mode):  # noqa: PTH116
            raise ValueError(f"{self._path!r} is not a regular file: give a stream and its length")
        self._file = open(self._path, "rb")  # noqa: SIM115, PTH123 - closed in `close`
        return os.fstat(self._file.fileno()).st_size

    def _read_at(self, offset: int) -> bytes:
        assert self._file is not None
        with self._lock:
            self._file.seek(offset)
            return self._file.read(PIECE)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the content; raise `ValueError` after `close`."""
        offset = 0
        while piece := await asyncio.to_thread(self._read_at, offset):
            offset += len(piece)
            yield piece

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


@asynccontextmanager
async def open_content(
    source: Source, length: int | None, progress: Progress | None
) -> AsyncGenerator[UploadBody]:
    """Provide the body of *source* inside the block.

    Raises:
        ConfigurationError: an argument has the wrong type.
        ValueError: a stream has no *length*, *length* is not that of the bytes or file, or the
            path is not a regular file.
        OSError: the file cannot be read.
    """
    _check_source(source)
    if length is not None:
        check_value("length", length, NaturalInt, advice="Give the size of the source in bytes")
    check_function("progress", progress, advice="As in progress=print")
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        _check_length(len(data), length)
        yield UploadBody(len(data), partial(_slices, data), replayable=True, progress=progress)
    elif isinstance(source, AsyncIterable):
        if length is None:
            raise ValueError("an upload from an async iterable needs its length= in bytes")
        yield UploadBody(length, lambda: aiter(source), replayable=False, progress=progress)
    else:
        file = _File(source)
        try:
            size = await in_thread(file.open)
            _check_length(size, length)
            yield UploadBody(size, file.pieces, replayable=True, progress=progress)
        finally:
            await in_thread(file.close)


def _check_source(source: Any) -> None:
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, AsyncIterable)
    if not isinstance(source, kinds):
        raise ConfigurationError(
            f"an upload's source must be a path, bytes, or an async iterable of bytes with its "
            f"length=, not {shown(source)}",
            advice="As in upload_csv('1', 'rows.csv')",
        )


async def _slices(data: bytes) -> AsyncIterator[bytes]:
    for offset in range(0, len(data), PIECE):
        yield data[offset : offset + PIECE]


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
    """A presigned URL; its repr and `shown` have only the host and path.

    Attributes:
        usable: whether a file may be sent there: by https, or to this machine.
    """

    def __init__(self, location: Secret) -> None:
        self._location = location
        self.shown = safe_location(location.reveal())
        self.usable, self.origin, self.path = False, "", "/"
        with suppress(ValueError):
            url = self._url()
            host, _ = url.host, url.port  # an invalid port is a `ValueError`
            if host and is_encodable(host) and url.user is None and url.password is None:
                self.usable = url.scheme == "https" or (url.scheme == "http" and is_loopback(host))
                self.origin, self.path = str(url.origin()), url.raw_path

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The secret values of the query, such as the signature."""
        fields = parse_qsl(self._location.reveal().partition("?")[2])
        return tuple(Secret(value) for name, value in fields if name.lower() not in _PUBLIC)

    def _url(self) -> URL:
        return URL(self._location.reveal(), encoded=True)

    def wire(self, content: UploadBody) -> PreparedRequest:
        """Return the PUT request of *content*, with signed headers only."""
        url = self._url()
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
