"""A mock of Intouch with the limit of its manual, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asyncclients import IntouchClient, SessionPool
from asyncclients.sandbox import Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as opened:
        yield opened


@pytest.fixture
async def intouch(sandbox: Sandbox) -> AsyncIterator[IntouchClient]:
    async with SessionPool() as pool:
        yield IntouchClient.from_env(pool, sandbox.environ)
