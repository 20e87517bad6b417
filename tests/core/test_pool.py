"""The pool: one loop, shared scopes, borrowed sessions, and the end of all of them."""

from __future__ import annotations

import asyncio
import gzip
import threading
from typing import Any

import aiohttp
import pytest

from asyncclients.core.auth import api_key
from asyncclients.core.pool import SessionPool, scope_key
from asyncclients.core.retry import RetryPolicy
from asyncclients.errors import (
    AsyncClientsError,
    ClientClosedError,
    ConfigurationError,
    NotFoundError,
    OutcomeUnknownError,
    WrongEventLoopError,
)
from asyncclients.ratelimit.quota import Quota
from asyncclients.secret import Secret
from tests.support.byte_server import Connection, answers, byte_server, http
from tests.support.fake_vendor import QUICK, Thing, ToyClient
from tests.support.leaks import CANARY, leaks

pytestmark = pytest.mark.virtual_time

FINE = http(body=b'{"id": 1}')


async def hangs(connection: Connection) -> None:
    """Respond to the first request only."""
    await connection.request()
    await connection.send(FINE)
    await connection.request()
    await asyncio.Event().wait()


async def answers_never(connection: Connection) -> None:
    """Read, and send no response."""
    await connection.request()
    await asyncio.Event().wait()


# --- Loops ------------------------------------------------------------------------


def test_pool_belongs_to_the_loop_of_its_first_use() -> None:
    """Use or `aclose` in a second `asyncio.run` raises `WrongEventLoopError` at once."""
    pool = SessionPool()
    client = ToyClient(pool)

    async def use() -> float:
        return client.eta()

    assert asyncio.run(use()) == 0.0
    with pytest.raises(WrongEventLoopError, match="another event loop") as caught:
        asyncio.run(use())
    assert "one SessionPool per event loop" in str(caught.value)
    with pytest.raises(WrongEventLoopError):
        asyncio.run(pool.aclose())


def test_closed_pool_may_be_closed_in_any_loop() -> None:
    """After it is closed, `aclose` does nothing, in any loop."""
    pool = SessionPool()

    async def use() -> None:
        ToyClient(pool).stats()
        await pool.aclose()

    asyncio.run(use())
    asyncio.run(pool.aclose())


def test_error_of_another_loop_names_the_call() -> None:
    """An error because of another loop names the call."""
    pool = SessionPool()
    client = ToyClient(pool)

    async def bind() -> None:
        client.stats()

    asyncio.run(bind())
    with pytest.raises(WrongEventLoopError) as caught:
        asyncio.run(client.things.get())
    assert (caught.value.operation, caught.value.attempts) == ("things.get", 0)
    assert leaks(caught.value, CANARY) == []


async def test_call_from_another_thread_raises_at_once() -> None:
    """A call from a thread with its own loop raises, and does not hang."""
    errors: list[BaseException] = []
    async with SessionPool() as pool:
        client = ToyClient(pool)

        def other() -> None:
            try:
                asyncio.run(client.things.get())
            except AsyncClientsError as error:
                errors.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert [type(error) for error in errors] == [WrongEventLoopError]


def test_outside_a_loop() -> None:
    """Clients can be created without a loop; methods that need one raise `WrongEventLoopError`."""
    client = ToyClient(SessionPool())
    with pytest.raises(WrongEventLoopError, match="outside a running event loop"):
        client.eta()
    assert SessionPool().stats() == ()


# --- The end ------------------------------------------------------------------------


async def test_after_the_end() -> None:
    """Calls, `stats` and `eta` raise `ClientClosedError`; closing again does nothing."""
    pool = SessionPool()
    client = ToyClient(pool)
    await pool.aclose()
    await pool.aclose()
    for attempt in (client.things.get(), client.request("GET", "x")):
        with pytest.raises(ClientClosedError, match="closed") as caught:
            await attempt
        assert caught.value.advice
    with pytest.raises(ClientClosedError):
        client.eta()


