"""The border to aiohttp: here requests go out, and `silence.py` reads its failures.

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
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs

from asyncclients.core.attempt_timeouts import TimedTask
from asyncclients.core.auth import Header
from asyncclients.core.call_token import TOKEN_EXPIRED
from asyncclients.core.endpoint import NoResponse, Outcome, Response
from asyncclients.core.prepare import GET_HEADERS, JSON, NO_HEADERS, PreparedRequest
from asyncclients.core.transport_errors import (
    classify_transport_error,
    deadline_exceeded,
    never_sent,
    timed_out,
    too_large,
)
from asyncclients.errors import (
    AsyncClientsError,
    ClientClosedError,
    DeadlineExceededError,
)
from asyncclients.http.session import (
    CONNECT_TIMEOUT,
    NO_TIMEOUT,
    drop_dirty_connections,
    middlewares_of,
)
from asyncclients.ratelimit.headers import parse_rate_limit_headers
from asyncclients.ratelimit.timer import TICK

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from asyncclients.core.attempt_timeouts import AttemptTimeouts
    from asyncclients.core.retry import RetryState
    from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
    from asyncclients.ratelimit.window import Permit

_ACCEPT, _COOKIE, _ENCODING = hdrs.ACCEPT, hdrs.COOKIE, hdrs.CONTENT_ENCODING
_SKIP_AUTO_HEADERS = (hdrs.CONTENT_TYPE,)
"""Headers that are sent as we state them or not at all: a presigned address covers them."""

_CONNECTING = 0.9
"""Share of an attempt's time after which connecting ends."""
_LONG = CONNECT_TIMEOUT / _CONNECTING

Credential = Header | Callable[[float], Header | None] | None
"""The header that carries the credential; or what gives it at the instant of the send,
None where it is not good any more by then."""

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


class _TokenExpiredError(Exception):
    """The credential of a call is not good any more, now that it is its turn."""


