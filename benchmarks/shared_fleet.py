"""Real processes on one key: how much of the quota they use, and what they ask of the store.

Part of `shared.py`. Each process has a backlog of 16 calls at a time; the
vendor is one strict sandbox (sliding log) for each fleet, in the parent process.
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
from pathlib import Path
from typing import Any, Literal

from shared_store import Row, Server

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits, RedisLimits
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse
from asyncclients.stores.redis import RedisBackend
from asyncclients.stores.sqlite import SqliteBackend

WORKERS = 16
QUOTAS = ((2, 1.0), (100, 60.0))
Mode = Literal["safe_share", "pause", "local"]
TwoNumbers = tuple[int, float]


# --- One process of a fleet ----------------------------------------------------------


def count_claims() -> list[int]:
    """The number of claims of this process, from now on."""
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
    script = str(Path(__file__).with_name("shared.py"))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, script, *words, stdout=PIPE, env=environment
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    return processes


async def end(processes: Sequence[Process]) -> int:
    """End them in good order; how many claims they have made."""
    for process in processes:
        process.terminate()
    said = await asyncio.gather(*(process.communicate() for process in processes))
    return sum(int(output) for output, _ in said)


# --- What came of it -----------------------------------------------------------------


def most_in(period: float, arrivals: Sequence[float]) -> int:
    most = head = 0
    for index, at in enumerate(arrivals):
        while arrivals[head] <= at - period:
            head += 1
        most = max(most, index - head + 1)
    return most


def fill(arrivals: Sequence[float], quota: TwoNumbers, since: float, until: float) -> float:
    """Mean fill of the rolling window from *since* to *until*, as a share of the quota."""
    limit, period = quota
    inside = (min(at + period, until) - max(at, since) for at in arrivals)
    return sum(seconds for seconds in inside if seconds > 0) / (limit * (until - since))


async def fleet(kind: str, quota: TwoNumbers, count: int, seconds: float) -> Row:
    """One row of the fleet table, after a warm-up of one period, and of 5 s at least."""
    limit, period = quota
    server = Server().start()
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
        refused = sandbox.refused("intouch")
    server.stop()
    directory.cleanup()
    return {
        "quota": f"{limit}/{period:g} s",
        "store": kind,
        "processes": count,
        "use": round(fill(arrivals, quota, since, until), 4),
        "calls": len(arrivals),
        "refused": refused,
        "most in a period": most_in(period, arrivals),
        "claims a call": round(claims / len(arrivals), 1) if claims else "",
    }


async def fleets(quota: TwoNumbers, seconds: float, counts: Sequence[int]) -> list[Row]:
    """The rows of one quota. The fleets run beside each other: they are idle mostly."""
    cases = [("none", 1), *((kind, count) for kind in ("redis", "file") for count in counts)]
    return list(await asyncio.gather(*(fleet(kind, quota, n, seconds) for kind, n in cases)))


async def kill(when_down: Mode, seconds: float) -> Row:
    """One row of the kill table: three deaths, at 2 per second and with four processes."""
    quota = (2, 1.0)
    server = Server().start()
    async with Sandbox(quotas={"intouch": quota}) as sandbox:
        loop = asyncio.get_running_loop()
        processes = await launch(sandbox, server.url, quota, 4, when_down)
        outages: list[tuple[float, float]] = []
        for _ in range(3):
            await asyncio.sleep(seconds)
            server.stop()
            down = loop.time()
            await asyncio.sleep(seconds)
            outages.append((down, loop.time()))
            await asyncio.to_thread(server.start)
        await asyncio.sleep(seconds)
        await end(processes)
        arrivals = [arrival.at for arrival in sandbox.requests("intouch")]
        refused = sandbox.refused("intouch")
    server.stop()
    down_for = sum(until - since for since, until in outages)
    meanwhile = sum(since < at <= until for since, until in outages for at in arrivals)
    gaps = [later - at for at, later in pairwise(arrivals)]
    return {
        "when_down": when_down,
        "calls": len(arrivals),
        "refused": refused,
        "most in a period": most_in(1.0, arrivals),
        "use meanwhile": round(meanwhile / (2 * down_for), 3),
        "longest gap, s": round(max(gaps), 1),
    }
