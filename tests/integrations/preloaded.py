"""An aiohttp app for gunicorn whose pool is made at import and opened in each worker."""

from __future__ import annotations

import os

from aiohttp import web

from asyncclients import IntouchClient, SessionPool

pool = SessionPool()
intouch = IntouchClient.from_env(pool)


async def create(request: web.Request) -> web.Response:
    """Make a tag with the key that all workers share."""
    tag = await intouch.tags.create(request.match_info["name"])
    return web.json_response({"tag": tag.name, "worker": os.getpid(), "master": os.getppid()})


async def close(_: web.Application) -> None:
    """Close this worker's copy of the pool."""
    await pool.aclose()


app = web.Application()
app.router.add_post("/{name}", create)
app.on_cleanup.append(close)
