"""Outages: the store is unreachable, loses its data, or loses responses."""

from __future__ import annotations

import asyncio
import math

import pytest

from asyncclients import IntouchClient, SessionPool
from asyncclients.errors import ConfigurationError, DeadlineExceededError
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import ONE, Demand, Quota, Share
from asyncclients.ratelimit.slots import Permit
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores.clock import StoreClock
from asyncclients.stores.config import WhenDown
from asyncclients.stores.fallback import (
    FallbackPolicy,
    OutageLog,
    OutageState,
    StaticShare,
    TimeSlots,
    fallback_policy,
)
from asyncclients.stores.lease_state import LeaseState
from asyncclients.stores.limiter import SharedLimiter
from asyncclients.stores.protocol import LeaseResponse, StoreUnavailableError
from asyncclients.stores.shares import UNIT
from tests.support.shared_quota import (
    CONFIG,
    EPOCH,
    MemoryLimits,
    SharedQuotaSimulation,
    most_in,
)

TWO = Quota(2, 1.0)
TWENTY = Quota(20, 10.0)


def world_of(quota: Quota, when_down: WhenDown, processes: int) -> SharedQuotaSimulation:
    world = SharedQuotaSimulation(SlidingLog(quota.limit, quota.period), quota, when_down=when_down)
    for _ in range(processes):
        world.start().work(4)
    return world


@pytest.mark.virtual_time
@pytest.mark.parametrize("processes", [1, 3, 4])
@pytest.mark.parametrize("quota", [TWO, TWENTY])
async def test_safe_share_keeps_the_quota_and_sends(quota: Quota, processes: int) -> None:
    """The store fails and returns: the quota is kept, and no long time passes without a call."""
    world = world_of(quota, "safe_share", processes)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(15.3)
    world.store.down = True
    down = loop.time()
    await asyncio.sleep(4 * quota.period + 20)
    up = loop.time()
    world.store.down = False
    await asyncio.sleep(4 * quota.period + 10)
    await world.stop()
    assert most_in(quota.period, world.arrivals) <= quota.limit
    begun = down + 2 * world.store.timeout + quota.period + 2
    share = (quota.limit // processes) * processes / quota.limit or 0.8
    used = world.admitted(begun, up) / (quota.rate * (up - begun))
    assert used >= 0.9 * share
    assert all([at for at in process.sent if begun < at < up] for process in world.processes)
    back = up + quota.period + 4
    assert world.admitted(back, loop.time()) >= 0.9 * quota.rate * (loop.time() - back)


@pytest.mark.virtual_time
@pytest.mark.parametrize("quota", [TWO, TWENTY])
async def test_pause_sends_nothing_until_the_store_is_back(quota: Quota) -> None:
    """`pause` sends nothing in the outage and resumes after it, without losing slots."""
    world = world_of(quota, "pause", 4)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(15.3)
    world.store.down = True
    down = loop.time()
    await asyncio.sleep(30)
    up = loop.time()
    world.store.down = False
    await asyncio.sleep(30)
    await world.stop()
    assert most_in(quota.period, world.arrivals) <= quota.limit
    assert world.admitted(down + 0.3, up) == 0
    assert world.admitted(up + 3, up + 29) >= 0.9 * quota.rate * 26


@pytest.mark.virtual_time
@pytest.mark.parametrize("after", [0.001, 0.1, 0.3, 0.6, 0.9, 1.4])
@pytest.mark.parametrize("outage", [4.0, 11.7])
async def test_new_process_after_an_outage_waits_for_reports(outage: float, after: float) -> None:
    """A new process sends the first request after an outage: no call too many."""
    world = world_of(TWO, "safe_share", 2)
    await asyncio.sleep(15.3)
    world.store.down = True
    await asyncio.sleep(outage)
    world.store.down = False
    await asyncio.sleep(after)
    world.start().work(2)
    await asyncio.sleep(10)
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 2
    assert world.processes[-1].sent


@pytest.mark.virtual_time
@pytest.mark.parametrize(("period", "outage"), [(0.5, 0.8), (1.0, 1.3), (1.0, 1.8), (1.0, 2.6)])
async def test_processes_that_noticed_no_outage_exceed_no_quota(
    period: float, outage: float
) -> None:
    """Eight processes, one notices the outage; the others return first: no call too many."""
    quota = Quota(8, period)
    world = SharedQuotaSimulation(SlidingLog(8, period), quota, admission="exact")
    others = [world.start() for _ in range(8)]
    for process in others:
        await process.call()
    await asyncio.sleep(10)
    commands = world.store.commands
    while world.store.commands < commands + 8:  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.05)
    world.store.timeout = 0.0
    world.store.down = True
    others.pop().work(4)
    await asyncio.sleep(outage)
    world.store.down = False
    for process in others:
        process.work(2)
    await asyncio.sleep(5)
    await world.stop()
    assert most_in(0.999 * period, world.arrivals) <= 8


