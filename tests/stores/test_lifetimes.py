"""Shared limits end with their pool, and are dropped with scopes that nobody uses any more."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest

from asyncclients.core.pool import SessionPool
from asyncclients.ratelimit.quota import Quota
from asyncclients.stores import FileLimits
from asyncclients.stores.lease_client import LeaseClient
from asyncclients.stores.session import StoreSession
from tests.support.byte_server import answers, byte_server, http
from tests.support.fake_vendor import ToyClient
from tests.support.shared_quota import CONFIG, MemoryStore

pytestmark = pytest.mark.virtual_time

FINE = http(body=b'{"id": 1}')
QUOTAS = (Quota(5, 2.0),)


class Store(MemoryStore):
    """A store in memory that is slow to close, and counts how often it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0

    def open(self, *, assume_spent: bool) -> StoreSession:
        """Return a session for one pool."""
        return StoreSession(self, CONFIG)

    async def aclose(self) -> None:
        await asyncio.sleep(1.0)
        self.closed += 1


def lease_clients(store: Store) -> list[LeaseClient]:
    """Return the lease clients of *store* that are still referenced."""
    gc.collect()
    clients = [thing for thing in gc.get_objects() if type(thing) is LeaseClient]
    return [each for each in clients if each._backend is store]  # pyright: ignore[reportPrivateUsage]


async def use(pool: SessionPool, url: str, key: str = "key-one") -> None:
    """Make one call with a client of its own."""
    await ToyClient(pool, base_url=url, key=key, quotas=QUOTAS).things.get()


@pytest.mark.parametrize("after", [0.0, 0.0004, 0.0009, 0.5])
async def test_cancelled_aclose_can_be_repeated(after: float) -> None:
    """The second `aclose` ends the membership and closes the store, once."""
    store = Store()
    async with byte_server(answers(FINE)) as server:
        pool = SessionPool(limits=store)
        for key in ("key-one", "key-two"):
            await use(pool, server.url, key)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.aclose(), after)
        assert store.closed == 0
        await pool.aclose()
        assert store.closed == 1
        await pool.aclose()
        assert store.closed == 1
    assert [log.members for log in store.logs.values()] == [{}, {}]


async def test_store_is_closed_whatever_a_scope_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scope that fails to leave keeps neither the others nor the store open."""
    store = Store()
    async with byte_server(answers(FINE)) as server:
        pool = SessionPool(limits=store)
        for key in ("key-one", "key-two"):
            await use(pool, server.url, key)
        monkeypatch.setattr(LeaseClient, "_exchange", _fails)
        with pytest.raises(ArithmeticError):
            await pool.aclose()
        assert store.closed == 1


async def _fails(_: LeaseClient, *, goodbye: bool = False) -> None:
    raise ArithmeticError(goodbye)


async def test_file_store_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    """After a cancelled `aclose`, the thread has ended when the next `aclose` returns."""
    before = threading.active_count()
    async with byte_server(answers(FINE)) as server:
        pool = SessionPool(limits=FileLimits(tmp_path / "limits.db"))
        await use(pool, server.url)
        assert threading.active_count() > before
        closing = asyncio.create_task(pool.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await pool.aclose()
    assert threading.active_count() == before


async def test_limiters_of_evicted_scopes_are_dropped() -> None:
    """Many tenants through a store: no lease client is left, and the store has no members."""
    store = Store()
    async with byte_server(answers(FINE)) as server, SessionPool(limits=store) as pool:
        for number in range(30):
            await use(pool, server.url, f"tenant {number}")
        assert len(lease_clients(store)) == 30
        await asyncio.sleep(80.0)
        assert (pool.stats(), lease_clients(store)) == ((), [])
        commands = store.commands
        await asyncio.sleep(80.0)
        assert store.commands == commands
    assert not any(log.members for log in store.logs.values())


async def test_scope_after_eviction_reuses_no_slot_number() -> None:
    """A slot from before the eviction, which the store may remember, is not overwritten."""
    store = Store()
    async with byte_server(answers(FINE)) as server, SessionPool(limits=store) as pool:
        numbers: list[int] = []
        for _ in range(3):
            for _ in range(3):
                await use(pool, server.url)
            await asyncio.sleep(80.0)
            assert pool.stats() == ()
            used = [number for _, request, _ in store.record for number, *_ in request.arrived]
            numbers += sorted(set(used))
            store.record.clear()
        assert len(numbers) == 9
        assert numbers == sorted(set(numbers))


async def test_scope_is_not_evicted_in_an_outage() -> None:
    """The state that the fallback needs is kept during an outage."""
    store = Store()
    async with byte_server(answers(FINE)) as server, SessionPool(limits=store) as pool:
        await use(pool, server.url)
        store.down = True
        await asyncio.sleep(200.0)
        assert len(pool.stats()) == 1
