"""A scheduler, a backlog, a network and a server, event by event.

The scheduler is the real one, on a loop that has nothing but timers. A virtual hour
takes a fraction of a second.

A rejected call comes back without having been worked on, its `Retry-After` in
whole seconds, rounded up, as HTTP has it. It is then tried again, before the calls
that have not been sent yet. The backlog never ends.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.quota import Priority
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.simulator.event_loop import SimulatedLoop
from asyncclients.simulator.report import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from asyncclients.ratelimit.protocol import LimiterProtocol
    from asyncclients.ratelimit.quota import Quota
    from asyncclients.sandbox.limits import ServerLimit
    from asyncclients.simulator.latency import Latency


_BACKLOG, _USER = PermitRequest(Priority.BACKGROUND), PermitRequest(Priority.INTERACTIVE)


class Client(Protocol):
    """The methods of a limiter that a simulation needs; see `LimiterProtocol`."""

    @property
    def quotas(self) -> tuple[Quota, ...]: ...
    def next_permit_at(self, now: float, reserve: int = 0, *, spaced: bool = False) -> float: ...
    def acquire(self, now: float) -> Any: ...
    def on_response(self, permit: Any, now: float, info: RateLimitInfo | None) -> None: ...


class Call(msgspec.Struct, eq=False):
    """One call of the backlog or of a user.

    Attributes:
        ticket: its place in the queue.
        asked_at: when a user's call came; None once it was sent, and for the backlog.
        permit: that of the current attempt.
    """

    ticket: PermitRequest
    asked_at: float | None = None
    permit: Any = None


class Simulation:
    """One client before one server.

    Args:
        limiter: the limiter under test.
        server: counts what arrives.
        latency: how long calls travel and are worked on.
        workers: the most calls of the backlog in flight.
        interactive: calls per second, at random, that go before the backlog.
        retry_after: rejections say when to come back.
        random: the run's chance.
    """

    def __init__(
        self,
        limiter: LimiterProtocol,
        server: ServerLimit,
        latency: Latency,
        *,
        workers: int,
        interactive: float,
        retry_after: bool,
        random: Random,
    ) -> None:
        self.server, self.latency = server, latency
        self.workers, self.interactive = workers, interactive
        self.retry_after = retry_after
        self.random = random
        self.split = random.random()
        self.record = Record()
        self.loop = SimulatedLoop()
        self.scheduler = Scheduler(limiter, self.loop.as_loop)

    def run(self, seconds: float) -> Record:
        """Let *seconds* pass."""
        for _ in range(self.workers):
            self._want(Call(_BACKLOG))
        if self.interactive:
            self._later(self._lull(), self._come)
        self.loop.run(seconds)
        return self.record

    def _later(self, at: float, happens: Callable[..., None], *facts: Any) -> None:
        self.loop.call_at(at, happens, at, *facts)

    def _lull(self) -> float:
        """Seconds until the next interactive call: half to one and a half of the usual."""
        return (0.5 + self.random.random()) / self.interactive

    def _come(self, now: float) -> None:
        """A user's call comes."""
        self._later(now + self._lull(), self._come)
        self._want(Call(_USER, asked_at=now))

    def _want(self, call: Call) -> None:
        """Send *call* as soon as it is its turn."""
        call.permit = self.scheduler.try_acquire(call.ticket)
        if call.permit is None:
            self.loop.start(self._wait(call))
        else:
            self._send(call)

    async def _wait(self, call: Call) -> None:
        call.permit = await self.scheduler.acquire(call.ticket)
        self._send(call)

    def _send(self, call: Call) -> None:
        now = self.loop.time()
        if call.asked_at is not None:
            self.record.waits.append(now - call.asked_at)
            call.asked_at = None
        up, work, down = self.latency.draw(self.random, self.split)
        self._later(now + up, self._arrive, call, work, down)

    def _arrive(self, now: float, call: Call, work: float, down: float) -> None:
        if self.server.admit(now):
            self.record.admitted_at.append(now)
            self._later(now + work + down, self._answer, call, None)
            return
        self.record.refused_at.append(now)
        wait = float(math.ceil(self.server.reset_after(now))) if self.retry_after else None
        self._later(
            now + down, self._answer, call, RateLimitInfo(is_rate_limited=True, retry_after=wait)
        )

    def _answer(self, now: float, call: Call, signal: RateLimitInfo | None) -> None:  # noqa: ARG002
        self.scheduler.on_response(call.permit, signal)
        self.scheduler.on_done()
        if signal is not None and signal.is_rate_limited:
            call.ticket = call.ticket.as_retry()
            self._want(call)
        elif call.ticket.priority:
            self._want(Call(_BACKLOG))
