"""`quota_middleware`: the scheduler in any aiohttp session."""

from __future__ import annotations

import asyncio
import gc
import math
import re
import weakref
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from asyncclients import (
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    IntouchClient,
    Priority,
    Quota,
    SessionPool,
    WrongEventLoopError,
    quota_middleware,
)
from asyncclients.core.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    PoolClosed,
    PoolOpened,
)
from asyncclients.core.options import call_context
from asyncclients.middleware import QuotaMiddleware
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores import FileLimits
from tests.support.byte_server import (
    Connection,
    answers,
    byte_server,
    hangs_up,
    http,
    never_responds,
)
from tests.support.shared_quota import MemoryLimits

pytestmark = pytest.mark.virtual_time

FINE = http()


async def read(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("is_of_request", [False, True])
async def test_middleware_without_a_tuple_is_refused_with_the_right_form(
    is_of_request: bool,
) -> None:
    """`middlewares=quota_middleware(...)` sends nothing: the error shows the comma."""
    limited: Any = quota_middleware(Quota(2, 1.0))
    async with byte_server(answers(FINE)) as server:
        async with aiohttp.ClientSession(middlewares=() if is_of_request else limited) as session:
            options = {"middlewares": limited} if is_of_request else {}
            with pytest.raises(ConfigurationError) as caught:
                await session.get(server.url, **options)
        assert server.arrived == []
    assert caught.value.advice is not None
    assert "ClientSession(middlewares=(quota_middleware(...),))" in caught.value.advice
    assert limited


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
    assert said[1].startswith("127.0.0.1: other clients use the same quota, about")


async def test_resend_takes_a_permit() -> None:
    """A dropped GET is sent again by aiohttp itself: both requests count."""
    async with byte_server(hangs_up, answers(FINE)) as server:
        middleware = quota_middleware(Quota(1, 10.0))
        async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
            began = asyncio.get_running_loop().time()
            assert await read(session, server.url) == 200
            assert asyncio.get_running_loop().time() - began >= 10.0
        assert len(server.arrived) == 2


async def test_redirect_takes_a_permit() -> None:
    """A request that is redirected takes two permits."""
    moved = http(302, headers={"Location": "/there"})
    async with byte_server(answers(moved, FINE)) as server:
        async with aiohttp.ClientSession(
            middlewares=(quota_middleware(Quota(1, 10.0)),)
        ) as session:
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


# --- With a shared store --------------------------------------------------------------


def limited_session(middleware: QuotaMiddleware, sandbox: Sandbox) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        sandbox.environ["INTOUCH_BASE_URL"],
        headers={"x-api-key": sandbox.environ["INTOUCH_API_KEY"]},
        middlewares=(middleware,),
    )


async def test_quota_key_shares_the_quota_of_clients() -> None:
    """Requests with the quota key of a client take turns with its calls, and none is rejected."""
    store = MemoryLimits()
    async with (
        Sandbox() as sandbox,
        SessionPool(limits=store) as pool,
        quota_middleware(
            Quota(2, 1.0), quota_key="acme", vendor="intouch", limits=store
        ) as limited,
        limited_session(limited, sandbox) as session,
    ):
        client = IntouchClient.from_env(pool, sandbox.environ | {"INTOUCH_QUOTA_KEY": "acme"})
        began = asyncio.get_running_loop().time()
        await asyncio.gather(
            *(read(session, "tags") for _ in range(10)),
            *(client.tags.list(limit=1).first() for _ in range(10)),
        )
        assert sandbox.rejected("intouch") == 0
        assert asyncio.get_running_loop().time() - began < 12.0
        (ours,), (theirs,) = limited.stats(), pool.stats()
        assert (ours.vendor, ours.scope) == (theirs.vendor, theirs.scope)
        assert (ours.sent, theirs.sent) == (10, 10)


async def test_idle_scope_leaves_the_store() -> None:
    """A scope that is not used is evicted and its membership of the store ends; it can come back."""
    store = MemoryLimits()
    async with (
        byte_server(answers(FINE)) as server,
        quota_middleware(Quota(2, 1.0), limits=store) as limited,
        aiohttp.ClientSession(middlewares=(limited,)) as session,
    ):
        await read(session, server.url)
        assert len(limited.stats()) == 1
        await asyncio.sleep(80.0)
        assert limited.stats() == ()
        (log,) = store.backend.logs.values()
        assert log.members == {}
        assert await read(session, server.url) == 200


