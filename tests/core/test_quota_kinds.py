"""Costs, quotas of operations, shares and calendar quotas, at a strict server over sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from asyncclients import IntouchClient, Priority, Quota, SessionPool
from asyncclients.core.endpoint import Endpoint
from asyncclients.errors import ConfigurationError, DeadlineExceededError
from asyncclients.ratelimit.timer import wall_clock
from asyncclients.sandbox import Sandbox, SandboxRequest
from asyncclients.sandbox.limits import Rules, ServerLimit, SlidingLog
from asyncclients.vendors.intouch.vendor import INTOUCH
from tests.support.calendar_window import CalendarWindow

pytestmark = pytest.mark.virtual_time
BACKGROUND = Priority.BACKGROUND


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def intouch(
    limit: Callable[[], ServerLimit], *quotas: Quota
) -> AsyncGenerator[tuple[IntouchClient, Sandbox]]:
    """A client with *quotas* in exact mode, and a server that counts by *limit*."""
    async with (
        Sandbox(quotas={"intouch": limit}, latency=(0.02, 0.03)) as sandbox,
        SessionPool(admission="exact", max_connections=30) as pool,
    ):
        yield IntouchClient.from_env(pool, sandbox.environ, quotas=quotas), sandbox


async def make(calls: int, call: Callable[[], Any]) -> None:
    await asyncio.gather(*(call() for _ in range(calls)))


def arrivals(sandbox: Sandbox, text: str = "") -> list[SandboxRequest]:
    return [each for each in sandbox.requests("intouch") if text in f"{each.method} {each.path}"]


async def test_cost_of_a_request_is_spent_at_the_server() -> None:
    """Exports that cost five and ordinary calls use the quota fully, and none is rejected."""

    def strict() -> ServerLimit:
        return Rules(("", SlidingLog(20, 10.0)), costs={"/hierarchies": 5})

    async with intouch(strict, Quota(20, 10.0)) as (client, sandbox):
        began = now()
        await asyncio.gather(
            make(40, lambda: client.request("GET", "hierarchies", cost=5)),
            make(100, lambda: client.request("GET", "tags")),
        )
        assert sandbox.rejected("intouch") == 0
        assert now() - began == pytest.approx(300 / 2, rel=0.1)


async def test_cost_of_an_endpoint_applies_to_its_method() -> None:
    """An endpoint with a cost spends it in each call of a vendor of one's own."""
    costly: Endpoint[dict[str, Any]] = Endpoint(
        "tags.export", "GET", "tags", dict[str, Any], idempotent=True, cost=4
    )
    async with intouch(
        lambda: Rules(("", SlidingLog(8, 10.0)), costs={"/tags": 4}), Quota(8, 10.0)
    ) as (client, sandbox):
        send = client._config.send  # pyright: ignore[reportPrivateUsage]
        await make(6, lambda: send(costly.request()))
        assert sandbox.rejected("intouch") == 0
        assert client.stats().held >= 4


async def test_cost_above_the_quota_is_refused_before_anything_waits() -> None:
    """The error names operation, cost and quota; nothing is sent."""
    async with intouch(lambda: SlidingLog(10, 1.0), Quota(10, 1.0)) as (client, sandbox):
        with pytest.raises(ConfigurationError, match=r"costs 11.*10 per 1 s") as error:
            await client.request("GET", "tags", cost=11)
        assert str(error.value).startswith("intouch.request (GET /tags): the call costs 11, but ")
        with pytest.raises(ConfigurationError, match=r"its share of the quota, 2 per 1 s, never"):
            await client.with_options(share=0.2).request("GET", "tags", cost=3)
        with pytest.raises(ConfigurationError, match="cost must be a whole number"):
            await client.request("GET", "tags", cost=0)
        assert not arrivals(sandbox)
        with pytest.raises(ConfigurationError, match="cost must be a whole number"):
            Endpoint("tags.get", "GET", "tags", object, idempotent=True, cost=0)


