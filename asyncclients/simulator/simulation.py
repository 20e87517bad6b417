"""A simulation: scheduler, backlog, network and server in virtual time.

The scheduler is the real one, on an event loop that has nothing but timers. An hour of
virtual time takes a fraction of a second.

A rejected call comes back without having been processed, with a `Retry-After` in whole
seconds, rounded up as HTTP requires. It is retried before the calls that have not been sent
yet. The backlog never ends.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from asyncclients.arguments import shown
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Priority, Quota
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.simulator.event_loop import SimulatedLoop
from asyncclients.simulator.models import LATENCIES, SERVERS
from asyncclients.simulator.report import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncclients.ratelimit.protocol import LimiterProtocol
    from asyncclients.sandbox.limits import ServerLimit
    from asyncclients.simulator.models import Latency
    from asyncclients.simulator.report import SimulationReport

_T = TypeVar("_T")
_BACKLOG = PermitRequest(Priority.BACKGROUND)
_INTERACTIVE = PermitRequest(Priority.INTERACTIVE)


@dataclass(eq=False)
class Simulation:
    """One client with the limiter under test, and one server; see `simulate`."""

    limiter: InitVar[LimiterProtocol]
    server: ServerLimit
    latency: Latency
    workers: int
    interactive: float
    retry_after: bool
    random: Random

    def __post_init__(self, limiter: LimiterProtocol) -> None:
        self.split = self.random.random()
        self.record = Record()
        self.loop = SimulatedLoop()
        self.scheduler = Scheduler(limiter, self.loop.as_loop)

    def run(self, seconds: float) -> Record:
        """Simulate *seconds* and return what happened."""
        for _ in range(self.workers):
            self.loop.start(self._send_backlog())
        if self.interactive:
            self.loop.start(self._send_interactive())
        self.loop.run(seconds)
        return self.record

    async def _send_backlog(self) -> None:
        while True:
            await self._call(_BACKLOG)

    async def _send_interactive(self) -> None:
        at = self._after(0.0)
        while True:
            await self.loop.sleep_until(at)
            at = self._after(at)
            self.loop.start(self._call(_INTERACTIVE))

    def _after(self, at: float) -> float:
        """Return the instant of the next call: half to one and a half times the mean later."""
        return at + (0.5 + self.random.random()) / self.interactive

    async def _call(self, request: PermitRequest) -> None:
        """Send a call until it is accepted; record how long an interactive one waited first."""
        asked_at = self.loop.time()
        while True:
            permit = self.scheduler.try_acquire(request)
            if permit is None:
                permit = await self.scheduler.acquire(request)
            now = self.loop.time()
            if request is _INTERACTIVE:
                self.record.waits.append(now - asked_at)
            up, work, down = self.latency.draw(self.random, self.split)
            await self.loop.sleep_until(now + up)
            now += up
            info = self._response(now)
            is_rejected = info is not None and info.is_rate_limited
            (self.record.rejected_at if is_rejected else self.record.accepted_at).append(now)
            await self.loop.sleep_until(now + (0.0 if is_rejected else work) + down)
            self.scheduler.on_response(permit, info)
            self.scheduler.on_done()
            if not is_rejected:
                return
            request = request.as_retry()

    def _response(self, now: float) -> RateLimitInfo | None:
        """Return what the server responds to a call that arrives at *now*; None if it accepts."""
        if self.server.admit(now):
            return None
        wait = float(math.ceil(self.server.reset_after(now))) if self.retry_after else None
        return RateLimitInfo(is_rate_limited=True, retry_after=wait)


def simulate(
    quota: Quota,
    *,
    server: str = "sliding-log",
    latency: str = "wan",
    workers: int = 50,
    seconds: float = 3600.0,
    interactive: float = 0.0,
    admission: Literal["adaptive", "exact"] = "adaptive",
    retry_after: bool = True,
    seed: int = 0,
    client: Any = None,
) -> SimulationReport:
    """Send a backlog through a limiter to a server model in virtual time; return the figures.

    Args:
        quota: the limit that the server enforces and the client knows; requests in a number
            of seconds, without `operations`.
        server: a name in `SERVERS`.
        latency: a name in `LATENCIES`.
        workers: the most calls of the backlog in flight.
        seconds: how long, in virtual time.
        interactive: interactive calls per second beside the backlog, at random instants.
        admission: the limiter's mode, as in `SessionPool(admission=...)`.
        retry_after: rejections carry `Retry-After`.
        seed: the same seed gives the same run.
        client: a limiter to use instead of ours, for comparison. Of `LimiterProtocol` it needs
            `quotas`, `next_permit_at`, `acquire` and `on_response`.

    Raises:
        ConfigurationError: for an unknown name, a calendar quota or one of certain operations,
            or a run without workers or a finite length.
    """
    _check_quota(quota)
    model, route = _named("server", server, SERVERS), _named("latency", latency, LATENCIES)
    if not (0 < seconds < math.inf and workers > 0 and interactive >= 0):
        raise ConfigurationError(
            "a simulation needs a finite number of seconds and workers above 0, and no less than "
            "0 interactive calls",
            advice="Leave them out for an hour with 50 workers and a backlog alone",
        )
    random = Random(f"{server} {latency} {seed}")
    simulation = Simulation(
        limiter=Limiter((quota,), admission=admission) if client is None else client,
        server=model(quota, random),
        latency=route,
        workers=workers,
        interactive=interactive,
        retry_after=retry_after,
        random=random,
    )
    return simulation.run(seconds).report(
        quota, server, latency, workers=workers, seconds=seconds, seed=seed
    )


def _check_quota(quota: Any) -> None:
    if not isinstance(quota, Quota) or quota.unit or quota.operations:
        raise ConfigurationError(
            "a simulation needs a quota of all requests in a number of seconds, "
            f"not {quota if isinstance(quota, Quota) else shown(quota)}",
            advice="Give such a quota, as in Quota(100, 60.0); calendar quotas and quotas of "
            "certain operations cannot be simulated",
        )


def _named(kind: str, name: str, known: Mapping[str, _T]) -> _T:
    if name not in known:
        raise ConfigurationError(
            f"there is no {kind} model {name!r}", advice=f"Known are {', '.join(known)}"
        )
    return known[name]
