"""Many processes and one quota in virtual time: use, rate limits, order, membership."""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random

import pytest
from msgspec.structs import replace

from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.quota import Priority, Quota
from asyncclients.ratelimit.scheduler import PermitRequest
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores.clock import SECOND
from asyncclients.stores.lease_book import Lease
from asyncclients.stores.limiter import SharedLimiter
from asyncclients.stores.session import StoreSession
from tests.support.shared_quota import (
    CONFIG,
    Latency,
    MemoryStore,
    SharedQuotaSimulation,
    call_each,
    fast,
    loopback,
    most_in,
)

pytestmark = pytest.mark.virtual_time

TWO = Quota(2, 1.0)
HUNDRED = Quota(100, 60.0)


def world_of(quota: Quota, latency: Latency = loopback) -> SharedQuotaSimulation:
    return SharedQuotaSimulation(SlidingLog(quota.limit, quota.period), quota, latency=latency)


async def use(
    quota: Quota, latency: Latency, *, processes: int, warm: float, shared: bool = True
) -> tuple[float, int]:
    """Return the share of the quota in use after a warm-up of *warm* s, and all rate limits."""
    world = world_of(quota, latency)
    for _ in range(processes):
        world.start(shared=shared).work(4)
    await asyncio.sleep(warm)
    since = asyncio.get_running_loop().time()
    await asyncio.sleep(warm)
    await world.stop()
    return world.admitted(since, since + warm) / (quota.rate * warm), len(world.refusals)


@pytest.mark.parametrize(
    ("quota", "latency", "warm"),
    [
        (TWO, loopback, 100.0),
        (TWO, fast, 250.0),  # each process has its own arrival bounds to learn, from its calls
        (HUNDRED, loopback, 120.0),
        pytest.param(HUNDRED, fast, 300.0, marks=pytest.mark.sweep),
    ],
)
async def test_four_processes_use_what_one_uses(
    quota: Quota, latency: Latency, warm: float
) -> None:
    """Four processes on one key: within 1 % of one process, and no more rate limits than one.

    One more where latency is wide: adaptive admission is wrong once in some thousand calls.
    """
    alone, refused_alone = await use(quota, latency, processes=1, warm=warm, shared=False)
    used, refused = await use(quota, latency, processes=4, warm=warm)
    assert used > 0.99 * alone
    assert refused <= refused_alone + (latency is fast)


@pytest.mark.parametrize("quota", [TWO, pytest.param(HUNDRED, marks=pytest.mark.sweep)])
async def test_processes_that_join_leave_and_die_lose_little(quota: Quota) -> None:
    """Processes join, leave and are killed every half minute: 1 % lost at most, no rate limits.

    A process that is killed while it holds a slot takes the slot with it: it may have used it.
    """
    world, random = world_of(quota), Random(1)
    for _ in range(3):
        world.start().work(4)
    await asyncio.sleep(quota.period)
    since = asyncio.get_running_loop().time()
    alive = list(world.processes)
    for _ in range(6):
        alive.append(world.start())
        alive[-1].work(4)
        await asyncio.sleep(quota.period * random.uniform(1, 3) + 12)
        await alive.pop(random.randrange(len(alive))).kill()
        await asyncio.sleep(quota.period * random.uniform(1, 3) + 12)
        world.start().work(4)
        alive.append(world.processes[-1])
        await alive.pop(0).stop()
    seconds = asyncio.get_running_loop().time() - since
    used = world.admitted(since, since + seconds) / (quota.rate * seconds)
    await world.stop()
    assert len(world.refusals) == 0
    assert used > 0.99


async def test_number_of_processes_may_change() -> None:
    """The number of processes changes from 2 to 20 to 3, the vendor's rate does not."""
    world = world_of(TWO)
    for _ in range(2):
        world.start().work(2)
    await asyncio.sleep(10)
    for _ in range(18):
        world.start().work(2)
    await asyncio.sleep(20)
    for process in world.processes[3:]:
        await process.stop()
    since = asyncio.get_running_loop().time()
    await asyncio.sleep(20)
    assert world.refusals == []
    assert world.admitted(since, since + 20) >= 39
    await world.stop()


async def test_processes_get_fair_shares() -> None:
    """Of equal processes with endless work, none gets less than half its share."""
    world = world_of(TWO)
    for _ in range(4):
        world.start().work(4)
    await asyncio.sleep(120)
    await world.stop()
    shares = [len(process.sent) for process in world.processes]
    assert min(shares) > 240 / 4 / 2


async def test_exact_admission_is_never_rate_limited() -> None:
    """`exact`, wide latency, three seeds, four processes: the window is never exceeded."""
    for seed in range(3):
        world = SharedQuotaSimulation(
            SlidingLog(2, 1.0), TWO, latency=fast, admission="exact", seed=seed
        )
        for _ in range(4):
            world.start().work(4)
        await asyncio.sleep(60)
        await world.stop()
        assert world.refusals == []
        assert most_in(1.0, world.arrivals) == 2


