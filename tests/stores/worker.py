"""One process with a backlog on one key: `python worker.py STORE LIMIT PERIOD ADMISSION`.

STORE is a Redis URL, the path of a file, or `none`. The vendor is in the environment.
It prints `ready` after each call and, at SIGTERM, `rejected N`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.limits.shared import LimitStore
from asyncclients.stores import FileLimits, RedisLimits

WORKERS = 8


def store(name: str) -> LimitStore | None:
    if name == "none":
        return None
    return RedisLimits(name) if "://" in name else FileLimits(name)


async def call(client: IntouchClient) -> None:
    while True:
        await client.tags.list(limit=1).first()
        print("ready", flush=True)  # noqa: T201 - the parent reads it


async def main(name: str, limit: str, period: str, admission: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with SessionPool(
        limits=store(name), admission="exact" if admission == "exact" else "adaptive"
    ) as pool:
        client = IntouchClient(
            pool,
            api_key=os.environ["INTOUCH_API_KEY"],
            base_url=os.environ["INTOUCH_BASE_URL"],
            quotas=[Quota(int(limit), float(period))],
        )
        tasks = [asyncio.create_task(call(client)) for _ in range(WORKERS)]
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task.done()]
        for task in [waiting, *tasks]:
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)
        print("rejected", client.stats().rejected, flush=True)  # noqa: T201
        for task in failed:
            task.result()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
