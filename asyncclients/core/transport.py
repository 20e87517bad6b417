"""One attempt: a request on the wire, its timeout, and the meaning of aiohttp's exceptions.

The permit is acquired in a client middleware, after aiohttp has built the request and
before it takes a connection. A waiting call holds no socket, and a second request passes
here again. aiohttp resends a dropped GET, PUT or DELETE by itself: that resend is rejected,
because `retry.py` decides about retries.

aiohttp's exceptions end here. They contain the request with its headers, and their frames
hold the credential. An attempt returns an `Outcome`; a cancellation passes on without its
traceback. Exceptions are classified by type: their text may hold a credential, and the
`status` of one may be invented, since aiohttp reports its own parse errors as status 400.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.http_exceptions import ContentEncodingError

from asyncclients.core.auth import Header
from asyncclients.core.endpoint import NoResponse, Outcome, Response
from asyncclients.core.network import classify_network_failure, never_sent
from asyncclients.core.prepare import GET_HEADERS, JSON, PreparedRequest
from asyncclients.core.retry import RetryState
from asyncclients.core.session import CONNECT_TIMEOUT, NO_TIMEOUT
from asyncclients.core.tokens import TOKEN_EXPIRED
from asyncclients.errors import (
    AsyncClientsError,
    AttemptTimeoutError,
    ClientClosedError,
    ConnectError,
    DeadlineExceededError,
    DecodeError,
    DisconnectedError,
    ResponseTooLargeError,
)
from asyncclients.ratelimit.headers import parse_rate_limit_headers
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.ratelimit.slots import Permit
from asyncclients.ratelimit.timer import TICK

if TYPE_CHECKING:
    from aiohttp.client_middlewares import ClientMiddlewareType
    from yarl import URL


_SKIP_AUTO_HEADERS = (hdrs.CONTENT_TYPE,)
"""For a request without a content type: the signature of a presigned URL covers its absence."""

_LARGE_BODY = 2**20
"""Bytes above which a body is written in pieces."""
_CONNECT_SHARE = 0.9
"""Share of the time left after which connecting is given up."""
_LONG_TIMEOUT = CONNECT_TIMEOUT / _CONNECT_SHARE

Credential = Header | Callable[[float], Header | None] | None
"""The header with the credential, or a function of the loop time that returns it.

