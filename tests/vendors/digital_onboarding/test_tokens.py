"""The access token, end to end: one request for all, and again only when it must be."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from asyncclients import (
    ClientClosedError,
    DeadlineExceededError,
    DigitalOnboardingClient,
    ForbiddenError,
    Quota,
    SessionPool,
    TokenEndpointError,
    TokenError,
    TokenRejectedError,
    UnauthorizedError,
)
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.faults import Fault, delay, drop, hang, html, status

DO = "digital_onboarding"
TOKEN = "/oauth2/token"
INVALID = status(401, '{"error": "invalid_token"}')

pytestmark = pytest.mark.looptime


def counts(sandbox: Sandbox) -> tuple[int, int]:
    """Requests that arrived: for tokens, and all others."""
    paths = Counter(arrival.path == TOKEN for arrival in sandbox.requests(DO))
    return paths[True], paths[False]


def refused(sandbox: Sandbox) -> int:
    """Calls that the vendor answered with 401."""
    return sum(a.status == 401 for a in sandbox.requests(DO) if a.path != TOKEN)


async def many(client: DigitalOnboardingClient, calls: int) -> list[Any]:
    """What each of *calls* concurrent calls came to."""
    started = [client.templates.list() for _ in range(calls)]
    return await asyncio.gather(*started, return_exceptions=True)


def names(results: list[Any]) -> Counter[str]:
    """How many results of each type."""
    return Counter(type(result).__name__ for result in results)


async def test_a_thousand_first_calls_ask_for_one_token(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """1,000 concurrent calls without a token: one token request, 1,000 calls, all succeed."""
    assert names(await many(client, 1000)) == {"TemplateList": 1000}
    assert counts(sandbox) == (1, 1000)


async def test_a_thousand_calls_on_an_expired_token_ask_for_one(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """1,000 concurrent calls after the token's hour: one more token request, no call refused."""
    await client.templates.list()
    await asyncio.sleep(3601)
    assert names(await many(client, 1000)) == {"TemplateList": 1000}
    assert counts(sandbox) == (2, 1001)
    assert refused(sandbox) == 0


@pytest.mark.parametrize("rejection", ["body", "header", "unreadable"])
async def test_a_thousand_calls_on_a_revoked_token_ask_for_one(
    sandbox: Sandbox, client: DigitalOnboardingClient, rejection: Any
) -> None:
    """However a 401 says it, 1,000 refused calls cost one token request and one repeat each."""
    sandbox.state(DO).rejection = rejection
    await client.templates.list()
    sandbox.state(DO).revoke_tokens()
    assert names(await many(client, 1000)) == {"TemplateList": 1000}
    tokens, calls = counts(sandbox)
    assert tokens == 2
    assert calls == 1001 + refused(sandbox)


async def test_a_token_revoked_mid_flight_costs_exactly_one_more(pool: SessionPool) -> None:
    """500 calls in flight when the token ends: the late 401s do not drop the new token."""
    async with Sandbox(quotas={DO: (100_000, 1.0)}, latency=(0.05, 0.2)) as sandbox:
        client = DigitalOnboardingClient.from_env(
            pool, sandbox.environ, quotas=[Quota(100_000, 1.0)]
        )
        await client.templates.list()
        running = [asyncio.create_task(client.templates.list()) for _ in range(250)]
        await asyncio.sleep(0.05)
        sandbox.state(DO).revoke_tokens()
        running += [asyncio.create_task(client.templates.list()) for _ in range(250)]
        results = await asyncio.gather(*running, return_exceptions=True)
    assert names(results) == {"TemplateList": 500}
    assert refused(sandbox) > 1
    assert counts(sandbox)[0] == 2


async def test_a_call_sends_the_token_that_is_good_when_its_turn_comes(pool: SessionPool) -> None:
    """A token that expires while calls queue is renewed first: no request is wasted on it."""
    async with Sandbox() as sandbox:
        state = sandbox.state(DO)
        state.lifetime, state.expires_in = 3.0, 3
        client = DigitalOnboardingClient.from_env(pool, sandbox.environ)
        results = await many(client, 100)
    assert names(results) == {"TemplateList": 100}
    assert refused(sandbox) == 0
    tokens, calls = counts(sandbox)
    assert calls == 100
    assert 3 <= tokens <= 6  # ten seconds of queue, three seconds of life each


