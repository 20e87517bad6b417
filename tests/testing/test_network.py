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

CLIENTS = [name for name in asyncclients.__all__ if name.endswith("Client")]
FACTS: list[Vendor] = [getattr(asyncclients, name).facts for name in CLIENTS]
HOSTS = sorted(
    {urlsplit(url).hostname or "" for url in (*REGIONS.values(), *(v.base_url for v in FACTS))}
)


def test_there_are_five_vendors_and_a_second_region() -> None:
    """The hosts below are those of every client there is."""
    assert len(CLIENTS) == 5
    assert len(HOSTS) == 6


@pytest.mark.parametrize("host", HOSTS)
async def test_no_vendors_host_can_be_looked_up(host: str) -> None:
    """Not by socket, not by asyncio, not by either resolver of aiohttp, in whatever case."""
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


async def test_a_client_fails_at_once_and_clearly() -> None:
    """A call to the real vendor raises VendorNetworkError at its first attempt, not a retry later."""
    attempts: list[object] = []
    async with SessionPool(listeners=(attempts.append,)) as pool:
        intouch = IntouchClient(pool, api_key="key-of-nobody")
        with no_vendor_network(), pytest.raises(VendorNetworkError):
            await intouch.tags.list().first()
    assert sum(isinstance(event, AttemptStarted) for event in attempts) == 1


async def test_all_else_can_be_reached() -> None:
    """The sandbox and other hosts work inside; outside all is as it was."""
    before = (socket.getaddrinfo, aiohttp.ThreadedResolver.resolve, aiohttp.AsyncResolver.resolve)
    with no_vendor_network():
        assert socket.getaddrinfo("localhost", 80)
        assert await aiohttp.ThreadedResolver().resolve("localhost", 80)
        async with Sandbox() as sandbox, SessionPool() as pool:
            intouch = IntouchClient.from_env(pool, sandbox.environ)
            assert (await intouch.tags.create("one")).name == "one"
    after = (socket.getaddrinfo, aiohttp.ThreadedResolver.resolve, aiohttp.AsyncResolver.resolve)
    assert after == before
