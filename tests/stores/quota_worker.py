"""One process with a backlog on one key, until SIGTERM.

`python quota_worker.py STORE LIMIT PERIOD ADMISSION WHEN_DOWN CLOCK`: STORE is a Redis URL, the path of a
file, or `none`; CLOCK is by how many seconds this machine's clocks are off. The vendor is in the
environment. It prints `ready` after each call and, at the end, `rejected N lag SECONDS`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.ratelimit.protocol import LimitStore
from asyncclients.stores import FileLimits, RedisLimits

WORKERS = 8


class Lag:
    """The longest time for which this process's loop stood still, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, loop.time() - due)


class OffLoop(asyncio.SelectorEventLoop):
    """A loop on a machine whose monotonic clock began earlier or later than that of others."""

    off = 0.0

    def time(self) -> float:
        return super().time() + self.off


def store(name: str, when_down: Any) -> LimitStore | None:
    if name == "none":
        return None
    kind = RedisLimits if "://" in name else FileLimits
    return kind(name, when_down=when_down)


async def call(client: IntouchClient) -> None:
    while True:
        await client.tags.list(limit=1).first()
        print("ready", flush=True)  # noqa: T201 - the parent reads it


async def main(name: str, limit: str, period: str, admission: Any, when_down: str) -> None:
    stop, lag = asyncio.Event(), Lag()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with SessionPool(limits=store(name, when_down), admission=admission) as pool:
        client = IntouchClient(
            pool,
            api_key=os.environ["INTOUCH_API_KEY"],
            base_url=os.environ["INTOUCH_BASE_URL"],
            quotas=[Quota(int(limit), float(period))],
        )
        tasks = [asyncio.create_task(call(client)) for _ in range(WORKERS)]
        others: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
        others.append(asyncio.create_task(lag.watch()))
        await asyncio.wait([*others, *tasks], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task.done()]
        for task in [*others, *tasks]:
            task.cancel()
        await asyncio.gather(*others, *tasks, return_exceptions=True)
        print("rejected", client.stats().rejected, "lag", lag.longest, flush=True)  # noqa: T201
        for task in failed:
            task.result()


if __name__ == "__main__":
    *words, off = sys.argv[1:]
    OffLoop.off = float(off)
    wall = time.time
    time.time = lambda: wall() + float(off)
    with asyncio.Runner(loop_factory=OffLoop) as runner:
        runner.run(main(*words))