async def test_interactive_call_precedes_backfill_of_other_processes() -> None:
    """While three processes backfill, an interactive call in a fourth waits for one slot.

    Two slots open together in a pure backfill; from the first interactive call on they do not.
    """
    world = world_of(TWO)
    for _ in range(3):
        world.start().work(20)
    web = world.start()
    await asyncio.sleep(5)
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(30):
        await asyncio.sleep(1.3)
        before = loop.time()
        await web.call(Priority.INTERACTIVE)
        waits.append(loop.time() - before)
    await world.stop()
    assert waits[0] <= 1.0
    assert max(waits[1:]) <= 0.5 + 0.1 + 0.05  # a slot's interval, a lease, and 50 ms


async def test_background_gets_a_tenth_in_an_interactive_flood() -> None:
    """One process floods with interactive calls; the backfill of another gets a tenth."""
    world = world_of(TWO)
    world.start().work(20, Priority.INTERACTIVE)
    backfill = world.start()
    backfill.work(5, Priority.BACKGROUND)
    await asyncio.sleep(100)
    await world.stop()
    assert 15 <= len(backfill.sent) <= 26


async def test_rate_limit_pauses_all_processes() -> None:
    """One process is to wait 10 s; no process sends in that time, except calls in flight."""
    world = world_of(HUNDRED)
    first, second = world.start(), world.start()
    second.work(4)
    await asyncio.sleep(3)
    first.scheduler.on_rate_limited(10.0)
    first.scheduler.dispatch()
    paused_at = asyncio.get_running_loop().time()
    await asyncio.sleep(20)
    await world.stop()
    assert not [at for at in second.sent if paused_at + 0.2 < at < paused_at + 10.0]
    assert [at for at in second.sent if at > paused_at + 10.0]


async def test_unavailability_pauses_all_processes_without_feedback() -> None:
    """One process learns that the vendor is unavailable for 10 s: all pause, no rate changes."""
    world = world_of(HUNDRED)
    first, second = world.start(), world.start()
    second.work(4)
    await asyncio.sleep(3)
    permit = await first.scheduler.acquire(PermitRequest(Priority.INTERACTIVE))
    paused_at = asyncio.get_running_loop().time()
    first.scheduler.on_response(permit, RateLimitInfo(unavailable=True, retry_after=10.0))
    first.scheduler.on_done()
    await asyncio.sleep(20)
    await world.stop()
    assert not [at for at in second.sent if paused_at + 0.2 < at < paused_at + 10.0]
    assert [at for at in second.sent if at > paused_at + 10.0]
    assert first.scheduler.rejected == second.scheduler.rejected == 0
    assert second.scheduler.limiter.snapshot(paused_at).rate_factor == 1.0


async def test_unused_slots_are_released() -> None:
    """A cancelled waiter costs no slot: another process gets it at once."""
    world = world_of(Quota(2, 60.0))
    first, second = world.start(), world.start()
    permit = await first.scheduler.acquire(PermitRequest())
    first.scheduler.on_no_response(permit, was_sent=False)
    first.scheduler.on_done()
    await asyncio.sleep(1)
    assert await second.call()
    assert await second.call()
    assert asyncio.get_running_loop().time() < 3
    await world.stop()


def held(world: SharedQuotaSimulation) -> deque[Lease]:
    """Return the leases of a process that holds some; empty if none does."""
    for process in world.processes:
        limiter = process.scheduler.limiter
        assert isinstance(limiter, SharedLimiter)
        if limiter.slots.leases:
            return limiter.slots.leases
    return deque()


async def test_process_with_blocked_loop_costs_little() -> None:
    """The loop stalls until its slots lapse: new ones are requested, a tenth is lost."""
    world = world_of(TWO)
    loop = asyncio.get_running_loop()
    for _ in range(4):
        world.start().work(4)
    await asyncio.sleep(5)
    since = loop.time()
    for _ in range(10):
        await asyncio.sleep(1.5)
        while not (leases := held(world)):  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.01)
        late = [lease._replace(lapses_at=loop.time() - 1e-3) for lease in leases]
        leases.clear()
        leases.extend(late)
    used = world.admitted(since, loop.time()) / (2 * (loop.time() - since))
    await world.stop()
    assert used > 0.9
    assert world.refusals == []


async def test_idle_scopes_send_few_requests() -> None:
    """A thousand scopes, one call each: a few requests per scope in a minute, not one a second."""
    store = MemoryStore()
    session = StoreSession(store, replace(CONFIG, when_down="pause"))
    await call_each(session, 1000)
    await asyncio.sleep(60)
    # Each: three for its call, heartbeats for 6 or 7 s (rounding decides), one goodbye.
    assert store.commands <= 11_000
    assert all(request.ttl >= 3 * request.heartbeat_due for _, request, _ in store.record)
    await session.aclose()


async def test_added_quota_applies_to_all_processes() -> None:
    """A client with another quota joins the scope: the other process keeps this quota, too."""
    world = world_of(TWO)
    first, second = world.start(), world.start()
    await first.call()
    first.scheduler.limiter.add(Quota(1, 5.0), asyncio.get_running_loop().time())
    for process in (first, second):
        process.work(2)
    since = asyncio.get_running_loop().time() + 1
    await asyncio.sleep(30)
    await world.stop()
    assert most_in(5.0, [at for at in world.arrivals if at > since]) == 1


