"""Who goes next, for one scope.

The limiter says *when* a call may go; this says *which*. A slot is given at the
instant it opens, to whoever is first then (late binding). The order:

* Strict classes: `INTERACTIVE` before `BACKGROUND`; but while both wait, every
  tenth grant is background's, so that a flood does not starve it.
* Within a class, fair between flows by start-time fair queueing (Goyal, Vin
  and Cheng, 1996): the flow whose turn began earliest goes first, each call
  costs one turn, and a flow that was idle gets no credit for it.
* FIFO within a flow.

Every decision is synchronous. Waiting is one future per waiter and one timer
per scope. A waiter that is cancelled costs nothing, also when its permit was
granted in the same tick.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from asyncclients.core.endpoint import Priority
from asyncclients.errors import DeadlineExceededError

if TYPE_CHECKING:
    from asyncclients.core.limiter import Limiter, Permit
    from asyncclients.core.ratelimit_headers import Signal

_BACKGROUND_EVERY = 10
"""One grant in so many is background's while interactive calls wait as well."""


class Ticket:
    """What a call asks of the scheduler.

    Attributes:
        priority: its class.
        flow: whose turn it takes.
        deadline_at: loop instant after which it is of no use; inf for none.
        again: it has waited before, and goes to the front of its flow.
    """

    __slots__ = ("again", "deadline_at", "flow", "priority")

    def __init__(
        self,
        priority: Priority = Priority.INTERACTIVE,
        flow: str | None = None,
        deadline_at: float = math.inf,
    ) -> None:
        self.priority, self.flow, self.deadline_at = priority, flow, deadline_at
        self.again = False


class _Flow:
    """Waiters of one flow, and when its next turn begins in virtual time."""

    __slots__ = ("queued", "start", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[Permit]] = deque()
        self.start = 0.0
        self.queued = False


class FlowQueue:
    """The waiters of one class, fair between flows. O(log flows) a call."""

    __slots__ = ("_flows", "_heap", "_order", "_turn", "waiting")

    def __init__(self) -> None:
        self._flows: dict[str | None, _Flow] = {}
        self._heap: list[tuple[float, int, str | None]] = []
        self._turn = 0.0
        self._order = 0
        self.waiting = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def push(self, flow: str | None, waiter: asyncio.Future[Permit], *, front: bool) -> None:
        """Add *waiter* at the end of its flow, or at its front."""
        line = self._flows.get(flow)
        if line is None:
            line = self._flows[flow] = _Flow()
        (line.waiters.appendleft if front else line.waiters.append)(waiter)
        self.waiting += 1
        if not line.queued:
            line.start = max(line.start, self._turn)
            self._enqueue(flow, line)

    def _enqueue(self, flow: str | None, line: _Flow) -> None:
        line.queued = True
        self._order += 1
        heappush(self._heap, (line.start, self._order, flow))

    def pop(self) -> asyncio.Future[Permit] | None:
        """The next waiter that still waits; None when there is none (and the queue is empty)."""
        while self._heap:
            start, _, flow = heappop(self._heap)
            line = self._flows[flow]
            line.queued = False
            waiter = self._next(line)
            if waiter is None:
                del self._flows[flow]
                continue
            self._turn, line.start = start, start + 1.0
            if line.waiters:
                self._enqueue(flow, line)
            elif not self._heap:
                # Nobody competes any more: turns taken so far are forgotten.
                self._flows.clear()
                self._turn = start + 1.0
            return waiter
        return None

    @staticmethod
    def _next(line: _Flow) -> asyncio.Future[Permit] | None:
        while line.waiters:
            waiter = line.waiters.popleft()
            if not waiter.done():
                return waiter
        return None