@pytest.mark.virtual_time
async def test_share_is_used_when_the_store_has_missed_the_process() -> None:
    """Eight processes send their shares of a short window 2.2 s after they notice an outage."""
    world = world_of(Quota(8, 1.0), "safe_share", 8)
    world.store.timeout = 0.0
    await asyncio.sleep(20)
    world.store.down = True
    down = asyncio.get_running_loop().time()
    await asyncio.sleep(14)
    await world.stop()
    first = [min(at for at in process.sent if at > down + 1) for process in world.processes]
    assert max(first) <= down + 1.95 + 2.2 + 0.1  # a heartbeat until it notices the outage
    assert world.admitted(down + 4.5, down + 14) >= 0.9 * 8 * 9.5
    assert most_in(0.999, world.arrivals) <= 8


def test_share_waits_until_the_store_has_missed_the_process() -> None:
    """A share may be used when a request has failed that was sent after the heartbeat was overdue."""
    outage = OutageState(CONFIG)
    assert outage.on_failure(100.0, 100.0, due_at=104.0) is False
    assert outage.on_failure(100.0, 100.0, due_at=101.0) is True
    outage.start(100.0, [Quota(8, 1.0)], membership(0, UNIT), clock_at(0))
    assert outage.next_permit_at(100.0) == 104.25
    assert outage.probe_at() == 101.0
    for at in (101.0, 102.0, 103.0, 104.0):
        outage.on_failure(at, at, due_at=at + 1.0)
    assert (outage.next_permit_at(104.0), outage.probe_at()) == (104.25, 104.25)
    assert outage.next_permit_at(104.3) == math.inf
    outage.on_failure(104.25, 104.4, due_at=105.4)
    assert (outage.next_permit_at(104.4), outage.probe_at()) == (104.4, 105.4)


@pytest.mark.virtual_time
async def test_new_process_without_an_outage_sends_at_once() -> None:
    """Beside a busy, an active, an idle or a closed process, a first call is sent at once."""
    twenty = Quota(20, 1.0)
    loop = asyncio.get_running_loop()
    for others in ("busy", "beating", "fallen idle", "gone"):
        world = world_of(twenty, "safe_share", 0)
        other, idle = world.start(), world.start()
        assert await other.call()
        assert await idle.call()
        if others == "busy":
            other.work(1)
        elif others == "gone":
            await other.stop()
        await asyncio.sleep(30 if others in ("busy", "beating") else 63.7)
        for process in (world.start(), idle):
            begun = loop.time()
            assert await process.call()
            assert loop.time() < begun + 0.15, others
        await world.stop()


@pytest.mark.virtual_time
async def test_local_obeys_its_own_limit_only() -> None:
    """`local` uses the whole quota in each process; afterwards the window counts as spent."""
    world = world_of(TWO, "local", 1)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(5.3)
    world.store.down = True
    down = loop.time()
    await asyncio.sleep(20)
    assert world.admitted(down, down + 20) >= 36
    world.store.down = False
    await asyncio.sleep(10)
    await world.stop()
    assert world.refusals == []