async def test_busy_processes_request_many_slots_at_once() -> None:
    """Two thousand calls in two seconds take at most a fifth as many round trips."""
    world = world_of(Quota(1000, 1.0))
    for _ in range(4):
        world.start().work(100)
    await asyncio.sleep(2)
    await world.stop()
    calls = len(world.arrivals)
    assert world.refusals == []
    assert calls >= 1900
    assert world.store.commands < calls / 5


@pytest.mark.parametrize(
    ("quota", "processes", "most"),
    [
        (TWO, 1, 1.6),
        (TWO, 2, 2.1),
        (TWO, 4, 3.1),
        (TWO, 8, 3.4),
        (HUNDRED, 1, 1.1),
        (HUNDRED, 2, 2.1),
        (HUNDRED, 4, 3.1),
        (HUNDRED, 8, 3.1),
    ],
)
async def test_waiting_processes_take_few_round_trips(
    quota: Quota, processes: int, most: float
) -> None:
    """However many processes wait for a key: three round trips per call, or a little more."""
    world = world_of(quota)
    for _ in range(processes):
        world.start().work(4)
    await asyncio.sleep(20)
    calls, claims = len(world.arrivals), world.store.commands
    await asyncio.sleep(60)
    calls, claims = len(world.arrivals) - calls, world.store.commands - claims
    await world.stop()
    assert calls >= 0.99 * quota.rate * 60
    assert claims <= most * calls


@pytest.mark.parametrize(("processes", "seconds"), [(1, 1), (4, 1), (8, 1.95), (12, 1.95)])
async def test_many_processes_send_heartbeats_less_often(processes: int, seconds: float) -> None:
    """Each announces when it asks next at the latest, and does."""
    world = world_of(HUNDRED)
    for _ in range(processes):
        await world.start().call()
    await asyncio.sleep(5)
    world.store.record.clear()
    await asyncio.sleep(25)
    asked: dict[str, int] = {}
    for _, request, at in world.store.record:
        assert request.heartbeat_due == seconds * SECOND
        if request.process in asked:
            assert at - asked[request.process] <= 1.01 * request.heartbeat_due
        asked[request.process] = at
    assert len(asked) == processes
    await world.stop()


async def test_vendor_remaining_is_not_taken_for_external_usage() -> None:
    """Calls of other processes on the store are no external usage of the quota."""
    world = world_of(HUNDRED)
    process = world.start()
    permit = await process.scheduler.acquire(PermitRequest())
    process.scheduler.on_response(permit, RateLimitInfo(limit=100, remaining=3, reset=50.0))
    process.scheduler.on_done()
    assert process.scheduler.limiter.snapshot(asyncio.get_running_loop().time()).external_rate == 0
    await world.stop()


async def test_snapshot_shows_slots_of_other_processes() -> None:
    """Another process has the slots: the state shows that none is held, and when one opens."""
    world = world_of(Quota(2, 10.0))
    first, second = world.start(), world.start()
    await first.call()
    await first.call()
    waiting = asyncio.create_task(second.call())
    await asyncio.sleep(2)
    now = asyncio.get_running_loop().time()
    state = second.scheduler.limiter.snapshot(now)
    assert state.holds == (0,)
    assert state.store_quota == Quota(2, 10.0)
    assert 7.5 < state.store_wait < 8.5
    assert 7.5 < second.scheduler.eta(1) < 8.5
    await waiting
    await world.stop()


async def test_stricter_of_two_quotas_applies(caplog: pytest.LogCaptureFixture) -> None:
    """Two programs with different quotas: the stricter one applies to both, both log it."""
    world = world_of(TWO)
    world.start().work(4)
    world.quotas = (Quota(1, 1.0),)
    world.start().work(4)
    await asyncio.sleep(30)
    await world.stop()
    assert most_in(1.0, [at for at in world.arrivals if at > 2]) == 1
    logged = [record.getMessage() for record in caplog.records]
    begin = "quota (scope scop): limit store memory: another process configured"
    assert sorted(line.partition(". ")[0] for line in logged) == [
        f"{begin} 1 per 1 s for this key, this one 2 per 1 s: all of them apply",
        f"{begin} 2 per 1 s for this key, this one 1 per 1 s: all of them apply",
    ]


@pytest.mark.parametrize("priority", Priority)
async def test_cancelled_call_requests_no_slots(priority: Priority) -> None:
    """The only waiting call is cancelled: the store gets heartbeats only, a few a second."""
    world = world_of(TWO)
    process = world.start()
    calls = [asyncio.create_task(process.call(priority)) for _ in range(6)]
    await asyncio.sleep(0.2)
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    before = world.store.commands
    await asyncio.sleep(10.0)
    assert world.store.commands - before < 40
    assert await process.call(priority)
    await world.stop()
