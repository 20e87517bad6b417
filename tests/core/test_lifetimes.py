"""Closing a pool completely, and evicting the scopes that no client uses any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from pathlib import Path
from typing import Any
from weakref import ref

import aiohttp
import pytest

from asyncclients import DigitalOnboardingClient, IntemptClient
from asyncclients.core.client import VendorClient
from asyncclients.core.pool import SessionPool
from asyncclients.core.scope import Scope
from asyncclients.core.tokens import TokenCache
from asyncclients.errors import ClientClosedError, NotFoundError, RateLimitedError
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.scheduler import Scheduler
from asyncclients.stores import FileLimits
from tests.support.byte_server import Connection, answers, byte_server, http
from tests.support.fake_vendor import QUICK, Thing, ToyClient

pytestmark = pytest.mark.virtual_time

FINE = http(body=b'{"id": 1}')
SHORT = (Quota(9, 2.0),)


class Open:
    """Counts the connections that a server holds."""

    def __init__(self) -> None:
        self.count = 0

    async def serve(self, connection: Connection) -> None:
        """Answer each request until the client hangs up."""
        self.count += 1
        try:
            while True:
                await connection.request()
                await connection.send(FINE)
        finally:
            self.count -= 1


def timers() -> list[asyncio.TimerHandle]:
    """The timers that wait in the running loop."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]


def alive(*kinds: type) -> list[object]:
    """The objects of *kinds* that are still referenced, open sessions only."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) in kinds]
    return [thing for thing in found if not getattr(thing, "closed", False)]


# --- Closing ----------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(7))
async def test_aclose_after_a_cancelled_aclose_closes_the_rest(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If `aclose` is cancelled at any step, calling it again closes everything."""
    held, close = Open(), aiohttp.ClientSession.close

    async def slow(session: aiohttp.ClientSession) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await close(session)

    before = asyncio.all_tasks(), len(timers())
    async with byte_server(held.serve) as server:
        pool = SessionPool()
        for key in ("key-one", "key-two"):
            await ToyClient(pool, base_url=server.url, key=key).things.get()
        assert held.count == 2
        monkeypatch.setattr(aiohttp.ClientSession, "close", slow)
        first = asyncio.create_task(pool.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        monkeypatch.undo()
        await pool.aclose()
        await asyncio.sleep(0.1)
        assert held.count == 0
    assert (asyncio.all_tasks(), len(timers())) == before


async def test_second_aclose_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `aclose` waits for the first one."""
    close = aiohttp.ClientSession.close

    async def slow(session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(1.0)
        await close(session)

    async with byte_server(answers(FINE)) as server:
        pool = SessionPool()
        await ToyClient(pool, base_url=server.url).things.get()
        monkeypatch.setattr(aiohttp.ClientSession, "close", slow)
        first = asyncio.create_task(pool.aclose())
        await asyncio.sleep(0.5)
        await pool.aclose()
        assert first.done()


async def test_failing_session_does_not_keep_others_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If one session fails to close, the others are closed, and the failure is raised."""
    held, close, failures = Open(), aiohttp.ClientSession.close, [OSError("no")]

    async def fails(session: aiohttp.ClientSession) -> None:
        await close(session)
        if failures:
            raise failures.pop()

    async with byte_server(held.serve) as server:
        pool = SessionPool()
        for key in ("key-one", "key-two", "key-three"):
            await ToyClient(pool, base_url=server.url, key=key).things.get()
        monkeypatch.setattr(aiohttp.ClientSession, "close", fails)
        with pytest.raises(OSError, match="no"):
            await pool.aclose()
        await asyncio.sleep(0.1)
        assert held.count == 0


async def test_closed_pool_leaves_nothing_behind(tmp_path: Path) -> None:
    """After closing, no task, timer, thread or open session is left, whatever calls were made."""
    before = asyncio.all_tasks(), len(timers()), threading.active_count()
    sessions = len(alive(aiohttp.ClientSession))

    async def silent(connection: Connection) -> None:
        await connection.request()
        await asyncio.Event().wait()

    async with (
        byte_server(answers(FINE, http(429, headers={"Retry-After": "60"}))) as server,
        byte_server(silent) as mute,
    ):
        pool = SessionPool(limits=FileLimits(tmp_path / "limits.db"), timeout=600.0)
        clients = [
            ToyClient(pool, base_url=server.url, quotas=(Quota(1, 600.0),)),
            ToyClient(pool, base_url=server.url, key="key-two"),
            ToyClient(pool, base_url=mute.url),
        ]
        await clients[0].things.get()
        calls = [client.things.make() for client in clients]
        calls.append(clients[0].with_options(deadline=900.0).things.get())
        waiting = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0.5)
        await pool.aclose()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert (asyncio.all_tasks(), len(timers()), threading.active_count()) == before
    assert len(alive(aiohttp.ClientSession)) == sessions