async def test_store_that_never_responds_is_named() -> None:
    """The caller gets the error about the store, with the host and method of its request."""
    store = MemoryLimits()
    store.backend.down = True
    async with (
        byte_server(answers(FINE)) as server,
        quota_middleware(Quota(2, 1.0), limits=store) as limited,
        aiohttp.ClientSession(middlewares=(limited,)) as session,
    ):
        with pytest.raises(ConfigurationError, match="limit store memory could not") as caught:
            await read(session, server.url)
        assert (caught.value.vendor, caught.value.method) == ("127.0.0.1", "GET")
        assert server.arrived == []


async def test_closed_middleware_ends_waiting_requests() -> None:
    """Requests that wait or come later raise ClientClosedError; closing again does nothing."""
    store = MemoryLimits()
    async with byte_server(answers(FINE)) as server:
        limited = quota_middleware(Quota(1, 60.0), limits=store)
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            await read(session, server.url)
            waiting = asyncio.create_task(read(session, server.url))
            await asyncio.sleep(1.0)
            await limited.aclose()
            await limited.aclose()
            for late in (waiting, read(session, server.url)):
                with pytest.raises(ClientClosedError):
                    await late
        (log,) = store.backend.logs.values()
        assert log.members == {}


# --- Deadlines ------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [5.0, 0, -1.0])
async def test_deadline_that_cannot_be_kept_fails_at_once(seconds: float) -> None:
    """Nothing is sent or waited for, and the error has the time that its turn would take."""
    async with byte_server(answers(FINE)) as server:
        limited = quota_middleware(
            Quota(1, 60.0), deadline=lambda request: seconds if "now" in request.headers else None
        )
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            await read(session, server.url)
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(DeadlineExceededError, match="for its turn") as caught:
                async with session.get(server.url, headers={"now": "1"}):
                    pass
            assert loop.time() - began < 0.1
            assert caught.value.eta == pytest.approx(60.0, abs=1.0)
            assert caught.value.method == "GET"
        assert len(server.arrived) == 1


async def test_deadline_ends_a_request_without_response() -> None:
    """A request that was sent fails at its deadline, and still counts against the quota."""
    async with byte_server(never_responds, answers(FINE)) as server:
        limited = quota_middleware(Quota(1, 10.0), deadline=lambda _: 25.0)
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(DeadlineExceededError, match="no response before its deadline"):
                await read(session, server.url)
            assert loop.time() - began == pytest.approx(25.0, abs=0.1)
            assert await read(session, server.url) == 200
            assert loop.time() - began >= 35.0


@pytest.mark.parametrize(
    ("retry_after", "fails_at", "eta"), [("100", 10.0, 100.0), ("15.5", 25.0, 0.5)]
)
async def test_deadline_ends_the_wait_for_a_permit(
    retry_after: str, fails_at: float, eta: float
) -> None:
    """In a pause that begins after it has entered the queue, a request fails at its deadline.

    It fails at the beginning of the pause if that ends more than a second after the deadline.
    """
    refused = http(429, headers={"Retry-After": retry_after})
    async with byte_server(answers(FINE, refused)) as server:
        limited = quota_middleware(Quota(1, 10.0), deadline=lambda _: 25.0)
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            loop = asyncio.get_running_loop()
            began = loop.time()
            first, second, third = await asyncio.gather(
                *(read(session, server.url) for _ in range(3)), return_exceptions=True
            )
            assert (first, second) == (200, 429)
            assert isinstance(third, DeadlineExceededError)
            assert "the vendor has rate-limited calls or is unavailable" in third.message
            assert third.eta == pytest.approx(eta, abs=0.1)
            assert loop.time() - began == pytest.approx(fails_at, abs=0.1)


# --- Cost and operations --------------------------------------------------------------


