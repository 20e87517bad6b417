"""A vendor, a store and processes in one event loop with virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Literal

from msgspec import json
from msgspec.structs import replace

from asyncclients.errors import ClientClosedError
from asyncclients.ratelimit.control import Control, OperatorPause, OperatorQuotas
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Quota
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.sandbox.limits import ServerLimit
from asyncclients.stores.config import StoreConfig, WhenDown
from asyncclients.stores.protocol import (
    LeaseRequest,
    LeaseResponse,
    StoreUnavailableError,
)
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.session import StoreSession

EPOCH = 1_700_000_000_000_000
KEY = "scope"


class MemoryStore:
    """A store in memory that takes `latency` each way and fails on demand.

    Attributes:
        down: every command fails after the timeout.
        fault: every command fails at once with this error.
        ahead: seconds by which its clock is set forward.
        server: name of the server process that has the logs.
        deaf: number of commands whose response is lost after the request was applied.
        commands: number of commands so far.
        record: keys and requests so far, with the store's times in microseconds.
        control: the pause and the quotas that an operator has set, for all scopes.
    """

    def __init__(
        self, *, latency: float = 0.0005, timeout: float = 0.5, is_recording: bool = True
    ) -> None:
        self.logs: dict[str, QuotaLog] = {}
        self._is_recording = is_recording
        self.latency, self.timeout = latency, timeout
        self.down = False
        self.fault: Exception | None = None
        self.ahead = 0.0
        self.server = ""
        self.deaf = 0
        self.commands = 0
        self.record: list[tuple[str, LeaseRequest, int]] = []
        self.broken: set[str] = set()
        self.control = Control()

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        self.commands += 1
        if self.down or request.process in self.broken:
            await asyncio.sleep(self.timeout)
            raise StoreUnavailableError("down")
        if self.fault is not None:
            raise self.fault
        await asyncio.sleep(self.latency)
        now = EPOCH + round((asyncio.get_running_loop().time() + self.ahead) * 1e6)
        if self._is_recording:
            self.record.append((key, request, now))
        response = self._apply(key, request, now)
        if self.deaf:
            self.deaf -= 1
            await asyncio.sleep(self.timeout)
            raise StoreUnavailableError("deaf")
        await asyncio.sleep(self.latency)
        return response

    def _apply(self, key: str, request: LeaseRequest, now: int) -> LeaseResponse:
        log = self.logs.setdefault(key, QuotaLog())
        pause, quotas = self.control.pause, self.control.quotas
        log.operator_pause = json.encode(pause).decode() if pause else ""
        log.operator_quotas = json.encode(quotas).decode() if quotas else ""
        return log.apply(request, now, server=self.server)

    async def aclose(self) -> None:
        pass


CONFIG = StoreConfig(process="a", display_name="memory")
"""The configuration of a pool on a store in memory."""


def now() -> float:
    return asyncio.get_running_loop().time()


def pause_of(seconds: float) -> Control:
    """Return a pause that ends in *seconds* by the clock of the store."""
    at = EPOCH / 1e6 + now()
    return Control(pause=OperatorPause(at=at, until=at + seconds, by="ann"))


def pause_text(until: float) -> str:
    """Return a pause until *until*, in seconds since 1970, as a store has it."""
    return json.encode(OperatorPause(at=until - 100, until=until, by="ann")).decode()


def quotas_text(*quotas: Quota) -> str:
    """Return *quotas* that are set, as a store has them."""
    found = OperatorQuotas(at=0.0, by="ann", quotas=quotas)
    return json.encode(found).decode() if quotas else ""


class MemoryLimits:
    """Shares quotas between pools through *backend*; the value of `SessionPool(limits=)`."""

    def __init__(self, when_down: WhenDown = "safe_share") -> None:
        self.backend = MemoryStore()
        self._when_down: WhenDown = when_down
        self._opened = 0

    def open(self, *, assume_spent: bool) -> StoreSession:
        self._opened += 1
        name, when_down = f"pool {self._opened}", self._when_down
        config = replace(CONFIG, process=name, when_down=when_down, assume_spent=assume_spent)
        return StoreSession(self.backend, config)


Latency = Callable[[Random], tuple[float, float]]


def loopback(random: Random) -> tuple[float, float]:
    """0.5 ms each way, plus a little."""
    return 0.0005 + random.expovariate(2000), 0.0005 + random.expovariate(2000)


def fast(random: Random) -> tuple[float, float]:
    """Round trip 40 ms, half each way, + exponential(20 ms), split at random.

    The vendor works 20 ms + exponential(30 ms).
    """
    excess, share = random.expovariate(50), random.random()
    work = 0.02 + random.expovariate(1 / 0.03)
    return 0.02 + excess * share, 0.02 + excess * (1 - share) + work


class Process:
    """One process: a scheduler with a shared limiter, and workers that send calls."""

    def __init__(
        self, world: SharedQuotaSimulation, session: StoreSession | None, name: int
    ) -> None:
        loop = asyncio.get_running_loop()
        self.world, self.session = world, session
        local = Limiter(
            world.quotas,
            admission=world.admission,
            now=loop.time(),
            wall_time=lambda at: EPOCH / 1e6 + at + world.wall_ahead,
        )
        self.scheduler = Scheduler(local, loop)
        if session is not None:
            self.scheduler.limiter = session.limiter(KEY, local, self.scheduler)
        self.random = Random(f"{world.seed} {name}")
        self.tasks: list[asyncio.Task[None]] = []
        self.sent: list[float] = []
        self.dead = False

    def work(
        self,
        workers: int = 10,
        priority: Priority = Priority.BACKGROUND,
        demand: Demand = ONE,
    ) -> None:
        """Start workers that send calls of *demand* without end."""
        for _ in range(workers):
            self.tasks.append(asyncio.create_task(self._work(priority, demand)))

    async def _work(self, priority: Priority, demand: Demand) -> None:
        while True:
            await self.call(priority, demand)

    async def call(self, priority: Priority = Priority.INTERACTIVE, demand: Demand = ONE) -> bool:
        """Send one call; return whether it was accepted."""
        loop, scheduler = asyncio.get_running_loop(), self.scheduler
        ticket = PermitRequest(priority, demand=scheduler.limiter.kind_of(demand))
        permit = scheduler.try_acquire(ticket) or await scheduler.acquire(ticket)
        self.sent.append(loop.time())
        there, back = self.world.latency(self.random)
        try:
            admitted = await asyncio.shield(asyncio.create_task(self.world.arrive(there, demand)))
            await asyncio.sleep(back)
            scheduler.on_response(permit, None if admitted else RateLimitInfo(is_rate_limited=True))
            return admitted
        except asyncio.CancelledError:
            scheduler.on_no_response(permit)
            raise
        finally:
            scheduler.on_done()

    async def stop(self) -> None:
        """Stop like a process that exits."""
        await self._cancel()
        self.scheduler.close(ClientClosedError("over"))
        if self.session is not None:
            await self.session.aclose()

    async def kill(self) -> None:
        """Stop as if by SIGKILL: the store gets no goodbye. Calls in flight still arrive."""
        self.world.store.broken.add(_config(self).process)
        await self._cancel()
        self.scheduler.close(ClientClosedError("over"))

    async def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def _config(process: Process) -> StoreConfig:
    assert process.session is not None
    return process.session.config


class SharedQuotaSimulation:
    """One vendor with its quotas, and the processes that call it.

    Attributes:
        arrivals, demands: when each call arrived, and what it took.
        wall_ahead: seconds by which the wall clock of the processes is ahead of `EPOCH`.
    """

    def __init__(
        self,
        server: ServerLimit,
        *quotas: Quota,
        latency: Latency = loopback,
        admission: Literal["adaptive", "exact"] = "adaptive",
        when_down: WhenDown = "safe_share",
        seed: int = 0,
    ) -> None:
        self.server, self.quotas, self.latency = server, quotas, latency
        self.admission: Literal["adaptive", "exact"] = admission
        self.when_down: WhenDown = when_down
        self.seed = seed
        self.store = MemoryStore()
        self.processes: list[Process] = []
        self.arrivals: list[float] = []
        self.demands: list[Demand] = []
        self.wall_ahead = 0.0
        self.refusals: list[float] = []

    async def arrive(self, after: float, demand: Demand = ONE) -> bool:
        """Let a call arrive *after* some seconds; return whether it was accepted."""
        await asyncio.sleep(after)
        now = asyncio.get_running_loop().time()
        self.arrivals.append(now)
        self.demands.append(demand)
        admitted = self.server.admit(now)
        if not admitted:
            self.refusals.append(now)
        return admitted

    def start(self, *, shared: bool = True, when_down: WhenDown | None = None) -> Process:
        """Add a process, which is idle until `work`."""
        number = len(self.processes)
        name, when_down = f"p{number:03}", when_down or self.when_down
        config = replace(CONFIG, process=name, when_down=when_down, timeout=self.store.timeout)
        process = Process(self, StoreSession(self.store, config) if shared else None, number)
        self.processes.append(process)
        return process

    def admitted(self, since: float, until: float) -> int:
        """Return the number of calls accepted from *since* to *until*."""
        refused = sum(since < at <= until for at in self.refusals)
        return sum(since < at <= until for at in self.arrivals) - refused

    async def stop(self) -> None:
        """Stop every process."""
        for process in self.processes:
            await process.stop()


def most_in(period: float, arrivals: list[float]) -> int:
    """Return the most arrivals in any half-open interval of *period* seconds."""
    most = head = 0
    ordered = sorted(arrivals)
    for index, at in enumerate(ordered):
        while ordered[head] <= at - period:
            head += 1
        most = max(most, index - head + 1)
    return most


async def call_each(session: StoreSession, scopes: int) -> None:
    """Send one call in each of *scopes* scopes of 2 per 1 s at the same instant."""

    async def call(name: str) -> None:
        loop = asyncio.get_running_loop()
        local = Limiter((Quota(2, 1.0),), now=loop.time())
        scheduler = Scheduler(local, loop)
        scheduler.limiter = session.limiter(name, local, scheduler)
        scheduler.on_response(await scheduler.acquire(PermitRequest()), None)
        scheduler.on_done()

    await asyncio.gather(*(call(f"scope-{number}") for number in range(scopes)))
