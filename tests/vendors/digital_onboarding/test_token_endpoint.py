"""The token endpoint: its requests, unusual responses, and outages."""

from __future__ import annotations

import asyncio

import pytest

from asyncclients import (
    ClientClosedError,
    DeadlineExceededError,
    DigitalOnboardingClient,
    SessionPool,
    TokenEndpointError,
    TokenError,
    TokenRejectedError,
)
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.faults import Fault, delay, drop, hang, html, status

from .conftest import DO, TOKEN, counts, many, names, refused

pytestmark = pytest.mark.virtual_time


async def test_cancelled_refresh_does_not_fail_waiting_calls(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """If the call that started the token request is cancelled, the waiting calls succeed."""
    sandbox.fail(DO, delay(1.0), match=TOKEN)
    leader = asyncio.create_task(client.templates.list())
    await asyncio.sleep(0.1)
    waiters = [asyncio.create_task(client.templates.list()) for _ in range(10)]
    await asyncio.sleep(0.1)
    leader.cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert names(results) == {"list": 10}
    assert leader.cancelled()
    assert counts(sandbox) == (1, 10)


@pytest.mark.parametrize(
    "fault",
    [
        drop(),
        hang(),
        html(),
        status(429, "slow down", {"Retry-After": "1"}),
        status(500),
        status(503, "down"),
        status(302, "", {"Location": "https://elsewhere.example/"}),
        status(200, "{}"),
        status(200, '{"access_token": ""}'),
        status(200, '{"access_token": 7}'),
        status(200, '{"access_token": "two\\nlines"}'),
        status(200, '{"access_token": "mac-token", "token_type": "mac"}'),
        status(200, "[]"),
        status(200, ""),
    ],
    ids=repr,
)
async def test_unusable_token_reply_fails_all_waiting_calls(
    sandbox: Sandbox, client: DigitalOnboardingClient, fault: Fault
) -> None:
    """All waiting calls raise `TokenEndpointError`; within ten seconds there is a new request."""
    loop = asyncio.get_running_loop()
    sandbox.fail(DO, fault, times=None, match=TOKEN)
    began = loop.time()
    results = await many(client, 100)
    assert names(results) == {"TokenEndpointError": 100}
    assert loop.time() - began < 60
    assert counts(sandbox)[0] <= 2
    assert all(error.advice and error.vendor == DO for error in results)
    sandbox.heal(DO)
    await asyncio.sleep(10)
    assert await client.templates.list()


async def test_token_endpoint_is_retried_after_503(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """After one 503 of the token endpoint the call succeeds."""
    sandbox.fail(DO, status(503), match=TOKEN)
    assert await client.templates.list()
    assert counts(sandbox) == (2, 1)


@pytest.mark.parametrize("code", [400, 401, 403])
async def test_rejected_client_is_a_token_error(
    sandbox: Sandbox, client: DigitalOnboardingClient, code: int
) -> None:
    """An unknown client raises `TokenRejectedError`, after one token request for 100 calls."""
    sandbox.fail(DO, status(code, '{"error": "invalid_client"}'), times=None, match=TOKEN)
    results = await many(client, 100)
    assert names(results) == {"TokenRejectedError": 100}
    assert isinstance(results[0], TokenError)
    assert "client_id" in str(results[0].advice)
    assert counts(sandbox) == (1, 0)


async def test_revoked_client_is_a_token_error(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """If the client is revoked between two calls, the second raises `TokenRejectedError`."""
    await client.templates.list()
    state = sandbox.state(DO)
    state.revoke_client(next(iter(state.clients)))
    with pytest.raises(TokenRejectedError):
        await client.templates.list()
    assert counts(sandbox) == (2, 2)


LIFETIMES: list[object] = [
    None,
    0,
    -5,
    0.001,
    1e300,
    3_600_000,
    "3600",
    "soon",
    "nan",
    True,
    [],
    {},
]


@pytest.mark.parametrize("expires_in", LIFETIMES, ids=repr)
async def test_unusual_lifetime_is_tolerated(
    sandbox: Sandbox, client: DigitalOnboardingClient, expires_in: object
) -> None:
    """With a missing, zero, absurd or textual lifetime the token serves at least ten minutes."""
    sandbox.state(DO).expires_in = expires_in
    for _ in range(10):
        await client.templates.list()
        await asyncio.sleep(60)
    assert counts(sandbox) == (1, 10)


async def test_short_lived_token_is_refreshed_before_it_ends(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """A token of 61 seconds is renewed before a call after 60.5 seconds."""
    state = sandbox.state(DO)
    state.lifetime, state.expires_in = 61.0, 61
    await client.templates.list()
    await asyncio.sleep(60.5)
    await client.templates.list()
    assert refused(sandbox) == 0
    assert counts(sandbox) == (2, 2)


async def test_calls_do_not_wait_for_a_renewal_ahead_of_time(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """In the last minute of an hour calls use the old token while one request fetches the next."""
    await client.templates.list()
    await asyncio.sleep(3600 - 45)
    sandbox.fail(DO, delay(5.0), match=TOKEN)
    began = asyncio.get_running_loop().time()
    assert names(await many(client, 100)) == {"list": 100}
    assert asyncio.get_running_loop().time() - began < 1.0
    await asyncio.sleep(60)
    await client.templates.list()
    assert counts(sandbox) == (2, 102)
    assert refused(sandbox) == 0


async def test_outage_of_the_token_endpoint_fails_no_call(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """An outage of the token endpoint before the token expires fails no call.

    The first lasts 20 of the token's last 55 seconds, and causes few requests; the second
    lasts five minutes while ten are left.
    """
    await client.templates.list()
    sandbox.fail(DO, status(503), times=None, match=TOKEN)
    for _ in range(5):
        await asyncio.sleep(60)
        await client.templates.list()
    sandbox.heal(DO)
    assert counts(sandbox)[0] == 1
    await asyncio.sleep(3600 - 300 - 55)
    sandbox.fail(DO, status(503), times=None, match=TOKEN)
    for _ in range(20):
        await client.templates.list()
        await asyncio.sleep(1)
    sandbox.heal(DO)
    for _ in range(60):
        await client.templates.list()
        await asyncio.sleep(1)
    assert refused(sandbox) == 0
    assert counts(sandbox)[0] <= 1 + 2 * 5 + 1


async def test_deadline_includes_the_wait_for_a_token(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """If the token endpoint hangs, the call raises `DeadlineExceededError` and sends nothing."""
    sandbox.fail(DO, hang(), times=None, match=TOKEN)
    began = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceededError):
        await client.with_options(deadline=2.0).templates.list()
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0, abs=0.1)
    assert counts(sandbox)[1] == 0


async def test_closing_the_pool_ends_the_wait_for_a_token(
    sandbox: Sandbox, pool: SessionPool, client: DigitalOnboardingClient
) -> None:
    """Calls that wait for a token raise `ClientClosedError` when the pool is closed."""
    sandbox.fail(DO, hang(), match=TOKEN)
    waiters = [asyncio.create_task(client.templates.list()) for _ in range(3)]
    await asyncio.sleep(1)
    await pool.aclose()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert names(results) == {"ClientClosedError": 3}
    assert all(isinstance(error, ClientClosedError) and error.advice for error in results)


async def test_token_request_matches_the_manual(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """The request is a POST with a form and HTTP Basic, and has no query."""
    await client.templates.list()
    request = next(a for a in sandbox.requests(DO) if a.path == TOKEN)
    assert (request.method, [*request.query], request.body) == (
        "POST",
        [],
        b"grant_type=client_credentials",
    )
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Authorization"].startswith("Basic ")
    call = sandbox.requests(DO)[-1]
    assert call.headers["Authorization"] == f"Bearer {next(iter(sandbox.state(DO).tokens))}"


async def test_calls_raise_separate_error_objects(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """Each failed call raises an error object of its own, equal to the first."""
    sandbox.fail(DO, status(200, "{}"), times=None, match=TOKEN)
    errors = [*(await many(client, 2)), *(await many(client, 1))]
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error, TokenEndpointError) for error in errors)
    assert counts(sandbox)[0] == 1
