"""The access token: one request for all calls, renewed only when it is necessary."""

from __future__ import annotations

import asyncio

import pytest

from asyncclients import (
    DigitalOnboardingClient,
    ForbiddenError,
    Quota,
    ServerError,
    SessionPool,
    TokenRejectedError,
    UnauthorizedError,
)
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.faults import Fault, status

from .conftest import DO, counts, many, names, refused

INVALID = status(401, '{"error": "invalid_token"}')

pytestmark = pytest.mark.virtual_time


async def test_first_calls_share_one_token_request(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """1,000 concurrent calls without a token make one token request, and all succeed."""
    assert names(await many(client, 1000)) == {"list": 1000}
    assert counts(sandbox) == (1, 1000)


async def test_calls_on_an_expired_token_share_one_request(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """1,000 concurrent calls on an expired token make one token request, and all succeed."""
    await client.templates.list()
    await asyncio.sleep(3601)
    assert names(await many(client, 1000)) == {"list": 1000}
    assert counts(sandbox) == (2, 1001)
    assert refused(sandbox) == 0


@pytest.mark.parametrize(
    "rejection",
    [
        INVALID,
        status(401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}),
        status(401, "<html>Unauthorized</html>", {"Content-Type": "text/html"}),
    ],
    ids=["body", "header", "unreadable"],
)
async def test_calls_on_a_revoked_token_share_one_request(
    sandbox: Sandbox, client: DigitalOnboardingClient, rejection: Fault
) -> None:
    """For each form of a 401, 1,000 rejected calls make one token request and one retry each."""
    await client.templates.list()
    (revoked,) = sandbox.state(DO).tokens
    sandbox.fail(DO, rejection, None, lambda call: call.authorization == ("bearer", revoked))
    assert names(await many(client, 1000)) == {"list": 1000}
    tokens, calls = counts(sandbox)
    assert tokens == 2
    assert calls == 1001 + refused(sandbox)


async def test_late_rejections_keep_the_new_token(pool: SessionPool) -> None:
    """500 calls in flight when the token is revoked: the late 401s do not drop the new token."""
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
    assert names(results) == {"list": 500}
    assert refused(sandbox) > 1
    assert counts(sandbox)[0] == 2


async def test_queued_call_sends_a_valid_token(pool: SessionPool) -> None:
    """A token that expires while calls queue is renewed first, and no request is rejected."""
    async with Sandbox() as sandbox:
        state = sandbox.state(DO)
        state.lifetime, state.expires_in = 3.0, 3
        client = DigitalOnboardingClient.from_env(pool, sandbox.environ)
        results = await many(client, 100)
    assert names(results) == {"list": 100}
    assert refused(sandbox) == 0
    tokens, calls = counts(sandbox)
    assert calls == 100
    assert 3 <= tokens <= 6  # ten seconds of queue, three seconds of life each


async def test_queued_calls_do_not_use_a_revoked_token(pool: SessionPool) -> None:
    """Of 60 queued calls, only those on the wire when the token is revoked are rejected."""
    async with Sandbox() as sandbox:
        client = DigitalOnboardingClient.from_env(pool, sandbox.environ)
        running = [asyncio.create_task(client.templates.list()) for _ in range(60)]
        await asyncio.sleep(2.0)
        sandbox.state(DO).revoke_tokens()
        results = await asyncio.gather(*running)
    assert len(results) == 60
    assert 1 <= refused(sandbox) <= 2
    assert counts(sandbox)[0] == 2


async def test_repeated_401_ends_after_two_calls(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """Two calls and two token requests are sent, then `TokenRejectedError` is raised."""
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


async def test_repeated_401_makes_few_token_requests(sandbox: Sandbox) -> None:
    """1,000 calls through 100 connections, and ten more, make a few token requests.

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


async def test_renewing_a_token_does_not_count_as_an_attempt(
    sandbox: Sandbox, client: DigitalOnboardingClient
) -> None:
    """With `max_attempts=1` a rejected token is renewed once, and nothing else is retried."""
    once = client.with_options(max_attempts=1)
    await once.templates.list()
    sandbox.state(DO).revoke_tokens()
    assert await once.templates.list()
    assert counts(sandbox) == (2, 3)
    sandbox.state(DO).revoke_tokens()
    sandbox.fail(DO, status(503), 1, lambda call: call.path.endswith("templates"))
    with pytest.raises(ServerError):
        await once.templates.list()
    twice = client.with_options(max_attempts=2)
    sandbox.state(DO).revoke_tokens()
    sandbox.fail(DO, status(503), 1, lambda call: call.path.endswith("templates"))
    assert await twice.templates.list(), "the renewal took none of the two attempts"


@pytest.mark.parametrize(
    "answer",
    [
        status(401, '{"error": "insufficient_scope"}'),
        status(401, '{"errors": ["scope_missing"]}'),
        status(401, "", {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}),
        status(401, "{}", {"WWW-Authenticate": "Bearer realm=x, error=invalid_request"}),
    ],
)
async def test_unauthorized_with_another_error_is_final(
    sandbox: Sandbox, client: DigitalOnboardingClient, answer: Fault
) -> None:
    """A 401 that names another error raises `UnauthorizedError` at once, and the token is kept."""
    sandbox.fail(DO, answer, match="/v1/")
    with pytest.raises(UnauthorizedError):
        await client.templates.list()
    assert counts(sandbox) == (1, 1)
    await client.templates.list()
    assert counts(sandbox) == (1, 2)


async def test_forbidden_never_refreshes(sandbox: Sandbox, client: DigitalOnboardingClient) -> None:
    """A 403 is a `ForbiddenError` whatever its body reports; the token is kept."""
    sandbox.fail(DO, status(403, '{"error": "invalid_token"}'), match="/v1/")
    with pytest.raises(ForbiddenError):
        await client.templates.list()
    await client.templates.list()
    assert counts(sandbox) == (1, 2)


async def test_clients_built_apart_share_one_token(
    sandbox: Sandbox, pool: SessionPool, client: DigitalOnboardingClient
) -> None:
    """Separate clients of one credential and origin share one token, and others do not."""
    twin = DigitalOnboardingClient.from_env(pool, sandbox.environ, quotas=[Quota(100_000, 1.0)])
    await asyncio.gather(client.templates.list(), twin.templates.list())
    assert counts(sandbox)[0] == 1
    other = DigitalOnboardingClient.from_env(pool, sandbox.issue(DO))
    await other.templates.list()
    assert counts(sandbox)[0] == 2
