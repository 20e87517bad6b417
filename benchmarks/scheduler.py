"""What a permit costs: alone, in a crowd of 100,000, and with 10,000 credentials.

    python benchmarks/scheduler.py [--json FILE]

* alone: take, answer, finish, with nobody waiting; best of many rounds.
* crowd: 100,000 tasks wait on one scope that lets 10,000 a second through, in
  real time. Bytes of a waiter are those beyond an equal task that waits for a
  future of its own. They join a hundred a turn of the loop. The stall is the
  longest time of this process in which the loop answered nobody, from the first
  to the last permit; time that other processes take from it does not count.
  Python's collector walks the callers' 100,000 tasks, which holds up any program
  that has so many: so ours is measured with the collector off, and with it on
  beside the same crowd without a scheduler, each task waiting for a future of its
  own. Such a task is three objects to walk (task, coroutine, future) and two for
  the caller's own frames, one that waits for a permit has one more: docs/theory-of-limits.md.
* idle: bytes of a limiter with its scheduler, one quota each.

What an interactive call waits while a backfill saturates the quota is measured
by `benchmarks/limits.py`, beside the peers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from asyncclients import Quota
from asyncclients.limits.limiter import Limiter
from asyncclients.limits.scheduler import Scheduler
from asyncclients.limits.ticket import Ticket

WAITERS = 100_000
SCOPES = 10_000
TARGETS = {
    "microseconds a permit": 3.0,
    "bytes a waiter": 1024,
    "longest stall, collector off, ms": 20.0,
    "longest stall, times that of plain futures": 1.25,
    "bytes an idle scope": 3072,
}
CROWDS = 3
"""Pairs of crowds, with a scheduler and without; the figures are medians."""


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


async def stall(queue: Scheduler) -> float:
    """The longest time, in ms, without a turn of the loop while the crowd gets its permits."""
    while (permit := queue.try_take(Ticket())) is not None:
        queue.answered(permit, None)
        queue.finished()

    ticket = Ticket()

    async def wait() -> None:
        permit = await queue.take(ticket)
        queue.answered(permit, None)
        queue.finished()

    return await _longest_turn(wait, lambda: None)


async def plain_stall() -> float:
    """The same for tasks that wait for futures, which are resolved ten a turn."""
    loop = asyncio.get_running_loop()
    futures: deque[asyncio.Future[None]] = deque()

    async def wait() -> None:
        futures.append(future := loop.create_future())
        await future

    def resolve() -> None:
        for _ in range(min(10, len(futures))):
            futures.popleft().set_result(None)

    return await _longest_turn(wait, resolve)


async def _longest_turn(
    wait: Callable[[], Coroutine[Any, Any, None]], each_turn: Callable[[], None]
) -> float:
    done = 0

    async def one() -> None:
        nonlocal done
        await wait()
        done += 1

    tasks: list[asyncio.Future[None]] = []
    await asyncio.sleep(0.01)  # the crowd before this one is gone by then
    longest, before = 0.0, time.process_time()
    while done < WAITERS:
        # A hundred a turn: to make them all in one turn would be the caller's own stall.
        tasks += [asyncio.ensure_future(one()) for _ in range(min(100, WAITERS - len(tasks)))]
        each_turn()
        await asyncio.sleep(0 if len(tasks) < WAITERS else 0.001)
        now = time.process_time()
        longest, before = max(longest, now - before), now
    await asyncio.gather(*tasks)
    return longest * 1000


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
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(CROWDS):
        gc.collect()
        plain.append(await plain_stall())
        gc.collect()
        ours.append(await stall(scheduler(Quota(10_000, 1.0))))
    figures["longest stall of plain futures, ms"] = statistics.median(plain)
    figures["longest stall, ms"] = statistics.median(ours)
    figures["longest stall, times that of plain futures"] = statistics.median(
        a / b for a, b in zip(ours, plain, strict=True)
    )
    gc.collect()
    gc.disable()
    name = "longest stall, collector off, ms"
    figures[name] = await stall(scheduler(Quota(10_000, 1.0)))
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
