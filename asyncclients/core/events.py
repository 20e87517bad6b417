"""Events of calls, the log, and captured responses.

A listener is a callable that takes one event. It is called in the task of the call, without
awaiting: it must be quick. An exception that it raises is logged, the first time with its
traceback. No event holds a credential, a body or a query string.

The logger is `asyncclients`. At DEBUG it logs every event of pools that are created after
the level was set. At INFO and above it logs what an operator needs to know: a pause that
the vendor asked for (WARNING from ten seconds on), what an operator has set for all processes
(WARNING), calls that wait longer than five minutes (WARNING, once for each cause), other
clients of the same quota (WARNING), calls that are rejected although the quota is kept
(WARNING), an access token that could not be fetched, and clients of one credential with
different quotas.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from yarl import URL

from asyncclients.core.endpoint import Endpoint, NoResponse, Outcome, Response
from asyncclients.core.error_mapping import request_id
from asyncclients.ratelimit.control import span_text
from asyncclients.ratelimit.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Generator

    from asyncclients.core.vendor import Vendor
    from asyncclients.ratelimit.control import Control
    from asyncclients.ratelimit.long_waits import LongWait
    from asyncclients.ratelimit.scheduler import Scheduler
    from asyncclients.secret import Secret

T = TypeVar("T")

logger = logging.getLogger("asyncclients")
logger.addHandler(logging.NullHandler())

_LONG_PAUSE = 10.0
"""Seconds; a pause of at least this length is logged as a WARNING."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of the events."""


class CallStarted(Event, frozen=True, kw_only=True):
    """A call was made; *call* is its number in the events that follow."""

    call: int
    vendor: str
    operation: str
    method: str
    template: str
    origin: str


class AttemptStarted(Event, frozen=True, kw_only=True):
    """A permit was granted after *waited* seconds; the request is sent now."""

    call: int
    attempt: int
    waited: float


class AttemptEnded(Event, frozen=True, kw_only=True):
    """An attempt got a response (*status*) or none (*error*, a class name)."""

    call: int
    attempt: int
    status: int | None = None
    error: str | None = None
    request_id: str | None = None


class CallEnded(Event, frozen=True, kw_only=True):
    """The call returned, or raised *error* (a class name)."""

    call: int
    attempts: int
    error: str | None


class TokenRefreshed(Event, frozen=True, kw_only=True):
    """An access token was requested; *error* is a class name if the request failed."""

    vendor: str
    error: str | None


class ScopePaused(Event, frozen=True, kw_only=True):
    """Nothing is sent for *seconds*: a 429, or a 503 with `Retry-After` (*unavailable*).

    Or an operator paused the scope in all processes; *by* names the operator, and is empty
    otherwise.
    """

    vendor: str
    scope: str
    seconds: float
    unavailable: bool = False
    by: str = ""


class ScopeResumed(Event, frozen=True, kw_only=True):
    """The pause of an operator is over."""

    vendor: str
    scope: str


class QuotasReplaced(Event, frozen=True, kw_only=True):
    """An operator, *by*, set *quotas* in all processes; both are empty if the configured apply."""

    vendor: str
    scope: str
    quotas: tuple[Quota, ...]
    by: str


class ExternalUsageSeen(Event, frozen=True, kw_only=True):
    """Other clients use *rate* calls per second of the same quota; 0 if they have stopped."""

    vendor: str
    scope: str
    rate: float


class PoolOpened(Event, frozen=True, kw_only=True):
    """A pool was bound to the running loop; call *stats* in that loop only."""

    stats: Callable[[], tuple[Any, ...]]


class PoolClosed(Event, frozen=True, kw_only=True):
    """A pool was closed; *stats* equals that of its `PoolOpened`."""

    stats: Callable[[], tuple[Any, ...]]


Listener = Callable[[Any], None]