@pytest.mark.virtual_time
async def test_emptied_store_counts_as_spent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """FLUSHALL with four busy processes: no call too many, and full use after a window."""
    world = world_of(TWENTY, "safe_share", 4)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        await asyncio.sleep(17.7)
        world.store.logs.clear()
    flushed = loop.time()
    await asyncio.sleep(40)
    await world.stop()
    assert most_in(TWENTY.period, world.arrivals) <= TWENTY.limit
    assert "lost its data" in caplog.text
    assert world.admitted(flushed + 14, flushed + 39) >= 0.9 * TWENTY.rate * 25


@pytest.mark.virtual_time
async def test_idle_process_detects_an_emptied_store() -> None:
    """A process that used the store a minute ago treats the empty store as spent."""
    world = SharedQuotaSimulation(SlidingLog(20, 10.0), TWENTY, admission="exact")
    busy, idle = world.start(), world.start()
    await idle.call()
    await asyncio.sleep(60)
    busy.work()
    await asyncio.sleep(25)
    world.store.logs.clear()
    await asyncio.gather(*(idle.call() for _ in range(20)))
    await world.stop()
    assert most_in(TWENTY.period, world.arrivals) <= TWENTY.limit


@pytest.mark.virtual_time
async def test_store_that_restarts_empty_exceeds_no_quota() -> None:
    """Killed and restarted without its data, at any moment: the quota is kept."""
    world = world_of(TWO, "safe_share", 4)
    for pause in (0.4, 1.1, 2.3, 5.0, 9.7):
        await asyncio.sleep(7.3)
        world.store.down = True
        world.store.logs.clear()
        await asyncio.sleep(pause)
        world.store.down = False
    await asyncio.sleep(10)
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 2


@pytest.mark.virtual_time
async def test_lost_responses_count_once() -> None:
    """Responses are lost now and then: no call too many, no outage, and the slots are released."""
    world = world_of(TWO, "safe_share", 2)
    world.start()
    for _ in range(10):
        await asyncio.sleep(6)
        world.store.deaf = 1
    await asyncio.sleep(5)
    since = asyncio.get_running_loop().time()
    await asyncio.sleep(10)
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 2
    assert world.admitted(since, since + 10) >= 19


@pytest.mark.virtual_time
@pytest.mark.parametrize("when_down", ["safe_share", "pause", "local"])
async def test_no_call_hangs_on_an_unreachable_store(when_down: WhenDown) -> None:
    """A first call without a store fails in 2.5 s, waits (`pause`), or is sent (`local`)."""
    world = SharedQuotaSimulation(SlidingLog(2, 1.0), TWO, when_down=when_down)
    world.store.down = True
    process = world.start()
    loop = asyncio.get_running_loop()
    if when_down == "safe_share":
        with pytest.raises(ConfigurationError, match="could not be reached"):
            await process.call()
        assert loop.time() <= 2.5
        with pytest.raises(ConfigurationError, match="could not be reached"):
            await process.call()
        assert loop.time() <= 5
    elif when_down == "local":
        assert await process.call()
        assert loop.time() <= 2.5
    else:
        call = asyncio.create_task(process.call())
        await asyncio.sleep(60)
        assert not call.done()
        world.store.down = False
        assert await call
    await world.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("when_down", ["safe_share", "pause", "local"])
