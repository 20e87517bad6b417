"""The reasons for which a call waits, as text."""

from __future__ import annotations

import asyncio
import math

import pytest

from asyncclients import IntouchClient, Priority, Quota, SessionPool
from asyncclients.core.events import ScopeEvents
from asyncclients.core.explain import explain, when
from asyncclients.core.scope import Scope
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.scheduler import Scheduler
from asyncclients.sandbox import Sandbox, hang


def scope(limiter: Limiter, max_in_flight: int | None = None) -> Scope:
    """A scope around *limiter* alone."""
    loop = asyncio.get_running_loop()
    scheduler = Scheduler(limiter, loop, max_in_flight=max_in_flight)
    return Scope(scheduler, ScopeEvents((), "intouch", "key"))


@pytest.mark.virtual_time
async def test_call_that_need_not_wait_has_no_reasons() -> None:
    """A call that need not wait has no reasons and zero seconds."""
    told = explain(scope(Limiter((Quota(2, 1.0),))), Priority.INTERACTIVE, 0.0)
    assert (told.seconds, told.ahead, told.reasons) == (0.0, 0, ())
    assert str(told) == "intouch: a call made now is sent at once"


@pytest.mark.virtual_time
async def test_full_quota_has_its_next_slot() -> None:
    """A full quota is reported with its slots by owner, and the time of the next slot."""
    limiter = Limiter((Quota(1, 10.0), Quota(100, 60.0)))
    permit = limiter.acquire(0.0)
    limiter.on_response(permit, 0.0, None)
    told = explain(scope(limiter), Priority.INTERACTIVE, 0.0)
    assert told.reasons == (
        "the quota of 1 per 10 s is used up (1 by this pool); a slot opens in 10 s",
    )
    assert told.seconds == pytest.approx(10, abs=0.2)


@pytest.mark.virtual_time
async def test_exact_admission_waits_for_a_response() -> None:
    """With `admission="exact"` the reason may be that a response is awaited."""
    limiter = Limiter((Quota(1, 10.0),), admission="exact")
    limiter.acquire(0.0)
    (reason,) = explain(scope(limiter), Priority.INTERACTIVE, 0.0).reasons
    assert reason.endswith("(1 by this pool); a slot opens when a response arrives")


@pytest.mark.virtual_time
async def test_pause_is_reported_with_its_length() -> None:
    """The pause after a 429 is reported with its length."""
    limiter = Limiter((Quota(100, 60.0),))
    permit = limiter.acquire(0.0)
    limiter.on_response(permit, 0.0, RateLimitInfo(is_rate_limited=True, retry_after=30.0))
    told = explain(scope(limiter), Priority.INTERACTIVE, 0.0)
    assert told.reasons[0] == "the vendor has rate-limited the scope: nothing is sent for 30 s"
    assert told.seconds >= 30
    assert "is sent in about" in str(told)


@pytest.mark.virtual_time
async def test_others_on_the_same_quota_are_named() -> None:
    """Slots and calls of other clients are reported separately from ours."""
    limiter = Limiter((Quota(10, 60.0),))
    permit = limiter.acquire(0.0)
    limiter.on_response(
        permit, 0.0, RateLimitInfo(is_rate_limited=False, limit=10, remaining=0, reset=60.0)
    )
    told = explain(scope(limiter), Priority.INTERACTIVE, 0.0)
    full, others = told.reasons
    assert full == (
        "the quota of 10 per 60 s is used up (1 by this pool, 9 by other clients); a slot opens in 60 s"
    )
    assert others.startswith("other clients use the same quota, ")


@pytest.mark.virtual_time
async def test_queue_is_counted_by_priority() -> None:
    """An interactive call waits behind interactive ones, a background call behind all."""
    async with Sandbox() as sandbox, SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        patient = intouch.with_options(priority=Priority.BACKGROUND)
        calls = [asyncio.create_task(intouch.tags.create(f"tag {n}")) for n in range(5)]
        calls += [asyncio.create_task(patient.tags.create(f"late {n}")) for n in range(2)]
        await asyncio.sleep(0.1)
        told, later = intouch.explain(), patient.explain()
        assert (told.ahead, later.ahead) == (3, 5)
        assert told.reasons[0] == "3 calls are queued before it (3 interactive)"
        assert later.reasons[0] == "5 calls are queued before it (3 interactive, 2 background)"
        assert told.seconds == intouch.eta(1)
        await asyncio.gather(*calls)


@pytest.mark.virtual_time
async def test_crowding_is_named_where_the_quota_has_room() -> None:
    """A full `max_in_flight` and a full `max_connections` are reported."""
    async with (
        Sandbox(quotas={"intouch": (100, 1.0)}) as sandbox,
        SessionPool(max_connections=2) as pool,
    ):
        url, key = sandbox.environ["INTOUCH_BASE_URL"], sandbox.environ["INTOUCH_API_KEY"]
        quotas = [Quota(100, 1.0)]
        intouch = IntouchClient(pool, api_key=key, base_url=url, quotas=quotas, max_in_flight=2)
        sandbox.fail("intouch", hang(), times=None)
        calls = [asyncio.create_task(intouch.tags.list().first()) for _ in range(2)]
        await asyncio.sleep(0.5)
        reasons = intouch.explain().reasons
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    assert reasons == (
        "2 requests are in flight, the maximum of max_in_flight",
        "the pool has 2 requests in flight, the maximum of max_connections",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5.69e-05, "at once"),
        (0.25, "in 0.25 s"),
        (119.0, "in 119 s"),
        (130.0, "in 2 min"),
        (643 * 60.0, "in 10 h 43 min"),
        (2 * 86400.0, "in 2 d"),
        (math.inf, "when a response arrives"),
    ],
)
def test_wait_is_stated_in_units_that_fit(seconds: float, text: str) -> None:
    """Microseconds are no wait; hours and days are not counted in minutes."""
    assert when(seconds) == text