class Attempt(TimedTask, eq=False):
    """One request on the wire: called by aiohttp as the middleware of that request.

    Attributes:
        prepared: the request.
        scheduler: grants the permit.
        timeouts: rings when the attempt has taken its time.
        permit_request: the call's place in the queue.
        state: what the call has been through.
        timeout: seconds from the permit to the end of the answer.
        credential: see `Credential`.
        on_sent: told how many seconds the permit took.
        before_send: called before anything leaves, and what it returns waited for.
        permit: once it is granted.
        sent: it is on the wire.
        stop_with: why nothing more goes out.
    """

    prepared: PreparedRequest
    scheduler: Scheduler
    timeouts: AttemptTimeouts
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
        return f"<Exchange {self.prepared!r}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        if self.stop_with is not None:
            raise self.stop_with  # aiohttp's own resend; the judge decides about those
        scheduler = self.scheduler
        if self.permit is not None:
            self.permit = None  # a borrowed session's middleware sends the request once more
            scheduler.on_done()
        asked_at = scheduler.loop.time() if self.on_sent else 0.0
        permit = scheduler.try_acquire(self.permit_request)
        if permit is None:
            permit = await scheduler.acquire(self.permit_request)
        self.permit = permit
        self.timeouts.schedule(self, permit.sent_at + self.timeout)
        try:
            if self.before_send is not None and (noted := self.before_send()) is not None:
                await noted
            self._sign(request.headers)
        except BaseException as failure:
            self.stop_with = failure
            scheduler.cancel(permit)
            raise
        if self.on_sent is not None:
            self.on_sent(permit.sent_at - asked_at)
        self.sent = True
        self.state.attempts += 1
        drop_dirty_connections(request)
        try:
            response = await handler(request)
        except BaseException as failure:
            self.stop_with = failure
            if never_sent(failure):
                scheduler.cancel(permit)
            else:
                scheduler.on_no_response(permit)
            raise
        scheduler.on_response(permit, parse_rate_limit_headers(response.status, response.headers))
        return response

    def _sign(self, headers: CIMultiDict[str]) -> None:
        """Put the credential in, and what others left in a borrowed session's jar out."""
        credential = self.credential
        if callable(credential):
            credential = credential(self.scheduler.loop.time())
            if credential is None:
                raise _TokenExpiredError
        if credential is not None:
            headers[credential[0]] = credential[1].reveal()
        ours = self.prepared.headers
        if ours is GET_HEADERS:
            headers[_ACCEPT] = JSON
        if _COOKIE in headers and _COOKIE not in ours:
            del headers[_COOKIE]

    def __deepcopy__(self, memo: object) -> Attempt:
        return self  # test doubles of a session copy what they are called with

    def progressed(self) -> None:
        """A piece of a long body goes out: the attempt has its whole timeout again."""
        if self.is_running:
            self.timeouts.schedule(self, self.scheduler.loop.time() + self.timeout)

    async def run(self, session: aiohttp.ClientSession, max_bytes: int) -> Outcome:
        """Put the request on the wire once; an `Outcome`, whatever happens there.

        Raises:
            DeadlineExceededError: before anything was sent.
            ClientClosedError: the pool or its session was closed meanwhile.
        """
        wire, at = (
            self.prepared,
            self.permit_request.deadline_at,
        )  # queueing included, unlike the timeout
        deadline = None if at == math.inf else self.scheduler.loop.call_at(at, self.expire)
        response: aiohttp.ClientResponse | None = None
        outcome: Outcome | BaseException
        try:
            response = await session.request(
                wire.method,
                wire.url,
                # What has no headers of its own is spared two copies of them.
                headers=NO_HEADERS if wire.headers is GET_HEADERS else wire.headers,
                data=None if wire.body is None else wire.payload(self.progressed),
                middlewares=(*middlewares_of(session), self),
                allow_redirects=False,
                raise_for_status=False,
                auto_decompress=True,
                skip_auto_headers=None if wire.has_content_type else _SKIP_AUTO_HEADERS,
                timeout=self._connecting(),
            )
            content = self._at_hand(response, session, max_bytes)
            if content is None:
                content = await read_body(response, max_bytes)
            if content is not None:
                if not response.closed:
                    response.release()
                outcome = Response(response.status, response.headers, content)
            else:
                response.close()
                outcome = too_large(max_bytes)
            self.finish()
        except BaseException as failure:  # noqa: BLE001 - all but our own timeout goes on
            if response is not None:
                response.close()
            outcome = self._outcome_of(failure, session)
        finally:
            self._end(deadline)
        response = None  # it holds the request, and what is raised here this frame
        if isinstance(outcome, BaseException):
            raise outcome from None
        return outcome

    def _at_hand(
        self, response: aiohttp.ClientResponse, session: aiohttp.ClientSession, max_bytes: int
    ) -> bytes | None:
        """The body, if all of it came along with its headers, as small ones do; else None."""
        stream, sent = response.content, self.prepared.body
        if stream.at_eof():
            return None  # empty, or read by a middleware of a borrowed session
        if session.trace_configs or not (sent is None or isinstance(sent, bytes)):
            # aiohttp's own reading tells a trace of it, and ends when nobody reads *sent* any more.
            return None
        return stream.read_nowait() if stream.is_eof() and stream.total_bytes <= max_bytes else None

    def _end(self, deadline: asyncio.TimerHandle | None) -> None:
        """It is over: nothing rings any more, nothing is in flight."""
        if deadline is not None:
            deadline.cancel()
        self.timeouts.cancel(self)
        self.stop_with = None
        if self.permit is not None:
            self.scheduler.on_done()

    def _outcome_of(
        self, failure: BaseException, session: aiohttp.ClientSession
    ) -> Outcome | BaseException:
        """What *failure* comes to: an outcome, or what is to be raised."""
        if self.finish() and isinstance(failure, asyncio.CancelledError):
            return self._late()
        if isinstance(failure, AsyncClientsError):
            return failure.with_facts()
        if isinstance(failure, _TokenExpiredError):
            return TOKEN_EXPIRED
        expected = isinstance(failure, (aiohttp.ClientError, OSError)) or session.closed
        if not (isinstance(failure, Exception) and expected):
            # Its frames are aiohttp's, and hold the request with its credential.
            failure.__context__ = None
            return failure.with_traceback(None)
        if session.closed:
            return ClientClosedError(
                "the pool was closed during the call",
                advice="Close the pool after its last call; this one may have been carried out",
            )
        return classify_transport_error(failure)

    def _late(self) -> NoResponse | DeadlineExceededError:
        """The time of the attempt or of the call is over."""
        if self.sent:
            # Some loops ring up to a tick early.
            over = self.scheduler.loop.time() + TICK >= self.permit_request.deadline_at
            return deadline_exceeded() if over else timed_out()
        return DeadlineExceededError(
            "did not get its turn before its deadline",
            eta=self.scheduler.eta(1, self.permit_request.priority),
            advice="Allow a longer deadline or send less",
        )

    def _connecting(self) -> aiohttp.ClientTimeout:
        """Connecting ends before the attempt does, so that it is known that nothing was sent."""
        left = self.timeout
        if self.permit_request.deadline_at < math.inf:
            left = min(left, self.permit_request.deadline_at - self.scheduler.loop.time())
        if left >= _LONG:
            return NO_TIMEOUT
        connect = left * _CONNECTING
        return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=math.inf)


def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> Awaitable[bytes | None]:
    """The decompressed body; None as soon as it is longer than *max_bytes*."""
    if response.content.at_eof():
        return _read_again(response, max_bytes)
    headers = response.headers
    length = headers.get(hdrs.CONTENT_LENGTH)
    if length is None or _ENCODING in headers or int(length) > max_bytes:
        return _read_counted(response, max_bytes)
    return response.read()


async def _read_again(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    content = await response.read()  # aiohttp keeps what was read before
    return content if len(content) <= max_bytes else None


async def _read_counted(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
