"""Processes that share quotas of operations, shares, costs and calendar quotas, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from asyncclients.core.events import ScopeEvents
from asyncclients.core.explain import explain
from asyncclients.core.scope import Scope
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Quota, Share
from asyncclients.sandbox.limits import SlidingLog
from tests.support.shared_quota import EPOCH, Process, SharedQuotaSimulation, most_in

pytestmark = pytest.mark.virtual_time

TWENTY = Quota(20, 1.0)
NIGHT = Share("night", 0.5)
CHANGE_TO_SUMMER = 1_711_846_800.0
"""The instant at which 2:00 became 3:00 in Berlin, on 31 March 2024, in seconds since 1970."""


def world_of(*quotas: Quota) -> SharedQuotaSimulation:
    """Return a vendor that accepts everything: the tests count what arrives."""
    return SharedQuotaSimulation(SlidingLog(10**6, 1.0), *quotas, admission="exact")


def most_units(world: SharedQuotaSimulation, quota: Quota, share: Share | None = None) -> int:
    """Return the most units in any period of *quota*, of the calls that it applies to."""
    return most_in(
        quota.period,
        [
            at
            for at, demand in zip(world.arrivals, world.demands, strict=True)
            for _ in range(demand.cost)
            if quota.applies_to(demand.operation) and share in (None, demand.share)
        ],
    )


def units(world: SharedQuotaSimulation, demand: Demand, since: float) -> int:
    """Return the units of the calls of *demand* that arrived after *since*."""
    pairs = zip(world.arrivals, world.demands, strict=True)
    return sum(each.cost for at, each in pairs if each == demand and at > since)


async def test_share_holds_for_all_processes_together() -> None:
    """Two processes with half the quota get that half together, and use it; others get the rest."""
    world, nightly = world_of(TWENTY), Demand(share=NIGHT)
    for _ in range(2):
        world.start().work(8, demand=nightly)
    await asyncio.sleep(10.0)
    assert most_units(world, Quota(10, 1.0), NIGHT) <= 10
    assert units(world, nightly, 2.0) > 0.85 * 8 * 10
    since = asyncio.get_running_loop().time()
    world.start().work(8, Priority.INTERACTIVE)
    await asyncio.sleep(10.0)
    await world.stop()
    assert most_units(world, TWENTY) <= 20
    assert most_units(world, Quota(10, 1.0), NIGHT) <= 10
    assert units(world, ONE, since) > 0.85 * 9 * 10


async def test_quota_of_operations_holds_only_its_own_calls() -> None:
    """Two processes: calls of the operation keep its quota, all others use the rest at once."""
    events = Quota(4, 1.0, operations=("events.*",))
    world, listed = world_of(TWENTY, events), Demand(operation="events.list")
    for _ in range(2):
        process = world.start()
        process.work(6, demand=listed)
        process.work(6)
    await asyncio.sleep(12.0)
    await world.stop()
    assert most_units(world, events) <= 4
    assert most_units(world, TWENTY) <= 20
    assert units(world, listed, 2.0) > 0.8 * 10 * 4
    assert units(world, listed, 2.0) + units(world, ONE, 2.0) > 0.85 * 10 * 20


@pytest.mark.parametrize(("cost", "use"), [(5, 0.75), (15, 0.65)])
async def test_expensive_call_is_not_starved_by_cheap_ones(cost: int, use: float) -> None:
    """One process sends expensive calls, two send cheap ones: each kind gets a good part.

    Slots stay free while a call waits for many of them, so not all of the quota can be used.
    """
    world, export = world_of(TWENTY), Demand(cost=cost)
    world.start().work(2, demand=export)
    for _ in range(2):
        world.start().work(6)
    await asyncio.sleep(22.0)
    await world.stop()
    assert most_units(world, TWENTY) <= 20
    exported, cheap = units(world, export, 2.0), units(world, ONE, 2.0)
    assert min(exported, cheap) > 0.2 * 20 * 20
    assert exported + cheap > use * 20 * 20


async def test_kinds_of_both_classes_ask_the_store_when_it_said() -> None:
    """Interactive and background calls of two kinds: each gets its turn, without polling."""
    world, nightly = world_of(TWENTY), Demand(share=NIGHT)
    process = world.start()
    process.work(4, Priority.INTERACTIVE, Demand(cost=4))
    process.work(4, Priority.BACKGROUND, nightly)
    await asyncio.sleep(20.0)
    await world.stop()
    assert most_units(world, TWENTY) <= 20
    assert units(world, nightly, 2.0) > 0
    assert units(world, Demand(cost=4), 2.0) > 0.7 * 18 * 20
    assert world.store.commands < 6 * len(world.arrivals)


async def test_calendar_quota_is_kept_across_restarts_and_used_up() -> None:
    """Processes that are killed and started again keep the day's quota, and leave nothing of it."""
    daily = Quota.calendar(50, "day", "Europe/Berlin")
    world = world_of(TWENTY, daily)
    start, end = daily.window(EPOCH / 1e6)
    world.wall_ahead = end - EPOCH / 1e6 - 20.0  # 20 s before midnight
    for _ in range(4):
        process = world.start()
        process.work(3)
        await asyncio.sleep(1.0)
        await process.kill()
    world.start().work(8)
    await asyncio.sleep(30.0)
    await world.stop()
    days = Counter(daily.window(at + EPOCH / 1e6 + world.wall_ahead)[0] for at in world.arrivals)
    assert days[start] <= 50
    assert days[start] >= 45
    assert 45 <= days[end] <= 50


