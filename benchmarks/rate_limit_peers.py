"""Other limiters with the same servers, networks and backlog, in virtual time.

Each peer is used as its documentation shows for N calls per W seconds. Each caller waits for
the `Retry-After` of its own 429. If a package offers several algorithms, each is a peer.

The peers read the clocks of `time`, so these are replaced *before* the peers are imported:
inside a run they return virtual time, outside of it real time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random

from asyncclients import Quota
from asyncclients.simulator import LATENCIES, SERVERS, SimulationReport
from asyncclients.simulator.report import Record
from asyncclients.testing.clock import run_virtual

EPOCH = 1_800_000_000.0
"""The value of `time.time()` at the start of a run."""


def _virtual(real: Callable[[], float], origin: float, unit: float) -> Callable[[], float]:
    def read() -> float:
        loop = asyncio._get_running_loop()
        if loop is None or "time" not in vars(loop):  # not a virtual loop
            return real()
        seconds = origin + loop.time()
        return seconds if unit == 1 else int(seconds * unit)

    return read


time.time = _virtual(time.time, EPOCH, 1)
time.time_ns = _virtual(time.time_ns, EPOCH, 1e9)
time.monotonic = _virtual(time.monotonic, 0.0, 1)
time.monotonic_ns = _virtual(time.monotonic_ns, 0.0, 1e9)

import aiolimiter  # noqa: E402  (after the clocks)
import asynciolimiter  # noqa: E402
import limits  # noqa: E402
import limits.aio  # noqa: E402
import pyrate_limiter  # noqa: E402
import throttled.asyncio as throttled  # noqa: E402

Acquire = Callable[[], Awaitable[object]]


def _aiolimiter(quota: Quota) -> Acquire:
    return aiolimiter.AsyncLimiter(quota.limit, quota.period).acquire


def _aiolimiter_paced(quota: Quota) -> Acquire:
    return aiolimiter.AsyncLimiter(1, quota.period / quota.limit).acquire


def _asynciolimiter(quota: Quota) -> Acquire:
    return asynciolimiter.Limiter(quota.rate).wait


def _pyrate_limiter(quota: Quota) -> Acquire:
    rate = pyrate_limiter.Rate(quota.limit, int(quota.period * 1000))
    limiter = pyrate_limiter.Limiter(pyrate_limiter.InMemoryBucket([rate]))

    async def acquire() -> None:
        await limiter.try_acquire_async("vendor")

    return acquire


def _throttled(using: str) -> Callable[[Quota], Acquire]:
    def make(quota: Quota) -> Acquire:
        limiter = throttled.Throttled(
            key="vendor",
            using=using,
            quota=throttled.per_duration(
                timedelta(seconds=quota.period), quota.limit, burst=quota.limit
            ),
            store=throttled.MemoryStore(),
            timeout=1e9,
        )

        async def acquire() -> None:
            await limiter.limit()  # blocks until granted, up to its timeout

        return acquire

    return make


def _limits(quota: Quota) -> Acquire:
    item = limits.RateLimitItemPerSecond(quota.limit, int(quota.period))
    limiter = limits.aio.strategies.MovingWindowRateLimiter(limits.aio.storage.MemoryStorage())

    async def acquire() -> None:
        while not await limiter.hit(item, "vendor"):
            stats = await limiter.get_window_stats(item, "vendor")
            await asyncio.sleep(max(0.001, stats.reset_time - time.time()))

    return acquire


def _nothing(_quota: Quota) -> Acquire:
    async def acquire() -> None:
        return

    return acquire


PEERS: dict[str, Callable[[Quota], Acquire]] = {
    "aiolimiter (N, W)": _aiolimiter,
    "aiolimiter (1, W/N)": _aiolimiter_paced,
    "asynciolimiter": _asynciolimiter,
    "pyrate-limiter": _pyrate_limiter,
    "throttled-py token bucket": _throttled("token_bucket"),
    "throttled-py GCRA": _throttled("gcra"),
    "limits moving window": _limits,
    "Retry-After alone": _nothing,
}


async def _run(  # noqa: PLR0917
    peer: str, quota: Quota, server: str, latency: str, seconds: float, random: Random
) -> Record:
    loop, record = asyncio.get_running_loop(), Record()
    model, route, split = SERVERS[server](quota, random), LATENCIES[latency], random.random()
    acquire = PEERS[peer](quota)

    async def call() -> None:
        while True:
            await acquire()
            up, work, down = route.draw(random, split)
            await asyncio.sleep(up)
            now = loop.time()
            if model.admit(now):
                record.accepted_at.append(now)
                await asyncio.sleep(work + down)
                return
            record.rejected_at.append(now)
            await asyncio.sleep(down + math.ceil(model.reset_after(now)))

    async def worker() -> None:
        while True:
            await call()

    async def user() -> None:
        while True:
            await asyncio.sleep(10 * (0.5 + random.random()))
            asked_at = loop.time()
            await acquire()
            record.waits.append(loop.time() - asked_at)

    # Interactive calls are few. They only wait for a permit and are not sent.
    tasks = [asyncio.ensure_future(worker()) for _ in range(50)]
    if peer != "Retry-After alone":
        tasks.append(asyncio.ensure_future(user()))
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return record


def run_peer(
    peer: str, quota: Quota, server: str, latency: str, *, seconds: float, seed: int
) -> SimulationReport:
    """Run *peer* once, with the random numbers of our run with that seed."""
    random = Random(f"{server} {latency} {seed}")
    record = run_virtual(_run(peer, quota, server, latency, seconds, random), tick=1e-6)
    return record.report(quota, server, latency, workers=50, seconds=seconds, seed=seed)
