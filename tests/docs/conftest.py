"""Fixtures: mock vendors, and the five clients that call them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncclients import SessionPool
from asyncclients.sandbox import Sandbox
from tests.support.clients import BY_VENDOR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from asyncclients.core.client import VendorClient
    from asyncclients.sandbox.sandbox import VendorName


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """Mock vendors, which every client without a base URL uses."""
    async with Sandbox() as opened:
        for name, value in opened.environ.items():
            monkeypatch.setenv(name, value)
        for vendor, client in BY_VENDOR.items():
            here = msgspec.structs.replace(client.vendor, base_url=opened.url(vendor))
            monkeypatch.setattr(client, "vendor", here)
        opened.state("intouch").keys.add("ii_...")
        yield opened


@pytest.fixture
async def pool(sandbox: Sandbox) -> AsyncIterator[SessionPool]:
    """A pool, closed before the vendors."""
    async with SessionPool() as pool:
        yield pool


@pytest.fixture
def clients(sandbox: Sandbox, pool: SessionPool) -> dict[VendorName, VendorClient]:
    """Return the five clients of one pool by vendor."""
    return {v: client.from_env(pool, sandbox.environ) for v, client in BY_VENDOR.items()}


@pytest.fixture
def names(
    sandbox: Sandbox, pool: SessionPool, clients: Mapping[str, VendorClient]
) -> Mapping[str, object]:
    """Return the names that a page may use without defining them."""
    return {"sandbox": sandbox, "pool": pool, **clients}
