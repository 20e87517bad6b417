"""`quota_middleware`: the scheduler for programs that have clients of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asyncclients import ConfigurationError, Priority, Quota, WrongEventLoopError, quota_middleware
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits
from asyncclients.testing import VirtualClock
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


async def test_middleware_uses_the_whole_quota(virtual_time: VirtualClock) -> None:
    """Two requests a second are sent, none rejected and none late, to a server that rejects the third."""
    async with Sandbox(quotas={"intouch": (2, 1.0)}) as sandbox:
        key = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}
        url = sandbox.url("intouch") + "tags"
        program = Program(url, quota_middleware(Quota(2, 1.0)))
        async with program.session:
            await asyncio.gather(*(program.ask("", **key) for _ in range(9)))
        assert sandbox.rejected("intouch") == 0
        first, *_, last = (arrival.at for arrival in sandbox.requests("intouch"))
        assert last - first == pytest.approx(4.0, abs=0.1)
    assert virtual_time.elapsed < 4.2


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


@pytest.mark.usefixtures("virtual_time")
async def test_middleware_sends_interactive_requests_first(server: ByteServer) -> None:
    """Interactive requests are sent before background requests that came earlier."""

    def priority(request: aiohttp.ClientRequest) -> Priority:
        return Priority.BACKGROUND if "batch" in request.headers else Priority.INTERACTIVE

    program = Program(server.url, quota_middleware(Quota(1, 1.0), priority=priority))
    async with program.session:
        await asyncio.gather(
            program.ask("first"),
            program.ask("batch", batch="1"),
            program.ask("user"),
            program.ask("other user"),
        )
    assert [name for name, _ in program.done] == ["first", "user", "other user", "batch"]


async def test_middleware_429_pauses_its_scope(virtual_time: VirtualClock) -> None:
    """The caller gets the 429 unchanged, and later requests wait as the server asked."""
    refusal = http(429, headers={"Retry-After": "9"})
    async with byte_server(answers(refusal, http())) as server:
        program = Program(server.url, quota_middleware(Quota(100, 1.0)))
        async with program.session:
            async with program.session.get(server.url) as response:
                assert response.status == 429
            await program.ask("next")
    assert virtual_time.elapsed == pytest.approx(9.0, abs=0.1)


async def test_middleware_counts_a_resend_of_aiohttp(virtual_time: VirtualClock) -> None:
    """A request that aiohttp sends again on a new connection takes two permits."""

    async def once(connection: Any) -> None:
        await connection.request()
        await connection.send(http())
        await connection.request()  # and close, although the client expects keep-alive

    async with byte_server(once, answers(http())) as server:
        program = Program(server.url, quota_middleware(Quota(1, 10.0)))
        async with program.session:
            await program.ask("first")
            await program.ask("resent")
        assert len(server.arrived) == 3
    assert virtual_time.elapsed == pytest.approx(20.0, abs=0.5)


async def test_middleware_passes_errors_and_releases_the_permit() -> None:
    """The caller gets aiohttp's exception unchanged, and the next request is not blocked."""
    async with byte_server(hangs_up) as server:
        program = Program(server.url, quota_middleware(Quota(100, 1.0)))
        async with program.session:
            for _ in range(2):
                with pytest.raises(aiohttp.ServerDisconnectedError):
                    async with program.session.post(server.url):
                        pass


def test_middleware_needs_a_quota() -> None:
    """A missing quota is an error of the constructor, not of the first request."""
    with pytest.raises(ConfigurationError, match="needs a quota"):
        quota_middleware()


def test_middleware_rejects_a_second_loop(unused_tcp_port: int) -> None:
    """Use in a second loop is an error instead of a wait for the first loop's clock."""
    middleware = quota_middleware(Quota(1, 1.0))

    async def ask() -> None:
        url = f"http://127.0.0.1:{unused_tcp_port}/"
        async with (
            aiohttp.ClientSession(middlewares=(middleware,)) as session,
            session.get(url),
        ):
            pass

    with pytest.raises(aiohttp.ClientConnectorError):
        asyncio.run(ask())
    with pytest.raises(WrongEventLoopError, match="another event loop"):
        asyncio.run(ask())


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
