"""One process that needs an access token: `python token_worker.py REDIS_URL`.

It prints `ready`, waits for a line, and makes one call.
"""

from __future__ import annotations

import asyncio
import sys

from asyncclients import DigitalOnboardingClient, SessionPool
from asyncclients.stores import RedisTokens


async def main(url: str) -> None:
    async with SessionPool(tokens=RedisTokens(url)) as pool:
        client = DigitalOnboardingClient.from_env(pool)
        print("ready", flush=True)  # noqa: T201 - the parent reads it
        await asyncio.to_thread(sys.stdin.readline)
        await client.templates.list()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
