"""The border to aiohttp: the only client-side import of it.

One exchange is one request on the wire. Its permit is taken in a client
middleware, after aiohttp has made the request and before a connection is taken:
a call that waits for its turn holds no socket, and whatever puts a second
request on the wire has to pass here again. aiohttp's own resend of a dropped
GET, PUT or DELETE is refused here, because the retry judge owns repetition.

aiohttp's exceptions end here. They carry the request's headers, and their
frames hold the credential: an outcome is a value, and a cancellation passes on
without its traceback.
"""

from __future__ import annotations

import asyncio
import io
import math
import ssl
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import msgspec
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from asyncclients.core.endpoint import NoResponse, Outcome, Response
from asyncclients.core.ratelimit_headers import read_signal
from asyncclients.errors import (
    AttemptTimeoutError,
    ClientClosedError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    DisconnectedError,
    ResponseTooLargeError,
    TLSError,
)

if TYPE_CHECKING:
    from asyncclients.core.limiter import Permit
    from asyncclients.core.scheduler import Scheduler, Ticket
    from asyncclients.core.secret import Secret

_CONNECT_TIMEOUT = 15.0
"""Seconds for name resolution, connection and TLS: nothing is sent before they are done."""
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=_CONNECT_TIMEOUT)
_LARGE_BODY = 2**20
_KEEPALIVE = 4.0
"""Seconds an idle connection is kept: below the 5 s at which common servers close theirs."""

Body = bytes | AsyncIterable[bytes] | None
Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


class _QuietConnector(aiohttp.TCPConnector):
    """Does not reuse a connection on which something arrived while it idled.

    Such bytes are an answer nobody asked for; the next request would get it.
    aio-libs/aiohttp#13656.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                return connection
            connection.close()
        return None


def open_session(trace_configs: list[aiohttp.TraceConfig] | None = None) -> aiohttp.ClientSession:
    """A session for one credential: no cookies, no proxies, no redirects, no limits of its own.

    One each, so that a stray answer cannot cross credentials.
    """
    return aiohttp.ClientSession(
        connector=_QuietConnector(limit=0, keepalive_timeout=_KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_NO_TIMEOUT,
        trust_env=False,
        trace_configs=trace_configs,
    )


class Wire(msgspec.Struct, frozen=True):
    """One request, down to its bytes; the credential is not in it."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: Body = None

    def __repr__(self) -> str:
        return f"<Wire {self.method} {self.url.origin()}>"

    def payload(self) -> Any:
        """The body as aiohttp likes it: large ones as a file, written piece by piece."""
        if isinstance(self.body, bytes) and len(self.body) > _LARGE_BODY:
            return io.BytesIO(self.body)
        return self.body