@pytest.mark.parametrize("closed", [True, False])
async def test_pool_is_freed_with_its_last_client(closed: bool) -> None:
    """A pool, closed or not, is freed with its last client, and leaves no timer."""
    async with byte_server(answers(FINE)) as server:
        pool = SessionPool()
        client = ToyClient(pool, base_url=server.url, quotas=SHORT)
        await client.things.get()
        if closed:
            await pool.aclose()
        left = ref(pool), ref(client), ref(client.things)
        del pool, client
        if not closed:
            await asyncio.sleep(4.0)
        gc.collect()
        assert [thing() for thing in left] == [None, None, None]
        assert timers() == []


async def test_client_is_freed_without_the_collector() -> None:
    """A client is freed without a garbage collection: it is in no reference cycle."""
    async with SessionPool() as pool:
        clients: list[VendorClient] = [
            ToyClient(pool),
            DigitalOnboardingClient(pool, client_id="i", client_secret="s"),
            IntemptClient(pool, api_key="k", org="o"),
        ]
        clients += [client.with_options(flow="x") for client in clients]
        assert [client.stats().in_flight for client in clients] == [0] * 6
        left = [ref(client) for client in clients]
        gc.disable()
        clients.clear()
        gc.enable()
        assert [client() for client in left] == [None] * 6


async def test_scope_is_evicted_after_a_handled_error() -> None:
    """A handled error of a call does not keep its scope."""
    async with byte_server(answers(http(404))) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url, quotas=SHORT)
        gc.disable()
        try:
            with contextlib.suppress(NotFoundError):
                await client.things.get()
            del client
            await asyncio.sleep(5.0)
            assert pool.stats() == ()
        finally:
            gc.enable()


# --- Eviction ---------------------------------------------------------------------------


async def test_scopes_without_clients_are_evicted() -> None:
    """For many tenants, each used once, no scope, session, scheduler or connection is left."""
    held, before = Open(), len(alive(Scope, Scheduler, aiohttp.ClientSession))
    async with byte_server(held.serve) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url, quotas=SHORT)
        await client.things.get()
        for number in range(99):
            other = ToyClient(pool, base_url=server.url, key=f"tenant {number}", quotas=SHORT)
            await other.things.get()
            del other
        assert (len(pool.stats()), held.count) == (100, 100)
        tasks = len(asyncio.all_tasks())
        await asyncio.sleep(3.5)
        assert [stats.scope for stats in pool.stats()] == [client.stats().scope]
        assert len(alive(Scope, Scheduler, aiohttp.ClientSession)) == before + 3
        assert held.count == 1
        assert len(asyncio.all_tasks()) <= tasks - 99
        del client
        await asyncio.sleep(3.5)
        assert (pool.stats(), timers()) == ((), [])
    assert len(alive(Scope, Scheduler, aiohttp.ClientSession)) == before


async def test_token_caches_without_clients_are_evicted() -> None:
    """A client with a login leaves no token cache behind, and may be created again."""
    before = len(alive(TokenCache))
    reply = http(body=b'{"access_token": "t", "expires_in": 900}')
    async with byte_server(answers(reply, http(body=b"[]"))) as server, SessionPool() as pool:
        for number in range(20):
            client = DigitalOnboardingClient(
                pool, client_id=f"id {number}", client_secret="s", base_url=server.url
            )
            assert await client.templates.list() == []
        assert len(alive(TokenCache)) == before + 20
        await asyncio.sleep(3.0)
        assert len(alive(TokenCache)) == before + 1
        client = DigitalOnboardingClient(
            pool, client_id="id 0", client_secret="s", base_url=server.url
        )
        assert await client.templates.list() == []


async def test_scope_that_holds_slots_is_kept() -> None:
    """A client created again within the period finds the slots still held."""
    async with byte_server(answers(FINE)) as server, SessionPool() as pool:

        def client() -> ToyClient:
            return ToyClient(pool, base_url=server.url, quotas=(Quota(2, 60.0), Quota(2, 1.0)))

        for _ in range(2):
            await client().things.get()
        for _ in range(5):
            await asyncio.sleep(10.0)
            assert client().stats().held == 2
        await asyncio.sleep(60.0)
        assert pool.stats() == ()