async def test_quota_of_operations_limits_matching_calls_only() -> None:
    """Tags have 5 per 10 s, hierarchies the rest of 100 per 10 s; none is rejected, none waits."""

    def strict() -> ServerLimit:
        return Rules(("", SlidingLog(100, 10.0)), ("/tags", SlidingLog(5, 10.0)))

    quotas = Quota(100, 10.0), Quota(5, 10.0, operations=("tags.*",))
    async with intouch(strict, *quotas) as (client, sandbox):
        began = now()
        tags = asyncio.create_task(make(30, client.tags.list().first))
        await asyncio.sleep(1.0)
        asked = now()
        await make(50, client.hierarchies.list().first)
        assert now() - asked < 10.0
        waiting = client.stats().waiting_for["quota tags.* 5 per 10 s"]
        assert 20 <= waiting <= 30
        told = client.explain("tags.list")
        assert any("waits for quota tags.* 5 per 10 s" in reason for reason in told.reasons)
        assert "tags" not in str(client.explain("contacts.list"))
        await tags
        assert now() - began == pytest.approx(58.0, rel=0.1)
        assert sandbox.rejected("intouch") == 0
        assert len(arrivals(sandbox, "/tags")) == 30


async def test_share_is_kept_though_nobody_else_uses_the_key() -> None:
    """A client with a share of 0.6 makes at most 60 calls in any minute, and nearly that many."""
    async with intouch(lambda: SlidingLog(60, 60.0), Quota(100, 60.0)) as (client, sandbox):
        nightly = client.with_options(priority=BACKGROUND, share=0.6, flow="nightly")
        began = now()
        await make(300, nightly.tags.list().first)
        assert sandbox.rejected("intouch") == 0
        assert now() - began == pytest.approx(300, rel=0.03)


async def test_share_leaves_the_rest_free_at_once() -> None:
    """Beside a backfill with a share of 0.6, the page of a web app waits for no slot."""
    async with intouch(lambda: SlidingLog(100, 60.0), Quota(100, 60.0)) as (client, sandbox):
        nightly = client.with_options(priority=BACKGROUND, share=0.6)
        backfill = asyncio.create_task(make(200, nightly.tags.list().first))
        await asyncio.sleep(120.0)
        assert client.stats().waiting_for == {"share 0.6 (60 per 60 s)": pytest.approx(80, abs=5)}
        told = nightly.explain()
        assert any("waits for its share 0.6 (60 per 60 s)" in reason for reason in told.reasons)
        assert nightly.eta(60) > 60
        asked = now()
        await make(3, client.hierarchies.list().first)
        assert now() - asked < 1.0
        await make(30, client.hierarchies.list().first)
        assert now() - asked < 45.0
        await backfill
        assert sandbox.rejected("intouch") == 0


async def test_share_of_nobody_is_available_at_once() -> None:
    """While the client with the share is idle, the others have the whole quota."""
    async with intouch(lambda: SlidingLog(100, 60.0), Quota(100, 60.0)) as (client, sandbox):
        await client.with_options(share=0.6).tags.list().first()
        began = now()
        await make(300, client.tags.list().first)
        assert now() - began < 183.0
        assert sandbox.rejected("intouch") == 0


async def test_clients_with_one_share_have_it_together() -> None:
    """Two clients with the same flow and share take no more than one of them."""
    async with intouch(lambda: SlidingLog(50, 60.0), Quota(100, 60.0)) as (client, sandbox):
        halves = [client.with_options(share=0.5, flow="nightly") for _ in range(2)]
        began = now()
        await asyncio.gather(*(make(75, half.tags.list().first) for half in halves))
        assert now() - began >= 120.0
        assert sandbox.rejected("intouch") == 0


