"""Who goes next, for one scope.

The limiter says *when* a call may go; this says *which*. A slot is given at the
instant it opens, to whoever is first then (late binding). The order:

* Classes: `INTERACTIVE` before `BACKGROUND`; but while both wait, every tenth
  grant is background's, so that a flood does not starve it. A deadline is checked
  against this order when its call arrives.
* Within a class, fair between flows (`flows.py`), and FIFO within a flow. A call
  that is repeated has waited before, and goes to the front of its flow.

Every decision is synchronous. Waiting is one future per waiter and one timer
per scope. A waiter that is cancelled costs nothing, also when its permit was
granted in the same tick.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from asyncclients.errors import AsyncClientsError, DeadlineExceededError
from asyncclients.ratelimit.fair_queue import FlowQueue
from asyncclients.ratelimit.quota import Priority
from asyncclients.ratelimit.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.protocol import LimiterProtocol
    from asyncclients.ratelimit.window import Permit

_INTERACTIVE, _BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND
_INTERACTIVE_COOLDOWN = 300.0
"""Seconds after an interactive call in which background goes evenly: no slots open in pairs."""
_GRANTS_PER_TICK = 64
"""Permits granted in one turn of the event loop: a large burst must not hold up everything else."""
_SOONEST = 2e-6
"""Seconds to wait at least: rounding may wake us an instant early, and must not do so for ever."""
_BACKGROUND_EVERY = 10
"""One grant in so many is background's while interactive calls wait as well."""


class PermitRequest:
    """What a call asks of the scheduler.

    Attributes:
        priority: its class.
        flow: whose turn it takes.
        deadline_at: loop instant after which it is of no use; inf for none.
        is_retry: it has waited before, and goes to the front of its flow.

    Nobody changes one, so calls may share it.
    """

    __slots__ = ("deadline_at", "flow", "is_retry", "priority")

    def __init__(
        self,
        priority: Priority = Priority.INTERACTIVE,
        flow: str | None = None,
        deadline_at: float = math.inf,
        *,
        is_retry: bool = False,
    ) -> None:
        self.priority, self.flow, self.deadline_at = priority, flow, deadline_at
        self.is_retry = is_retry

    def as_retry(self) -> PermitRequest:
        """The same, for a call that has waited before."""
        return PermitRequest(self.priority, self.flow, self.deadline_at, is_retry=True)


class InFlightLimit:
    """How many requests the whole pool may have in flight, over all scopes.

    Attributes:
        in_use: how many it has.
        limit: how many it may have.
        blocked: the pumps of the scopes that were told that it is full.
    """

    __slots__ = ("blocked", "in_use", "limit")

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.in_use = 0
        self.blocked: dict[Callable[[], None], None] = {}

    def full(self, pump: Callable[[], None]) -> bool:
        """Is there no room? If so, *pump* is called when there is."""
        if self.in_use < self.limit:
            return False
        self.blocked[pump] = None
        return True

    def wake(self) -> None:
        """A request is over: let those in who were told that it was full."""
        # They may not want it any more: ask on.
        while self.blocked and self.in_use < self.limit:
            pump = next(iter(self.blocked))
            del self.blocked[pump]
            pump()