async def test_cost_takes_several_units() -> None:
    """Three exports of five units and ten pages of one keep a quota of ten units, and use it."""
    limit = SlidingLog(10, 10.0 - 1e-9)  # requests arrive in no time: instants differ by rounding
    units: list[bool] = []

    async def count(request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        units.extend(limit.admit(now) for _ in range(5 if request.path == "/export" else 1))
        return web.Response()

    app = web.Application()
    app.router.add_get("/{name}", count)
    limited = quota_middleware(
        Quota(10, 10.0),
        cost=lambda request: 5 if request.url.name == "export" else 1,
        admission="exact",
    )
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(server.make_url("/"), middlewares=(limited,)) as session,
    ):
        began = asyncio.get_running_loop().time()
        names = ["export", "page", "export", "export"] + ["page"] * 9
        await asyncio.gather(*(read(session, name) for name in names))
        assert units == [True] * 25
        assert 20.0 <= asyncio.get_running_loop().time() - began < 30.0


async def test_share_of_the_surrounding_job_applies() -> None:
    """Requests inside a block with a share of half leave the other half to those outside."""
    async with byte_server(answers(FINE)) as server:
        limited = quota_middleware(Quota(8, 10.0), admission="exact")
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            began = asyncio.get_running_loop().time()
            with call_context(Priority.BACKGROUND, "nightly", share=0.5):
                job = [asyncio.create_task(read(session, server.url)) for _ in range(9)]
            await asyncio.sleep(5.0)
            asked = asyncio.get_running_loop().time()
            await read(session, server.url)
            assert asyncio.get_running_loop().time() - asked < 0.1
            await asyncio.gather(*job)
            assert asyncio.get_running_loop().time() - began >= 20.0


async def test_cost_is_shared_through_a_store() -> None:
    """Exports of two programs with one store keep the quota of ten units together."""
    limit, units, store = SlidingLog(10, 10.0 - 1e-9), list[bool](), MemoryLimits()

    async def export(_: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        units.extend(limit.admit(now) for _ in range(5))
        return web.Response()

    app = web.Application()
    app.router.add_get("/export", export)

    async def program(url: str) -> None:
        async with (
            quota_middleware(Quota(10, 10.0), cost=lambda _: 5, limits=store) as limited,
            aiohttp.ClientSession(middlewares=(limited,)) as session,
        ):
            await asyncio.gather(*(read(session, url) for _ in range(4)))

    async with TestServer(app) as server:
        url = str(server.make_url("/export"))
        await asyncio.gather(program(url), program(url))
    assert units == [True] * 40
    assert asyncio.get_running_loop().time() < 45.0


async def test_cost_above_a_quota_is_an_error() -> None:
    """A request that could never be sent is an error instead of a wait, and names the quota."""
    async with byte_server(answers(FINE)) as server:
        limited = quota_middleware(Quota(4, 1.0), cost=lambda _: 5)
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            with pytest.raises(ConfigurationError, match="4 per 1 s"):
                await read(session, server.url)
        assert server.arrived == []


async def test_operation_selects_quotas_and_names_events() -> None:
    """A quota with operations delays the requests of these only; events have the names."""
    events: list[Any] = []
    limited = quota_middleware(
        Quota(100, 1.0),
        Quota(1, 60.0, operations=("export*",)),
        operation=lambda request: request.url.name,
        listeners=[events.append],
    )
    async with (
        byte_server(answers(FINE)) as server,
        aiohttp.ClientSession(middlewares=(limited,)) as session,
    ):
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(read(session, server.url + name) for name in ("export", "a", "b")))
        assert asyncio.get_running_loop().time() - began < 1.0
        await read(session, server.url + "exports")
        assert asyncio.get_running_loop().time() - began >= 60.0
    started = [event.operation for event in events if isinstance(event, CallStarted)]
    assert started == ["export", "a", "b", "exports"]


# --- Events ---------------------------------------------------------------------------


