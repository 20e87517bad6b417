"""The events and log lines of calls, and the absence of credentials in them."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest

from asyncclients import (
    DigitalOnboardingClient,
    IntouchClient,
    NotFoundError,
    RetryPolicy,
    SessionPool,
    TokenEndpointError,
    TotangoClient,
)
from asyncclients.core.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    ExternalUsageSeen,
    PoolClosed,
    PoolOpened,
    ScopePaused,
)
from asyncclients.sandbox import Sandbox, drop, status


@pytest.mark.virtual_time
async def test_events_of_a_call_are_in_order(sandbox: Sandbox) -> None:
    """Pool, call, attempts with outcomes and end are emitted in order, with the call's number."""
    events: list[object] = []
    async with SessionPool(listeners=(events.append,)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        sandbox.fail("intouch", drop())
        await intouch.tags.list().first()
    kinds = [type(event) for event in events]
    attempt = [AttemptStarted, AttemptEnded]
    assert kinds == [PoolOpened, CallStarted, *attempt, *attempt, CallEnded, PoolClosed]
    _, started, _, dropped, second, answered, ended, _ = events
    assert isinstance(started, CallStarted)
    assert (started.vendor, started.operation, started.method) == ("intouch", "tags.list", "GET")
    assert started.template == "/public/v1/tags"
    assert isinstance(dropped, AttemptEnded)
    assert (dropped.attempt, dropped.status, dropped.error) == (1, None, "DisconnectedError")
    assert isinstance(second, AttemptStarted)
    assert (second.attempt, second.waited >= 0) == (2, True)
    assert isinstance(answered, AttemptEnded)
    assert (answered.status, answered.error) == (200, None)
    assert isinstance(ended, CallEnded)
    assert (ended.attempts, ended.error) == (2, None)
    assert {e.call for e in (started, dropped, second, answered, ended)} == {started.call}


@pytest.mark.virtual_time
async def test_rate_limit_emits_its_pause(caplog: pytest.LogCaptureFixture) -> None:
    """A 429 emits `ScopePaused`; a short pause is logged as INFO, a long one as WARNING."""
    caplog.set_level(logging.INFO, "asyncclients")
    events: list[object] = []
    async with Sandbox() as sandbox, SessionPool(listeners=(events.append,)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        sandbox.fail("intouch", status(429, "", {"Retry-After": "3"}))
        await intouch.tags.list().first()
        sandbox.fail("intouch", status(429, "", {"Retry-After": "30"}))
        await intouch.tags.list().first()
    paused = [event for event in events if isinstance(event, ScopePaused)]
    assert [round(event.seconds) for event in paused] == [3, 30]
    said = "intouch: rate-limited, nothing is sent for %.1f s; other clients may use the same quota"
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", said % 3),
        ("WARNING", said % 30),
    ]


@pytest.mark.virtual_time
async def test_external_usage_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """External usage is emitted and logged once when it begins, and once when it ends."""
    caplog.set_level(logging.INFO, "asyncclients")
    events: list[object] = []
    async with Sandbox() as sandbox, SessionPool(listeners=(events.append,)) as pool:
        totango = TotangoClient.from_env(pool, sandbox.environ)
        others = asyncio.create_task(_others(sandbox, calls=120, every=2.0))
        for _ in range(800):
            await totango.touchpoint_tags.list()
            await asyncio.sleep(1.0)
        await others
        scope = totango.stats().scope
    came, went = [event for event in events if isinstance(event, ExternalUsageSeen)]
    assert (came.vendor, came.scope) == ("totango", scope)
    assert 0.16 < came.rate < 0.55
    assert went == ExternalUsageSeen(vendor="totango", scope=scope, rate=0.0)
    (level, warned), (quieter, gone) = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert (level, quieter) == ("WARNING", "INFO")
    assert warned.startswith(
        f"totango: other clients use the same quota, about {came.rate:.2g} calls per second"
    )
    assert "a credential of its own" in warned
    assert "limits=..." in warned
    assert gone == "totango: other clients no longer use the same quota"


async def _others(sandbox: Sandbox, *, calls: int, every: float) -> None:
    """A program with the same credential that is none of ours."""
    url = f"{sandbox.environ['TOTANGO_BASE_URL']}api/v3/touchpoint-tags/"
    headers = {"app-token": sandbox.environ["TOTANGO_APP_TOKEN"]}
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(calls):
            async with session.get(url) as response:
                assert response.status in {200, 429}
            await asyncio.sleep(every)


@pytest.mark.virtual_time
async def test_debug_log_has_one_line_per_event(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG each event is one line, without a credential, query, id or body."""
    caplog.set_level(logging.DEBUG, "asyncclients")
    async with SessionPool(retry=RetryPolicy(max_attempts=1)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        await intouch.tags.create("canary-body")
        await intouch.tags.list(search="canary-query").first()
        with pytest.raises(NotFoundError):
            await intouch.tags.get("canary-id")
    lines = [r.getMessage() for r in caplog.records if r.name == "asyncclients"]
    assert sum(line.startswith("CallStarted(") for line in lines) == 3
    assert any("operation='tags.get'" in line for line in lines)
    assert any("error='NotFoundError'" in line for line in lines)
    text = "\n".join(lines)
    canaries = ["canary", sandbox.environ["INTOUCH_API_KEY"]]
    assert [canary for canary in canaries if canary in text] == []


@pytest.mark.virtual_time
async def test_failed_token_request_is_a_warning(
    sandbox: Sandbox, pool: SessionPool, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed token request is logged as a WARNING with vendor and reason, without the secret."""
    onboarding = DigitalOnboardingClient.from_env(pool, sandbox.environ)
    sandbox.fail("digital_onboarding", "503", times=None, match="/oauth2/token")
    with pytest.raises(TokenEndpointError):
        await onboarding.templates.list()
    told = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "asyncclients"]
    assert told == [("WARNING", "digital_onboarding: no access token: TokenEndpointError")]


async def test_log_above_debug_adds_no_listener(sandbox: Sandbox) -> None:
    """Above DEBUG the log adds no listener, and the logger prints nothing by itself."""
    logger = logging.getLogger("asyncclients")
    assert not logger.isEnabledFor(logging.DEBUG)
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    async with SessionPool() as pool:
        assert pool.config.listeners == ()


async def test_failing_listener_is_logged_once(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a listener is logged once, with its traceback; all else continues."""

    class Broken(BaseException):
        """Not even an `Exception`."""

    def broken(event: object) -> None:
        raise Broken

    events: list[object] = []
    async with SessionPool(listeners=(broken, events.append)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        assert (await intouch.tags.create("one")).name == "one"
    assert len(events) == 6
    (failure,) = [r for r in caplog.records if r.name == "asyncclients"]
    assert "broken raised Broken" in failure.getMessage()
    assert failure.exc_info is not None
