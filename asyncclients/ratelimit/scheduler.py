"""The scheduler of one scope: which call is sent next.

The limiter decides *when* a call may be sent, the scheduler *which* one. A permit is granted when
a slot becomes free, to the call that is first at that instant (late binding). The order:

* `INTERACTIVE` before `BACKGROUND`. While both wait, every tenth grant goes to background,
  so that it does not starve.
* Within a class, fair between flows (`fair_queue.py`) and first in, first out within a
  flow. A retry goes to the front of its flow.
* A call that waits for a quota of certain operations or for its share is passed over by
  calls that do not need that quota, and by no others: cheap calls never starve an expensive
  one.

Every decision is synchronous. Each waiter is one future, and each scope has one timer.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from asyncclients.errors import AsyncClientsError, DeadlineExceededError
from asyncclients.ratelimit.fair_queue import FlowQueue, Kind
from asyncclients.ratelimit.long_waits import LongWaits
from asyncclients.ratelimit.quota import BACKGROUND_EVERY, ONE, Demand, Priority
from asyncclients.ratelimit.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncclients.ratelimit.fair_queue import Flow
    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.limiter import Delay
    from asyncclients.ratelimit.long_waits import LongWait
    from asyncclients.ratelimit.protocol import LimiterProtocol
    from asyncclients.ratelimit.slots import Permit

_INTERACTIVE_COOLDOWN = 300.0
"""Seconds after an interactive call during which background calls are spaced evenly."""
_GRANTS_PER_TICK = 64
"""Permits granted in one iteration of the event loop, so that a burst does not block it."""
_MIN_DELAY = 2e-6
"""Seconds. A timer may fire early by rounding; a shorter delay could repeat that for ever."""
_LATE_BY = 1.0
"""Seconds. A waiting call fails early if it would miss its deadline by more than this."""
_FEW_REJECTIONS, _EXPECTED_REJECTIONS = 2, 0.01
"""Rejections, and their fraction of the calls, that prove nothing about other programs."""


class PermitRequest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A call's request for a permit.

    Attributes:
        deadline_at: loop instant after which a permit is useless; inf for none.
        is_retry: the call has waited before, and goes to the front of its flow.
        demand: what the call takes; a result of the limiter's `kind_of`.
    """

    priority: Priority = Priority.INTERACTIVE
    flow: str | None = None
    deadline_at: float = math.inf
    is_retry: bool = False
    demand: Demand = ONE

    def as_retry(self) -> PermitRequest:
        """Return the same request for a call that has waited before."""
        return structs.replace(self, is_retry=True)

    def of(self, cost: int, operation: str, limiter: LimiterProtocol) -> PermitRequest:
        """Return the same request for a call of *operation* that takes *cost*.

        Raises:
            ConfigurationError: the call costs more than one of its quotas allows.
        """
        demand = limiter.kind_of(Demand(cost, operation, self.demand.share))
        return structs.replace(self, demand=demand)


