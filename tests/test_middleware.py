"""`quota_middleware`: the scheduler in any aiohttp session."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import aiohttp
import pytest

from asyncclients import ConfigurationError, Priority, Quota, WrongEventLoopError, quota_middleware
from asyncclients.core.options import call_context
from asyncclients.sandbox import Sandbox
from tests.support.byte_server import Connection, answers, byte_server, hangs_up, http

pytestmark = pytest.mark.virtual_time

FINE = http()


async def read(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        await response.read()
        return response.status


async def test_session_uses_the_whole_quota() -> None:
    """Of fifty requests at once, at a strict 2 per second, none is rejected and little is unused."""
    async with Sandbox() as sandbox:
        headers = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}
        base, middleware = sandbox.environ["INTOUCH_BASE_URL"], quota_middleware(Quota(2, 1.0))
        async with aiohttp.ClientSession(
            base, headers=headers, middlewares=(middleware,)
        ) as session:
            began = asyncio.get_running_loop().time()
            statuses = await asyncio.gather(*(read(session, "tags") for _ in range(50)))
            assert asyncio.get_running_loop().time() - began < 27.0
        assert set(statuses) == {200}
        assert sandbox.rejected("intouch") == 0


async def test_external_usage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """If responses show other clients of the quota, after two minutes one log line names it."""
    async with Sandbox() as sandbox:
        url = f"{sandbox.environ['TOTANGO_BASE_URL']}api/v3/touchpoint-tags/"
        headers = {"app-token": sandbox.environ["TOTANGO_APP_TOKEN"]}
        limited = quota_middleware(Quota(100, 60.0))
        async with (
            aiohttp.ClientSession(headers=headers, middlewares=(limited,)) as ours,
            aiohttp.ClientSession(headers=headers) as theirs,
        ):
            for _ in range(200):
                await read(theirs, url)
                await read(ours, url)
                await asyncio.sleep(1.5)
    (said,) = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said[0] == "WARNING"
    assert said[1].startswith(
        "quota_middleware 100 per 60 s: other clients use the same quota, about"
    )


async def test_resend_takes_a_permit() -> None:
    """A dropped GET is sent again by aiohttp itself: both requests count."""
    async with byte_server(hangs_up, answers(FINE)) as server:
        middleware = quota_middleware(Quota(1, 10.0))
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
            began = asyncio.get_running_loop().time()
            assert await read(session, server.url) == 200
            assert asyncio.get_running_loop().time() - began >= 10.0
        assert len(server.arrived) == 2


async def test_waiting_request_holds_no_connection() -> None:
    """While five requests wait for permits, the server sees one connection."""
    async with byte_server(answers(FINE)) as server:
        middleware = quota_middleware(Quota(1, 60.0))
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
            tasks = [asyncio.create_task(read(session, server.url)) for _ in range(5)]
            await asyncio.sleep(30.0)
            assert server.connections == 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_scope_defaults_to_the_origin() -> None:
    """By default each origin has a quota; a callable may merge them."""
    async with byte_server(answers(FINE)) as one, byte_server(answers(FINE)) as two:
        for together in (False, True):
            middleware = quota_middleware(
                Quota(1, 60.0), scope=(lambda _: "all") if together else None
            )
            async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
                began = asyncio.get_running_loop().time()
                await asyncio.gather(*(read(session, server.url) for server in (one, two)))
                took = asyncio.get_running_loop().time() - began
                assert (took >= 60.0) is together


@pytest.mark.parametrize("told_by", ["callable", "lane"])
async def test_background_requests_wait_for_interactive_ones(told_by: str) -> None:
    """Background by a callable or by the surrounding lane."""
    order: list[str] = []

    def priority(request: aiohttp.ClientRequest) -> Priority:
        return Priority.BACKGROUND if request.url.path == "/job" else Priority.INTERACTIVE

    async with byte_server(answers(FINE)) as server:
        middleware = quota_middleware(
            Quota(1, 1.0), priority=priority if told_by == "callable" else None
        )
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:

            async def get(name: str) -> None:
                await read(session, server.url + name)
                order.append(name)

            await get("first")
            with call_context(Priority.BACKGROUND if told_by == "lane" else Priority.INTERACTIVE):
                jobs = [asyncio.create_task(get("job")) for _ in range(3)]
            await asyncio.sleep(0)
            web = [asyncio.create_task(get("web")) for _ in range(3)]
            await asyncio.gather(*jobs, *web)
    assert order == ["first", "web", "web", "web", "job", "job", "job"]


async def test_429_pauses_the_session() -> None:
    """The caller gets the 429 with its Retry-After, and the next request waits."""
    refused = http(429, headers={"Retry-After": "20"})
    async with byte_server(answers(refused, FINE)) as server:
        middleware = quota_middleware(Quota(10, 1.0))
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
            began = asyncio.get_running_loop().time()
            assert await read(session, server.url) == 429
            assert await read(session, server.url) == 200
            assert asyncio.get_running_loop().time() - began >= 20.0


async def test_cancelled_request_releases_its_permit() -> None:
    """Cancelled while it waits or in flight: the next request is sent."""

    async def hangs(connection: Connection) -> None:
        await connection.request()
        await asyncio.Event().wait()

    async with byte_server(hangs, answers(FINE)) as server:
        middleware = quota_middleware(Quota(1, 1.0))
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
            tasks = [asyncio.create_task(read(session, server.url)) for _ in range(2)]
            await asyncio.sleep(0.5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            began = asyncio.get_running_loop().time()
            assert await read(session, server.url) == 200
            assert asyncio.get_running_loop().time() - began <= 1.1


def test_middleware_belongs_to_one_loop() -> None:
    """Use in another loop is an error."""
    middleware = quota_middleware(Quota(1, 1.0))

    async def use() -> None:
        async with (
            byte_server(answers(FINE)) as server,
            aiohttp.ClientSession(middlewares=(middleware,)) as session,
        ):
            await read(session, server.url)

    asyncio.run(use())
    with pytest.raises(WrongEventLoopError, match="another event loop"):
        asyncio.run(use())


def test_middleware_needs_a_quota() -> None:
    """A middleware without a quota is an error; its repr shows its settings."""
    with pytest.raises(ConfigurationError, match="needs a quota"):
        quota_middleware()
    assert repr(quota_middleware(Quota(2, 1.0))) == "<quota_middleware 2 per 1 s, 0 scopes>"


class Tenant:
    """A scope's key that belongs to one request."""


