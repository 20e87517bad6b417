"""The limits over HTTP, and injected faults."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from asyncclients.sandbox import Sandbox, cut, delay, drop, html, redirect, status

from .conftest import basic

if TYPE_CHECKING:
    from .conftest import Open


async def answers(session: aiohttp.ClientSession, path: str, count: int) -> list[int]:
    """The statuses of *count* GETs sent at once."""

    async def one() -> int:
        async with session.get(path) as response:
            await response.read()
            return response.status

    return sorted(await asyncio.gather(*(one() for _ in range(count))))


@pytest.mark.virtual_time
async def test_intouch_accepts_two_in_any_second(connect: Open) -> None:
    """The third is a 429 without Retry-After; one second later two more are accepted."""
    session = await connect("intouch")
    assert await answers(session, "tags", 2) == [200, 200]
    await asyncio.sleep(0.9)
    async with session.get("tags") as response:
        assert response.status == 429
        assert await response.json() == {"message": "Too Many Requests"}
        assert "Retry-After" not in response.headers
    await asyncio.sleep(0.11)
    assert await answers(session, "tags", 3) == [200, 200, 429]


@pytest.mark.virtual_time
async def test_totango_counts_by_clock_minute(connect: Open) -> None:
    """100 per minute; each response has limit, remaining calls and seconds to the reset."""
    session = await connect("totango")
    await asyncio.sleep(60 - asyncio.get_running_loop().time() % 60 + 50)
    async with session.get("api/v3/activity-types/") as response:
        told = {name: response.headers[f"RateLimit-{name}"] for name in ("Limit", "Remaining")}
        assert told == {"Limit": "100", "Remaining": "99"}
        assert response.headers["RateLimit-Reset"] == "10"
    assert await answers(session, "api/v3/activity-types/", 99) == [200] * 99
    async with session.get("api/v3/activity-types/") as response:
        assert (response.status, await response.text()) == (429, "Too many requests")
        assert response.headers["RateLimit-Remaining"] == "0"
        assert response.content_type == "application/json"
    await asyncio.sleep(10)
    assert await answers(session, "api/v3/activity-types/", 1) == [200]


@pytest.mark.virtual_time
async def test_intempt_refills_a_bucket_of_ten(connect: Open) -> None:
    """Ten at once, then one each tenth of a second; the 429 has the wait."""
    session = await connect("intempt")
    assert await answers(session, "", 11) == [200] * 10 + [429]
    async with session.get("") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
    await asyncio.sleep(0.2)
    assert await answers(session, "", 3) == [200, 200, 429]


@pytest.mark.virtual_time
async def test_emma_returns_403_beyond_180_a_minute(sandbox: Sandbox, connect: Open) -> None:
    """The 181st within a minute is a 403 with the text Rate Limit Exceeded."""
    session = await connect("emma")
    path = f"{sandbox.environ['EMMA_ACCOUNT_ID']}/touchpoints"
    assert await answers(session, path, 180) == [200] * 180
    await asyncio.sleep(59.9)
    async with session.get(path) as response:
        assert response.status == 403
        assert "Rate Limit Exceeded" in await response.text()
    await asyncio.sleep(0.2)
    assert await answers(session, path, 1) == [200]
    assert sandbox.rejected("emma") == 1


@pytest.mark.virtual_time
async def test_digital_onboarding_counts_by_client(sandbox: Sandbox, connect: Open) -> None:
    """Ten at once for all tokens of a client together; token requests are not counted."""
    first, second = [await connect("digital_onboarding") for _ in range(2)]
    assert await answers(first, "v1/templates", 6) == [200] * 6
    assert await answers(second, "v1/templates", 6) == [200] * 4 + [429] * 2
    assert sandbox.state("digital_onboarding").token_requests == 2


async def test_status_fault_replaces_the_work(sandbox: Sandbox, connect: Open) -> None:
    """An injected 503 replaces the vendor's work; the next call is served."""
    session = await connect("intouch")
    sandbox.fail("intouch", status(503, "busy", {"Retry-After": "7"}))
    async with session.post("tags", json={"name": "x"}) as response:
        assert (response.status, await response.text()) == (503, "busy")
        assert response.headers["Retry-After"] == "7"
    assert not sandbox.state("intouch").tags
    async with session.post("tags", json={"name": "x"}) as response:
        assert response.status == 201