KINDS = (
    ONE,
    Demand(cost=4),
    Demand(operation="events.list"),
    Demand(3, "events.add", NIGHT),
    Demand(share=NIGHT),
)


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(4, 60))]
)
async def test_no_quota_of_any_kind_is_exceeded(seed: int) -> None:
    """Processes of all kinds of calls join, stop and die, and the store fails: all quotas hold.

    The hour ends meanwhile, at the change to summer time or elsewhere, and the vendor's clock
    and the processes' differ by up to 0.9 s.
    """
    random, loop = Random(seed), asyncio.get_running_loop()
    hourly = Quota.calendar(random.choice([40, 400]), "hour", "Europe/Berlin")
    events = Quota(6, 1.0, operations=("events.*",))
    daily = Quota.calendar(60, "day", "Europe/Berlin", operations=("events.*",))
    quotas = (Quota(20, 1.0), Quota(30, 2.0), events, hourly, daily)
    world = world_of(*quotas)
    change = random.choice([CHANGE_TO_SUMMER, CHANGE_TO_SUMMER - 7200, CHANGE_TO_SUMMER + 79_200])
    world.wall_ahead = change - 15.0 - EPOCH / 1e6 - loop.time()
    vendor_ahead = world.wall_ahead + random.uniform(-0.9, 0.9)
    lasting, running = world.start(), list[Process]()
    for demand in KINDS:
        lasting.work(1, random.choice([*Priority]), demand)
    await asyncio.sleep(1.0)
    for _ in range(30):
        match random.choice(["start", "start", "stop", "kill", "down", "deaf", "wait", "wait"]):
            case "start" if len(running) < 4:
                running.append(world.start())
                for demand in random.sample(KINDS, random.randint(1, 4)):
                    running[-1].work(2, random.choice([*Priority]), demand)
            case "stop" if running:
                await running.pop(0).stop()
            case "kill" if running:
                await running.pop().kill()
            case "down":
                world.store.down = True
                await asyncio.sleep(random.uniform(0.1, 6.0))
                world.store.down = False
            case "deaf":
                world.store.deaf = 2
            case _:
                pass
        await asyncio.sleep(random.uniform(0.1, 2.0))
    await world.stop()
    assert len(world.arrivals) > 15
    for quota in quotas:
        if not quota.unit:
            assert most_units(world, quota) <= quota.limit
            assert most_units(world, NIGHT.of(quota), NIGHT) <= NIGHT.of(quota).limit
            continue
        used = Counter[float]()
        for at, demand in zip(world.arrivals, world.demands, strict=True):
            if quota.applies_to(demand.operation):
                used[quota.window(EPOCH / 1e6 + at + vendor_ahead)[0]] += demand.cost
        assert max(used.values(), default=0) <= quota.limit


def reasons_of(process: Process) -> tuple[str, ...]:
    """Return why a call of *process* would wait."""
    scope = Scope(process.scheduler, ScopeEvents((), "intouch", "key"))
    now = asyncio.get_running_loop().time()
    return explain(scope, Priority.INTERACTIVE, now).reasons


async def test_explain_blames_only_the_quota_that_is_used_up() -> None:
    """Others have used the daily cap: it is named with the time until midnight, and no other."""
    world = world_of(Quota(2, 1.0), Quota.calendar(4, "day"))
    first, second = world.start(), world.start()
    for _ in range(4):
        await first.call()
    waiting = asyncio.create_task(second.call())
    await asyncio.sleep(10.0)
    said = [each for each in reasons_of(second) if "queued before it" not in each]
    assert len(said) == 1
    assert said[0].startswith(
        "all processes together have used the quota of 4 per day (UTC) (0 by this pool); "
        "a slot opens in "
    )
    now = asyncio.get_running_loop().time()
    assert second.scheduler.waiting_for(now) == {"quota 4 per day (UTC)": 1}
    waiting.cancel()
    await world.stop()


async def test_explain_names_the_outage_and_the_limit_in_it() -> None:
    """While the store is unreachable, the limit of the fallback is named, and no quota."""
    world = world_of(Quota(2, 10.0), Quota.calendar(100, "day"))
    process = world.start()
    await process.call()
    world.store.down = True
    calls = [asyncio.create_task(process.call()) for _ in range(5)]
    await asyncio.sleep(5.0)
    said = [each for each in reasons_of(process) if "limit store is unreachable" in each]
    assert len(said) == 1
    for call in calls:
        call.cancel()
    world.store.down = False
    await world.stop()
