"""A mock of Digital Onboarding and a client of it, neither limited by a quota."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from asyncclients import DigitalOnboardingClient, Quota, SessionPool
from asyncclients.sandbox import Sandbox

FAST = 100_000
DO: Final = "digital_onboarding"
TOKEN = "/oauth2/token"


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


def counts(sandbox: Sandbox) -> tuple[int, int]:
    """Return the numbers of token requests and of all others."""
    paths = Counter(arrival.path == TOKEN for arrival in sandbox.requests(DO))
    return paths[True], paths[False]


def refused(sandbox: Sandbox) -> int:
    """Return the requests that were answered with 401."""
    return sum(a.status == 401 for a in sandbox.requests(DO) if a.path != TOKEN)


async def many(client: DigitalOnboardingClient, calls: int) -> list[Any]:
    """Return the result or error of each of *calls* concurrent calls."""
    started = [client.templates.list() for _ in range(calls)]
    return await asyncio.gather(*started, return_exceptions=True)


def names(results: list[Any]) -> Counter[str]:
    """Return the number of results of each type."""
    return Counter(type(result).__name__ for result in results)
