"""A pretend Digital Onboarding, and a client of it; neither is slowed down by a quota."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asyncclients import DigitalOnboardingClient, Quota, SessionPool
from asyncclients.sandbox import Sandbox

FAST = 100_000


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(quotas={"digital_onboarding": (FAST, 1.0)}) as opened:
        yield opened


@pytest.fixture
async def pool() -> AsyncIterator[SessionPool]:
    async with SessionPool(max_connections=2_000) as opened:
        yield opened


@pytest.fixture
def client(sandbox: Sandbox, pool: SessionPool) -> DigitalOnboardingClient:
    return DigitalOnboardingClient.from_env(pool, sandbox.environ, quotas=[Quota(FAST, 1.0)])
