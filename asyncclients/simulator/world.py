"""The world around a limiter: a backlog, a network and a server, event by event.

The limiter is driven directly, with no event loop between: a heap of events is
all there is, and a virtual hour takes a fraction of a second. What the client
does is what the scheduler does: it gives a slot at the instant it opens, to an
interactive call if one waits, and asks again after each answer. For some minutes after an
interactive call the backlog goes evenly, and leaves as many slots as the last
window's interactive calls took.

A refused call comes back without having been worked on, its `Retry-After` in
whole seconds, rounded up, as HTTP has it. The worker then tries again: the
backlog never ends.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

from asyncclients.limits.flows import Demand
from asyncclients.limits.ratelimit_headers import Signal
from asyncclients.simulator.report import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit
    from asyncclients.simulator.latency import Latency


ATTENTION = 300.0
"""Seconds after an interactive call for which the backlog goes evenly; as the scheduler has it."""


class Client(Protocol):
    """What a simulation asks of a limiter; see `limits/limiter.py`."""

    def ready_at(self, now: float, spare: int = 0, *, even: bool = False) -> float: ...
    def take(self, now: float) -> Any: ...
    def answered(self, permit: Any, now: float, signal: Signal | None) -> None: ...


class World:
    """One client before one server.

    Args:
        client: the limiter under test.
        server: counts what arrives.
        latency: how long calls travel and are worked on.
        workers: the most calls in flight.
        interactive: calls per second, at random, that go before the backlog.
        backlog: whether there is one.
        retry_after: refusals say when to come back.
        random: the run's chance.
    """

    def __init__(
        self,
        client: Client,
        server: ServerLimit,
        latency: Latency,
        *,
        workers: int,
        interactive: float,
        retry_after: bool,
        random: Random,
    ) -> None:
        self.client, self.server, self.latency = client, server, latency
        self.workers, self.interactive = workers, interactive
        self.retry_after = retry_after
        self.random = random
        self._demand = Demand(server.period)
        self.split = random.random()
        self.record = Record()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._in_flight = 0
        self._wake_at = math.inf
        self._waiting: deque[float] = deque()

    def run(self, seconds: float) -> Record:
        """Let *seconds* pass."""
        self._pump(0.0)
        if self.interactive:
            self._later(self._lull(), self._wanted)
        while self._events and self._events[0][0] <= seconds:
            now, _, happens, facts = heappop(self._events)
            happens(now, *facts)
        return self.record

    def _later(self, at: float, happens: Callable[..., None], *facts: Any) -> None:
        self._order += 1
        heappush(self._events, (at, self._order, happens, facts))

    def _lull(self) -> float:
        """Seconds until the next interactive call: half to one and a half of the usual."""
        return (0.5 + self.random.random()) / self.interactive

    def _wanted(self, now: float) -> None:
        """Someone waits for an answer."""
        self._waiting.append(now)
        self._later(now + self._lull(), self._wanted)
        self._pump(now)

    def _pump(self, now: float) -> None:
        """Send what may be sent now; else wake when it may."""
        while self._in_flight < self.workers or self._waiting:
            at = self._ready_at(now)
            if at > now:
                if at < self._wake_at:
                    self._wake_at = at
                    self._later(at, self._woken)
                return
            self._send(now)

    def _ready_at(self, now: float) -> float:
        """When the next call may go: a user's, if one waits, else the backlog's."""
        if self._waiting or now - self._demand.last_at > ATTENTION:
            return self.client.ready_at(now)
        return self.client.ready_at(now, self._demand.expected(now), even=True)

    def _woken(self, now: float) -> None:
        if now >= self._wake_at:
            self._wake_at = math.inf
        self._pump(now)

    def _send(self, now: float) -> None:
        if self._waiting:
            self.record.waits.append(now - self._waiting.popleft())
            self._demand.count(now)
        permit = self.client.take(now)
        self._in_flight += 1
        up, work, down = self.latency.draw(self.random, self.split)
        self._later(now + up, self._arrive, permit, work, down)

    def _arrive(self, now: float, permit: Any, work: float, down: float) -> None:
        if self.server.admit(now):
            self.record.admitted_at.append(now)
            self._later(now + work + down, self._answer, permit, None)
            return
        self.record.refused_at.append(now)
        wait = float(math.ceil(self.server.reset_after(now))) if self.retry_after else None
        self._later(now + down, self._answer, permit, Signal(refused=True, retry_after=wait))

    def _answer(self, now: float, permit: Any, signal: Signal | None) -> None:
        self._in_flight -= 1
        self.client.answered(permit, now, signal)
        self._pump(now)