class Connections:
    """How many requests the whole pool may have in flight, over all scopes."""

    __slots__ = ("_blocked", "in_use", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._blocked: dict[Scheduler, None] = {}

    def full(self, scheduler: Scheduler) -> bool:
        """Is there no room? If so, *scheduler* is told when there is."""
        if self.in_use < self.limit:
            return False
        self._blocked[scheduler] = None
        return True

    def release(self) -> None:
        """One request is over."""
        self.in_use -= 1
        if self._blocked:
            scheduler = next(iter(self._blocked))
            del self._blocked[scheduler]
            scheduler.pump()


class Scheduler:
    """Grants the permits of one scope."""

    __slots__ = (
        "_demand",
        "_grants_since_background",
        "_loop",
        "_queues",
        "_timer",
        "connections",
        "in_flight",
        "limiter",
        "max_in_flight",
        "refused",
        "sent",
    )

    def __init__(
        self,
        limiter: Limiter,
        loop: asyncio.AbstractEventLoop,
        *,
        max_in_flight: int | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.limiter = limiter
        self.max_in_flight = math.inf if max_in_flight is None else max_in_flight
        self.in_flight = 0
        self.sent = 0
        self.refused = 0
        self._loop = loop
        self.connections = connections
        self._queues = (FlowQueue(), FlowQueue())
        self._grants_since_background = 0
        self._demand = Demand(max((quota.period for quota in limiter.quotas), default=1.0))
        self._timer: asyncio.TimerHandle | None = None

    # --- Taking -----------------------------------------------------------------

    def try_take(self, ticket: Ticket) -> Permit | None:
        """A permit at once, if nobody who goes before *ticket* is waiting."""
        interactive, background = self._queues
        if interactive or (ticket.priority and background) or self._full():
            return None
        now = self._loop.time()
        if self.limiter.ready_at(now, self._reserve(ticket.priority, now)) > now:
            return None
        return self._grant(ticket.priority, now)

    async def take(self, ticket: Ticket) -> Permit:
        """A permit, as soon as it is *ticket*'s turn.

        Raises:
            DeadlineExceededError: at once, if its turn cannot come in time.
        """
        eta = self.eta(1, ticket.priority)
        now = self._loop.time()
        if now + eta > ticket.deadline_at:
            raise DeadlineExceededError(
                f"would wait {eta:.1f} s for its turn, {ticket.deadline_at - now:.1f} s are left",
                eta=eta,
                advice="Nothing was sent; allow a longer deadline or send less",
            )
        waiter: asyncio.Future[Permit] = self._loop.create_future()
        queue = self._queues[ticket.priority]
        queue.push(ticket.flow, waiter, front=ticket.again)
        self.pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.returned(waiter.result())
                self.finished()
            else:
                queue.waiting -= 1
            raise

    def pump(self) -> None:
        """Grant all permits that can be granted now; else set the timer."""
        while True:
            queue = self._next_queue()
            if queue is None or self._full():
                return
            now = self._loop.time()
            priority = Priority(self._queues.index(queue))
            at = self.limiter.ready_at(now, self._reserve(priority, now))
            if at > now:
                self._wake_at(at)
                return
            waiter = queue.pop()
            if waiter is not None:
                queue.waiting -= 1
                waiter.set_result(self._grant(priority, now))

    def _next_queue(self) -> FlowQueue | None:
        interactive, background = self._queues
        if interactive:
            if background and self._grants_since_background >= _BACKGROUND_EVERY - 1:
                return background
            return interactive
        return background or None

    def _grant(self, priority: Priority, now: float) -> Permit:
        if priority is Priority.INTERACTIVE:
            self._grants_since_background += 1
            self._demand.count(now)
        else:
            self._grants_since_background = 0
        self.in_flight += 1
        self.sent += 1
        if self.connections is not None:
            self.connections.in_use += 1
        return self.limiter.take(now)

    def _full(self) -> bool:
        return self.in_flight >= self.max_in_flight or (
            self.connections is not None and self.connections.full(self)
        )

    def _reserve(self, priority: Priority, now: float) -> int:
        """Slots that a background call leaves to interactive ones."""
        return 0 if priority is Priority.INTERACTIVE else self._demand.expected(now)

    def _wake_at(self, at: float) -> None:
        if at == math.inf:
            return  # an answer will free a slot, and pump again
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.pump()

    # --- Settling ---------------------------------------------------------------

    def answered(self, permit: Permit, signal: Signal | None) -> None:
        """The headers of the answer are here."""
        if signal is not None and signal.refused:
            self.refused += 1
        self.limiter.answered(permit, self._loop.time(), signal)
        self.pump()

    def lost(self, permit: Permit) -> None:
        """No answer will come, and the request may have arrived."""
        self.limiter.lost(permit, self._loop.time())
        self.pump()

    def returned(self, permit: Permit) -> None:
        """The request never left; the slot is free again."""
        self.sent -= 1
        self.limiter.returned(permit, self._loop.time())
        self.pump()

    def refuse(self, retry_after: float | None, permit: Permit | None = None) -> None:
        """A reply whose body turned out to be a refusal by rate."""
        self.refused += 1
        self.limiter.refused(self._loop.time(), retry_after, permit)

    def finished(self) -> None:
        """The exchange is over, body and all: it is not in flight any more."""
        self.in_flight -= 1
        if self.connections is not None:
            self.connections.release()
        self.pump()

    # --- Looking ----------------------------------------------------------------

    def eta(self, calls: int, priority: Priority = Priority.INTERACTIVE) -> float:
        """Seconds until *calls* more calls of *priority* could have been sent."""
        interactive, background = self._queues
        ahead = interactive.waiting + (background.waiting if priority else 0)
        if not priority and background.waiting:
            ahead += (ahead + calls) // _BACKGROUND_EVERY
        now = self._loop.time()
        return max(0.0, self.limiter.earliest(ahead + calls, now) - now)

    def queued(self) -> dict[str, int]:
        """Waiters by class."""
        return {
            "interactive": self._queues[Priority.INTERACTIVE].waiting,
            "background": self._queues[Priority.BACKGROUND].waiting,
        }

    def close(self) -> None:
        """Wake nobody any more; waiters end with the tasks that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Demand:
    """How many interactive calls to expect in what is left of this window.

    As many as the last window had, less those that came already; nothing after
    a window without any, so that a night's backfill gets the whole quota.
    """

    __slots__ = ("_current", "_index", "_period", "_previous")

    def __init__(self, period: float) -> None:
        self._period = period
        self._index = 0
        self._previous = self._current = 0

    def _roll(self, now: float) -> None:
        index = int(now // self._period)
        if index != self._index:
            self._previous = self._current if index == self._index + 1 else 0
            self._index, self._current = index, 0

    def count(self, now: float) -> None:
        """An interactive call was granted at *now*."""
        self._roll(now)
        self._current += 1

    def expected(self, now: float) -> int:
        """Interactive calls that the last window leads one to expect after *now*."""
        self._roll(now)
        return max(0, self._previous - self._current)
