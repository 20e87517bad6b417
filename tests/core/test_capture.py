"""Raw answers, beside the typed results."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from asyncclients import (
    DigitalOnboardingClient,
    IntouchClient,
    NotFoundError,
    SessionPool,
    capture_responses,
)
from asyncclients.sandbox import Sandbox, status

pytestmark = pytest.mark.virtual_time

NOWHERE = "11111111-1111-1111-1111-111111111111"


async def test_capture_has_every_attempt(sandbox: Sandbox, pool: SessionPool) -> None:
    """Status, headers, body and request id of every attempt, repeated and failed ones included."""
    intouch = IntouchClient.from_env(pool, sandbox.environ)
    sandbox.fail("intouch", status(503, "busy", {"X-Request-Id": "r-1"}))
    with capture_responses() as responses:
        assert await intouch.tags.list().first() is None
        with pytest.raises(NotFoundError):
            await intouch.tags.get(NOWHERE)

    refused, listed, missing = responses
    assert (refused.vendor, refused.operation, refused.attempt) == ("intouch", "tags.list", 1)
    assert (refused.status, refused.body, refused.request_id) == (503, b"busy", "r-1")
    assert refused.headers["x-request-id"] == "r-1"
    assert (listed.attempt, listed.status, listed.request_id) == (2, 200, None)
    assert msgspec.json.decode(listed.body)["data"] == []
    assert (missing.operation, missing.attempt, missing.status) == ("tags.get", 1, 404)


async def test_captured_values_cannot_be_changed_and_print_no_content(
    sandbox: Sandbox, pool: SessionPool
) -> None:
    """They are frozen; their repr has neither body nor headers."""
    intouch = IntouchClient.from_env(pool, sandbox.environ)
    with capture_responses() as responses:
        await intouch.tags.create("canary")
    (response,) = responses
    assert b"canary" in response.body
    assert (
        repr(response) == f"<CapturedResponse intouch.tags.create 201, {len(response.body)} bytes>"
    )
    with pytest.raises(AttributeError):
        response.status = 200  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


async def test_it_follows_the_context(sandbox: Sandbox, pool: SessionPool) -> None:
    """Responses to tasks that a block starts are captured, other calls are not; blocks may nest."""
    intouch = IntouchClient.from_env(pool, sandbox.environ)
    neighbour = asyncio.create_task(intouch.tags.create("neighbour"))
    with capture_responses() as outer:
        with capture_responses() as inner:
            await asyncio.gather(*[intouch.tags.create(f"task {n}") for n in range(3)])
        await intouch.tags.create("outer")
        await neighbour
    await intouch.tags.create("later")
    assert len(inner) == 3
    assert len(outer) == 4
    assert outer[:3] == inner


async def test_tokens_are_never_captured(sandbox: Sandbox, pool: SessionPool) -> None:
    """The call's own answers are there, that of the token endpoint is not."""
    onboarding = DigitalOnboardingClient.from_env(pool, sandbox.environ)
    with capture_responses() as responses, contextlib.suppress(NotFoundError):
        await onboarding.templates.list()
    assert [response.operation for response in responses] == ["templates.list"]
    arrivals = [arrival.path for arrival in sandbox.requests("digital_onboarding")]
    assert any(path.endswith("/oauth2/token") for path in arrivals)
