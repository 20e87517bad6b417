"""One quota, many processes: the cost of sharing it through a store.

    python benchmarks/shared.py [TABLE ...] [--quick] [--json FILE]

Four tables; without a name, all of them:

* store: claims per second of one core of the store (`shared_store.py`).
* fleet: one process without a store, then 1, 2, 4 and 8 processes on one key through Valkey and
  through a file. Each process has a backlog of 16 calls at a time; the vendor is one strict
  sandbox (sliding log) per fleet, in the parent process. Columns: mean fill of the rolling
  window, 429s, most arrivals in any period, claims per call. `fleet-2` and `fleet-100` are the
  halves at 2/1 s and 100/60 s.
* kill: under four processes, the store is killed by SIGKILL and comes back empty, three times,
  in each mode: 429s and calls sent meanwhile.
* crowd: ten thousand keys and a thousand workers, in virtual time (`shared_simulation.py`).

All but the last run in real time, over real sockets: figures depend on the machine and its
load. Valkey runs without persistence on loopback. FILE keeps the tables that are not measured
again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import shared_simulation
from harness import parser, save
from shared_store import Row, store

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits, RedisLimits
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse
from asyncclients.stores.redis import RedisBackend
from asyncclients.stores.sqlite import SqliteBackend
from tests.support.shared_quota import most_in
from tests.support.valkey_server import Server

TABLES = ("store", "fleet-2", "fleet-100", "kill", "crowd")
WORKERS = 16
QUOTAS = {"fleet-2": (2, 1.0), "fleet-100": (100, 60.0)}
Mode = Literal["safe_share", "pause", "local"]
TwoNumbers = tuple[int, float]


# --- One process of a fleet ----------------------------------------------------------


def count_claims() -> list[int]:
    """Count the claims of this process from now on, in the only item of the list."""
    count = [0]
    for kind in (RedisBackend, SqliteBackend):
        exchange = kind.apply

        async def counted(
            self: Any, key: str, claim: LeaseRequest, exchange: Any = exchange
        ) -> LeaseResponse:  # bound early: one for each kind
            count[0] += 1
            return await exchange(self, key, claim)

        kind.apply = counted  # type: ignore[method-assign, assignment]
    return count


async def work(store: str, limit: int, period: float, when_down: Mode) -> None:
    """A backlog on one key until SIGTERM."""
    stop, claims = asyncio.Event(), count_claims()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    limits = None
    if store != "none":
        kind = RedisLimits if "://" in store else FileLimits
        limits = kind(store, when_down=when_down)
    async with SessionPool(limits=limits) as pool:
        client = IntouchClient(
            pool,
            api_key=os.environ["INTOUCH_API_KEY"],
            base_url=os.environ["INTOUCH_BASE_URL"],
            quotas=[Quota(limit, period)],
        )

        async def call() -> None:
            while True:
                await client.tags.list(limit=1).first()

        tasks = [asyncio.create_task(call()) for _ in range(WORKERS)]
        print("ready", flush=True)
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(claims[0], flush=True)


async def launch(
    sandbox: Sandbox, store: str, quota: TwoNumbers, count: int, when_down: Mode
) -> list[Process]:
    words = ["--worker", store, str(quota[0]), str(quota[1]), when_down]
    environment = {**os.environ, **sandbox.environ}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, __file__, *words, stdout=PIPE, env=environment
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    return processes


async def end(processes: Sequence[Process]) -> int:
    """Stop the processes; return the number of claims they have made."""
    for process in processes:
        process.terminate()
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    return sum(int(output) for output, _ in outputs)


# --- What a fleet reaches -----------------------------------------------------------


def fill(arrivals: Sequence[float], quota: TwoNumbers, since: float, until: float) -> float:
    """Return the mean fill of the rolling window as a share of the quota."""
    limit, period = quota
    inside = (min(at + period, until) - max(at, since) for at in arrivals)
    return sum(seconds for seconds in inside if seconds > 0) / (limit * (until - since))


async def fleet(kind: str, quota: TwoNumbers, count: int, seconds: float) -> Row:
    """Measure one row of the fleet table, after a warm-up of one period, at least 5 s."""
    limit, period = quota
    server = Server()
    server.start()
    directory = tempfile.TemporaryDirectory()
    store = {"none": "none", "redis": server.url, "file": f"{directory.name}/limits.db"}[kind]
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        loop = asyncio.get_running_loop()
        processes = await launch(sandbox, store, quota, count, "safe_share")
        await asyncio.sleep(max(5.0, period))
        since = loop.time()
        await asyncio.sleep(seconds)
        until = loop.time()
        claims = await end(processes)
        arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
        rejected = sandbox.rejected("intouch")
    server.kill()
    directory.cleanup()
    return {
        "quota": f"{limit}/{period:g} s",
        "store": kind,
        "processes": count,
        "use": round(fill(arrivals, quota, since, until), 4),
        "calls": len(arrivals),
        "rejected": rejected,
        "most in a period": most_in(period, arrivals),
        "claims a call": round(claims / len(arrivals), 1) if claims else "",
    }


async def fleets(quota: TwoNumbers, seconds: float, counts: Sequence[int]) -> list[Row]:
    """Measure the rows of one quota. The fleets run concurrently: they are mostly idle."""
    cases = [("none", 1), *((kind, count) for kind in ("redis", "file") for count in counts)]
    return list(await asyncio.gather(*(fleet(kind, quota, n, seconds) for kind, n in cases)))


async def kill(when_down: Mode, seconds: float) -> Row:
    """Measure one row of the kill table: three kills, at 2 per second, with four processes."""
    quota = (2, 1.0)
    server = Server()
    server.start()
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        loop = asyncio.get_running_loop()
        processes = await launch(sandbox, server.url, quota, 4, when_down)
        outages: list[tuple[float, float]] = []
        for _ in range(3):
            await asyncio.sleep(seconds)
            server.kill()
            down = loop.time()
            await asyncio.sleep(seconds)
            outages.append((down, loop.time()))
            await asyncio.to_thread(server.start)
        await asyncio.sleep(seconds)
        await end(processes)
        arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
        rejected = sandbox.rejected("intouch")
    server.kill()
    down_for = sum(until - since for since, until in outages)
    meanwhile = sum(since < at <= until for since, until in outages for at in arrivals)
    gaps = [later - at for at, later in pairwise(arrivals)]
    return {
        "when_down": when_down,
        "calls": len(arrivals),
        "rejected": rejected,
        "most in a period": most_in(1.0, arrivals),
        "use meanwhile": round(meanwhile / (2 * down_for), 3),
        "longest gap, s": round(max(gaps), 1),
    }


# --- The command ------------------------------------------------------------------


def show(title: str, rows: Sequence[Row]) -> None:
    """Print one table."""
    print(f"\n{title}")
    names = list(rows[0])
    widths = [max(len(n), *(len(str(row[n])) for row in rows)) for n in names]
    for line in [names, *([str(row[n]) for n in names] for row in rows)]:
        print("  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)))


async def kills(seconds: float) -> list[Row]:
    """The kill table. The modes run concurrently."""
    modes: tuple[Mode, ...] = ("safe_share", "pause", "local")
    return list(await asyncio.gather(*(kill(mode, seconds) for mode in modes)))


def table(name: str, *, quick: bool) -> list[Row]:
    """Measure one table."""
    if name == "store":
        return asyncio.run(store(2_000 if quick else 20_000))
    if name == "kill":
        return asyncio.run(kills(4.0 if quick else 12.0))
    if name == "crowd":
        return shared_simulation.rows(*((4, 20) if quick else (200, 1000)))
    counts = (1, 4) if quick else (1, 2, 4, 8)
    return asyncio.run(fleets(QUOTAS[name], 5.0 if quick else 60.0, counts))


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        _, _, store, limit, period, when_down = sys.argv
        mode: Any = when_down
        asyncio.run(work(store, int(limit), float(period), mode))
        return
    options = parser(__doc__)
    options.add_argument("tables", nargs="*", choices=(*TABLES, "fleet", []), default=[])
    given = options.parse_args()
    for name in TABLES:
        if not given.tables or {name, name.partition("-")[0]} & {*given.tables}:
            rows = table(name, quick=given.quick)
            show(name, rows)
            save(given.json, **{name: rows})


if __name__ == "__main__":
    main()
