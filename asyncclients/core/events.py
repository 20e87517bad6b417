"""What happens to calls, told to whoever listens.

A listener is a callable that takes one event. It is called in the task of the
call, between two awaits: it must be quick and must not raise (what it raises is
logged once, with its traceback, and dropped). No event holds a credential, a body or a query string, and
so events are what is logged, too: nothing else gets there.

The logger is `asyncclients`. At DEBUG it has every event of pools that are made
after the level was set; at INFO and above what an operator wants to know: a
pause the vendor asked for (WARNING from ten seconds on), others who use the same
quota (WARNING), an access token that could not be had, two clients of one
credential that disagree on its quotas.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

logger = logging.getLogger("asyncclients")
logger.addHandler(logging.NullHandler())

_LONG_PAUSE = 10.0


class CallStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A call was made; *call* names it in the events that follow."""

    call: int
    vendor: str
    operation: str
    method: str
    template: str
    origin: str


class AttemptStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A permit was granted after *waited* seconds; the request goes out now."""

    call: int
    attempt: int
    waited: float


class AttemptEnded(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt got an answer (*status*) or none (*error*, a class name)."""

    call: int
    attempt: int
    status: int | None
    error: str | None
    request_id: str | None


class CallEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The call returned, or raised *error* (a class name)."""

    call: int
    attempts: int
    error: str | None


class TokenRefreshed(msgspec.Struct, frozen=True, kw_only=True):
    """An access token was asked for; *error* is a class name when none came."""

    vendor: str
    error: str | None


class ScopePaused(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is sent for *seconds*: the vendor refused by rate, or is *unavailable* and says so."""

    vendor: str
    scope: str
    seconds: float
    unavailable: bool = False


class ExternalUsageSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Others use the same quota, at *rate* calls per second, which are left to them; 0: no more."""

    vendor: str
    scope: str
    rate: float


class PoolOpened(msgspec.Struct, frozen=True, kw_only=True):
    """A pool was bound to the running loop; *stats* reads its scopes, in that loop only."""

    stats: Callable[[], tuple[Any, ...]]


class PoolClosed(msgspec.Struct, frozen=True, kw_only=True):
    """The pool of that *stats* was closed."""

    stats: Callable[[], tuple[Any, ...]]


Event = (
    CallStarted
    | AttemptStarted
    | AttemptEnded
    | CallEnded
    | TokenRefreshed
    | ScopePaused
    | ExternalUsageSeen
    | PoolOpened
    | PoolClosed
)
Listener = Callable[[Any], None]


def log_event(event: object) -> None:
    """The listener that writes every event to the log, at DEBUG."""
    logger.debug("%r", event)


def log_pause(event: ScopePaused) -> None:
    """Tell the operator that nothing is sent for a while."""
    level = logging.WARNING if event.seconds >= _LONG_PAUSE else logging.INFO
    words = "%s refused by rate: nothing is sent for %.1f s. Others may use the same quota"
    if event.unavailable:
        words = "%s is unavailable: nothing is sent for %.1f s, as it asks"
    logger.log(level, words, event.vendor, event.seconds)


def emit_external_usage(
    listeners: Sequence[Callback[Any]], vendor: str, scope: str, rate: float
) -> None:
    """Others are seen to use the quota of *scope*, at *rate*, or are gone, at 0."""
    if rate:
        words = (
            "%s: others use the same quota, at about %.2g calls per second, which are left to them. "
            "Give this program a credential of its own, or share the quota with other processes "
            "of yours: SessionPool(limits=...)"
        )
        logger.warning(words, vendor, rate)
    else:
        logger.info("%s: nobody else uses the same quota any more", vendor)
    emit(listeners, ExternalUsageSeen(vendor=vendor, scope=scope, rate=rate))


class Callback(Generic[T]):
    """A user's callback, *function*: it cannot fail the work that it is told about.

    What it raises is logged with its traceback, the first time only; it is called again.
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
                    "the callback %s raised %s; the work goes on, and further errors of this "
                    "callback are not logged",
                    name,
                    type(error).__name__,
                )


def emit(listeners: Sequence[Callback[Any]], event: Event) -> None:
    """Give *event* to each listener."""
    for listener in listeners:
        listener(event)