class InFlightLimit:
    """The limit on requests in flight that all scopes of a pool share.

    Attributes:
        blocked: the `dispatch` methods of the schedulers that wait for room, in order.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.in_use = 0
        self.blocked: dict[Callable[[], None], None] = {}

    def is_full(self, dispatch: Callable[[], None]) -> bool:
        """Return whether there is no room; if so, *dispatch* is called when there is."""
        if self.in_use < self.limit:
            return False
        self.blocked[dispatch] = None
        return True

    def wake(self) -> None:
        """Call the blocked schedulers in order while there is room."""
        while self.blocked and self.in_use < self.limit:
            dispatch = next(iter(self.blocked))
            del self.blocked[dispatch]
            dispatch()


class InteractiveForecast:
    """Predicts how many interactive calls the rest of the current window will have.

    As many as the previous window had, less those of this one; 0 if it had none, so that a
    backfill at night gets the whole quota, or a single one, which can wait for the next slot.

    Attributes:
        count: slots that interactive calls have taken in the current window.
        until: loop instant at which that window ends.
        last_at: loop instant of the latest interactive grant.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._index = self._previous = self.count = 0
        self.until = 0.0
        self.last_at = -math.inf

    def advance(self, now: float) -> None:
        """Begin the window of *now*, after `until`."""
        index = int(now // self._period)
        if index != self._index:
            self._previous = self.count if index == self._index + 1 else 0
            self._index, self.count = index, 0
        self.until = (index + 1) * self._period

    def remaining(self, now: float) -> int:
        """Return how many more interactive calls are expected in the window of *now*."""
        if now >= self.until:
            self.advance(now)
        return max(0, self._previous - self.count) if self._previous > 1 else 0


class Scheduler:
    """Grants the permits of one scope.

    Args:
        limiter: decides when a call may be sent.
        loop: the event loop of the waiters and the timer.
        max_in_flight: the most requests of this scope in flight; None for no limit.
        in_flight_limit: the limit that the scopes of a pool share.

    Attributes:
        on_long_wait: called once for each cause that keeps calls longer than a few minutes.
        background: the waiting background calls.
        planned: background calls that a flow is going to make, by flow, for `eta_of_flow`.
        sent_background: background calls among `sent`.
        rejected: calls that the vendor rejected with 429.
    """

    def __init__(
        self,
        limiter: LimiterProtocol,
        loop: asyncio.AbstractEventLoop,
        *,
        max_in_flight: int | None = None,
        in_flight_limit: InFlightLimit | None = None,
    ) -> None:
        self.limiter = limiter
        self.max_in_flight = math.inf if max_in_flight is None else max_in_flight
        self.in_flight = 0
        self.planned: dict[str | None, int] = {}
        self._granted = self._cancelled = self.sent_background = 0
        self._last_background = 0  # number of the latest grant to background
        self.rejected = self._rejected_later = 0
        self.loop = loop
        self._started_at = loop.time()
        self.in_flight_limit = InFlightLimit() if in_flight_limit is None else in_flight_limit
        self._queues = self._interactive, self.background = FlowQueue(), FlowQueue()
        # Calls that wait and have a deadline, and their places in the queue.
        self._deadlines: dict[asyncio.Future[Permit], tuple[PermitRequest, tuple[Flow, Kind]]] = {}
        # For each kind of calls, the end of its delay at the last `refuse_late`.
        self._delayed_until: dict[tuple[Priority, Demand], float] = {}
        self._forecast = InteractiveForecast(self._longest_period(1.0))
        self._resuming = False
        self._timer = Timer(loop, self.dispatch)
        self.on_long_wait: Callable[[LongWait], None] | None = None
        self._long_waits: LongWaits | None = None
        self._closed: AsyncClientsError | None = None

    # --- Granting ---------------------------------------------------------------

    def try_acquire(self, request: PermitRequest) -> Permit | None:
        """Return a permit if one is available now and no call with precedence waits."""
        shared, demand = self.in_flight_limit, request.demand
        if self._interactive.kinds or self.in_flight >= self.max_in_flight:
            return None
        if shared.in_use >= shared.limit or self._closed:
            return None
        now, queue = self.loop.time(), self._queues[request.priority]
        if queue is self._interactive:
            at = self.limiter.next_permit_at(now, demand)
        elif self.background.kinds:
            return None
        else:
            reserve, spaced = self._reserve_and_spacing(queue, now)
            at = self.limiter.next_permit_at(now, demand, reserve=reserve, spaced=spaced)
        return self._grant(now, queue, demand) if at <= now else None

    async def acquire(self, request: PermitRequest) -> Permit:
        """Wait for the turn of *request* and return its permit.

        Raises:
            DeadlineExceededError: as soon as it is known that its turn cannot come before the
                deadline: at once, or when a response of the vendor or a limit store shows it.
            ClientClosedError: if the scope is closed before its turn.
        """
        if self._closed is not None:
            raise self._closed.with_facts()
        if has_deadline := request.deadline_at < math.inf:
            self._check_deadline(request)
        waiter: asyncio.Future[Permit] = self.loop.create_future()
        queue = self._queues[request.priority]
        place = queue.push(request.flow, waiter, request.demand, front=request.is_retry)
        self.dispatch()
        if self.on_long_wait is not None and not waiter.done():
            if self._long_waits is None:
                self._long_waits = LongWaits(self.loop, self._delays, self.on_long_wait)
            self._long_waits.watch()
        if has_deadline:
            self._deadlines[waiter] = request, place
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.done() or waiter.cancelled():
                queue.leave(*place)
            elif waiter.exception() is None:
                self.on_no_response(waiter.result(), was_sent=False)
                self.on_done()
            raise
        finally:
            self._deadlines.pop(waiter, None)

    def _check_deadline(self, request: PermitRequest) -> None:
        now, priority, demand = self.loop.time(), request.priority, request.demand
        left = request.deadline_at - now
        if self.eta(1, priority, demand) <= left:
            return
        queue = self._queues[priority]
        own = queue.ahead(request.flow, front=request.is_retry)
        own = min(own, self._ahead(queue, demand, now))
        slots = 1 + self._grants_before(own + demand.cost - 1, priority)
        same = queue.same_kind_ahead(request.flow, demand, front=request.is_retry)
        eta = self._time_of(slots, 1 + same, demand, now, priority)
        if eta > left:
            raise _deadline_error(request, eta, self.limiter.delay(now, demand, priority), now)

    def expiry_error(self, request: PermitRequest) -> DeadlineExceededError:
        """Return the error of a call whose deadline has passed while it waited for a permit."""
        eta, now = self.eta(1, request.priority, request.demand), self.loop.time()
        delay = self.limiter.delay(now, request.demand, request.priority)
        return _deadline_error(request, eta, delay, now, is_over=True)

    def refuse_late(self) -> None:
        """Fail the waiting calls that a pause or a used-up quota keeps past their deadline.

        Only those that would be late by more than a second, because the delay is an estimate. They
        are examined only if the delay is a second longer than when they were examined last.
        """
        if not self._deadlines:
            self._delayed_until.clear()  # a pause that was examined may end early
            return
        now = self.loop.time()
        known: dict[tuple[Priority, Demand], float] = {}
        longer: dict[tuple[Priority, Demand], Delay] = {}
        for kind in ((each, demand) for each in Priority for demand in self._queues[each].kinds):
            delay = self.limiter.delay(now, kind[1], kind[0])
            known[kind] = min(delay.until, max(now, self._delayed_until.get(kind, now)))
            if delay.until > known[kind] + _LATE_BY:
                longer[kind], known[kind] = delay, delay.until
        self._delayed_until = known
        for waiter, (request, place) in [*self._deadlines.items()] if longer else ():
            late = longer.get((request.priority, request.demand))
            if late is None or waiter.done():
                continue
            if late.until > max(now, request.deadline_at) + _LATE_BY:
                del self._deadlines[waiter]
                self._queues[request.priority].leave(*place)
                waiter.set_exception(_deadline_error(request, late.until - now, late, now))

    def _grants_before(self, own: int, priority: Priority) -> int:
        """Return how many grants precede that of a call that has *own* calls of its class ahead."""
        every = BACKGROUND_EVERY - 1
        until_background = max(0, every - (self._granted - self._last_background))
        if priority is Priority.BACKGROUND:
            return own + min(self._interactive.waiting, until_background + every * own)
        return own + min(self.background.waiting, (own + every - until_background) // every)

    def dispatch(self) -> None:
        """Grant the available permits, at most `_GRANTS_PER_TICK` per loop iteration."""
        interactive, background = self._interactive, self.background
        left = 0 if self._resuming else _GRANTS_PER_TICK
        while left and (interactive.kinds or background.kinds):
            is_full = self.in_flight >= self.max_in_flight
            if is_full or self.in_flight_limit.is_full(self.dispatch):
                return
            now = self.loop.time()
            at, queue, demand = self._next(now)
            if at > now:
                # At inf the timer is not set: a response will free a slot and call `dispatch`.
                self._timer.set(max(at, now + _MIN_DELAY))
                return
            waiter = queue.pop(demand)
            if waiter is not None:
                waiter.set_result(self._grant(now, queue, demand))
                left -= 1
        if not left and not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resume)

    def _next(self, now: float) -> tuple[float, FlowQueue, Demand]:
        """Return queue and kind of the call that is sent next, and when to ask again if not now."""
        first = self._queues_in_order()[0]
        if first.is_ordinary:  # it needs the quotas of all calls only: nothing may pass it
            reserve, spaced = self._reserve_and_spacing(first, now)
            return self.limiter.next_permit_at(now, reserve=reserve, spaced=spaced), first, ONE
        again_at = math.inf
        for queue, demand, closed in self._kinds_in_order(now):
            reserve, spaced = self._reserve_and_spacing(queue, now)
            at = self.limiter.next_permit_at(now, demand, reserve=reserve, spaced=spaced)
            if at <= now:
                return at, queue, demand
            again_at = min(again_at, at, *closed.values())
            if "" in closed or not closed:
                return again_at, queue, demand
        return again_at, first, ONE

    def _queues_in_order(self) -> tuple[FlowQueue, FlowQueue]:
        """Return the queues, the one whose turn it is first."""
        interactive, background = self._interactive, self.background
        if background.kinds and (not interactive.kinds or self._is_background_due()):
            return background, interactive
        return interactive, background

    def _kinds_in_order(self, now: float) -> Iterator[tuple[FlowQueue, Demand, dict[str, float]]]:
        """Yield queue, demand and `closed` of the waiting kinds, in the order of their turns.

        `closed` has the closed groups of quotas, each with the instant at which it opens. Kinds
        that need a group of certain operations, or of a share, that is closed to an earlier kind
        are left out.
        """
        blocked = set[str]()
        for queue in self._queues_in_order():
            reserve, spaced = self._reserve_and_spacing(queue, now)
            for demand in queue.in_order():
                openings = self.limiter.openings(now, demand, reserve=reserve, spaced=spaced)
                if blocked.isdisjoint(openings):
                    closed = {group: at for group, at in openings.items() if at > now}
                    yield queue, demand, closed
                    blocked.update(filter(None, closed))

    def _reserve_and_spacing(self, queue: FlowQueue, now: float) -> tuple[int, bool]:
        """Return the slots to keep for others than calls of *queue*, and whether to space these.

        Nothing is kept for interactive calls if the next grant is background's.
        """
        if queue is self._interactive:
            return 0, False
        reserve = 0 if self._is_background_due() else self._forecast.remaining(now)
        return reserve, now - self._forecast.last_at < _INTERACTIVE_COOLDOWN

    def _resume(self) -> None:
        self._resuming = False
        self.dispatch()

    def _is_background_due(self) -> bool:
        """Whether the next grant is background's even if interactive calls wait."""
        return self._granted - self._last_background >= BACKGROUND_EVERY - 1

    def _grant(self, now: float, queue: FlowQueue, demand: Demand) -> Permit:
        self._granted += 1
        self.in_flight += 1
        self.in_flight_limit.in_use += 1
        permit = self.limiter.acquire(now, demand)
        if queue is self.background:
            permit.is_background = True
            self.sent_background += 1
            self._last_background = self._granted
        else:
            forecast = self._forecast
            if now >= forecast.until:
                forecast.advance(now)
            forecast.count += demand.cost
            forecast.last_at = now
        return permit

    # --- Settling ---------------------------------------------------------------

    def on_response(self, permit: Permit, info: RateLimitInfo | None) -> None:
        """Settle the call of *permit*: the headers of its response have arrived."""
        if info is not None and info.is_rate_limited:
            self._count_rejection()
        self.limiter.on_response(permit, self.loop.time(), info)
        if self._interactive.kinds or self.background.kinds:
            self.refuse_late()
            self.dispatch()

    def on_no_response(self, permit: Permit, *, was_sent: bool = True) -> None:
        """Settle the call of *permit*: it may have arrived, or was never sent."""
        if not was_sent:
            self._cancelled += 1
            self.sent_background -= permit.is_background
        self.limiter.on_no_response(permit, self.loop.time(), was_sent=was_sent)
        self.dispatch()

    def on_rate_limited(self, retry_after: float | None, permit: Permit | None = None) -> None:
        """Record a response whose body shows that the call was rejected.

        *retry_after* is in seconds; None if the vendor gave no time.
        """
        self._count_rejection()
        self.limiter.on_rate_limited(self.loop.time(), retry_after, permit)
        self.refuse_late()

    def _count_rejection(self) -> None:
        self.rejected += 1
        after = self._started_at + self._longest_period(math.inf)
        self._rejected_later += self.loop.time() > after

    def _longest_period(self, default: float) -> float:
        """Seconds of the longest quota of all calls that is no calendar quota."""
        quotas = (q for q in self.limiter.quotas if not q.unit and not q.operations)
        return max((quota.period for quota in quotas), default=default)

    def on_done(self) -> None:
        """Record that a request is not in flight any more: its response has been read."""
        self.in_flight -= 1
        shared = self.in_flight_limit
        shared.in_use -= 1
        if shared.blocked:
            shared.wake()
        if self._interactive.kinds or self.background.kinds:
            self.dispatch()

    # --- Statistics -------------------------------------------------------------

    @property
    def sent(self) -> int:
        """Permits granted, less those that were cancelled."""
        return self._granted - self._cancelled

    @property
    def has_unexplained_rejections(self) -> bool:
        """Whether the vendor rejects more calls than the calls of this scope explain.

        Rejections in the first period of the longest quota do not count, because calls of an
        earlier process may cause them. A few others do not count either, because arrival bounds
        are inexact.
        """
        return self._rejected_later > max(_FEW_REJECTIONS, _EXPECTED_REJECTIONS * self.sent)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause after a rejection ends; 0 without a pause. Not an operator's."""
        return self.limiter.snapshot(self.loop.time()).paused_for

    def eta(
        self, calls: int, priority: Priority = Priority.INTERACTIVE, demand: Demand = ONE
    ) -> float:
        """Estimated seconds until *calls* more calls of *priority* and *demand* have been sent.

        Waiting calls and the grants that go to background are included; calls that wait for
        a quota which these calls do not need are not.
        """
        now, queue = self.loop.time(), self._queues[priority]
        kind, ahead = queue.kinds.get(demand), self._ahead(queue, demand, now)
        slots = 1 + self._grants_before(ahead + calls * demand.cost - 1, priority)
        calls += kind.waiting if kind else 0
        return self._time_of(slots, calls, demand, now, priority)

    def eta_of_flow(self, flow: str, calls: int, demand: Demand = ONE) -> float:
        """Estimated seconds until *calls* more background calls of *flow* have been sent.

        Calls of *flow* that wait are among them. Flows that wait take turns with *flow* until
        their `planned` calls are sent; one without a plan is expected to continue.
        """
        now = self.loop.time()
        ahead = self.background.contending(flow, calls, self.planned) + self._interactive.waiting
        return self._time_of(ahead + calls * demand.cost, calls, demand, now, Priority.BACKGROUND)

    def _time_of(
        self, slots: int, calls: int, demand: Demand, now: float, priority: Priority
    ) -> float:
        """Seconds until *slots* of all calls have been taken, and *calls* of *demand* sent."""
        at = self.limiter.nth_permit_at(slots, now, ONE, priority)
        if demand is not ONE:
            at = max(at, self.limiter.nth_permit_at(calls, now, demand, priority))
        return max(0.0, at - now)

    def _ahead(self, queue: FlowQueue, demand: Demand, now: float) -> int:
        """Return the slots that the calls in *queue* take before a new call of *demand*."""
        if queue.is_ordinary:
            return queue.waiting
        return sum(
            kind.waiting * other.cost for other, kind in self._kinds_before(queue, demand, now)
        )

    def _kinds_before(
        self, queue: FlowQueue, demand: Demand, now: float
    ) -> Iterator[tuple[Demand, Kind]]:
        """Yield the waiting kinds that a new call of *demand* does not pass."""
        own = self.limiter.openings(now, demand)
        for other, kind in queue.kinds.items():
            openings = self.limiter.openings(now, other)
            if all(at <= now or group in own for group, at in openings.items()):
                yield other, kind

    @property
    def seconds_since_interactive(self) -> float:
        """Seconds since the latest interactive call was sent; inf if there was none."""
        return self.loop.time() - self._forecast.last_at

    def room(self) -> float:
        """Return how many more requests may be in flight."""
        shared = self.in_flight_limit
        return min(self.max_in_flight - self.in_flight, shared.limit - shared.in_use)

    def queued(self) -> dict[str, int]:
        """Return the number of waiting calls by class."""
        return {each.name.lower(): self._queues[each].waiting for each in Priority}

    def queued_before(self, demand: Demand) -> dict[str, int]:
        """Return the number of waiting calls by class that a new call of *demand* does not pass."""
        now, found = self.loop.time(), dict[str, int]()
        for priority in Priority:
            kinds = self._kinds_before(self._queues[priority], demand, now)
            found[priority.name.lower()] = sum(kind.waiting for _, kind in kinds)
        return found

    def is_idle(self, now: float) -> bool:
        """Return True if nothing is queued or in flight, and the limiter would delay no call."""
        is_unused = not (self.in_flight or self._interactive.waiting or self.background.waiting)
        return is_unused and self.limiter.is_idle(now)

    def waiting_for(self, now: float) -> dict[str, int]:
        """Return the calls that wait for calendar quotas, and for those that not all calls need."""
        state, quotas = self.limiter.snapshot(now), self.limiter.quotas
        closed = [q for q, wait in zip(quotas, state.opens_in, strict=True) if wait > 0]
        if state.store_quota is not None and state.store_wait > 0:
            closed.append(state.store_quota)
        waiting = self._interactive.waiting + self.background.waiting
        found = {f"quota {q}": waiting for q in closed if waiting and q.unit and not q.operations}
        for queue in self._queues:
            for demand, kind in queue.kinds.items():
                for group, at in self.limiter.openings(now, demand).items():
                    if group and at > now:
                        name = demand.describe(group, quotas)
                        found[name] = found.get(name, 0) + kind.waiting
        return found

    def _delays(self, now: float) -> Iterator[tuple[Delay, int]]:
        """Yield what delays the waiting calls of each kind longest, and their number."""
        for priority in Priority:
            for demand, kind in self._queues[priority].kinds.items():
                yield self.limiter.delay(now, demand, priority), kind.waiting

    def backlog(self) -> tuple[int, Priority, Demand]:
        """Return how many waiting calls of the first kind could be sent, its class and demand.

        A kind that waits for its share or for a quota of its operations is passed over.
        """
        found = ONE
        if not self._queues_in_order()[0].is_ordinary:
            kinds = self._kinds_in_order(self.loop.time())
            found = next((demand for _, demand, closed in kinds if not any(closed)), ONE)
        for priority in Priority:
            kind = self._queues[priority].kinds.get(found)
            if kind is not None and kind.waiting:
                return max(0, int(min(kind.waiting, self.room()))), priority, found
        return 0, Priority.BACKGROUND, ONE

    def close(self, error: AsyncClientsError) -> None:
        """Raise a copy of *error* in each waiting call, and in later ones."""
        self._closed = error
        self._timer.cancel()
        if self._long_waits is not None:
            self._long_waits.close()
        self.fail_waiting(error)

    def fail_waiting(self, error: AsyncClientsError) -> None:
        """Raise a copy of *error* in each waiting call."""
        for queue in self._queues:
            for demand in [*queue.kinds]:
                while (waiter := queue.pop(demand)) is not None:
                    waiter.set_exception(error.with_facts())


def _deadline_error(
    request: PermitRequest, eta: float, delay: Delay, now: float, *, is_over: bool = False
) -> DeadlineExceededError:
    """Return the error, with the cause if *delay* alone is longer than the deadline."""
    left = max(0.0, request.deadline_at - now)
    problem = f"would wait {eta:.1f} s for its turn, {left:.1f} s are left"
    if is_over:
        problem = "got no permit before its deadline"
    decides = bool(delay.cause) and delay.until > request.deadline_at
    return DeadlineExceededError(
        f"{problem}: {delay.cause}" if decides else problem,
        eta=eta,
        advice=(decides and delay.advice) or "Allow a longer deadline or send less",
    )