@pytest.mark.parametrize("waits_for", ["turn", "answer", "retry", "connection"])
async def test_closing_ends_waiting_calls(waits_for: str) -> None:
    """Closing the pool ends a call with `ClientClosedError`, whatever it waits for."""
    policy = RetryPolicy(base=20.0, cap=20.0) if waits_for == "retry" else QUICK
    quota = Quota(1, 60.0) if waits_for == "turn" else Quota(1000, 1.0)
    fails, silent = answers(http(503)), answers_never
    first, others = (answers(FINE, http(503)), fails) if waits_for == "retry" else (hangs, silent)
    connections = 1 if waits_for == "connection" else 10
    async with byte_server(first, others) as server:
        pool = SessionPool(retry=policy, max_connections=connections)
        client = ToyClient(pool, base_url=server.url, quotas=(quota,))
        await client.things.get()
        waiting = [asyncio.create_task(client.things.get()) for _ in range(2)]
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        await pool.aclose()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert asyncio.get_running_loop().time() - began < 0.1
        for error in ended:
            assert isinstance(error, ClientClosedError), error
            assert error.operation == "things.get"
            assert leaks(error, CANARY) == []


async def test_closing_leaves_no_task_or_socket() -> None:
    """The pool closes the connections that it opened."""
    before = asyncio.all_tasks()
    ended = asyncio.Event()

    async def script(connection: Connection) -> None:
        try:
            while True:
                await connection.request()
                await connection.send(FINE)
        finally:
            ended.set()

    async with byte_server(script) as server:
        async with SessionPool() as pool:
            await ToyClient(pool, base_url=server.url).things.get()
        await asyncio.wait_for(ended.wait(), 1.0)
    assert asyncio.all_tasks() == before


# --- Scopes --------------------------------------------------------------------------


async def test_clients_of_one_credential_share_a_scope() -> None:
    """Separate clients of one credential share quota and session; other keys and origins do not."""
    async with (
        byte_server(answers(FINE)) as server,
        byte_server(answers(FINE)) as other,
        SessionPool() as pool,
    ):
        quota = (Quota(2, 60.0),)
        one = ToyClient(pool, base_url=server.url, quotas=quota)
        two = ToyClient(pool, base_url=server.url + "v2", quotas=quota)
        key = ToyClient(pool, base_url=server.url, key="another-key", quotas=quota)
        far = ToyClient(pool, base_url=other.url, quotas=quota)
        await one.things.get()
        await two.things.get()
        assert one.stats() == two.stats()
        assert one.stats().held == 2
        assert one.eta() > 50
        assert one.with_options(flow="x").eta() > 50
        assert key.eta() == far.eta() == 0.0
        assert server.connections == 1
        await key.things.get()
        assert server.connections == 2
        assert len(pool.stats()) == 3


async def test_all_quotas_of_a_scope_apply() -> None:
    """If two clients of one key have different quotas and limits, all of them apply."""
    async with SessionPool() as pool:
        one = ToyClient(pool, quotas=(Quota(10, 1.0),), max_in_flight=8)
        assert one.eta(2) < 1.0
        ToyClient(pool, quotas=(Quota(1, 60.0),), max_in_flight=2).stats()
        assert one.eta(2) >= 60.0
        assert set(one.stats().quotas) == {Quota(10, 1.0), Quota(1, 60.0)}
        scope = one._config.scope()  # pyright: ignore[reportPrivateUsage]
        assert scope.scheduler.max_in_flight == 2


def test_scope_name_is_one_way() -> None:
    """A scope's name is equal for equal origins and keys, however written, and one-way."""
    key = api_key("x-api-key", Secret(CANARY))
    name = scope_key("https://api.example.com/v1/", key)
    assert name == scope_key("https://API.example.com:443/v2/", key)
    assert name != scope_key("https://api.example.com:8443/v1/", key)
    assert name != scope_key("https://api.example.com/v1/", api_key("x-api-key", Secret("other")))
    assert name != scope_key("https://api.example.com/v1/", None)
    assert CANARY not in name


async def test_stats_are_a_snapshot() -> None:
    """Stats are frozen values, which later calls do not change."""
    async with byte_server(answers(FINE)) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url)
        await client.things.get()
        before = client.stats()
        await client.things.get()
        assert (before.sent, client.stats().sent) == (1, 2)
        assert (before.vendor, before.in_flight, before.rejected) == ("toy", 0, 0)
        with pytest.raises(AttributeError):
            before.sent = 9  # type: ignore[misc]


# --- Borrowed sessions ------------------------------------------------------------------


