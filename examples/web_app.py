"""A web app that calls Intouch while a backfill runs on the same key."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from asyncclients import DeadlineExceededError, IntouchClient, SessionPool
from asyncclients.backfill import Report, pull

INTOUCH = web.AppKey("intouch", IntouchClient)
BACKFILL = web.AppKey("backfill", asyncio.Task[Report])


async def vendors(app: web.Application) -> AsyncIterator[None]:
    async with SessionPool() as pool:
        app[INTOUCH] = IntouchClient.from_env(pool).with_options(deadline=5.0)
        tags = IntouchClient.from_env(pool).tags.list(sort_by="created_at")
        app[BACKFILL] = asyncio.create_task(pull(tags, "tags.jsonl", state="tags.db"))
        yield
        app[BACKFILL].cancel()  # saves its state; the next start resumes it
        await asyncio.wait([app[BACKFILL]])


async def create_tag(request: web.Request) -> web.Response:
    try:
        tag = await request.app[INTOUCH].tags.create(request.match_info["name"])
    except DeadlineExceededError as error:
        wait = {"Retry-After": f"{error.eta or 1:.0f}"}
        raise web.HTTPServiceUnavailable(headers=wait) from None
    return web.json_response({"uuid": tag.uuid})


app = web.Application()
app.cleanup_ctx.append(vendors)
app.router.add_post("/tags/{name}", create_tag)

if __name__ == "__main__":
    web.run_app(app)
