"""What a permit costs: alone, in a crowd of 100,000, and with 10,000 credentials.

    python benchmarks/scheduler.py [--json FILE]

* alone: take, answer, finish, with nobody waiting; best of many rounds.
* crowd: 100,000 tasks wait on one scope that lets 10,000 a second through, in
  real time. Bytes of a waiter are those beyond an equal task that waits for a
  future of its own. They join a hundred a turn of the loop. The stall is the
  longest time of this process in which the loop answered nobody, from the first
  to the last permit; time that other processes take from it does not count. Most
  of it is Python's collector, which walks the callers' 100,000 tasks; hence the
  second figure, with the collector off.
* idle: bytes of a limiter with its scheduler, one quota each.

What an interactive call waits while a backfill saturates the quota is measured
by `benchmarks/limits.py`, beside the peers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
import tracemalloc
from pathlib import Path

from asyncclients import Quota
from asyncclients.limits.limiter import Limiter
from asyncclients.limits.scheduler import Scheduler, Ticket

WAITERS = 100_000
SCOPES = 10_000
TARGETS = {
    "microseconds a permit": 3.0,
    "bytes a waiter": 1024,
    "longest stall, ms": 20.0,
    "bytes an idle scope": 3072,
}


def scheduler(quota: Quota) -> Scheduler:
    loop = asyncio.get_running_loop()
    return Scheduler(Limiter((quota,), now=loop.time()), loop)


async def alone(rounds: int = 60, calls: int = 1000) -> float:
    """Microseconds for one permit, from the question to the end."""
    queue = scheduler(Quota(10_000_000, 1.0))
    ticket = Ticket()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            permit = queue.try_take(ticket)
            assert permit is not None
            queue.answered(permit, None)
            queue.finished()
        best = min(best, time.perf_counter() - started)
    return best / calls * 1e6


async def _weigh(queue: Scheduler | None) -> float:
    """Bytes of each of many tasks that wait: in *queue*, or for a future of their own."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    async def wait() -> None:
        if queue is None:
            futures.append(future := loop.create_future())
            await future
        else:
            await queue.take(Ticket())

    count = WAITERS // 10
    gc.collect()
    tracemalloc.start()
    tasks = [asyncio.ensure_future(wait()) for _ in range(count)]
    await asyncio.sleep(0)
    gc.collect()
    bytes_each = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return bytes_each


async def waiter_bytes() -> float:
    """Bytes of one more waiter, beyond its task."""
    queue = scheduler(Quota(1, 3600.0))
    queue.try_take(Ticket())
    own = await _weigh(None)
    return await _weigh(queue) - own


async def stall() -> tuple[float, float]:
    """The longest time without a turn of the loop, and seconds until all had their permit."""
    queue = scheduler(Quota(10_000, 1.0))
    while (permit := queue.try_take(Ticket())) is not None:
        queue.answered(permit, None)
        queue.finished()
    granted = 0

    async def wait() -> None:
        nonlocal granted
        permit = await queue.take(Ticket())
        granted += 1
        queue.answered(permit, None)
        queue.finished()

    tasks: list[asyncio.Future[None]] = []
    longest, started, before = 0.0, time.perf_counter(), time.process_time()
    while granted < WAITERS:
        # A hundred a turn: to make them all in one turn would be the caller's own stall.
        tasks += [asyncio.ensure_future(wait()) for _ in range(min(100, WAITERS - len(tasks)))]
        await asyncio.sleep(0 if len(tasks) < WAITERS else 0.001)
        now = time.process_time()
        longest, before = max(longest, now - before), now
    took = time.perf_counter() - started
    await asyncio.gather(*tasks)
    return longest * 1000, took


async def scope_bytes() -> float:
    """Bytes of an idle limiter and scheduler."""
    quota = Quota(100, 60.0)
    gc.collect()
    tracemalloc.start()
    kept = [scheduler(quota) for _ in range(SCOPES)]
    size = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    return size


async def measure() -> dict[str, float]:
    figures = {"microseconds a permit": await alone(), "bytes a waiter": await waiter_bytes()}
    gc.collect()
    figures["longest stall, ms"], figures["seconds for 100,000 permits"] = await stall()
    gc.collect()
    gc.disable()
    figures["the same without the garbage collector, ms"], _ = await stall()
    gc.enable()
    figures["bytes an idle scope"] = await scope_bytes()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = asyncio.run(measure())
    rows = {
        name: {"figure": round(value, 2), "target": TARGETS.get(name)}
        for name, value in figures.items()
    }
    missed = 0
    for name, row in rows.items():
        verdict = ""
        if row["target"] is not None:
            row["met"] = row["figure"] <= row["target"]
            missed += not row["met"]
            verdict = f"   ≤ {row['target']:g}   {'met' if row['met'] else 'MISSED'}"
        print(f"{name:44} {row['figure']:10.2f}{verdict}")
    if options.json:
        report = {"python": sys.version.split()[0], "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