The function returns None if the credential has expired by then."""

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


# --- Timeouts -----------------------------------------------------------------


class AttemptTimeouts:
    """One timer for all attempts under way in a scope.

    A timer per attempt, nearly always cancelled unused, would cost more than its permit.
    There are no more attempts than connections. Waiting calls may be many, and their
    deadlines have timers of their own.
    """

    __slots__ = ("_closed", "_due", "_fires_at", "_timer")

    def __init__(self) -> None:
        self._due: dict[TimedTask, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf
        self._closed = False

    def schedule(self, timed: TimedTask, at: float) -> None:
        """Expire *timed* at loop time *at*; replaces an earlier time."""
        self._due[timed] = at
        if at < self._fires_at:
            self._arm(at)

    def finish(self, timed: TimedTask) -> bool:
        """End the work of *timed*, which does not expire any more.

        Returns True if only the timeout cancelled the task, if anything did.
        """
        # The timer stays: when it fires it finds nothing due, and is set for the next one.
        self._due.pop(timed, None)
        if self._closed:
            self.close()
        task, timed.task = timed.task, None
        assert task is not None
        return timed.expired and task.uncancel() <= timed.cancelling

    def close(self) -> None:
        """Cancel the timer as soon as no attempt is under way."""
        self._closed = True
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer, self._fires_at = None, math.inf

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._expire, at)
        self._fires_at = at

    def _expire(self, due_by: float) -> None:
        self._timer, self._fires_at = None, math.inf
        for timed in [timed for timed, at in self._due.items() if at <= due_by]:
            del self._due[timed]
            timed.expire()
        if self._due:
            self._arm(min(self._due.values()))


class TimedTask(msgspec.Struct, eq=False, kw_only=True):
    """Work of a task that is cancelled when its time is over, by the rules of `asyncio.timeout`.

    A cancellation by anyone else passes on.

    Attributes:
        task: the task while the work is under way; None before and after.
        cancelling: the task's count of cancellation requests at the start.
        expired: whether the time was over before the work.
    """

    task: asyncio.Task[object] | None = None
    cancelling: int = 0
    expired: bool = False

    def expire(self) -> None:
        """Cancel the task, unless the work is finished."""
        if self.task is not None and not self.expired:
            self.expired = True
            self.task.cancel()


# --- The attempt --------------------------------------------------------------


class Channel:
    """The way of a scope's attempts to the vendor: permits, session and timeouts.

    Attributes:
        scheduler: grants permits.
        timeouts: expires the attempts.
        session: the aiohttp session; None before first use and after the end.
        outer, inner: middlewares of the session to run around and inside of an attempt.
        network: arguments of aiohttp's `request` for TLS and proxy.
    """

    def __init__(self, scheduler: Scheduler, network: Mapping[str, Any] | None = None) -> None:
        self.scheduler, self.timeouts = scheduler, AttemptTimeouts()
        self.session: aiohttp.ClientSession | None = None
        self.outer: tuple[ClientMiddlewareType, ...] = ()
        self.inner: tuple[ClientMiddlewareType, ...] = ()
        self.network: Mapping[str, Any] = network or {}


class _EndError(Exception):
    """Ends an attempt with *outcome*."""

    def __init__(self, outcome: NoResponse) -> None:
        super().__init__(outcome.why)
        self.outcome = outcome


class Attempt(TimedTask, eq=False):
    """One request on the wire. aiohttp calls the attempt as a middleware of the request.

    Attributes:
        prepared: the request.
        channel: that of the scope.
        permit_request: the call's place in the queue.
        state: the call's retry state; counts the attempt.
        timeout: seconds from the permit to the end of the response.
        credential: see `Credential`.
        on_sent: called with the seconds that the permit took.
        before_send: called before anything is sent; its result, if any, is awaited.
        permit: once it is granted.
        sent: whether the request was sent.
        stop_with: exception to raise if aiohttp sends again.
    """

    prepared: PreparedRequest
    channel: Channel
    permit_request: PermitRequest
    state: RetryState
    timeout: float
    credential: Credential
    on_sent: Callable[[float], None] | None = None
    before_send: Callable[[], Awaitable[None] | None] | None = None
    permit: Permit | None = None
    sent: bool = False
    stop_with: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Attempt {self.prepared!r}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []

    def __deepcopy__(self, memo: object) -> Attempt:
        return self  # some test doubles of a session copy their arguments

    async def run(self, session: aiohttp.ClientSession, max_bytes: int) -> Outcome:
        """Send the request once and return its response of at most *max_bytes*.

        Raises:
            DeadlineExceededError: before anything was sent.
            ClientClosedError: the pool or its session was closed during the attempt.
        """
        request, channel, loop = self.prepared, self.channel, self.channel.scheduler.loop
        # Without the loop as an argument it would be looked up: a system call on Python 3.11.
        self.task = task = asyncio.current_task(loop)
        assert task is not None
        if cancelling := task.cancelling():
            self.cancelling = cancelling
        # The deadline includes the time in the queue; the timeout starts with the permit.
        deadline_at = self.permit_request.deadline_at
        deadline = None if deadline_at == math.inf else loop.call_at(deadline_at, self.expire)
        response: aiohttp.ClientResponse | None = None
        outcome: Outcome | BaseException
        try:
            method, url = request.method, request.url
            if (
                request.headers is GET_HEADERS  # `__call__` adds them
                and deadline is None
                and self.timeout >= _LONG_TIMEOUT
                and not (channel.inner or channel.network)
            ):
                response = await session.request(
                    method, url, allow_redirects=False, middlewares=(self,)
                )
            else:
                response = await session.request(method, url, **self._arguments())
            content = self._buffered_body(response, session, max_bytes)
            if content is None:
                content = await _read_body(response, max_bytes)
            if not response.closed:
                response.release()
            outcome = Response(response.status, response.headers, content)
            channel.timeouts.finish(self)
        except BaseException as failure:  # noqa: BLE001 - returned or raised below
            if response is not None:
                response.close()
            outcome = self._outcome_of(failure, session)
        finally:
            if deadline is not None:
                deadline.cancel()
            if self.permit is not None:
                channel.scheduler.on_done()
            if self.stop_with is not None:
                self.stop_with = None
        response = None  # it holds the request, and the traceback of an exception this frame
        if isinstance(outcome, BaseException):
            raise outcome from None
        return outcome

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        if self.stop_with is not None:
            raise self.stop_with  # aiohttp resends by itself
        channel, scheduler = self.channel, self.channel.scheduler
        if self.permit is not None:
            self.permit = None  # a middleware of a borrowed session sends the request again
            scheduler.on_done()
        asked_at = scheduler.loop.time() if self.on_sent else 0.0
        permit = scheduler.try_acquire(self.permit_request)
        if permit is None:
            permit = await scheduler.acquire(self.permit_request)
        self.permit = permit
        channel.timeouts.schedule(self, permit.sent_at + self.timeout)
        is_sent = False
        try:
            if self.before_send is not None and (pending := self.before_send()) is not None:
                await pending
            credential = self.credential
            if callable(credential):
                credential = credential(scheduler.loop.time())
                if credential is None:
                    raise _EndError(TOKEN_EXPIRED)  # noqa: TRY301 - handled as a failure
            headers, own = request.headers, self.prepared.headers
            if credential is not None:
                headers[credential[0]] = credential[1].reveal()
            if own is GET_HEADERS:
                headers[hdrs.ACCEPT] = JSON
            if channel.inner and hdrs.COOKIE in headers and hdrs.COOKIE not in own:
                del headers[hdrs.COOKIE]  # a borrowed session added it
            if self.on_sent is not None:
                self.on_sent(permit.sent_at - asked_at)
            self.sent = is_sent = True
            self.state.attempts += 1
            response = await handler(request)
        except BaseException as failure:
            self.stop_with = failure
            scheduler.on_no_response(permit, was_sent=is_sent and not never_sent(failure))
            raise
        scheduler.on_response(permit, parse_rate_limit_headers(response.status, response.headers))
        return response

    def on_progress(self) -> None:
        """Restart the timeout: a piece of a streamed body was sent."""
        if self.task is not None:
            self.channel.timeouts.schedule(self, self.channel.scheduler.loop.time() + self.timeout)

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of aiohttp's `request` that differ from the defaults of our session.

        No others, since each costs 500 instructions on its way through aiohttp.
        """
        request, channel = self.prepared, self.channel
        middlewares = (*channel.outer, self, *channel.inner)
        found = {"allow_redirects": False, "middlewares": middlewares, **channel.network}
        if channel.inner:
            found["raise_for_status"], found["auto_decompress"] = False, True
        has_deadline = self.permit_request.deadline_at < math.inf
        if channel.inner or has_deadline or self.timeout < _LONG_TIMEOUT:
            found["timeout"] = self._connect_timeout()
        if request.headers is not GET_HEADERS:
            if hdrs.CONTENT_TYPE not in request.headers:
                found["skip_auto_headers"] = _SKIP_AUTO_HEADERS
            found["headers"], found["data"] = request.headers, request.body
            if isinstance(request.body, bytes):
                if len(request.body) > _LARGE_BODY:
                    found["data"] = io.BytesIO(request.body)  # which is written in pieces
            elif request.body is not None:
                found["data"] = _StreamedBody(request.body, self.on_progress)
        return found

    def _connect_timeout(self) -> aiohttp.ClientTimeout:
        """Give up connecting before the attempt expires: it is then known that nothing was sent."""
        left = self.timeout
        if self.permit_request.deadline_at < math.inf:
            left = min(left, self.permit_request.deadline_at - self.channel.scheduler.loop.time())
        if left >= _LONG_TIMEOUT:
            return NO_TIMEOUT
        connect = left * _CONNECT_SHARE
        return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=math.inf)

    def _buffered_body(
        self, response: aiohttp.ClientResponse, session: aiohttp.ClientSession, max_bytes: int
    ) -> bytes | None:
        """Return the body if all of it arrived with the headers, as small ones do; else None."""
        stream, sent = response.content, self.prepared.body
        if not stream.is_eof() or stream.total_bytes > max_bytes:
            return None
        if not (sent is None or isinstance(sent, bytes)):
            return None  # aiohttp's own `read` stops writing a streamed body
        if self.channel.inner and session.trace_configs:
            return None  # and calls the traces of a borrowed session
        return stream.read_nowait() or None  # empty, or read by a middleware of such a session

    def _outcome_of(
        self, failure: BaseException, session: aiohttp.ClientSession
    ) -> Outcome | BaseException:
        """Return the outcome that *failure* stands for, or the exception to raise."""
        if self.channel.timeouts.finish(self) and isinstance(failure, asyncio.CancelledError):
            return self._expired()
        if isinstance(failure, AsyncClientsError):
            return failure.with_facts()
        if isinstance(failure, _EndError):
            return failure.outcome
        expected = isinstance(failure, (aiohttp.ClientError, OSError)) or session.closed
        if not (isinstance(failure, Exception) and expected):
            # The frames of its traceback hold the request with its credential.
            failure.__context__ = None
            return failure.with_traceback(None)
        if session.closed:
            return ClientClosedError(
                "the pool was closed during the call",
                advice="Close the pool after its last call; this one may have been carried out",
            )
        return classify_exception(failure, self.prepared.url)

    def _expired(self) -> NoResponse | DeadlineExceededError:
        """Return what an expired attempt comes to: of its own timeout or the call's deadline."""
        if self.sent:
            # Some loops fire a timer up to a tick early.
            over = self.channel.scheduler.loop.time() + TICK >= self.permit_request.deadline_at
            return _DEADLINE_EXCEEDED if over else _TIMED_OUT
        return self.channel.scheduler.expiry_error(self.permit_request)


