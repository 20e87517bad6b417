"""Four programs with two keys of one account, which share its quota through one file."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import ClientSession, web

from asyncclients import IntouchClient, Quota, SessionPool, quota_middleware
from asyncclients.backfill import Report, pull
from asyncclients.stores import FileLimits

STORE, QUOTA, ACCOUNT = FileLimits("limits.db"), Quota(2, 1.0), os.environ["INTOUCH_QUOTA_KEY"]
INTOUCH = web.AppKey("intouch", IntouchClient)


async def web_app(app: web.Application) -> AsyncIterator[None]:
    async with SessionPool(limits=STORE) as pool:
        app[INTOUCH] = IntouchClient.from_env(pool)
        yield


async def backfill() -> Report:
    async with SessionPool(limits=STORE) as pool:
        tags = IntouchClient.from_env(pool).with_options(share=0.5).tags.list(sort_by="created_at")
        return await pull(tags, "tags.jsonl", state="tags.state")


async def worker(names: list[str]) -> None:
    async with SessionPool(limits=STORE) as pool:
        tags = IntouchClient.from_env(pool, api_key=os.environ["INTOUCH_WORKER_KEY"]).tags
        await asyncio.gather(*(tags.create(name) for name in names))


async def sdk(use: Callable[[ClientSession], Awaitable[None]]) -> None:
    limited = quota_middleware(QUOTA, quota_key=ACCOUNT, vendor="intouch", limits=STORE)
    async with limited, ClientSession(middlewares=(limited,)) as session:
        await use(session)
