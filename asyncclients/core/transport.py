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

from asyncclients.core.alarm import Timed
from asyncclients.core.auth import Header
from asyncclients.core.bearer import STALE
from asyncclients.core.endpoint import NoResponse, Outcome, Response
from asyncclients.core.silence import never_sent, silence, timed_out, too_large, too_late
from asyncclients.core.wire import JSON, NONE, PLAIN, Wire
from asyncclients.errors import (
    AsyncClientsError,
    ClientClosedError,
    DeadlineExceededError,
)
from asyncclients.http.session import (
    CONNECT_TIMEOUT,
    NO_TIMEOUT,
    close_spoiled,
    middlewares_of,
)
from asyncclients.limits.ratelimit_headers import read_signal
from asyncclients.limits.timer import TICK

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from asyncclients.core.alarm import Alarm
    from asyncclients.core.retry import Tally
    from asyncclients.limits.limiter import Permit
    from asyncclients.limits.scheduler import Scheduler
    from asyncclients.limits.ticket import Ticket

_ACCEPT, _COOKIE, _ENCODING = hdrs.ACCEPT, hdrs.COOKIE, hdrs.CONTENT_ENCODING
_OURS = (hdrs.CONTENT_TYPE,)
"""Headers that are sent as we state them or not at all: a presigned address covers them."""

_CONNECTING = 0.9
"""Share of an attempt's time after which connecting ends."""
_LONG = CONNECT_TIMEOUT / _CONNECTING

Credential = Header | Callable[[float], Header | None] | None
"""The header that carries the credential; or what gives it at the instant of the send,
None where it is not good any more by then."""

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


class _StaleError(Exception):
    """The credential of a call is not good any more, now that it is its turn."""


class Exchange(Timed, eq=False):
    """One request on the wire: called by aiohttp as the middleware of that request.

    Attributes:
        wire: the request.
        scheduler: grants the permit.
        alarm: rings when the attempt has taken its time.
        ticket: the call's place in the queue.
        tally: what the call has been through.
        timeout: seconds from the permit to the end of the answer.
        credential: see `Credential`.
        on_sent: told how many seconds the permit took.
        watch: called before anything leaves, and what it returns waited for.
        permit: once it is granted.
        sent: it is on the wire.
        failure: why nothing more goes out.
    """

    wire: Wire
    scheduler: Scheduler
    alarm: Alarm
    ticket: Ticket
    tally: Tally
    timeout: float
    credential: Credential
    on_sent: Callable[[float], None] | None = None
    watch: Callable[[], Awaitable[None] | None] | None = None
    permit: Permit | None = None
    sent: bool = False
    failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.wire!r}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        if self.failure is not None:
            raise self.failure  # aiohttp's own resend; the judge decides about those
        scheduler = self.scheduler
        if self.permit is not None:
            self.permit = None  # a borrowed session's middleware sends the request once more
            scheduler.finished()
        asked_at = scheduler.loop.time() if self.on_sent else 0.0
        permit = scheduler.try_take(self.ticket)
        if permit is None:
            permit = await scheduler.take(self.ticket)
        self.permit = permit
        self.alarm.set(self, permit.sent_at + self.timeout)
        try:
            if self.watch is not None and (noted := self.watch()) is not None:
                await noted
            self._sign(request.headers)
        except BaseException as failure:
            self.failure = failure
            scheduler.returned(permit)
            raise
        if self.on_sent is not None:
            self.on_sent(permit.sent_at - asked_at)
        self.sent = True
        self.tally.attempts += 1
        close_spoiled(request)
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

    def _sign(self, headers: CIMultiDict[str]) -> None:
        """Put the credential in, and what others left in a borrowed session's jar out."""
        credential = self.credential
        if callable(credential):
            credential = credential(self.scheduler.loop.time())
            if credential is None:
                raise _StaleError
        if credential is not None:
            headers[credential[0]] = credential[1].reveal()
        ours = self.wire.headers
        if ours is PLAIN:
            headers[_ACCEPT] = JSON
        if _COOKIE in headers and _COOKIE not in ours:
            del headers[_COOKIE]

    def __deepcopy__(self, memo: object) -> Exchange:
        return self  # test doubles of a session copy what they are called with

    def progressed(self) -> None:
        """A piece of a long body goes out: the attempt has its whole timeout again."""
        if self.under_way:
            self.alarm.set(self, self.scheduler.loop.time() + self.timeout)

    async def run(self, session: aiohttp.ClientSession, max_bytes: int) -> Outcome:
        """Put the request on the wire once; an `Outcome`, whatever happens there.

        Raises:
            DeadlineExceededError: before anything was sent.
            ClientClosedError: the pool or its session was closed meanwhile.
        """
        wire, at = self.wire, self.ticket.deadline_at  # queueing included, unlike the timeout
        deadline = None if at == math.inf else self.scheduler.loop.call_at(at, self.ring)
        response: aiohttp.ClientResponse | None = None
        outcome: Outcome | BaseException
        try:
            response = await session.request(
                wire.method,
                wire.url,
                # What has no headers of its own is spared two copies of them.
                headers=NONE if wire.headers is PLAIN else wire.headers,
                data=None if wire.body is None else wire.payload(self.progressed),
                middlewares=(*middlewares_of(session), self),
                allow_redirects=False,
                raise_for_status=False,
                auto_decompress=True,
                skip_auto_headers=None if wire.typed else _OURS,
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
            self.over()
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
        stream, sent = response.content, self.wire.body
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
        self.alarm.drop(self)
        self.failure = None
        if self.permit is not None:
            self.scheduler.finished()

    def _outcome_of(
        self, failure: BaseException, session: aiohttp.ClientSession
    ) -> Outcome | BaseException:
        """What *failure* comes to: an outcome, or what is to be raised."""
        if self.over() and isinstance(failure, asyncio.CancelledError):
            return self._late()
        if isinstance(failure, AsyncClientsError):
            return failure.with_facts()
        if isinstance(failure, _StaleError):
            return STALE
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
        return silence(failure)

    def _late(self) -> NoResponse | DeadlineExceededError:
        """The time of the attempt or of the call is over."""
        if self.sent:
            # Some loops ring up to a tick early.
            over = self.scheduler.loop.time() + TICK >= self.ticket.deadline_at
            return too_late() if over else timed_out()
        return DeadlineExceededError(
            "did not get its turn before its deadline",
            eta=self.scheduler.eta(1, self.ticket.priority),
            advice="Allow a longer deadline or send less",
        )

    def _connecting(self) -> aiohttp.ClientTimeout:
        """Connecting ends before the attempt does, so that it is known that nothing was sent."""
        left = self.timeout
        if self.ticket.deadline_at < math.inf:
            left = min(left, self.ticket.deadline_at - self.scheduler.loop.time())
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