class _StreamedBody:
    """One pass over a body in pieces. Unlike a generator, it need not be closed."""

    def __init__(self, body: AsyncIterable[bytes], on_progress: Callable[[], None]) -> None:
        self._pieces, self._on_progress = aiter(body), on_progress

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        self._on_progress()
        return piece


async def _read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the decompressed body.

    Raises:
        _EndError: as soon as it is longer than *max_bytes*.
    """
    if response.content.at_eof():
        content = await response.read()  # aiohttp keeps what a middleware has read
        if len(content) > max_bytes:
            raise _EndError(_too_large(max_bytes))
        return content
    length = response.headers.get(hdrs.CONTENT_LENGTH)
    if (
        length is not None
        and hdrs.CONTENT_ENCODING not in response.headers
        and int(length) <= max_bytes
    ):
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            raise _EndError(_too_large(max_bytes))
        chunks.append(chunk)
    return b"".join(chunks)


# --- aiohttp's exceptions -----------------------------------------------------


def classify_exception(failure: BaseException, url: URL) -> NoResponse:
    """Return the outcome that *failure*, raised by aiohttp for *url*, stands for."""
    if (found := classify_network_failure(failure)) is not None:
        return found
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return _connect_failed(f"could not resolve the host name {failure.host}")
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return _connect_failed(f"could not connect in time to {url.host}:{url.port}")
    if isinstance(failure, aiohttp.ClientConnectorError):
        code = failure.os_error.errno  # None if the host has several addresses
        cause = "" if code is None else f": {os.strerror(code)}"
        return _connect_failed(f"could not connect to {failure.host}:{failure.port}{cause}")
    if isinstance(failure, TimeoutError):
        return _TIMED_OUT
    if isinstance(failure, aiohttp.ClientResponseError) or _is_bad_encoding(failure):
        return NoResponse(
            "maybe",
            DecodeError,
            "got a response that is not valid HTTP",
            "Check what answers at base_url: a proxy or another service?",
        )
    return NoResponse(
        "maybe",
        DisconnectedError,
        "lost the connection before the response was complete",
        "Try again; if it happens again, check the network and the vendor's status page",
    )


_TIMED_OUT = NoResponse(
    "maybe", AttemptTimeoutError, "got no response in time", "Raise timeout= if it is slow"
)
_DEADLINE_EXCEEDED = NoResponse(
    "maybe",
    DeadlineExceededError,
    "was sent and got no response before its deadline",
    "Allow a longer deadline",
    final=True,
)


def _too_large(max_bytes: int) -> NoResponse:
    return NoResponse(
        "maybe",
        ResponseTooLargeError,
        f"got a response of more than {max_bytes} bytes (decompressed)",
        "Raise SessionPool(max_response_bytes=...) if responses may be that large",
        final=True,
    )


def _connect_failed(why: str) -> NoResponse:
    return NoResponse(
        "no", ConnectError, why, "Check base_url, the network and the vendor's status page"
    )


def _is_bad_encoding(failure: BaseException) -> bool:
    cause = failure.__cause__ or failure.__context__
    return isinstance(failure, aiohttp.ClientPayloadError) and isinstance(
        cause, ContentEncodingError
    )
