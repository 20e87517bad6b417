"""Mock vendors with the limits of their manuals, and clients of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asyncclients import EmmaClient, IntouchClient, SessionPool, TotangoClient
from asyncclients.sandbox import Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as opened:
        yield opened


@pytest.fixture
def emma(sandbox: Sandbox, pool: SessionPool) -> EmmaClient:
    return EmmaClient.from_env(pool, sandbox.environ)


@pytest.fixture
def intouch(sandbox: Sandbox, pool: SessionPool) -> IntouchClient:
    return IntouchClient.from_env(pool, sandbox.environ)


@pytest.fixture
def totango(sandbox: Sandbox, pool: SessionPool) -> TotangoClient:
    return TotangoClient.from_env(pool, sandbox.environ)
