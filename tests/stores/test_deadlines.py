"""Calls with a deadline in a process that learns from its store that they must wait."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from asyncclients import DeadlineExceededError, IntouchClient, Quota, SessionPool
from asyncclients.core.events import ScopeEvents
from asyncclients.core.explain import explain
from asyncclients.core.scope import Scope
from asyncclients.ratelimit.control import Control
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.quota import Demand, Priority
from asyncclients.ratelimit.scheduler import PermitRequest
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores import FileLimits, LimitsControl
from tests.support.shared_quota import Process, SharedQuotaSimulation, now, pause_of

FAST = Quota(20, 1.0)
DAILY = Quota.calendar(10, "day")
TAGS = Quota(1, 100.0, operations=("tags.*",))
INTERACTIVE, BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND


def world_of(*quotas: Quota) -> SharedQuotaSimulation:
    """Return processes that share *quotas*; the vendor itself permits more."""
    return SharedQuotaSimulation(SlidingLog(1000, 1.0), *quotas)


async def permit(
    process: Process,
    deadline: float,
    demand: Demand | None = None,
    priority: Priority = INTERACTIVE,
) -> None:
    """Let *process* send a call that has *deadline* seconds, without a response."""
    scheduler = process.scheduler
    request = PermitRequest(priority, deadline_at=now() + deadline)
    if demand is not None:
        request = request.of(demand.cost, demand.operation, scheduler.limiter)
    granted = scheduler.try_acquire(request) or await scheduler.acquire(request)
    scheduler.on_response(granted, None)
    scheduler.on_done()


async def world_with_used_up_day() -> tuple[SharedQuotaSimulation, Process]:
    """Return processes of which one has used up the daily quota, and another of them."""
    world = world_of(FAST, DAILY)
    first, second = world.start(), world.start()
    for _ in range(10):
        await permit(first, 10.0)
    await asyncio.sleep(1)
    return world, second


async def refusal(
    process: Process, deadline: float, demand: Demand | None = None
) -> DeadlineExceededError:
    """Return the error of a call that must fail within 0.1 s."""
    before = now()
    with pytest.raises(DeadlineExceededError) as caught:
        await permit(process, deadline, demand)
    assert now() - before < 0.1
    return caught.value


@pytest.mark.virtual_time
async def test_first_call_is_refused_in_a_pause_of_an_operator() -> None:
    """The first call and later ones fail at once, with the operator and a command."""
    world = world_of(FAST)
    world.store.control = pause_of(20)
    process = world.start()
    for _ in range(2):
        error = await refusal(process, 2.0)
        assert "2.0 s are left: paused by ann since 2023-11-14 22:13:20 UTC" in error.message
        assert error.eta == pytest.approx(20, abs=0.1)
        assert error.advice == "`asyncclients limits resume` ends the pause"
    assert process.scheduler.queued() == {"interactive": 0, "background": 0}
    await permit(process, 21.0)
    assert now() == pytest.approx(20, abs=0.5)
    await world.stop()


@pytest.mark.virtual_time
async def test_waiting_calls_are_refused_when_an_operator_pauses() -> None:
    """Of the calls that wait when a pause is set, those that cannot meet their deadline fail."""
    world = world_of(Quota(1, 10.0))
    process = world.start()
    await permit(process, 1.0)
    calls = [asyncio.create_task(permit(process, deadline)) for deadline in (15.0, 300.0)]
    await asyncio.sleep(1)
    world.store.control = pause_of(60)
    await asyncio.sleep(2)
    assert isinstance(calls[0].exception(), DeadlineExceededError)
    assert not calls[1].done()
    await calls[1]
    assert now() == pytest.approx(61, abs=1)
    await world.stop()


@pytest.mark.virtual_time
async def test_second_pause_of_an_operator_refuses_a_waiting_call() -> None:
    """The first pause, which was to last longer, ended early; the next one counts from its begin."""
    world = world_of(Quota(1, 10.0))
    process = world.start()
    await permit(process, 1.0)
    for seconds in (60, 40):
        world.store.control = pause_of(seconds)
        with pytest.raises(DeadlineExceededError):
            await asyncio.wait_for(permit(process, 15.0), 2)
        world.store.control = Control()
        await asyncio.sleep(10)
        await permit(process, math.inf)
        await asyncio.sleep(0.3)
    await world.stop()


@pytest.mark.virtual_time
async def test_first_call_is_refused_if_other_processes_have_used_a_daily_quota() -> None:
    """The error names the quota and when it opens, which is also the advice."""
    world, second = await world_with_used_up_day()
    for _ in range(2):
        error = await refusal(second, 6.0)
        assert "the quota 10 per day (UTC) is used up until 2023-11-15 00:00:0" in error.message
        assert error.advice is not None
        assert error.advice.startswith("Send it after 2023-11-15 00:00:0")
        assert error.eta == pytest.approx(6400, abs=5)
    await world.stop()


@pytest.mark.virtual_time
async def test_costlier_calls_are_refused_with_the_first() -> None:
    """A quota of all calls that is used up rejects interactive and background calls of any cost."""
    world, second = await world_with_used_up_day()
    before = now()
    demands = (Demand(1), Demand(2), Demand(3))
    calls = [
        permit(second, 6.0, demand, priority)
        for demand in demands
        for priority in (INTERACTIVE, BACKGROUND)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, DeadlineExceededError) for each in results)
    assert now() - before < 0.5
    assert process_is_empty(second)
    await world.stop()


@pytest.mark.virtual_time
async def test_costlier_call_is_refused_beside_calls_that_may_wait() -> None:
    """It fails with the response for cheaper calls, although these remain first in the queue."""
    world, second = await world_with_used_up_day()
    patient = asyncio.create_task(permit(second, 1e5))
    await asyncio.sleep(0)
    await refusal(second, 6.0, Demand(2))
    assert not patient.done()
    patient.cancel()
    await world.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("later", [0.0005, 1.0], ids=["before the response", "after it"])
async def test_interactive_call_is_not_refused_by_what_delays_background(later: float) -> None:
    """Background calls are spaced, and told to wait for minutes: an interactive call finds a slot."""
    world = world_of(Quota(1000, 3600.0))
    first, second = world.start(), world.start()
    for _ in range(300):
        await permit(first, 100.0)
    await asyncio.sleep(1)
    backlog = asyncio.create_task(permit(second, 1e5, None, BACKGROUND))
    await asyncio.sleep(later)
    await permit(second, 5.0)
    assert not backlog.done()
    backlog.cancel()
    await world.stop()


def process_is_empty(process: Process) -> bool:
    return not any(process.scheduler.queued().values())


@pytest.mark.virtual_time
async def test_first_call_is_refused_by_a_quota_of_its_operations() -> None:
    """A call of the operations whose quota is used up fails; others are sent."""
    world = world_of(FAST, TAGS)
    first, second = world.start(), world.start()
    await permit(first, 10.0, Demand(1, "tags.list"))
    await asyncio.sleep(1)
    error = await refusal(second, 6.0, Demand(1, "tags.list"))
    assert "the quota tags.* 1 per 100 s is used up until 2023-11-14 22:15:" in error.message
    await permit(second, 6.0, Demand(1, "contacts.list"))
    await permit(second, 120.0, Demand(1, "tags.list"))
    await world.stop()


@pytest.mark.virtual_time
async def test_first_call_is_refused_in_a_pause_that_another_process_reported() -> None:
    """The vendor rate-limits one process for 60 s: the first call of a new process fails."""
    world = world_of(FAST)
    first, second = world.start(), world.start()
    granted = await first.scheduler.acquire(PermitRequest())
    rejection = RateLimitInfo(is_rate_limited=True, retry_after=60.0)
    first.scheduler.on_response(granted, rejection)
    first.scheduler.on_done()
    await asyncio.sleep(1)
    error = await refusal(second, 6.0)
    assert "another process reports that the vendor has rate-limited calls" in error.message
    await permit(second, 90.0)
    await world.stop()


@pytest.mark.virtual_time
async def test_first_call_is_refused_while_the_store_counts_the_quota_as_used_up() -> None:
    """A store that has lost its data grants nothing for a period: a call with a shorter deadline fails."""
    world = world_of(Quota(20, 60.0))
    process = world.start()
    await permit(process, 6.0)
    await asyncio.sleep(1)
    world.store.logs.clear()
    error = await refusal(process, 6.0)
    assert "the limit store has lost data, or is new" in error.message
    await permit(process, 90.0)
    await world.stop()


@pytest.mark.virtual_time
async def test_rest_of_a_daily_quota_is_sent_and_further_calls_are_refused() -> None:
    """Ten calls at once with four units left: four are sent, six fail long before their deadline."""
    world = world_of(FAST, DAILY)
    first, second = world.start(), world.start()
    for _ in range(6):
        await permit(first, 10.0)
    await asyncio.sleep(1)
    before = now()
    calls = (permit(second, 30.0) for _ in range(10))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results.count(None) == 4
    assert sum(isinstance(each, DeadlineExceededError) for each in results) == 6
    assert now() - before < 2
    await world.stop()


@pytest.mark.virtual_time
async def test_calls_that_can_meet_their_deadline_are_not_refused() -> None:
    """Processes that compete for a quota send each call whose deadline leaves time for its turn."""
    world = world_of(Quota(4, 4.0))
    processes = [world.start() for _ in range(4)]
    calls = (permit(process, 30.0) for process in processes for _ in range(6))
    await asyncio.gather(*calls)
    assert now() < 30
    await world.stop()


@pytest.mark.virtual_time
async def test_explanation_names_a_store_that_has_not_responded() -> None:
    """Before the first response no call is predicted to be sent at once; afterwards it is."""
    world = world_of(FAST)
    process = world.start()
    scope = Scope(process.scheduler, ScopeEvents((), "intouch", "key"))
    told = explain(scope, INTERACTIVE, now())
    assert str(told).startswith("intouch: a call made now is sent soon: the limit store memory has")
    await permit(process, 2.0)
    await asyncio.sleep(1)
    assert str(explain(scope, INTERACTIVE, now())) == "intouch: a call made now is sent at once"
    await world.stop()


async def test_file_refuses_the_first_call_in_a_pause(tmp_path: Path) -> None:
    """A new pool with a file in which an operator has paused the scope rejects its first call."""
    store = FileLimits(tmp_path / "limits.db")
    async with Sandbox() as sandbox:
        async with SessionPool(limits=store) as pool:
            await IntouchClient.from_env(pool, sandbox.environ).tags.list().first()
        await LimitsControl(store, by="ann").pause("intouch", 600)
        async with SessionPool(limits=store) as pool, asyncio.timeout(10):
            client = IntouchClient.from_env(pool, sandbox.environ)
            assert "limits.db has not responded yet" in str(client.explain())
            with pytest.raises(DeadlineExceededError, match="paused by ann since"):
                await client.with_options(deadline=60.0).tags.list().first()