async def test_no_call_hangs_on_an_unexpected_error(
    when_down: WhenDown,
) -> None:
    """An error of a driver, or a full disk, is an outage with the same bounds."""
    world = SharedQuotaSimulation(SlidingLog(2, 1.0), TWO, when_down=when_down)
    process = world.start()
    assert await process.call()
    await asyncio.sleep(5)  # long enough to know that it is alone
    world.store.fault = RuntimeError("what a driver might raise")
    failed = asyncio.get_running_loop().time()
    calls = [asyncio.create_task(process.call()) for _ in range(6)]
    await asyncio.sleep(15)
    done = sum(call.done() for call in calls)
    assert done == (0 if when_down == "pause" else 6)
    world.store.fault = None
    assert all(await asyncio.gather(*calls))
    assert asyncio.get_running_loop().time() < failed + 25
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 2


@pytest.mark.virtual_time
@pytest.mark.parametrize(("when_down", "sent"), [("safe_share", 4), ("pause", 0)])
async def test_deadline_holds_in_an_outage(when_down: WhenDown, sent: int) -> None:
    """Ten calls with a deadline of 3.5 s in an outage: each ends by then.

    Alone in `safe_share`: 1 s until the outage begins, and a window and the leases until it sends.
    """
    store = MemoryLimits(when_down)
    async with Sandbox() as sandbox, SessionPool(limits=store) as pool:
        client = IntouchClient.from_env(pool, sandbox.environ)
        await client.tags.list(limit=1).first()
        await asyncio.sleep(5)
        store.backend.down = True
        calls = [client.with_options(deadline=3.5).tags.list(limit=1).first() for _ in range(10)]
        begun = asyncio.get_running_loop().time()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert asyncio.get_running_loop().time() <= begun + 3.6
        late = [each for each in ended if isinstance(each, DeadlineExceededError)]
        assert len(late) == 10 - sent
        assert len(sandbox.requests("intouch")) == 1 + sent


@pytest.mark.virtual_time
async def test_long_outage_uses_bounded_memory() -> None:
    """A quarter of an hour without the store, with a backlog: the reports stay few."""
    world = world_of(TWENTY, "safe_share", 1)
    await asyncio.sleep(10)
    world.store.down = True
    await asyncio.sleep(900)
    limiter = world.processes[0].scheduler.limiter
    assert isinstance(limiter, SharedLimiter)
    assert len(world.processes[0].sent) > 1500
    assert len(limiter.slots.arrived) <= 600
    assert len(limiter.slots.released) <= 50
    await world.stop()


@pytest.mark.virtual_time
async def test_aclose_is_bounded_in_an_outage() -> None:
    """A pool whose store is unreachable closes within the timeouts."""
    world = world_of(TWO, "safe_share", 1)
    await asyncio.sleep(3)
    world.store.down = True
    before = asyncio.get_running_loop().time()
    await world.stop()
    assert asyncio.get_running_loop().time() - before <= 2 * world.store.timeout + 0.1


@pytest.mark.virtual_time
async def test_short_outage_of_one_process_does_not_stop_others() -> None:
    """One process is cut off for some seconds of a long window: the others lose no window."""
    world = world_of(Quota(60, 60.0), "safe_share", 4)
    await asyncio.sleep(70)
    since = asyncio.get_running_loop().time()
    for _ in range(3):
        world.store.broken.add("p001")
        await asyncio.sleep(4)
        world.store.broken.clear()
        await asyncio.sleep(6)
    used = world.admitted(since, since + 30) / 30
    await world.stop()
    assert world.refusals == []
    assert used > 0.9


@pytest.mark.virtual_time
async def test_one_failure_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    """A stale connection costs one failed request: it is retried at once, and nothing is logged."""
    world = world_of(TWO, "pause", 1)
    await asyncio.sleep(3)
    world.store.timeout = 0.0
    world.store.deaf = 1
    await asyncio.sleep(10)
    await world.stop()
    assert "unreachable" not in caplog.text
    assert world.refusals == []
    assert world.admitted(1, 13) >= 22


def clock_at(offset: float) -> StoreClock:
    clock = StoreClock()
    clock.update(0.0, 0.0, EPOCH + round(offset * 1e6))
    return clock


def membership(start: int, size: int) -> LeaseResponse:
    return LeaseResponse(member_count=3, start=start, size=size)


