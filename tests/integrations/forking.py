"""A program that forks, and prints one line of JSON for each process.

`python forking.py unused` makes a pool and a client at import and forks before their first use;
`python forking.py used` forks inside the loop, with an idle connection of the pool.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from asyncclients import AsyncClientsError, IntouchClient, RetryPolicy, SessionPool

pool = SessionPool()
intouch = IntouchClient.from_env(pool)


async def call() -> str:
    """Make a call; "ok", or the name of what was raised."""
    try:
        async with asyncio.timeout(10):
            await intouch.tags.create(f"made by {os.getpid()}")
    except (AsyncClientsError, TimeoutError) as error:
        return type(error).__name__
    return "ok"


async def close() -> str:
    """Close the pool; "ok", or the name of what was raised."""
    try:
        await pool.aclose()
    except AsyncClientsError as error:
        return type(error).__name__
    return "ok"


def tell(who: str, *results: str) -> None:
    """Print what *who* saw, with the waits that its retries would draw."""
    waits = [RetryPolicy().wait(5) for _ in range(3)]
    sys.stdout.write(json.dumps({"who": who, "results": results, "waits": waits}) + "\n")
    sys.stdout.flush()


def in_child(who: str) -> int:
    """Fork; the child uses the pool in a loop of its own, prints the result and exits."""
    child = os.fork()
    if child:
        return child

    async def use() -> None:
        tell(who, await call(), await close())

    asyncio.run(use())
    os._exit(0)


async def used() -> None:
    """Fork between two calls of one pool."""
    before = await call()
    child = in_child("child")
    await asyncio.to_thread(os.waitpid, child, 0)
    tell("parent", before, await call(), await close())


def unused() -> None:
    """Fork two workers before the pool's first use, as a server that preloads does."""
    for child in [in_child("first"), in_child("second")]:
        os.waitpid(child, 0)


if __name__ == "__main__":
    unused() if sys.argv[1] == "unused" else asyncio.run(used())