async def test_borrowed_session_is_left_open() -> None:
    """A borrowed session is used and never closed; its own settings do not affect calls."""
    packed = http(body=gzip.compress(b'{"id": 1}'), headers={"Content-Encoding": "gzip"})
    async with (
        byte_server(
            answers(packed, http(404), http(302, headers={"Location": "/x"}), FINE)
        ) as server,
        aiohttp.ClientSession(raise_for_status=True, auto_decompress=False) as session,
    ):
        async with SessionPool(session=session, retry=QUICK) as pool:
            client = ToyClient(pool, base_url=server.url)
            assert await client.things.get() == Thing(id=1)
            with pytest.raises(NotFoundError):
                await client.things.get()
            with pytest.raises(AsyncClientsError, match="redirect"):
                await client.things.get()
        assert not session.closed
        async with session.get(server.url) as response:
            assert response.status == 200


async def test_traces_of_a_borrowed_session_see_each_body() -> None:
    """The traces of a borrowed session see bodies that arrive with the headers, and later ones."""
    heard: list[bytes] = []

    async def hear(
        session: aiohttp.ClientSession,
        context: object,
        chunk: aiohttp.TraceResponseChunkReceivedParams,
    ) -> None:
        heard.append(chunk.chunk)

    traces = aiohttp.TraceConfig()
    traces.on_response_chunk_received.append(hear)

    async def in_pieces(connection: Connection) -> None:
        await connection.request()
        await connection.send(FINE)
        await connection.request()
        await connection.send(FINE[:-5])
        await asyncio.sleep(1.0)
        await connection.send(FINE[-5:])

    async with (
        byte_server(in_pieces) as server,
        aiohttp.ClientSession(trace_configs=[traces]) as session,
        SessionPool(session=session) as pool,
    ):
        client = ToyClient(pool, base_url=server.url)
        await client.things.get()
        await client.things.get()
    assert heard == [FINE.partition(b"\r\n\r\n")[2]] * 2