@pytest.mark.parametrize("committed", [False, True])
async def test_drop_fault_hides_whether_the_work_was_done(
    sandbox: Sandbox, connect: Open, *, committed: bool
) -> None:
    """The client sees the same broken connection, with the work done or not, as selected."""
    session = await connect("intouch")
    sandbox.fail("intouch", drop(committed=committed))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await session.post("tags", json={"name": "x"})
    assert len(sandbox.state("intouch").tags) == committed
    assert sandbox.requests("intouch")[-1].status is None


async def test_cut_fault_sends_half_a_body(sandbox: Sandbox, connect: Open) -> None:
    """Status, length and half of the body arrive; the work was done."""
    session = await connect("intouch")
    sandbox.fail("intouch", cut())
    async with session.post("tags", json={"name": "x"}) as response:
        assert response.status == 201
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert len(sandbox.state("intouch").tags) == 1


@pytest.mark.virtual_time
async def test_cut_fault_survives_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves before the cut causes no error in the server."""
    async with Sandbox(latency=(1.0, 0.0)) as sandbox:
        sandbox.fail("emma", cut())
        login = basic(sandbox.environ["EMMA_PUBLIC_KEY"], sandbox.environ["EMMA_PRIVATE_KEY"])
        url = f"{sandbox.url('emma')}{sandbox.environ['EMMA_ACCOUNT_ID']}/touchpoints"
        async with aiohttp.ClientSession(headers=login) as session:
            with pytest.raises(TimeoutError):
                await session.get(url, timeout=aiohttp.ClientTimeout(total=0.5))
            await asyncio.sleep(5)
        assert len(sandbox.requests("emma")) == 1
    assert caplog.text == ""


@pytest.mark.virtual_time
async def test_delay_fault_does_the_work(sandbox: Sandbox, connect: Open) -> None:
    """A client that times out finds its work done."""
    session = await connect("intouch")
    sandbox.fail("intouch", delay(30))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await session.post("tags", json={"name": "x"})
    assert len(sandbox.state("intouch").tags) == 1


async def test_html_fault_returns_200(sandbox: Sandbox, connect: Open) -> None:
    """A captive portal: 200, text/html, and no JSON."""
    session = await connect("intouch")
    sandbox.fail("intouch", html())
    async with session.get("tags") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert (await response.read()).startswith(b"<!DOCTYPE html>")


async def test_redirect_fault_has_the_given_location(sandbox: Sandbox, connect: Open) -> None:
    """Status and Location are the injected ones."""
    session = await connect("intouch")
    sandbox.fail("intouch", redirect("https://elsewhere.example/", 307))
    async with session.get("tags", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (
            307,
            "https://elsewhere.example/",
        )


async def test_faults_match_calls(sandbox: Sandbox, connect: Open) -> None:
    """A match is a text in method and path, or a function; `times` counts; `heal` ends."""
    session = await connect("totango")
    sandbox.fail("totango", status(500), times=2, match="GET /api/v3")
    sandbox.fail("totango", status(502), times=None, match=lambda call: "account_id" in call.query)
    paths = ["api/v3/touchpoint-tags/"] * 3 + ["api/v2/events/?account_id=1"] * 2
    found = [(await answers(session, path, 1))[0] for path in paths]
    assert found == [500, 500, 200, 502, 502]
    sandbox.heal("totango")
    assert await answers(session, "api/v2/events/?account_id=1", 1) == [200]


async def test_fault_waits_for_an_accepted_call(sandbox: Sandbox, connect: Open) -> None:
    """A call beyond the limit is a 429 and leaves the fault for the next call."""
    session, stranger = await connect("intouch"), await connect("intouch", {"x-api-key": "no"})
    assert await answers(session, "tags", 2) == [200, 200]
    sandbox.fail("intouch", status(500))
    assert await answers(session, "tags", 1) == [429]
    assert await answers(stranger, "tags", 1) == [403]
    other = {"x-api-key": sandbox.issue("intouch")["INTOUCH_API_KEY"]}
    assert await answers(await connect("intouch", other), "tags", 1) == [500]


def test_fault_rejects_times_below_one() -> None:
    """The error is raised where the fault is injected."""
    with pytest.raises(ValueError, match="times is 0"):
        Sandbox().fail("intouch", drop(), 0)
