"""Claims per second on the store with ten thousand keys and a thousand workers.

    python benchmarks/shared_simulation.py [--keys 10000] [--workers 1000] [--waiting] [--json FILE]

Virtual time, with the code of real processes (`StoreSession`, `LeaseClient`, `Limiter`, `Scheduler`) and
quota logs in memory that count the requests. The vendor is one strict sliding log per key, on the
simulator's `fast` network. Two distributions of work:

* `backlog, N workers a key`: each key has endless work, on N workers.
* `anywhere`: calls arrive at random, half as many as the quota allows, each on any worker, as
  behind a load balancer.

Keys share only the pools, so claims per second and key do not depend on the number of keys.
They are measured with `--keys` and multiplied for ten thousand.

`--waiting` measures instead 1, 2, 4 and 8 processes that wait for one key all the time, on a
network like loopback.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from random import Random

from harness import parser, save

from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Priority, Quota
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.simulator import LATENCIES
from asyncclients.stores.config import StoreConfig
from asyncclients.stores.protocol import LeaseRequest
from asyncclients.stores.session import StoreSession
from asyncclients.testing.clock import run_virtual
from tests.support.shared_quota import MemoryStore, SharedQuotaSimulation

NETWORK = LATENCIES["fast"]
WAITERS = 2
"""Calls that wait at any time on each worker of a backlog."""
FULL = 10_000
Record = list[tuple[str, LeaseRequest, int]]
"""Keys and their claims, with the store's times."""


class Crowd:
    """Workers, keys, and a vendor that counts."""

    def __init__(
        self, quota: Quota, keys: int, workers: int, store: MemoryStore, *, scopes: int
    ) -> None:
        self.quota, self.keys, self.workers = quota, keys, workers
        self.store = store
        self.random = Random(1)
        self.vendor = [SlidingLog(quota.limit, quota.period) for _ in range(keys)]
        self.answers: Counter[bool] = Counter()
        self._scopes = {f"other {number}": "" for number in range(scopes)}
        self._sessions = [self._session(name) for name in range(workers)]
        self._schedulers: dict[tuple[int, int], Scheduler] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def _session(self, name: int) -> StoreSession:
        config = StoreConfig(process=f"w{name}", display_name="memory")
        session = StoreSession(self.store, config)
        session._log.vendors = self._scopes  # all keys, not only the simulated ones
        return session

    def scheduler(self, worker: int, key: int) -> Scheduler:
        known = self._schedulers.get((worker, key))
        if known is None:
            loop = asyncio.get_running_loop()
            local = Limiter((self.quota,), now=loop.time())
            known = self._schedulers[worker, key] = Scheduler(local, loop)
            known.limiter = self._sessions[worker].limiter(str(key), local, known)
        return known

    async def call(self, worker: int, key: int, priority: Priority) -> None:
        scheduler = self.scheduler(worker, key)
        ticket = PermitRequest(priority)
        permit = scheduler.try_acquire(ticket) or await scheduler.acquire(ticket)
        there, worked, back = NETWORK.draw(self.random, 0.5)
        await asyncio.sleep(there)
        admitted = self.vendor[key].admit(asyncio.get_running_loop().time())
        self.answers[admitted] += 1
        await asyncio.sleep(worked + back)
        scheduler.on_response(permit, None if admitted else RateLimitInfo(is_rate_limited=True))
        scheduler.on_done()

    async def backlog(self, worker: int, key: int) -> None:
        await asyncio.sleep(self.random.random() * min(1.0, self.quota.period))
        while True:
            await self.call(worker, key, Priority.BACKGROUND)

    async def anywhere(self, key: int) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(self.quota.rate / 2))
            worker = self.random.randrange(self.workers)
            self.start(self.call(worker, key, Priority.INTERACTIVE))

    def start(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def begin(self, spread: int) -> None:
        """Start a backlog of every key on *spread* workers; 0: single calls anywhere."""
        for key in range(self.keys):
            if not spread:
                self.start(self.anywhere(key))
            for worker in self.random.sample(range(self.workers), spread):
                for _ in range(WAITERS):
                    self.start(self.backlog(worker, key))


def work_name(spread: int) -> str:
    """Return the name of a distribution of work."""
    return f"backlog, {spread} worker{'s' * (spread > 1)} a key" if spread else "anywhere"


async def run(
    quota: Quota,
    keys: int,
    workers: int,
    spread: int,
    *,
    seconds: float,
    record: Record | None = None,
) -> dict[str, float | str]:
    """Measure one row for *seconds*, after a warm-up of two periods and 10 s."""
    scopes = FULL if not spread else round(FULL * spread / workers)
    store = MemoryStore(is_recording=record is not None)
    crowd = Crowd(quota, keys, workers, store, scopes=scopes)
    crowd.begin(spread)
    await asyncio.sleep(2 * quota.period + 10)
    claims, calls = store.commands, crowd.answers[True]
    await asyncio.sleep(seconds)
    claims, calls = store.commands - claims, crowd.answers[True] - calls
    for task in list(crowd.tasks):
        task.cancel()
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    if record is not None:
        record += store.record
    return {
        "quota": f"{quota.limit}/{quota.period:g} s",
        "work": work_name(spread),
        "keys": keys,
        "use": round(calls / (quota.rate * keys * seconds), 3),
        "rejected": crowd.answers[False],
        "claims a call": round(claims / calls, 2),
        "claims a second and key": round(claims / seconds / keys, 2),
        f"claims a second, {FULL} keys": round(claims / seconds / keys * FULL),
    }


def rows(keys: int, workers: int) -> list[dict[str, float | str]]:
    """Measure the table; a minute's quota runs for longer, on a tenth of the keys."""
    found: list[dict[str, float | str]] = []
    for quota, seconds, share in ((Quota(2, 1.0), 20.0, 1), (Quota(100, 60.0), 120.0, 10)):
        for spread in (1, 2, 4, 8, 0):
            row = run_virtual(run(quota, max(1, keys // share), workers, spread, seconds=seconds))
            print(row, file=sys.stderr, flush=True)
            found.append(row)
    return found


async def wait(quota: Quota, processes: int) -> dict[str, float | str]:
    """Measure *processes* that wait for one key, for four periods and at least two minutes."""
    world = SharedQuotaSimulation(SlidingLog(quota.limit, quota.period), quota)
    for _ in range(processes):
        world.start().work(4)
    await asyncio.sleep(2 * quota.period + 20)
    since, claims = asyncio.get_running_loop().time(), world.store.commands
    seconds = max(120.0, 4 * quota.period)
    await asyncio.sleep(seconds)
    claims = world.store.commands - claims
    calls = world.admitted(since, since + seconds)
    await world.stop()
    return {
        "quota": f"{quota.limit}/{quota.period:g} s",
        "processes": processes,
        "use": round(calls / (quota.rate * seconds), 3),
        "rejected": len(world.refusals),
        "claims a call": round(claims / calls, 2),
    }


def waiting() -> list[dict[str, float | str]]:
    """Measure 1, 2, 4 and 8 processes that wait for one key."""
    quotas, counts = (Quota(2, 1.0), Quota(100, 60.0)), (1, 2, 4, 8)
    found = [run_virtual(wait(quota, count)) for quota in quotas for count in counts]
    for row in found:
        print(row)
    return found


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--keys", type=int, default=200)
    options.add_argument("--workers", type=int, default=1000)
    options.add_argument("--waiting", action="store_true")
    given = options.parse_args()
    size = (4, 20) if given.quick else (given.keys, given.workers)
    if given.waiting:
        save(given.json, waiting=waiting())
    else:
        save(given.json, crowd=rows(*size))