async def test_idle_scopes_are_evicted() -> None:
    """Of requests with a scope each, none of the scopes is left after two periods."""
    tenants: list[weakref.ref[Tenant]] = []

    def scope(_: aiohttp.ClientRequest) -> Tenant:
        tenant = Tenant()
        tenants.append(weakref.ref(tenant))
        return tenant

    middleware = quota_middleware(Quota(2, 10.0), Quota(1, 1.0), scope=scope)
    async with byte_server(answers(FINE)) as server:
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
            for _ in range(100):
                await read(session, server.url)
        assert "100 scopes" in repr(middleware)
        await asyncio.sleep(9.0)
        assert "100 scopes" in repr(middleware)
        await asyncio.sleep(7.0)
        gc.collect()
        assert "0 scopes" in repr(middleware)
        assert [tenant for tenant in tenants if tenant() is not None] == []
        loop: Any = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


@pytest.mark.parametrize("waits_for", ["turn", "answer"])
async def test_scope_in_use_is_kept(waits_for: str) -> None:
    """A request that waits for a permit or a response shares its scope with later ones."""

    async def late(connection: Connection) -> None:
        while True:
            await connection.request()
            await asyncio.sleep(25.0)
            await connection.send(FINE)

    script = late if waits_for == "answer" else answers(FINE)
    middleware = quota_middleware(Quota(1, 10.0))
    async with (
        byte_server(script) as server,
        aiohttp.ClientSession(middlewares=(middleware,)) as session,
    ):
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(read(session, server.url) for _ in range(4)))
        took = asyncio.get_running_loop().time() - began
        assert took >= (75.0 if waits_for == "answer" else 29.0)
        assert "1 scopes" in repr(middleware)