async def test_a_queue_does_not_run_into_a_revoked_token(pool: SessionPool) -> None:
    """Of 60 calls in the queue only those on the wire when the token ends are refused."""
    async with Sandbox() as sandbox:
        client = DigitalOnboardingClient.from_env(pool, sandbox.environ)
        running = [asyncio.create_task(client.templates.list()) for _ in range(60)]
        await asyncio.sleep(2.0)
        sandbox.state(DO).revoke_tokens()
        results = await asyncio.gather(*running)
    assert len(results) == 60
    assert 1 <= refused(sandbox) <= 2
    assert counts(sandbox)[0] == 2


async def test_a_server_that_always_says_401_sees_two_calls(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """Two calls, two token requests, then TokenRejectedError with what to do."""
    sandbox.fail(DO, INVALID, times=None, match="/v1/")
    with pytest.raises(TokenRejectedError) as caught:
        await client.templates.list()
    assert counts(sandbox) == (2, 2)
    error = caught.value
    assert (error.operation, error.path, error.status, error.attempts) == (
        "templates.list",
        "/v1/templates",
        401,
        2,
    )
    assert error.advice


async def test_a_server_that_always_says_401_is_not_hammered(sandbox: Sandbox) -> None:
    """1,000 calls through 100 connections and ten more after them: a handful of token requests.

    Ten seconds later the next call finds out that all is well again.
    """
    sandbox.fail(DO, INVALID, times=None, match="/v1/")
    async with SessionPool() as pool:
        client = DigitalOnboardingClient.from_env(
            pool, sandbox.environ, quotas=[Quota(100_000, 1.0)]
        )
        assert names(await many(client, 1000)) == {"TokenRejectedError": 1000}
        for _ in range(10):
            assert names(await many(client, 1)) == {"TokenRejectedError": 1}
        assert counts(sandbox)[0] <= 4
        sandbox.heal(DO)
        await asyncio.sleep(10)
        assert await client.templates.list()


async def test_max_attempts_of_one_is_not_repeated_either(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """With max_attempts=1 a refused token is dropped and the call fails; the next one works."""
    once = client.with_options(max_attempts=1)
    await once.templates.list()
    sandbox.state(DO).revoke_tokens()
    with pytest.raises(TokenRejectedError):
        await once.templates.list()
    assert await once.templates.list()
    assert counts(sandbox) == (2, 3)


@pytest.mark.parametrize(
    "answer",
    [
        status(401, '{"error": "insufficient_scope"}'),
        status(401, '{"errors": ["scope_missing"]}'),
        status(401, "", {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}),
        status(401, "{}", {"WWW-Authenticate": "Bearer realm=x, error=invalid_request"}),
    ],
)
async def test_a_401_that_names_another_error_is_final(
    sandbox: Sandbox, client: DigitalOnboardingClient, answer: Fault
) -> None:
    """UnauthorizedError at once: one call, no further token, and the token is kept."""
    sandbox.fail(DO, answer, match="/v1/")
    with pytest.raises(UnauthorizedError):
        await client.templates.list()
    assert counts(sandbox) == (1, 1)
    await client.templates.list()
    assert counts(sandbox) == (1, 2)


async def test_a_403_never_renews(sandbox: Sandbox, client: DigitalOnboardingClient) -> None:
    """A 403 is ForbiddenError, whatever its body says; the token is kept."""
    sandbox.fail(DO, status(403, '{"error": "invalid_token"}'), match="/v1/")
    with pytest.raises(ForbiddenError):
        await client.templates.list()
    await client.templates.list()
    assert counts(sandbox) == (1, 2)


async def test_a_cancelled_leader_takes_nobody_down(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """The call whose need started the token request is cancelled: those who wait succeed."""
    sandbox.fail(DO, delay(1.0), match=TOKEN)
    leader = asyncio.create_task(client.templates.list())
    await asyncio.sleep(0.1)
    waiters = [asyncio.create_task(client.templates.list()) for _ in range(10)]
    await asyncio.sleep(0.1)
    leader.cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert names(results) == {"TemplateList": 10}
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
async def test_a_token_endpoint_without_a_usable_answer(
    sandbox: Sandbox, client: DigitalOnboardingClient, fault: Fault
) -> None:
    """TokenEndpointError for all who wait, soon and once; within ten seconds it is asked again."""
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


async def test_a_token_endpoint_that_comes_back_is_asked_again(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """One 503 of the token endpoint is sat out; the call succeeds."""
    sandbox.fail(DO, status(503), match=TOKEN)
    assert await client.templates.list()
    assert counts(sandbox) == (2, 1)


@pytest.mark.parametrize("code", [400, 401, 403])
async def test_a_rejected_client_is_a_token_error(
    sandbox: Sandbox, client: DigitalOnboardingClient, code: int
) -> None:
    """A client that the vendor does not know: TokenRejectedError, asked once for 100 calls."""
    sandbox.fail(DO, status(code, '{"error": "invalid_client"}'), times=None, match=TOKEN)
    results = await many(client, 100)
    assert names(results) == {"TokenRejectedError": 100}
    assert isinstance(results[0], TokenError)
    assert "client_id" in str(results[0].advice)
    assert counts(sandbox) == (1, 0)


async def test_a_client_revoked_for_good_is_a_token_error(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """Revoked between two calls: the first 401 renews, and the token endpoint says no."""
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
async def test_a_strange_lifetime_is_survived(
    sandbox: Sandbox, client: DigitalOnboardingClient, expires_in: object
) -> None:
    """Missing, zero, absurd or text: the token is used, for at least ten minutes."""
    sandbox.state(DO).expires_in = expires_in
    for _ in range(10):
        await client.templates.list()
        await asyncio.sleep(60)
    assert counts(sandbox) == (1, 10)


async def test_a_short_lifetime_is_renewed_before_it_ends(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """A token of 61 seconds, a call after 60.5: renewed first, not refused first."""
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
    """In the last minute of an hour calls go on with the old token while one asks for the next."""
    await client.templates.list()
    await asyncio.sleep(3600 - 45)
    sandbox.fail(DO, delay(5.0), match=TOKEN)
    began = asyncio.get_running_loop().time()
    assert names(await many(client, 100)) == {"TemplateList": 100}
    assert asyncio.get_running_loop().time() - began < 1.0
    await asyncio.sleep(60)
    await client.templates.list()
    assert counts(sandbox) == (2, 102)
    assert refused(sandbox) == 0


async def test_an_outage_of_the_token_endpoint_fails_no_call(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """Down for 20 of the last 55 seconds of a token's life: no call fails, and it is not hammered.

    Down for five minutes with ten left: nobody even notices.
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


async def test_a_deadline_bounds_the_wait_for_a_token(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """A token endpoint that hangs: DeadlineExceededError at the deadline, nothing else sent."""
    sandbox.fail(DO, hang(), times=None, match=TOKEN)
    began = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceededError):
        await client.with_options(deadline=2.0).templates.list()
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0, abs=0.1)
    assert counts(sandbox)[1] == 0


async def test_closing_the_pool_ends_the_wait_for_a_token(
    sandbox: Sandbox, pool: SessionPool, client: DigitalOnboardingClient
) -> None:
    """Calls that wait for a token when the pool is closed end with ClientClosedError."""
    sandbox.fail(DO, hang(), match=TOKEN)
    waiters = [asyncio.create_task(client.templates.list()) for _ in range(3)]
    await asyncio.sleep(1)
    await pool.aclose()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert names(results) == {"ClientClosedError": 3}
    assert all(isinstance(error, ClientClosedError) and error.advice for error in results)


async def test_clients_built_apart_share_one_token(
    sandbox: Sandbox, pool: SessionPool, client: DigitalOnboardingClient
) -> None:
    """Two clients of one credential and origin: one token; another credential: its own."""
    twin = DigitalOnboardingClient.from_env(pool, sandbox.environ, quotas=[Quota(100_000, 1.0)])
    await asyncio.gather(client.templates.list(), twin.templates.list())
    assert counts(sandbox)[0] == 1
    other = DigitalOnboardingClient.from_env(pool, sandbox.issue(DO))
    await other.templates.list()
    assert counts(sandbox)[0] == 2


async def test_the_token_request_is_what_the_manual_wants(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """POST, a form, HTTP Basic, nothing in the query: the vendor revokes what it finds there."""
    await client.templates.list()
    request = next(a for a in sandbox.requests(DO) if a.path == TOKEN)
    assert (request.method, request.query, request.body) == (
        "POST",
        (),
        b"grant_type=client_credentials",
    )
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Authorization"].startswith("Basic ")
    call = sandbox.requests(DO)[-1]
    assert call.headers["Authorization"] == f"Bearer {next(iter(sandbox.state(DO).tokens))}"


async def test_an_endpoint_error_is_not_remembered_as_the_next(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """What a later call raises is an error of its own, equal in words, not the same object."""
    sandbox.fail(DO, status(200, "{}"), times=None, match=TOKEN)
    errors = [*(await many(client, 2)), *(await many(client, 1))]
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error, TokenEndpointError) for error in errors)
    assert counts(sandbox)[0] == 1