class Exchange:
    """One request on the wire: called by aiohttp as the middleware of that request."""

    __slots__ = (
        "credential",
        "failure",
        "loop",
        "on_sent",
        "permit",
        "scheduler",
        "ticket",
        "timeout",
        "timer",
    )

    def __init__(
        self,
        scheduler: Scheduler,
        ticket: Ticket,
        *,
        timeout: float,
        credential: tuple[str, Secret] | None,
        on_sent: Callable[[float], None] | None = None,
    ) -> None:
        self.scheduler, self.ticket, self.timeout = scheduler, ticket, timeout
        self.credential = credential
        self.on_sent = on_sent
        self.loop = asyncio.get_running_loop()
        self.permit: Permit | None = None
        self.failure: BaseException | None = None
        deadline_at = None if ticket.deadline_at == math.inf else ticket.deadline_at
        self.timer = asyncio.timeout_at(deadline_at)

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        if self.failure is not None:
            raise self.failure  # aiohttp's own resend; the judge decides about those
        scheduler = self.scheduler
        asked_at = self.loop.time() if self.on_sent else 0.0
        permit = scheduler.try_take(self.ticket)
        if permit is None:
            permit = await scheduler.take(self.ticket)
        self.permit = permit
        now = self.loop.time()
        self.timer.reschedule(min(now + self.timeout, self.ticket.deadline_at))
        if self.credential is not None:
            request.headers[self.credential[0]] = self.credential[1].reveal()
        if self.on_sent is not None:
            self.on_sent(now - asked_at)
        try:
            response = await handler(request)
        except BaseException as failure:
            self.failure = failure
            if never_sent(failure):
                scheduler.returned(permit)
            else:
                scheduler.lost(permit)
            raise
        scheduler.answered(permit, read_signal(response.status, response.headers))
        return response

    async def run(self, session: aiohttp.ClientSession, wire: Wire, max_bytes: int) -> Outcome:
        """Put *wire* on the wire once; an `Outcome`, whatever happens there.

        Raises:
            DeadlineExceededError: before anything was sent.
            ClientClosedError: the session was closed meanwhile.
        """
        outcome: Outcome | None = None
        late: DeadlineExceededError | None = None
        try:
            async with self.timer:
                outcome = await self._run(session, wire, max_bytes)
        except asyncio.CancelledError as cancelled:
            cancelled.__context__ = None
            raise cancelled.with_traceback(None) from None
        except DeadlineExceededError as refused:
            late = refused
        except TimeoutError:
            outcome = None
        finally:
            if self.permit is not None:
                self.scheduler.finished()
        if outcome is not None:
            return outcome
        if self.permit is None:
            raise self._late() if late is None else late.with_traceback(None)
        return NoResponse(
            "maybe", AttemptTimeoutError, "got no answer in time", "Raise timeout= if it is slow"
        )

    def _late(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            "did not get its turn before its deadline",
            eta=self.scheduler.eta(1, self.ticket.priority),
            advice="Nothing was sent; allow a longer deadline or send less",
        )

    async def _run(self, session: aiohttp.ClientSession, wire: Wire, max_bytes: int) -> Outcome:
        failure: BaseException
        try:
            response = await session.request(
                wire.method,
                wire.url,
                headers=wire.headers,
                data=wire.payload(),
                middlewares=(self,),
                allow_redirects=False,
                timeout=_NO_TIMEOUT,
            )
            try:
                content = await read_body(response, max_bytes)
            except BaseException:
                response.close()
                raise
            if content is not None:
                response.release()
                return Response(response.status, response.headers, content)
            response.close()
            return _too_large(max_bytes)
        except (aiohttp.ClientError, ssl.SSLError, OSError, RuntimeError) as caught:
            foreign = isinstance(caught, (aiohttp.ClientError, ssl.SSLError))
            if isinstance(caught, TimeoutError) and not foreign:
                raise
            if isinstance(caught, RuntimeError) and not (foreign or session.closed):
                raise
            failure = caught
        if session.closed:
            raise ClientClosedError(
                "the pool was closed during the call", advice="Close the pool after its last call"
            )
        return silence(failure)


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """The decompressed body; None as soon as it is longer than *max_bytes*."""
    length = response.content_length
    if length is not None and length <= max_bytes and "Content-Encoding" not in response.headers:
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> NoResponse:
    return NoResponse(
        "maybe",
        ResponseTooLargeError,
        f"answered with more than {max_bytes} bytes (decompressed)",
        "Raise SessionPool(max_response_bytes=...) if that much is expected",
        final=True,
    )


def never_sent(failure: BaseException) -> bool:
    """Is it certain that nothing left this machine?"""
    return isinstance(
        failure, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    ) and not isinstance(failure, aiohttp.ServerDisconnectedError)


def silence(failure: BaseException) -> NoResponse:
    """What *failure* of aiohttp means, by its class; its text may hold a credential."""
    if isinstance(
        failure, (aiohttp.ClientSSLError, ssl.SSLError, aiohttp.ServerFingerprintMismatch)
    ):
        return NoResponse(
            "no",
            TLSError,
            "could not trust the server's TLS certificate",
            "Check the address and the CA store (SSL_CERT_FILE); never turn verification off",
            final=True,
        )
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return _unconnected("could not resolve the server's name")
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return _unconnected("could not connect in time")
    if isinstance(failure, aiohttp.ClientConnectorError):
        return _unconnected("could not connect to the server")
    if isinstance(failure, TimeoutError):
        return NoResponse("maybe", AttemptTimeoutError, "got no answer in time")
    return _broken(failure)


def _unconnected(why: str) -> NoResponse:
    return NoResponse(
        "no", ConnectError, why, "Check base_url, the network and the vendor's status"
    )


def _broken(failure: BaseException) -> NoResponse:
    encoding = isinstance(failure, aiohttp.ClientPayloadError) and isinstance(
        failure.__cause__ or failure.__context__, ContentEncodingError
    )
    # aiohttp reports its own parse errors as a response error with status 400.
    if encoding or isinstance(failure, aiohttp.ClientResponseError):
        return NoResponse(
            "maybe",
            DecodeError,
            "answered with something that is not valid HTTP",
            "Check what answers at base_url: a proxy or another service?",
        )
    sent: Literal["no", "maybe"] = "maybe"
    return NoResponse(sent, DisconnectedError, "broke the connection before the answer was whole")
