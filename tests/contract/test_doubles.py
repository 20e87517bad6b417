"""Programs are tested with doubles of the session, which call no middleware.

Such a double sends without a permit. All else holds: attempts, retries, pauses, errors,
and nothing is left behind that would count as in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses

from asyncclients import (
    AsyncClientsError,
    AttemptTimeoutError,
    DigitalOnboardingClient,
    DisconnectedError,
    IntouchClient,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    SessionPool,
    TokenRejectedError,
)
from asyncclients.testing import VirtualClock

BASE = "https://api.intouchinsight.com/public/v1/"
ONBOARDING = "https://api.digitalonboarding.com/"
TAG = {"uuid": "a", "name": "gold"}


class Answer(aiohttp.ClientResponse):
    """A response of aioresponses, with the argument that newer aiohttp requires."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"stream_writer": Mock(output_size=0), **options})


@pytest.fixture
def vendor() -> Iterator[Any]:
    with aioresponses() as double:
        yield double


@pytest.fixture
def intouch(pool: SessionPool) -> IntouchClient:
    return IntouchClient(pool, api_key="key-4711")


def idle(pool: SessionPool) -> bool:
    """Nothing counts as in flight, nor waits."""
    return all(not stats.in_flight and not any(stats.queued.values()) for stats in pool.stats())


async def test_double_responds_beyond_the_quota(
    vendor: Any, pool: SessionPool, intouch: IntouchClient
) -> None:
    """Ten calls at once succeed, far beyond the quota, because a double does not count."""
    vendor.get(BASE + "tags/a", payload=TAG, response_class=Answer, repeat=True)
    tags = [await intouch.tags.get("a") for _ in range(10)]
    assert {tag.name for tag in tags} == {"gold"}
    assert idle(pool)


async def test_double_serves_every_page(vendor: Any, intouch: IntouchClient) -> None:
    """Each page is requested by its number."""
    for number in (1, 2):
        page = {"data": [TAG | {"uuid": str(number)}], "current_page": number, "last_page": 2}
        vendor.get(f"{BASE}tags?page={number}", payload=page, response_class=Answer)
    assert [tag.uuid async for tag in intouch.tags.list()] == ["1", "2"]


async def test_double_error_status_raises_its_error(
    vendor: Any, pool: SessionPool, intouch: IntouchClient
) -> None:
    """A status raises its error after one attempt."""
    vendor.get(BASE + "tags/a", status=404, payload={}, response_class=Answer)
    with pytest.raises(NotFoundError) as raised:
        await intouch.tags.get("a")
    assert (raised.value.attempts, raised.value.status) == (1, 404)
    assert idle(pool)


async def test_double_rate_limited_call_is_retried_after_its_pause(
    vendor: Any, pool: SessionPool, intouch: IntouchClient, virtual_time: VirtualClock
) -> None:
    """The pause is kept, although no queue delays the call."""
    refusal = {"status": 429, "headers": {"Retry-After": "7"}, "response_class": Answer}
    vendor.post(BASE + "tags", **refusal)
    vendor.post(BASE + "tags", payload=TAG, response_class=Answer)
    assert (await intouch.tags.create("gold")).uuid == "a"
    assert virtual_time.elapsed == pytest.approx(7.0)
    assert pool.stats()[0].rejected == 1
    assert idle(pool)


async def test_max_attempts_one_sends_one_request(vendor: Any, intouch: IntouchClient) -> None:
    """`max_attempts=1` also holds for rate-limited calls."""
    vendor.get(BASE + "tags/a", status=429, response_class=Answer, repeat=True)
    with pytest.raises(RateLimitedError) as raised:
        await intouch.with_options(max_attempts=1).tags.get("a")
    assert raised.value.attempts == 1
    assert sum(len(calls) for calls in vendor.requests.values()) == 1


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (TimeoutError(), AttemptTimeoutError),
        (aiohttp.ServerDisconnectedError(), DisconnectedError),
        (aiohttp.ClientConnectionError("no"), DisconnectedError),
        (aiohttp.ClientPayloadError("cut"), DisconnectedError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.usefixtures("virtual_time")
async def test_double_connection_error_is_retried_if_idempotent(
    failure: Exception,
    error: type[AsyncClientsError],
    vendor: Any,
    pool: SessionPool,
    intouch: IntouchClient,
) -> None:
    """An idempotent call is attempted four times; another one is reported as maybe sent."""
    vendor.get(BASE + "tags/a", exception=failure, repeat=True)
    vendor.post(BASE + "tags", exception=failure, repeat=True)
    with pytest.raises(error) as repeated:
        await intouch.tags.get("a")
    assert repeated.value.attempts == 4
    with pytest.raises(OutcomeUnknownError) as once:
        await intouch.tags.create("gold")
    assert once.value.attempts == 1
    assert idle(pool)


async def test_double_token_is_renewed_once_after_401(vendor: Any, pool: SessionPool) -> None:
    """With a vendor that always returns 401, there are two calls and two token requests."""
    token = {"access_token": "token-4711", "expires_in": 3600}
    vendor.post(ONBOARDING + "oauth2/token", payload=token, response_class=Answer, repeat=True)
    refusal = {"status": 401, "payload": {"error": "invalid_token"}, "response_class": Answer}
    vendor.get(ONBOARDING + "v1/templates", repeat=True, **refusal)
    client = DigitalOnboardingClient(pool, client_id="id-4711", client_secret="key-4711")
    with pytest.raises(TokenRejectedError) as raised:
        await client.templates.list()
    assert raised.value.attempts == 2
    assert [len(calls) for calls in vendor.requests.values()] == [2, 2]
    assert idle(pool)
