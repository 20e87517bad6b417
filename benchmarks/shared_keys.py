"""Ten thousand keys on real servers: one server beside a cluster of three primaries.

    python benchmarks/shared_keys.py [--keys 10000] [--rate 300] [--seconds 30] [--json FILE]

Two worker processes send calls at random, each for any of the keys, as behind a load balancer.
They run the code of `SessionPool` (`StoreSession`, `Limiter`, `Scheduler`) without HTTP, and
record when each call is sent, on the clock of the machine. Afterwards the calls of all workers
are replayed, key by key, to a strict sliding log. `--rate` is calls per second of all workers;
the quota is 2 per second and key. Servers have no persistence and run on loopback.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections import defaultdict
from random import Random

import msgspec
from harness import parser, save
from shared_store import Row, cpu

from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores import RedisLimits
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse
from asyncclients.stores.redis import RedisBackend
from tests.support.valkey_server import Cluster, Server

WORKERS = 2
QUOTA = Quota(2, 1.0)
_HANDLING = 0.05
"""Seconds from the send of a call to its response."""


class Result(msgspec.Struct):
    """The report of one worker.

    Attributes:
        sent: key and instant of each call.
        waits: seconds that each call waited for its permit.
        claims: requests to the store.
        late: calls that still waited at the end.
    """

    sent: list[tuple[int, float]] = []
    waits: list[float] = []
    claims: int = 0
    late: int = 0


class CountingBackend(RedisBackend):
    """Counts the requests of all instances."""

    claims = 0

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        """Apply *request*, see `Backend.apply`."""
        CountingBackend.claims += 1
        return await super().apply(key, request)


async def work(url: str, keys: int, rate: float, seconds: float, seed: int) -> Result:
    """Send calls for random keys, *rate* a second, after a warm-up of 5 s."""
    loop, random, result = asyncio.get_running_loop(), Random(seed), Result()
    session = RedisLimits(url).open()
    session._backend.__class__ = CountingBackend
    schedulers: dict[int, Scheduler] = {}

    async def call(key: int) -> None:
        if key not in schedulers:
            local = Limiter((QUOTA,), now=loop.time())
            schedulers[key] = Scheduler(local, loop)
            schedulers[key].limiter = session.limiter(f"key-{key}", local, schedulers[key])
        scheduler, begun, request = schedulers[key], loop.time(), PermitRequest()
        permit = scheduler.try_acquire(request) or await scheduler.acquire(request)
        result.sent.append((key, time.monotonic()))
        result.waits.append(loop.time() - begun)
        await asyncio.sleep(_HANDLING)
        scheduler.on_response(permit, None)
        scheduler.on_done()

    tasks: set[asyncio.Task[None]] = set()
    due, end = loop.time(), loop.time() + 5 + seconds
    measured_from = None
    while due < end:
        if measured_from is None and due > end - seconds:
            measured_from = time.monotonic(), CountingBackend.claims
        due += random.expovariate(rate)
        await asyncio.sleep(max(0.0, due - loop.time()))
        task = asyncio.create_task(call(random.randrange(keys)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    assert measured_from is not None
    result.claims = CountingBackend.claims - measured_from[1]
    await asyncio.sleep(2.0)
    result.late = len(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await session.aclose()
    return result


async def measure(
    kind: str, url: str, servers: list[Server], *, keys: int, rate: float, seconds: float
) -> Row:
    """Measure one row."""
    words = [url, str(keys), str(rate / WORKERS), str(seconds)]
    before = [cpu(server) for server in servers]
    begun = time.monotonic()
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--worker", *words, str(seed), stdout=PIPE
        )
        for seed in range(WORKERS)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    took = time.monotonic() - begun
    used = [cpu(server) - earlier for server, earlier in zip(servers, before, strict=True)]
    results = [msgspec.msgpack.decode(output, type=Result) for output, _ in outputs]
    by_key: defaultdict[int, list[float]] = defaultdict(list)
    for key, at in (each for result in results for each in result.sent):
        by_key[key].append(at)
    rejected = 0
    for instants in by_key.values():
        vendor = SlidingLog(QUOTA.limit, QUOTA.period)
        rejected += sum(not vendor.admit(at) for at in sorted(instants))
    waits = [wait for result in results for wait in result.waits]
    calls, claims = len(waits), sum(result.claims for result in results)
    return {
        "store": kind,
        "keys used": len(by_key),
        "calls": calls,
        "late": sum(result.late for result in results),
        "rejected": rejected,
        "claims a second": round(claims / seconds),
        "claims a call": round(claims / (rate * seconds), 2),
        "p50 wait, ms": round(1000 * statistics.median(waits), 1),
        "p99 wait, ms": round(1000 * statistics.quantiles(waits, n=100)[98], 1),
        "CPU of each server": ", ".join(f"{100 * each / took:.1f}%" for each in used),
    }


async def rows(keys: int, rate: float, seconds: float) -> list[Row]:
    """Measure one server, then a cluster; for the cluster, the CPU time of its primaries."""
    with Server() as server:
        found = [
            await measure("one server", server.url, [server], keys=keys, rate=rate, seconds=seconds)
        ]
    with Cluster() as cluster:
        url = cluster.url.replace("redis://", "redis+cluster://")
        primaries = cluster.servers[:3]
        found.append(
            await measure("cluster", url, primaries, keys=keys, rate=rate, seconds=seconds)
        )
    return found


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        url, keys, rate, seconds, seed = sys.argv[2:]
        result = asyncio.run(work(url, int(keys), float(rate), float(seconds), int(seed)))
        sys.stdout.buffer.write(msgspec.msgpack.encode(result))
        return
    options = parser(__doc__)
    options.add_argument("--keys", type=int, default=10_000)
    options.add_argument("--rate", type=float, default=300.0)
    options.add_argument("--seconds", type=float, default=30.0)
    given = options.parse_args()
    size = (500, 60.0, 2.0) if given.quick else (given.keys, given.rate, given.seconds)
    found = asyncio.run(rows(*size))
    for row in found:
        print(row)
    save(given.json, keys=found)


if __name__ == "__main__":
    main()
