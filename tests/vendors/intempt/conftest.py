"""A client of the mock of Intempt, and the files that the tests upload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from asyncclients import IntemptClient, Quota, SessionPool
from asyncclients.sandbox import Sandbox

FILE = b"id,guestId,roomId\n1,2,3\n4,5,6\n"
SIGNATURE = "canary-signature-5d1f0c1e"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(quotas={"intempt": (10_000, 1.0)}) as opened:
        yield opened


@pytest.fixture
def client(sandbox: Sandbox, pool: SessionPool) -> IntemptClient:
    return IntemptClient.from_env(pool, sandbox.environ, quotas=[Quota(10_000, 1.0)])


def bookings(sandbox: Sandbox) -> str:
    """The id of the collection of bookings."""
    return str(sandbox.state("intempt").collections["bookings"].id)


def stored(sandbox: Sandbox) -> list[bytes]:
    """The files that the storage has accepted."""
    return list(sandbox.state("storage").objects.values())


async def pieces(*parts: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    """*parts*, each after *pause* seconds."""
    for part in parts:
        await asyncio.sleep(pause)
        yield part