class Callback(Generic[T]):
    """A user's callback, *function*, whose exceptions do not end the work.

    Only the first exception is logged; the function is called again afterwards.
    """

    __slots__ = ("_failed", "_function")

    def __init__(self, function: Callable[[T], object]) -> None:
        self._function = function
        self._failed = False

    def __call__(self, value: T) -> None:
        """Call the function with *value*."""
        try:
            self._function(value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if not self._failed:
                self._failed = True
                name = getattr(self._function, "__qualname__", type(self._function).__qualname__)
                logger.exception(
                    "the callback %s raised %s; the work continues, and further errors of this "
                    "callback are not logged",
                    name,
                    type(error).__name__,
                )


def callbacks(listeners: Sequence[Listener]) -> tuple[Callback[Any], ...]:
    """Return *listeners* as callbacks, with the log if its level is DEBUG."""
    logs = (partial(logger.debug, "%r"),) if logger.isEnabledFor(logging.DEBUG) else ()
    return tuple(map(Callback, (*listeners, *logs)))


def emit(listeners: Sequence[Callback[Any]], event: Event) -> None:
    """Call each listener with *event*."""
    for listener in listeners:
        listener(event)


_SHARE_THE_QUOTA = (
    "Give this program a credential of its own, or share the quota with your other processes: "
    "limits=..., or --limits of a command"
)


class ScopeEvents:
    """Logs and emits what happens to the queue of one scope, by its one-way name."""

    __slots__ = ("_has_warned", "_listeners", "scope", "vendor")

    def __init__(self, listeners: Sequence[Callback[Any]], vendor: str, scope: str) -> None:
        self._listeners, self.vendor, self.scope = listeners, vendor, scope
        self._has_warned = False

    def emit_pause(self, scheduler: Scheduler, *, unavailable: bool) -> None:
        """Log and emit that a response has paused *scheduler*: a 429, or an *unavailable* vendor."""
        if (seconds := scheduler.paused_for) > 0:
            text = (
                "%s: rate-limited, nothing is sent for %.1f s; other clients may use the same quota"
            )
            if unavailable:
                text = "%s: unavailable, nothing is sent for %.1f s, as the vendor asks"
            level = logging.WARNING if seconds >= _LONG_PAUSE else logging.INFO
            logger.log(level, text, self.vendor, seconds)
            self._emit(ScopePaused, seconds=seconds, unavailable=unavailable)
        if not unavailable and scheduler.has_unexplained_rejections and not self._has_warned:
            self._has_warned = True
            text = (
                "%s: %d requests were rejected although this program kept the quota: another "
                "program uses the same key, or the vendor allows less. %s"
            )
            logger.warning(text, self.vendor, scheduler.rejected, _SHARE_THE_QUOTA)

    def on_external_usage(self, rate: float) -> None:
        """Other clients use the quota, at *rate* calls per second; 0 if they have stopped."""
        if rate:
            text = (
                "%s: other clients use the same quota, about %.2g calls per second, which are left "
                "to them. %s"
            )
            logger.warning(text, self.vendor, rate, _SHARE_THE_QUOTA)
        else:
            logger.info("%s: other clients no longer use the same quota", self.vendor)
        self._emit(ExternalUsageSeen, rate=rate)

    def on_long_wait(self, wait: LongWait) -> None:
        """Calls wait for minutes or hours."""
        text = "%s (scope %.4s): %d %s at least %s: %s. %s"
        calls = "call waits" if wait.calls == 1 else "calls wait"
        advice = (
            wait.delay.remedy or "Nothing is lost; a call with a deadline= does not wait so long"
        )
        seconds, cause = span_text(wait.seconds), wait.delay.cause
        logger.warning(text, self.vendor, self.scope, wait.calls, calls, seconds, cause, advice)

    def on_control(self, before: Control, now: Control, held_for: float) -> None:
        """An operator has paused the scope, resumed it or set its quotas, in all processes."""
        name = f"{self.vendor} (scope {self.scope:.4})"
        if now.pause is not None and now.pause != before.pause:
            text = "%s: %s; calls wait in all processes. asyncclients limits resume %.8s ends it"
            logger.warning(text, name, now.pause, self.scope)
            self._emit(ScopePaused, seconds=held_for, by=now.pause.by)
        elif before.pause is not None and now.pause is None:
            logger.warning("%s: the pause set by %s is over", name, before.pause.by)
            self._emit(ScopeResumed)
        if now.quotas != before.quotas:
            quotas, by = ((), "") if now.quotas is None else (now.quotas.quotas, now.quotas.by)
            logger.warning("%s: %s", name, now.quotas or "the configured quotas apply again")
            self._emit(QuotasReplaced, quotas=quotas, by=by)

    def _emit(self, event: Callable[..., Event], **fields: Any) -> None:
        emit(self._listeners, event(vendor=self.vendor, scope=self.scope, **fields))


# --- Captured responses -------------------------------------------------------


class CapturedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One response of a vendor, before decoding.

    Attributes:
        operation: as in `contacts.create`.
        attempt: number of the request within its call, from 1.
        headers: case-insensitive.
        body: decompressed.
        request_id: the vendor's id of the request, None if it sent none.
    """

    vendor: str
    operation: str
    attempt: int
    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str | None

    def __repr__(self) -> str:
        # Headers and body may hold what a traceback must not print.
        name = f"{self.vendor}.{self.operation}"
        return f"<CapturedResponse {name} {self.status}, {len(self.body)} bytes>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status)]


_captures: ContextVar[tuple[list[CapturedResponse], ...]] = ContextVar(
    "asyncclients_captures", default=()
)
captures = _captures.get
"""Return the lists of all `capture_responses` blocks around the running code."""


@contextmanager
def capture_responses() -> Generator[list[CapturedResponse]]:
    """Collect the responses of all calls inside the block, in order of arrival.

    One per request, rejected and failed ones included; tasks that are started inside the
    block are included. Responses of token endpoints are not: they hold the token.

    ```python
    with capture_responses() as responses:
        contact = await intouch.contacts.get(uuid)
    print(responses[-1].status, responses[-1].headers["Date"], responses[-1].request_id)
    ```

    The list keeps whole bodies: leave the block before a long listing.
    """
    responses: list[CapturedResponse] = []
    token = _captures.set((*captures(), responses))
    try:
        yield responses
    finally:
        _captures.reset(token)


# --- The events of one call ---------------------------------------------------

call_numbers = itertools.count(1)
"""Numbers of calls, for `CallStarted.call`."""


class CallEvents:
    """Emits the events of one call and captures its responses."""

    __slots__ = ("_attempts", "_endpoint", "_listeners", "_number", "_vendor")

    def __init__(
        self, listeners: Sequence[Callback[Any]], vendor: Vendor, endpoint: Endpoint[Any]
    ) -> None:
        self._listeners, self._vendor, self._endpoint = listeners, vendor, endpoint
        self._number = next(call_numbers)
        self._attempts = 0

    def on_start(self, base_url: str) -> None:
        """The call enters the queue."""
        if not self._listeners:
            return
        base, endpoint = URL(base_url), self._endpoint
        event = CallStarted(
            call=self._number,
            vendor=self._vendor.name,
            operation=endpoint.operation,
            method=endpoint.method,
            template=base.path + endpoint.path,
            origin=str(base.origin()),
        )
        emit(self._listeners, event)

    def on_sent(self, waited: float) -> None:
        """A permit was granted after *waited* seconds."""
        attempt = self._attempts + 1
        emit(self._listeners, AttemptStarted(call=self._number, attempt=attempt, waited=waited))

    def on_outcome(
        self, outcome: Outcome, attempts: int, secrets: Callable[[], tuple[Secret, ...]]
    ) -> None:
        """Attempt number *attempts* ended with *outcome*; *secrets* returns what to redact."""
        self._attempts = attempts
        ended = partial(AttemptEnded, call=self._number, attempt=attempts)
        if isinstance(outcome, NoResponse):
            emit(self._listeners, ended(error=outcome.error.__name__))
            return
        self._capture(outcome)
        if self._listeners:
            vendor_id = request_id(outcome, self._vendor, secrets())
            emit(self._listeners, ended(status=outcome.status, request_id=vendor_id))

    def _capture(self, response: Response) -> None:
        captured = CapturedResponse(
            vendor=self._vendor.name,
            operation=self._endpoint.operation,
            attempt=self._attempts,
            status=response.status,
            headers=response.headers,
            body=response.body,
            request_id=self._vendor.request_id(response.headers),
        )
        for responses in captures():
            responses.append(captured)

    def on_end(self, error: BaseException | None) -> None:
        """The call returns, or raises *error*."""
        name = None if error is None else type(error).__name__
        emit(self._listeners, CallEnded(call=self._number, attempts=self._attempts, error=name))