async def test_listeners_get_the_events_of_each_request() -> None:
    """A request is a call of the host with one attempt; no event shows its path or headers."""
    events: list[Any] = []
    refused = http(429, headers={"Retry-After": "20"})
    async with (
        byte_server(answers(FINE, refused)) as server,
        quota_middleware(Quota(1, 10.0), listeners=[events.append]) as limited,
        aiohttp.ClientSession(middlewares=(limited,)) as session,
    ):
        for _ in range(2):
            await read(session, server.url + "bot4711/send?key=4711")
        (scope,) = limited.stats()
    opened, *calls, closed = events
    assert opened == PoolOpened(stats=limited.stats)
    assert closed == PoolClosed(stats=limited.stats)
    started, sent, ended, done = calls[:4]
    assert (started.vendor, started.operation, started.method) == ("127.0.0.1", "request", "GET")
    assert started.origin + "/" == server.url
    assert sent == AttemptStarted(call=started.call, attempt=1, waited=0.0)
    assert (ended.status, ended.error) == (200, None)
    assert done == CallEnded(call=started.call, attempts=1, error=None)
    _, sent, ended, paused, done = calls[4:]
    assert sent.waited == pytest.approx(10.0, abs=0.1)
    assert ended.status == 429
    assert (paused.vendor, paused.scope) == ("127.0.0.1", scope.scope)
    assert paused.seconds == pytest.approx(20.0)
    assert done.error is None
    assert (scope.sent, scope.rejected) == (2, 1)
    assert "4711" not in repr(events)


async def test_listeners_get_failures() -> None:
    """A failed request ends with the name of its error, and one that never left has no attempt."""
    events: list[Any] = []
    async with byte_server(hangs_up) as server:
        limited = quota_middleware(
            Quota(1, 60.0), deadline=lambda _: 5.0, listeners=[events.append]
        )
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.post(server.url)
            with pytest.raises(DeadlineExceededError):
                await session.post(server.url)
    ended = [
        (type(e).__name__, e.error) for e in events if isinstance(e, (AttemptEnded, CallEnded))
    ]
    assert ended == [
        ("AttemptEnded", "ServerDisconnectedError"),
        ("CallEnded", "ServerDisconnectedError"),
        ("CallEnded", "DeadlineExceededError"),
    ]


# --- Arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limits": "redis://host"}, "limits cannot be str"),
        ({"limits": FileLimits}, "limits cannot be the class FileLimits"),
        ({"listeners": [1]}, "listeners must be a sequence of functions"),
        ({"listeners": print}, "listeners must be a sequence of functions"),
        ({"deadline": 5.0}, "deadline must be a function of a request, not 5.0"),
        ({"quota_key": ""}, "quota_key must be text that is not empty"),
        ({"cost": 5}, "cost must be a function of a request, not 5"),
        ({"operation": "export"}, "operation must be a function of a request"),
        ({"vendor": 7}, "vendor must be text that is not empty, not 7"),
        ({"quota_key": "acme", "scope": str}, "takes scope or quota_key, not both"),
    ],
)
def test_middleware_rejects_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    """An argument that cannot be used is an error in its call."""
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        quota_middleware(Quota(2, 1.0), **arguments)


def test_quota_with_operations_needs_names() -> None:
    """Without names such a quota would never apply, so it is an error."""
    with pytest.raises(ConfigurationError, match="operations needs the names"):
        quota_middleware(Quota(2, 1.0, operations=("export",)))


@pytest.mark.parametrize(
    ("name", "result", "shown"),
    [
        ("deadline", "5", "a value of type str"),
        ("deadline", math.nan, "nan"),
        ("deadline", True, "True"),
        ("cost", 0, "0"),
        ("cost", 2.0, "2.0"),
        ("operation", 7, "7"),
        ("scope", 4711, "a value of type int"),
    ],
)
async def test_middleware_rejects_wrong_results(name: str, result: Any, shown: str) -> None:
    """A function that returns something else is named in the request, which is not sent."""

    def function(_: aiohttp.ClientRequest) -> Any:
        return result

    arguments: dict[str, Any] = {name: function, "limits": MemoryLimits()}
    words = f"{name}= returned {shown}"
    async with byte_server(answers(FINE)) as server:
        limited = quota_middleware(Quota(2, 1.0), **arguments)
        async with aiohttp.ClientSession(middlewares=(limited,)) as session:
            with pytest.raises(ConfigurationError, match=re.escape(words)):
                await read(session, server.url)
        assert server.arrived == []
