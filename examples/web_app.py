"""A web app that answers from Intouch while a backfill runs on the same key."""

import asyncio
import math
from collections.abc import AsyncIterator

from aiohttp import web

from asyncclients import DeadlineExceededError, IntouchClient, SessionPool
from asyncclients.backfill import pull

INTOUCH = web.AppKey("intouch", IntouchClient)
BACKFILL = web.AppKey("backfill", asyncio.Task)


async def vendors(app: web.Application) -> AsyncIterator[None]:
    async with SessionPool() as pool:
        intouch = IntouchClient.from_env(pool)
        app[INTOUCH] = intouch.with_options(deadline=5.0)
        job = pull(intouch.tags.list(sort_by="created_at"), to="tags.jsonl", state="tags.db")
        app[BACKFILL] = asyncio.create_task(job)
        yield
        app[BACKFILL].cancel()  # saves its state; the next start goes on from there
        await asyncio.wait([app[BACKFILL]])


async def create_tag(request: web.Request) -> web.Response:
    try:
        tag = await request.app[INTOUCH].tags.create(request.match_info["name"])
    except DeadlineExceededError as error:
        wait = {"Retry-After": str(math.ceil(error.eta or 1))}
        raise web.HTTPServiceUnavailable(headers=wait) from None
    return web.json_response({"uuid": tag.uuid})


app = web.Application()
app.cleanup_ctx.append(vendors)
app.router.add_post("/tags/{name}", create_tag)

if __name__ == "__main__":
    web.run_app(app)
