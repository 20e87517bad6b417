"""A mock of Emma and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asyncclients import EmmaClient, SessionPool
from asyncclients.sandbox import Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as opened:
        yield opened


@pytest.fixture
async def emma(sandbox: Sandbox) -> AsyncIterator[EmmaClient]:
    async with SessionPool() as pool:
        yield EmmaClient.from_env(pool, sandbox.environ)
