"""`quota_middleware`: the scheduler for programs that have clients of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asyncclients import Quota, quota_middleware
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits
from tests.support.byte_server import ByteServer, answers, byte_server, hangs_up, http


@pytest.fixture
async def server() -> AsyncIterator[ByteServer]:
    async with byte_server(answers(http())) as opened:
        yield opened


class Program:
    """A program with a session of its own; notes when each of its requests was answered."""

    def __init__(self, url: str, middleware: Any) -> None:
        self._url = url
        self.session = aiohttp.ClientSession(middlewares=(middleware,))
        self.done: list[tuple[str, float]] = []

    async def ask(self, name: str, **headers: str) -> None:
        loop = asyncio.get_running_loop()
        async with self.session.get(self._url, headers=headers) as response:
            await response.read()
        self.done.append((name, loop.time()))

    def seconds(self, began: float) -> list[tuple[str, int]]:
        """Return the second of each response by its caller."""
        return [(name, int(at - began)) for name, at in self.done]


@pytest.mark.usefixtures("virtual_time")
async def test_middleware_scope_selects_the_quota(server: ByteServer) -> None:
    """Each scope has its own quota; by default all requests to one origin share one."""
    began = asyncio.get_running_loop().time()
    program = Program(
        server.url, quota_middleware(Quota(1, 1.0), scope=lambda request: request.headers["key"])
    )
    async with program.session:
        await asyncio.gather(*(program.ask(key, key=key) for key in "aab"))
    assert sorted(program.seconds(began)) == [("a", 0), ("a", 1), ("b", 0)]
    alike = Program(server.url, quota_middleware(Quota(1, 1.0)))
    began = asyncio.get_running_loop().time()
    async with alike.session:
        await asyncio.gather(*(alike.ask(key, key=key) for key in "ab"))
    assert alike.seconds(began) == [("a", 0), ("b", 1)]


async def test_middleware_passes_errors_and_releases_the_permit() -> None:
    """The caller gets aiohttp's exception unchanged, and the next request is not blocked."""
    async with byte_server(hangs_up) as server:
        program = Program(server.url, quota_middleware(Quota(100, 1.0)))
        async with program.session:
            for _ in range(2):
                with pytest.raises(aiohttp.ServerDisconnectedError):
                    async with program.session.post(server.url):
                        pass


async def test_middleware_shares_a_quota_by_a_file(tmp_path: Path) -> None:
    """Two programs with one limit file use 20 per half second together, and none is rejected."""
    path = tmp_path / "limits.db"
    async with Sandbox(quotas={"intouch": (20, 0.5)}) as sandbox:
        key = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}

        async def run() -> None:
            async with quota_middleware(
                Quota(20, 0.5), limits=FileLimits(path), admission="exact"
            ) as limited:
                program = Program(sandbox.url("intouch") + "tags", limited)
                async with program.session:
                    await asyncio.gather(*(program.ask("", **key) for _ in range(30)))

        await asyncio.gather(run(), run())
        assert len(sandbox.requests("intouch")) == 60
        assert sandbox.rejected("intouch") == 0
