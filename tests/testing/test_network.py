"""No test reaches a real vendor by accident."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import pytest

import asyncclients
from asyncclients import IntouchClient, SessionPool
from asyncclients.core.events import AttemptStarted
from asyncclients.core.vendor import Vendor
from asyncclients.sandbox import Sandbox
from asyncclients.testing import VendorNetworkError, no_vendor_network
from asyncclients.vendors.totango.vendor import REGIONS

CLIENTS = [name for name in dir(asyncclients) if name.endswith("Client")]
FACTS: list[Vendor] = [getattr(asyncclients, name).vendor for name in CLIENTS]
HOSTS = sorted(
    {urlsplit(url).hostname or "" for url in (*REGIONS.values(), *(v.base_url for v in FACTS))}
)


def test_vendor_hosts_are_those_of_all_clients() -> None:
    """The hosts of these tests are those of every client."""
    assert len(CLIENTS) == 5
    assert len(HOSTS) == 6


@pytest.mark.parametrize("host", HOSTS)
async def test_network_block_rejects_vendor_hosts(host: str) -> None:
    """Socket, asyncio and both resolvers of aiohttp fail, in any case of letters."""
    loop = asyncio.get_running_loop()
    look_ups: list[Callable[[str], Awaitable[object]]] = [
        lambda name: loop.getaddrinfo(name, 443),
        lambda name: asyncio.to_thread(socket.getaddrinfo, name.encode(), 443),
        lambda name: aiohttp.ThreadedResolver().resolve(name, 443),
        lambda name: cast("Any", aiohttp.AsyncResolver).resolve(None, name, 443),  # no aiodns here
    ]
    with no_vendor_network():
        for look_up in look_ups:
            for name in (host, host.upper() + "."):
                with pytest.raises(VendorNetworkError, match=f"reach {host}.*sandbox"):
                    await look_up(name)


async def test_network_block_fails_the_first_attempt() -> None:
    """A call to a real vendor raises VendorNetworkError without a retry."""
    attempts: list[object] = []
    async with SessionPool(listeners=(attempts.append,)) as pool:
        intouch = IntouchClient(pool, api_key="key-of-nobody")
        with no_vendor_network(), pytest.raises(VendorNetworkError):
            await intouch.tags.list().first()
    assert sum(isinstance(event, AttemptStarted) for event in attempts) == 1


async def test_network_block_allows_other_hosts() -> None:
    """The sandbox and other hosts work inside the block; after it, all hosts do."""
    before = (socket.getaddrinfo, aiohttp.ThreadedResolver.resolve, aiohttp.AsyncResolver.resolve)
    with no_vendor_network():
        assert socket.getaddrinfo("localhost", 80)
        assert await aiohttp.ThreadedResolver().resolve("localhost", 80)
        async with Sandbox() as sandbox, SessionPool() as pool:
            intouch = IntouchClient.from_env(pool, sandbox.environ)
            assert (await intouch.tags.create("one")).name == "one"
    after = (socket.getaddrinfo, aiohttp.ThreadedResolver.resolve, aiohttp.AsyncResolver.resolve)
    assert after == before