@pytest.mark.parametrize(
    ("unit", "zone", "calls", "windows"),
    [("hour", "Asia/Kathmandu", 130, 2), ("day", "UTC", 90, 1)],
)
async def test_calendar_quota_resets_at_the_boundary(
    unit: Any, zone: str, calls: int, windows: int
) -> None:
    """A cap of an hour or a day is used up at once, and again a second after the boundary."""
    loop = asyncio.get_running_loop()
    wall = wall_clock(loop)

    def strict() -> ServerLimit:
        return CalendarWindow(50, unit, zone, lambda at: datetime.fromtimestamp(wall(at), UTC))

    quota = Quota.calendar(50, unit, timezone=zone)
    if quota.window(wall(now()))[1] - wall(now()) < 30.0:  # too near: take one of another hour
        zone = "Asia/Kathmandu" if zone == "UTC" else "UTC"
        quota = Quota.calendar(50, unit, timezone=zone)
    async with intouch(strict, quota) as (client, sandbox):
        boundaries = [quota.window(wall(now()), skip)[1] for skip in range(windows)]
        await make(calls, client.tags.list().first)
        assert sandbox.rejected("intouch") == 0
        at = sorted(wall(each.at) for each in arrivals(sandbox))
        assert at[49] < boundaries[0] - 5.0
        opened = [at[50 * (number + 1)] - boundary for number, boundary in enumerate(boundaries)]
        assert all(0.9 < seconds < 1.5 for seconds in opened)


async def test_deadline_before_midnight_fails_at_once() -> None:
    """A call that would wait for the next day raises at once, with the time until then."""
    wall = wall_clock(asyncio.get_running_loop())
    quota = Quota.calendar(5, "day")
    async with intouch(lambda: SlidingLog(100, 60.0), quota) as (client, sandbox):
        await make(5, client.tags.list().first)
        left = quota.window(wall(now()))[1] - wall(now())
        with pytest.raises(DeadlineExceededError) as error:
            await client.with_options(deadline=min(5.0, left / 2)).tags.list().first()
        assert error.value.eta == pytest.approx(left + 1.0, abs=1.0)
        assert len(arrivals(sandbox)) == 5


async def test_calls_that_wait_for_a_calendar_quota_are_shown() -> None:
    """The calls that wait for midnight are counted under the quota, and none once they are gone."""
    async with intouch(lambda: SlidingLog(100, 60.0), Quota.calendar(5, "day")) as (client, _):
        await make(5, client.tags.list().first)
        calls = [asyncio.create_task(client.tags.list().first()) for _ in range(3)]
        await asyncio.sleep(1.0)
        assert client.stats().waiting_for == {"quota 5 per day (UTC)": 3}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert client.stats().waiting_for == {}


async def test_all_kinds_of_quotas_hold_together() -> None:
    """Costs, operations, a calendar cap and shares at once: no call is rejected, none is lost."""
    wall = wall_clock(asyncio.get_running_loop())

    def strict() -> ServerLimit:
        return Rules(
            ("", SlidingLog(20, 10.0)),
            ("/tags", SlidingLog(6, 10.0)),
            (
                "",
                CalendarWindow(
                    200, "hour", "UTC", lambda at: datetime.fromtimestamp(wall(at), UTC)
                ),
            ),
            costs={"/hierarchies": 3},
        )

    quotas = (
        Quota(20, 10.0),
        Quota(6, 10.0, operations=("tags.*",)),
        Quota.calendar(200, "hour"),
    )
    async with intouch(strict, *quotas) as (client, sandbox):
        nightly = client.with_options(priority=BACKGROUND, share=0.5)
        await asyncio.gather(
            make(60, nightly.tags.list().first),
            make(30, lambda: client.request("GET", "hierarchies", cost=3)),
            make(80, client.contacts.list().first),
        )
        assert sandbox.rejected("intouch") == 0
        assert len(arrivals(sandbox)) == 170
        assert client.stats().queued == {"interactive": 0, "background": 0}


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), True, "0.6"])
async def test_share_out_of_range_is_refused(share: Any) -> None:
    """A share must be above 0 and at most 1."""
    async with intouch(lambda: SlidingLog(10, 1.0), *INTOUCH.quotas) as (client, _):
        with pytest.raises(ConfigurationError, match="share must be a number above 0"):
            client.with_options(share=share)
