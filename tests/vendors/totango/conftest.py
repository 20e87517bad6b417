"""A mock of Totango and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asyncclients import SessionPool, TotangoClient
from asyncclients.sandbox import Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as opened:
        yield opened


@pytest.fixture
async def totango(sandbox: Sandbox) -> AsyncIterator[TotangoClient]:
    async with SessionPool() as pool:
        yield TotangoClient.from_env(pool, sandbox.environ)
