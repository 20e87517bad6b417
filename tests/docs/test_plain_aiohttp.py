"""The page about sessions of one's own: a client of somebody else keeps the quota."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from asyncclients.sandbox.limits import SlidingLog

from .pages import ROOT, blocks, module_of

pytestmark = pytest.mark.virtual_time


class StrictSlack:
    """A server that counts 100 requests per minute for each method, and answers others with 429."""

    def __init__(self) -> None:
        self._limits: dict[str, SlidingLog] = {}
        self.statuses: list[int] = []

    async def answer(self, request: web.Request) -> web.Response:
        method, loop = request.path, asyncio.get_running_loop()
        is_admitted = self._limits.setdefault(method, SlidingLog(100, 60.0)).admit(loop.time())
        self.statuses.append(200 if is_admitted else 429)
        if not is_admitted:
            return web.json_response({"ok": False, "error": "ratelimited"}, status=429)
        return web.json_response({"ok": True, "user": {"name": f"name of {request.query['user']}"}})


async def test_slack_sdk_keeps_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 250 concurrent calls of the SDK none is rejected, and the quota is used."""
    pytest.importorskip("slack_sdk")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary")
    namespace: dict[str, Any] = module_of(monkeypatch)
    first, slack, *_ = blocks(ROOT / "docs" / "plain-aiohttp.md")
    for block in (first, slack):
        await block.run(namespace)

    server, loop = StrictSlack(), asyncio.get_running_loop()
    app = web.Application()
    app.router.add_get("/api/users.info", server.answer)
    async with TestServer(app) as opened:
        began_at = loop.time()
        names = await namespace["names_of"](range(250), base_url=str(opened.make_url("/api/")))
        assert 120.0 <= loop.time() - began_at < 150.0  # evenly spaced, it is 150 s
    assert names == [f"name of {number}" for number in range(250)]
    assert server.statuses == [200] * 250
