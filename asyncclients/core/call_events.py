"""Tells the listeners what happens to one call.

Facts only, in plain values; what no listener asked for is not put together.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from yarl import URL

from asyncclients.core.capture import capture
from asyncclients.core.endpoint import NoResponse, Outcome, Request
from asyncclients.core.error_mapping import request_id
from asyncclients.core.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    ScopePaused,
    emit,
    log_pause,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncclients.core.scope import Scope
    from asyncclients.core.settings import ClientConfig
    from asyncclients.secret import Secret

    Secrets = Callable[[], tuple[Secret, ...]]

_numbers = itertools.count(1)


def emit_scope_paused(
    terms: ClientConfig, scope: Scope, now: float, *, unavailable: bool = False
) -> None:
    """The vendor refused by rate or is *unavailable*: tell the log in any case."""
    seconds = scope.scheduler.limiter.snapshot(now).paused_for
    if seconds > 0:
        event = ScopePaused(
            vendor=scope.vendor, scope=scope.key, seconds=seconds, unavailable=unavailable
        )
        log_pause(event)
        emit(terms.pool.listeners, event)


class CallEvents:
    """The story of one call, told by its steps."""

    __slots__ = ("_listeners", "_number", "_operation", "_vendor", "attempts")

    def __init__(self, terms: ClientConfig, request: Request[Any]) -> None:
        self._listeners = terms.pool.listeners
        self._vendor, self._operation = terms.vendor, request.endpoint.operation
        self._number = next(_numbers)
        self.attempts = 0

    def started(self, base_url: str, request: Request[Any]) -> None:
        """The call is about to take its place in the queue."""
        if not self._listeners:
            return
        base, endpoint = URL(base_url), request.endpoint
        event = CallStarted(
            call=self._number,
            vendor=self._vendor.name,
            operation=self._operation,
            method=endpoint.method,
            template=base.path + endpoint.path,
            origin=str(base.origin()),
        )
        emit(self._listeners, event)

    def sent(self, waited: float) -> None:
        """A permit was granted after *waited* seconds."""
        attempt = self.attempts + 1
        emit(self._listeners, AttemptStarted(call=self._number, attempt=attempt, waited=waited))

    def outcome(self, outcome: Outcome, attempts: int, secrets: Secrets) -> None:
        """The attempt that makes it *attempts* ended with *outcome*; *secrets* are cut from it."""
        self.attempts = attempts
        capture(outcome, self._vendor, self._operation, attempts)
        if not self._listeners:
            return
        status: int | None = None
        error: str | None = None
        vendors_id: str | None = None
        if isinstance(outcome, NoResponse):
            error = outcome.error.__name__
        else:
            status, vendors_id = outcome.status, request_id(outcome, self._vendor, secrets())
        event = AttemptEnded(
            call=self._number, attempt=attempts, status=status, error=error, request_id=vendors_id
        )
        emit(self._listeners, event)

    def ended(self, error: BaseException | None) -> None:
        """The call returned, or raised *error*."""
        if self._listeners:
            name = None if error is None else type(error).__name__
            emit(self._listeners, CallEnded(call=self._number, attempts=self.attempts, error=name))
