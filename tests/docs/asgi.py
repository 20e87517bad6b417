"""Run an ASGI app in the running loop: its lifespan, and one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """A response of the app."""

    status: int
    body: bytes


class Served:
    """A started app."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def get(self, path: str) -> Answer:
        """GET *path*."""
        status, body = 0, b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"app.example")],
            "client": ("127.0.0.1", 1),
            "server": ("app.example", 80),
        }
        await self._app(scope, receive, send)
        return Answer(status, body)


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[Served]:
    """*app* between its startup and its shutdown, both of which must succeed."""
    orders, said = asyncio.Queue[dict[str, Any]](), asyncio.Queue[dict[str, Any]]()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    life = asyncio.create_task(app(scope, orders.get, said.put))
    for order in ("startup", "shutdown"):
        await orders.put({"type": f"lifespan.{order}"})
        message = await said.get()
        assert message["type"] == f"lifespan.{order}.complete", message
        if order == "startup":
            yield Served(app)
    await life