class InteractiveForecast:
    """How many interactive calls to expect in what is left of this window.

    As many as the last window had, less those that came already; nothing after
    a window without any, so that a night's backfill gets the whole quota, nor
    after one with a single call, which is no burst: the next slot is soon enough.

    Attributes:
        last_at: when the last interactive call was granted.
    """

    __slots__ = ("_current", "_index", "_period", "_previous", "_until", "last_at")

    def __init__(self, period: float) -> None:
        self._period = period
        self._index = 0
        self._previous = self._current = 0
        self._until = 0.0
        self.last_at = -math.inf

    def _roll(self, now: float) -> None:
        index = int(now // self._period)
        if index != self._index:
            self._previous = self._current if index == self._index + 1 else 0
            self._index, self._current = index, 0
        self._until = (index + 1) * self._period

    def count(self, now: float) -> None:
        """An interactive call was granted at *now*."""
        if now >= self._until:
            self._roll(now)
        self._current += 1
        self.last_at = now

    def remaining(self, now: float) -> int:
        """Interactive calls that the last window leads one to expect after *now*."""
        if now >= self._until:
            self._roll(now)
        return max(0, self._previous - self._current) if self._previous > 1 else 0


class Scheduler:
    """Grants the permits of one scope."""

    __slots__ = (
        "_background",
        "_closed",
        "_forecast",
        "_grants_since_background",
        "_interactive",
        "_resuming",
        "_timer",
        "connections",
        "in_flight",
        "limiter",
        "loop",
        "max_in_flight",
        "rejected",
        "sent",
    )

    def __init__(
        self,
        limiter: LimiterProtocol,
        loop: asyncio.AbstractEventLoop,
        *,
        max_in_flight: int | None = None,
        connections: InFlightLimit | None = None,
    ) -> None:
        self.limiter = limiter
        self.max_in_flight = math.inf if max_in_flight is None else max_in_flight
        self.in_flight = 0
        self.sent = 0
        self.rejected = 0
        self.loop = loop
        self.connections = InFlightLimit() if connections is None else connections
        self._interactive = FlowQueue()
        self._background = FlowQueue()
        self._grants_since_background = 0
        self._forecast = InteractiveForecast(
            max((quota.period for quota in limiter.quotas), default=1.0)
        )
        self._resuming = False
        self._timer = Timer(loop, self.dispatch)
        self._closed: AsyncClientsError | None = None

    # --- Taking -----------------------------------------------------------------

    def try_acquire(self, ticket: PermitRequest) -> Permit | None:
        """A permit at once, if nobody who goes before *ticket* is waiting."""
        priority = ticket.priority
        if self._interactive.heap or (priority and self._background.heap):
            return None
        shared = self.connections
        if self.in_flight >= self.max_in_flight or shared.in_use >= shared.limit:
            return None
        now = self.loop.time()
        at = self._background_at(now) if priority else self.limiter.next_permit_at(now)
        return self._grant(priority, now) if at <= now and self._closed is None else None

    async def acquire(self, ticket: PermitRequest) -> Permit:
        """A permit, as soon as it is *ticket*'s turn.

        Raises:
            DeadlineExceededError: at once, if its turn cannot come in time.
            ClientClosedError: if the scope is closed before its turn.
        """
        if self._closed is not None:
            raise self._closed.with_facts()
        if ticket.deadline_at < math.inf:
            self._check_deadline(ticket)
        waiter: asyncio.Future[Permit] = self.loop.create_future()
        queue = self._queue_of(ticket.priority)
        flow = queue.push(ticket.flow, waiter, front=ticket.is_retry)
        self.dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.done() or waiter.cancelled():
                queue.leave(flow)
            elif waiter.exception() is None:
                self.cancel(waiter.result())
                self.on_done()
            raise

    def _check_deadline(self, ticket: PermitRequest) -> None:
        now = self.loop.time()
        left = ticket.deadline_at - now
        if self.eta(1, ticket.priority) <= left:
            return
        own = self._queue_of(ticket.priority).ahead(ticket.flow, front=ticket.is_retry)
        eta = self._eta(1 + self._before(own, ticket.priority), now)
        if eta > left:
            raise DeadlineExceededError(
                f"would wait {eta:.1f} s for its turn, {max(0.0, left):.1f} s are left",
                eta=eta,
                advice="Allow a longer deadline or send less",
            )

    def _before(self, own: int, priority: Priority) -> int:
        """Grants before that of a call, if *own* calls of its class go first and no more arrive."""
        every = _BACKGROUND_EVERY - 1
        until_share = max(0, every - self._grants_since_background)
        if priority:
            return own + min(self._interactive.waiting, until_share + every * own)
        return own + min(self._background.waiting, (own + every - until_share) // every)

    def _queue_of(self, priority: Priority) -> FlowQueue:
        return self._background if priority else self._interactive

    def dispatch(self) -> None:
        """Grant the permits that can be granted now; if more could, go on in the next turn."""
        interactive, background = self._interactive, self._background
        left = 0 if self._resuming else _GRANTS_PER_TICK
        while left and (interactive.heap or background.heap) and not self._full():
            queue, now = self._next_queue(), self.loop.time()
            priority = _INTERACTIVE if queue is interactive else _BACKGROUND
            at = self._background_at(now) if priority else self.limiter.next_permit_at(now)
            if at > now:
                # At infinity it is never set: an answer will free a slot, and pump again.
                self._timer.set(max(at, now + _SOONEST))
                return
            waiter = queue.pop()
            if waiter is not None:
                queue.waiting -= 1
                waiter.set_result(self._grant(priority, now))
                left -= 1
        if not left and not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        self.dispatch()

    def _next_queue(self) -> FlowQueue:
        if self._interactive.heap and not (self._background.heap and self._share_due()):
            return self._interactive
        return self._background

    def _share_due(self) -> bool:
        return self._grants_since_background >= _BACKGROUND_EVERY - 1

    def _grant(self, priority: Priority, now: float) -> Permit:
        if priority is _INTERACTIVE:
            self._grants_since_background += 1
            self._forecast.count(now)
        else:
            self._grants_since_background = 0
        self.in_flight += 1
        self.sent += 1
        self.connections.in_use += 1
        return self.limiter.acquire(now)

    def _full(self) -> bool:
        return self.in_flight >= self.max_in_flight or self.connections.full(self.dispatch)

    def _background_at(self, now: float) -> float:
        """When a background call may go: evenly, while users are about."""
        # It leaves slots to interactive ones, unless its own share is due.
        spare = 0 if self._share_due() else self._forecast.remaining(now)
        even = now - self._forecast.last_at < _INTERACTIVE_COOLDOWN
        return self.limiter.next_permit_at(now, spare, spaced=even)

    # --- Settling ---------------------------------------------------------------

    def on_response(self, permit: Permit, info: RateLimitInfo | None) -> None:
        """The headers of the answer are here."""
        if info is not None and info.is_rate_limited:
            self.rejected += 1
        self.limiter.on_response(permit, self.loop.time(), info)
        if self._interactive.heap or self._background.heap:
            self.dispatch()

    def on_no_response(self, permit: Permit) -> None:
        """No answer will come, and the request may have arrived."""
        self.limiter.on_no_response(permit, self.loop.time())
        self.dispatch()

    def cancel(self, permit: Permit) -> None:
        """The request never left; the slot is free again."""
        self.sent -= 1
        self.limiter.cancel(permit, self.loop.time())
        self.dispatch()

    def on_rate_limited(self, retry_after: float | None, permit: Permit | None = None) -> None:
        """A reply whose body turned out to be a refusal by rate."""
        self.rejected += 1
        self.limiter.on_rate_limited(self.loop.time(), retry_after, permit)

    def on_done(self) -> None:
        """The exchange is over, body and all: it is not in flight any more."""
        self.in_flight -= 1
        shared = self.connections
        shared.in_use -= 1
        if shared.blocked:
            shared.wake()
        if self._interactive.heap or self._background.heap:
            self.dispatch()

    # --- Looking ----------------------------------------------------------------

    def eta(self, calls: int, priority: Priority = Priority.INTERACTIVE) -> float:
        """Seconds until *calls* more calls of *priority* could have been sent.

        It counts the calls that wait now, and that background has one grant in ten.
        """
        before = self._before(self._queue_of(priority).waiting + calls - 1, priority)
        return self._eta(before + 1, self.loop.time())

    def _eta(self, calls: int, now: float) -> float:
        return max(0.0, self.limiter.nth_permit_at(calls, now) - now)

    def queued(self) -> dict[str, int]:
        """Waiters by class."""
        return {"interactive": self._interactive.waiting, "background": self._background.waiting}

    def is_idle(self, now: float) -> bool:
        """True if nothing is queued or in flight, and the limiter would delay no call."""
        queued = self._interactive.waiting or self._background.waiting
        return not self.in_flight and not queued and self.limiter.is_idle(now)

    def backlog(self) -> tuple[int, Priority]:
        """How many calls of the best waiting class could go by our own caps, and its class."""
        interactive, background = self._interactive, self._background
        priority = Priority.INTERACTIVE if interactive.waiting else Priority.BACKGROUND
        shared = self.connections
        room = min(self.max_in_flight - self.in_flight, shared.limit - shared.in_use)
        waiting = interactive.waiting or background.waiting
        return max(0, int(min(waiting, room))), priority

    def fail(self, error: AsyncClientsError, *, for_good: bool = False) -> None:
        """End all who wait with *error*, each with one of its own; *for_good* all to come, too."""
        if for_good:
            self._closed = error
            self._timer.cancel()
        for queue in (self._interactive, self._background):
            while (waiter := queue.pop()) is not None:
                queue.waiting -= 1
                waiter.set_exception(error.with_facts())
