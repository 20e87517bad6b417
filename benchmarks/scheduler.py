"""The cost of a permit: alone, in a crowd of 100,000, and with 10,000 credentials.

    python benchmarks/scheduler.py [--json FILE]

* alone: acquire, response, done, with no other call waiting; the best of many rounds.
* crowd: 100,000 tasks wait on one scope that grants 10,000 permits a second, in real time. The
  tasks start a hundred per turn of the loop. *Bytes a waiter* are those beyond an equal task
  that waits for a future of its own. The *stall* is the longest CPU time of one turn of the
  loop, from the first to the last permit; time taken by other processes does not count.
  Python's garbage collector walks the callers' 100,000 tasks, which stalls any program with so
  many tasks. So the stall is measured with the collector off, and with it on beside the same
  crowd without a scheduler, where each task waits for a future of its own. Such a task has
  three objects to walk (task, coroutine, future) and two for the caller's frames; a task that
  waits for a permit has one more: docs/theory-of-limits.md.
* idle: bytes of a limiter with its scheduler, one quota each.

`benchmarks/rate_limits.py` measures the wait of an interactive call beside a backlog.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from harness import compare, exit_code, parser, save

from asyncclients import Quota
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler

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
"""Pairs of crowds, with and without a scheduler; the figures are medians."""


def scheduler(quota: Quota) -> Scheduler:
    loop = asyncio.get_running_loop()
    return Scheduler(Limiter((quota,), now=loop.time()), loop)


async def alone(rounds: int = 60, calls: int = 1000) -> float:
    """Return the microseconds of one permit, from acquire to done."""
    queue = scheduler(Quota(10_000_000, 1.0))
    ticket = PermitRequest()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            permit = queue.try_acquire(ticket)
            assert permit is not None
            queue.on_response(permit, None)
            queue.on_done()
        best = min(best, time.perf_counter() - started)
    return best / calls * 1e6


async def _weigh(queue: Scheduler | None, count: int) -> float:
    """Return the bytes of a task that waits in *queue*, or for a future of its own."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    async def wait() -> None:
        if queue is None:
            futures.append(future := loop.create_future())
            await future
        else:
            await queue.acquire(PermitRequest())

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


async def waiter_bytes(count: int) -> float:
    """Return the bytes of one more waiter, beyond those of its task."""
    queue = scheduler(Quota(1, 3600.0))
    queue.try_acquire(PermitRequest())
    own = await _weigh(None, count)
    return await _weigh(queue, count) - own


async def stall(queue: Scheduler, waiters: int) -> float:
    """Return the longest turn of the loop, in ms, while the crowd gets its permits."""
    while (permit := queue.try_acquire(PermitRequest())) is not None:
        queue.on_response(permit, None)
        queue.on_done()

    ticket = PermitRequest()

    async def wait() -> None:
        permit = await queue.acquire(ticket)
        queue.on_response(permit, None)
        queue.on_done()

    return await _longest_turn(wait, lambda: None, waiters)


async def plain_stall(waiters: int) -> float:
    """Return the same for tasks that wait for futures, of which ten are resolved per turn."""
    loop = asyncio.get_running_loop()
    futures: deque[asyncio.Future[None]] = deque()

    async def wait() -> None:
        futures.append(future := loop.create_future())
        await future

    def resolve() -> None:
        for _ in range(min(10, len(futures))):
            futures.popleft().set_result(None)

    return await _longest_turn(wait, resolve, waiters)


async def _longest_turn(
    wait: Callable[[], Coroutine[Any, Any, None]], each_turn: Callable[[], None], waiters: int
) -> float:
    done = 0

    async def one() -> None:
        nonlocal done
        await wait()
        done += 1

    tasks: list[asyncio.Future[None]] = []
    await asyncio.sleep(0.01)  # lets the previous crowd finish
    longest, before = 0.0, time.process_time()
    while done < waiters:
        # A hundred per turn: making all of them in one turn would itself be a stall.
        tasks += [asyncio.ensure_future(one()) for _ in range(min(100, waiters - len(tasks)))]
        each_turn()
        await asyncio.sleep(0 if len(tasks) < waiters else 0.001)
        now = time.process_time()
        longest, before = max(longest, now - before), now
    await asyncio.gather(*tasks)
    return longest * 1000


async def scope_bytes() -> float:
    """Return the bytes of an idle limiter and scheduler."""
    quota = Quota(100, 60.0)
    gc.collect()
    tracemalloc.start()
    kept = [scheduler(quota) for _ in range(SCOPES)]
    size = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    return size


async def measure(waiters: int) -> dict[str, float]:
    figures = {
        "microseconds a permit": await alone(),
        "bytes a waiter": await waiter_bytes(waiters // 10),
    }
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(CROWDS):
        gc.collect()
        plain.append(await plain_stall(waiters))
        gc.collect()
        ours.append(await stall(scheduler(Quota(10_000, 1.0)), waiters))
    figures["longest stall of plain futures, ms"] = statistics.median(plain)
    figures["longest stall, ms"] = statistics.median(ours)
    figures["longest stall, times that of plain futures"] = statistics.median(
        a / b for a, b in zip(ours, plain, strict=True)
    )
    gc.collect()
    gc.disable()
    name = "longest stall, collector off, ms"
    figures[name] = await stall(scheduler(Quota(10_000, 1.0)), waiters)
    gc.enable()
    figures["bytes an idle scope"] = await scope_bytes()
    return figures


def main() -> int:
    given = parser(__doc__).parse_args()
    rows = compare(asyncio.run(measure(5_000 if given.quick else WAITERS)), TARGETS)
    save(given.json, rows=rows)
    return exit_code(rows.values(), quick=given.quick)


if __name__ == "__main__":
    sys.exit(main())