async def test_paused_scope_is_kept() -> None:
    """A client created again during a pause finds it in force."""
    refused = http(429, headers={"Retry-After": "100"})
    async with byte_server(answers(refused)) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url, quotas=SHORT)
        with pytest.raises(RateLimitedError):
            await client.with_options(max_attempts=1).things.get()
        del client
        await asyncio.sleep(50.0)
        paused_for = ToyClient(pool, base_url=server.url, quotas=SHORT).stats().paused_for
        assert paused_for == pytest.approx(50.0, abs=1.0)
        gc.collect()  # the traceback of the error
        await asyncio.sleep(60.0)
        assert pool.stats() == ()


@pytest.mark.parametrize("waits_for", ["turn", "answer", "retry"])
async def test_call_keeps_its_scope(waits_for: str) -> None:
    """A call whose client is gone ends as usual, however long it waits."""

    async def late(connection: Connection) -> None:
        await connection.request()
        await connection.send(FINE)
        await connection.request()
        await asyncio.sleep(90.0)
        await connection.send(FINE)

    script = late if waits_for == "answer" else answers(FINE, http(503), FINE)
    quotas = (Quota(1, 90.0),) if waits_for == "turn" else SHORT
    policy = QUICK if waits_for != "retry" else type(QUICK)(base=90.0, cap=90.0)
    async with byte_server(script) as server, SessionPool(retry=policy, timeout=200.0) as pool:
        client = ToyClient(pool, base_url=server.url, quotas=quotas)
        await client.things.get()
        call = asyncio.create_task(client.things.get())
        await asyncio.sleep(0.1)
        del client
        assert await call == Thing(id=1)


async def test_whatever_can_send_keeps_its_scope() -> None:
    """A sibling, a resource or a bound method of a client that is gone uses the same scope."""
    async with byte_server(answers(FINE)) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url, quotas=SHORT)
        await client.things.get()
        kept: list[Any] = [client.with_options(flow="x"), client.things, client.things.get]
        del client
        while kept:
            await asyncio.sleep(10.0)
            (stats,) = pool.stats()
            assert stats.sent == 1
            kept.pop()
        await asyncio.sleep(10.0)
        assert pool.stats() == ()


async def test_scope_starts_cold_only_in_the_first_period_of_its_pool() -> None:
    """`cold_start="full"` is about calls before the start: a later scope does not wait for them."""
    async with SessionPool(cold_start="full") as pool:

        def client(url: str) -> ToyClient:
            return ToyClient(pool, base_url=url, quotas=(Quota(2, 30.0),))

        assert client("https://a.example/").eta() == pytest.approx(30.0)
        await asyncio.sleep(20.0)
        assert client("https://b.example/").eta() == pytest.approx(30.0)
        await asyncio.sleep(80.0)
        assert pool.stats() == ()
        assert client("https://a.example/").eta() == 0.0
        assert client("https://c.example/").eta() == 0.0


async def test_cancelled_aclose_finishes_an_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scope that was being evicted when `aclose` was cancelled is closed as well."""
    held, close = Open(), aiohttp.ClientSession.close

    async def slow(session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(5.0)
        await close(session)

    async with byte_server(held.serve) as server:
        pool = SessionPool()
        await ToyClient(pool, base_url=server.url, quotas=SHORT).things.get()
        monkeypatch.setattr(aiohttp.ClientSession, "close", slow)
        await asyncio.sleep(4.0)
        assert (pool.stats(), held.count) == ((), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.aclose(), 0.1)
        await pool.aclose()
        await asyncio.sleep(0.1)
        assert held.count == 0


async def test_failed_eviction_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that fails to close at an eviction is logged, and the pool works."""

    async def fails(session: aiohttp.ClientSession) -> None:
        if session.connector is not None:
            await session.connector.close()
        raise OSError("no")

    async with byte_server(answers(FINE)) as server, SessionPool() as pool:
        await ToyClient(pool, base_url=server.url, quotas=SHORT).things.get()
        monkeypatch.setattr(aiohttp.ClientSession, "close", fails)
        await asyncio.sleep(4.0)
        monkeypatch.undo()
        assert "failed to close: OSError" in caplog.text
        assert await ToyClient(pool, base_url=server.url).things.get() == Thing(id=1)


async def test_new_client_gets_a_new_session_after_eviction() -> None:
    """A tenant that is created again after its eviction gets a new session."""
    async with byte_server(answers(FINE)) as server, SessionPool() as pool:
        for _ in range(3):
            client = ToyClient(pool, base_url=server.url, quotas=SHORT)
            assert await client.things.get() == Thing(id=1)
            del client
            await asyncio.sleep(10.0)
        assert server.connections == 3
    with pytest.raises(ClientClosedError):
        await ToyClient(pool, base_url=server.url).things.get()