async def test_middlewares_of_a_borrowed_session_run_around_ours() -> None:
    """Middlewares see each attempt, the outer one first; a request that one resends is counted."""
    seen: list[str] = []

    def middleware(name: str, times: int = 1) -> Any:
        async def run(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
            response = None
            for _ in range(times):
                seen.append(name)
                response = await handler(request)
            assert isinstance(response, aiohttp.ClientResponse)
            return response

        return run

    async with (
        byte_server(answers(http(503), FINE)) as server,
        aiohttp.ClientSession(middlewares=[middleware("a"), middleware("b", 2)]) as session,
        SessionPool(session=session, retry=QUICK) as pool,
    ):
        client = ToyClient(pool, base_url=server.url, quotas=(Quota(4, 60.0),), max_in_flight=1)
        assert await client.things.get() == Thing(id=1)
        assert seen == ["a", "b", "b"]
        assert (client.stats().sent, client.stats().held, client.stats().in_flight) == (2, 2, 0)
        assert len(server.arrived) == 2
        assert await client.things.get() == Thing(id=1)
        assert (client.stats().sent, client.stats().held) == (4, 4)


async def test_middleware_of_a_borrowed_session_may_respond() -> None:
    """If a middleware responds from a cache, nothing is sent and no slot is used."""

    async def run(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        if cached:
            return cached[0]
        response: aiohttp.ClientResponse = await handler(request)
        await response.read()
        cached.append(response)
        return response

    cached: list[aiohttp.ClientResponse] = []
    async with (
        byte_server(answers(FINE)) as server,
        aiohttp.ClientSession(middlewares=(run,)) as session,
        SessionPool(session=session, retry=QUICK) as pool,
    ):
        client = ToyClient(pool, base_url=server.url)
        for _ in range(3):
            assert await client.things.get() == Thing(id=1)
        assert (len(server.arrived), client.stats().sent, client.stats().in_flight) == (1, 1, 0)


async def test_middleware_of_a_borrowed_session_may_raise() -> None:
    """An exception of a middleware ends the call, and its permit is given back."""
    fails = [True, True]

    async def run(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        if fails and fails.pop():
            raise ArithmeticError("before")
        response: aiohttp.ClientResponse = await handler(request)
        if fails and not fails.pop():
            raise ArithmeticError("after")
        return response

    async with (
        byte_server(answers(FINE)) as server,
        aiohttp.ClientSession(middlewares=(run,)) as session,
        SessionPool(session=session, retry=QUICK) as pool,
    ):
        client = ToyClient(pool, base_url=server.url, max_in_flight=1)
        for fails[:] in ([True], [False, False], []):
            if fails:
                with pytest.raises(ArithmeticError):
                    await client.things.get()
            else:
                assert await client.things.get() == Thing(id=1)
        assert (client.stats().sent, client.stats().in_flight) == (2, 0)


async def test_closed_borrowed_session_is_an_error() -> None:
    """A closed session raises an error of ours, before and during a call."""
    async with byte_server(hangs) as server:
        session = aiohttp.ClientSession()
        async with SessionPool(session=session) as pool:
            client = ToyClient(pool, base_url=server.url)
            await client.things.get()
            task = asyncio.create_task(client.things.make())
            await asyncio.sleep(0.1)
            await session.close()
            with pytest.raises((ClientClosedError, OutcomeUnknownError)):
                await task
            with pytest.raises(ClientClosedError) as caught:
                await client.things.get()
            assert leaks(caught.value, CANARY) == []


def test_borrowed_session_of_another_loop_is_rejected() -> None:
    """A session of a closed loop is rejected with an explanation."""

    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def use(session: aiohttp.ClientSession) -> None:
        await ToyClient(SessionPool(session=session)).things.get()

    loop = asyncio.new_event_loop()
    session = loop.run_until_complete(make())
    with pytest.raises(WrongEventLoopError, match="lent to the pool"):
        asyncio.run(use(session))
    loop.run_until_complete(session.close())
    loop.close()


@pytest.mark.parametrize("borrowed", [False, True])
async def test_cookies_never_cross(borrowed: bool) -> None:
    """A cookie set for one credential is never sent with another, also in a borrowed session."""
    sets = http(body=b'{"id": 1}', headers={"Set-Cookie": "session=of-one; Path=/"})
    async with byte_server(answers(sets)) as server:
        jar = aiohttp.CookieJar(unsafe=True)
        session = aiohttp.ClientSession(cookie_jar=jar)
        async with session, SessionPool(session=session if borrowed else None) as pool:
            for key in ("key-of-one", "key-of-two", "key-of-one"):
                await ToyClient(pool, base_url=server.url, key=key).things.get()
        assert ["cookie" in seen.headers for seen in server.arrived] == [False] * 3
        assert [seen.headers["x-api-key"] for seen in server.arrived][:2] == [
            "key-of-one",
            "key-of-two",
        ]


@pytest.mark.parametrize("borrowed", [False, True])
async def test_responses_never_cross_credentials(borrowed: bool) -> None:
    """An unrequested response on one credential's connection reaches no call of another."""

    async def pushes(connection: Connection) -> None:
        while True:
            request = await connection.request()
            key = request.headers["x-api-key"]
            body = f'{{"id": 1, "text": "{key}"}}'.encode()
            await connection.send(http(body=body))
            await asyncio.sleep(0.01)
            await connection.send(http(body=body))

    async with (
        byte_server(pushes) as server,
        aiohttp.ClientSession() as session,
        SessionPool(retry=QUICK, session=session if borrowed else None) as pool,
    ):
        keys = [f"key-number-{n}" for n in range(4)]
        clients = [ToyClient(pool, base_url=server.url, key=key) for key in keys]

        async def read(key: str, client: ToyClient) -> None:
            for _ in range(10):
                assert (await client.things.get()).text == key
                await asyncio.sleep(0.1)

        await asyncio.gather(*(read(*pair) for pair in zip(keys, clients, strict=True)))


# --- Settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"max_connections": 0},
        {"max_response_bytes": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"admission": "bold"},
        {"cold_start": "warm"},
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any]) -> None:
    """The constructor rejects invalid settings, with advice."""
    with pytest.raises(ConfigurationError) as caught:
        SessionPool(**settings)
    assert caught.value.advice


async def test_cold_start_full_waits_for_a_window() -> None:
    """With `cold_start="full"` the first call waits for one window."""
    async with SessionPool(cold_start="full") as pool:
        assert ToyClient(pool, quotas=(Quota(2, 30.0),)).eta() == pytest.approx(30.0)


async def test_many_calls_do_not_time_out_in_the_queue() -> None:
    """500 calls of ten seconds on fifty connections succeed with a timeout of thirty seconds."""

    async def slow(connection: Connection) -> None:
        while True:
            await connection.request()
            await asyncio.sleep(10.0)
            await connection.send(FINE)

    async with byte_server(slow) as server, SessionPool(max_connections=50, timeout=30.0) as pool:
        client = ToyClient(pool, base_url=server.url)
        things = await asyncio.gather(*(client.things.get() for _ in range(500)))
        assert things == [Thing(id=1)] * 500
        assert asyncio.get_running_loop().time() == pytest.approx(100.0, abs=1.0)
        assert server.connections == 50