def test_process_without_share_sends_nothing() -> None:
    """A process without a block sends nothing."""
    share = fallback_policy([TWENTY], membership(0, 0), clock_at(0), 100.3)
    assert share.next_permit_at(500.0) == math.inf
    assert "not given a share" in share.description


@pytest.mark.parametrize(("silence", "says"), [(9.9, "20 per 10 s"), (10.0, "not given a share")])
def test_process_that_stopped_for_long_sends_nothing(silence: float, says: str) -> None:
    """The block of a process that was suspended for ten seconds may be reassigned."""
    state = LeaseState("key", Limiter([TWENTY]), CONFIG, OutageLog(CONFIG))
    request = state.request(0.0, 1, 1, ONE)
    state.apply(request, membership(0, UNIT), ONE, 0.0, 0.1)
    for _ in range(2):
        state.on_failure(request, ONE, silence, silence, StoreUnavailableError("down"))
    assert state.outage.fallback is not None
    assert says in state.outage.fallback.description


def test_static_share_is_a_part_of_the_window() -> None:
    """A quarter of twenty slots is five, after one spent window."""
    share = fallback_policy([TWENTY], membership(UNIT // 4, UNIT // 4), clock_at(0), 100.3)
    assert share.description == "1 of 3 processes, 5 per 10 s"
    assert isinstance(share, StaticShare)
    assert share.next_permit_at(100.0) >= 110.3
    assert taken(share, ONE) == 5


def test_share_of_a_call_is_kept_in_the_static_share() -> None:
    """Of ten slots in a window calls with a share of a half take five."""
    share = fallback_policy([TWENTY], membership(0, UNIT // 2), clock_at(0), 100.3)
    assert taken(share, Demand(share=Share("nightly", 0.5))) == 5


def taken(share: FallbackPolicy, demand: Demand) -> int:
    """Take what *share* permits for calls of *demand* in its first window; return their number."""
    local, count, now = Limiter([TWENTY]), 0, 110.3
    while (now := share.next_permit_at(now, demand)) <= 120.3:
        share.acquire(local.acquire(now), now, demand)
        count += 1
    return count


def test_time_slots_never_overlap() -> None:
    """Five processes on 2 per 1 s, with three quarters and two eighths: never too many."""
    sends: list[tuple[float, int]] = []
    quarter, eighth = UNIT // 4, UNIT // 8
    blocks = [(0, quarter), (quarter, quarter), (2 * quarter, quarter)]
    blocks += [(6 * eighth, eighth), (7 * eighth, eighth)]
    for rank, block in enumerate(blocks):
        turns = fallback_policy([TWO], membership(*block), clock_at(3.21 + rank * 0.002), 100.3)
        assert isinstance(turns, TimeSlots)
        now = 100.0
        while now < 160.0:
            now = turns.next_permit_at(now)
            turns.acquire(Permit(1, now), now)
            sends.append((now, rank))
    sends = [(at, rank) for at, rank in sorted(sends) if 105.0 < at < 160.0]
    assert most_in(1.0, [at for at, _ in sends]) == 2
    assert {rank for _, rank in sends} == set(range(5))
    assert len(sends) >= 0.8 * 2 * 55


def test_store_clock_estimate_is_never_early() -> None:
    """Whatever the delays, the estimate lies between the true instant and the response."""
    clock = StoreClock()
    for sent, there, back in [(10.0, 0.02, 0.4), (20.0, 0.001, 0.001), (30.0, 0.3, 0.2)]:
        received = sent + there + back
        at = clock.update(sent, received, EPOCH + round((sent + there) * 1e6))
        assert sent + there - 1e-5 <= at <= received + 1e-5
    # Set back by an hour: the earlier samples are discarded.
    at = clock.update(40.0, 40.1, EPOCH - 3_600_000_000)
    assert at == pytest.approx(40.1)
