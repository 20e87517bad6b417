"""Shares of a quota in an outage: never more than the whole, whatever each process knows."""

from __future__ import annotations

import asyncio
import itertools
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncclients.ratelimit.quota import Demand, Quota, Share
from asyncclients.ratelimit.slots import Permit
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores.clock import StoreClock
from asyncclients.stores.fallback import (
    StaticShare,
    TimeSlots,
    fallback_policy,
)
from asyncclients.stores.protocol import LeaseResponse
from asyncclients.stores.quota_log import QuotaLog
from asyncclients.stores.shares import NONE, UNIT, Block
from tests.support.shared_quota import EPOCH, SharedQuotaSimulation, most_in

from .test_quota_log import SECOND, START, lease_request

TWO = Quota(2, 1.0)
TWENTY = Quota(20, 1.0)
NAMES = "abcdefg"


def disjoint(blocks: list[Block]) -> bool:
    """True if no two of *blocks* overlap, and all are inside the whole."""
    ordered = sorted(block for block in blocks if block[1])
    ends = [start + size for start, size in ordered]
    return all(a <= b for a, (b, _) in zip(ends, ordered[1:], strict=False)) and all(
        end <= UNIT for end in ends
    )


class Fleet:
    """Processes that send heartbeats, lose responses, become idle, leave and die."""

    def __init__(self) -> None:
        self.log, self.now = QuotaLog(), START
        self.held: dict[str, Block] = {}
        self.heartbeat_at: dict[str, int] = {}

    def heartbeat(self, me: str, *, idle: bool = False, lost: bool = False) -> None:
        """Send a heartbeat of *me*; if it is *lost* the log counts it, and *me* gets no response."""
        held = self.held.get(me, NONE)
        every = 10 * SECOND if idle else SECOND
        request = lease_request(
            process=me,
            idle=idle,
            block_held=held,
            heartbeat_due=every,
            ttl=3 * every,
        )
        response = self.log.apply(request, self.now)
        if lost:
            self.held.setdefault(me, NONE)
        else:
            self.held[me] = (response.start, response.size)
            self.heartbeat_at[me] = self.now

    def leave(self, me: str) -> None:
        """End the membership of *me*."""
        self.held.pop(me, None)
        self.log.apply(lease_request(process=me, goodbye=True), self.now)

    def wait(self, micros: int) -> None:
        """Let time pass; processes whose membership is over drop their block."""
        self.now += micros
        for me in list(self.held):
            if self.now >= self.heartbeat_at.get(me, self.now) + 3 * SECOND:
                self.held[me] = NONE

    def settle(self, names: str) -> None:
        """Let *names* send heartbeats for a while."""
        for _ in range(12):
            for me in names:
                self.heartbeat(me)
            self.wait(SECOND // 2)


STEPS = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from(["heartbeat", "heartbeat", "heartbeat", "lost", "idle", "leave", "die"]),
    st.sampled_from([0, 1000, 100_000, 500_000, SECOND, 4 * SECOND]),
)


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60))
def test_blocks_never_overlap(steps: list[tuple[str, str, int]]) -> None:
    """Any order of joins, lost responses, idle times, ends and deaths: the blocks are disjoint."""
    fleet = Fleet()
    for me, what, after in steps:
        if what == "leave":
            fleet.leave(me)
        elif what == "die":
            fleet.held.pop(me, None)
        else:
            fleet.heartbeat(me, idle=what == "idle", lost=what == "lost")
        fleet.wait(after)
        assert disjoint(list(fleet.held.values())), fleet.held


@pytest.mark.parametrize("is_lost", [False, True])
def test_block_is_given_to_another_after_its_owner_has_confirmed(is_lost: bool) -> None:
    """A newcomer gets the half that the owner gives up when the owner knows that, not before."""
    fleet = Fleet()
    fleet.settle("a")
    fleet.heartbeat("b")
    fleet.heartbeat("a", lost=is_lost)
    fleet.heartbeat("b")
    assert fleet.held == {"a": (0, UNIT >> (not is_lost)), "b": NONE}
    fleet.heartbeat("a")
    fleet.heartbeat("a")
    fleet.heartbeat("b")
    assert fleet.held["b"] == (UNIT // 2, UNIT // 4)


def test_block_that_grows_is_kept_from_others_at_once() -> None:
    """A block that was assigned and is not confirmed yet is not given to a newcomer."""
    fleet = Fleet()
    fleet.settle("ab")
    fleet.leave("b")
    fleet.wait(2 * SECOND)
    fleet.heartbeat("a")
    assert fleet.held["a"] == (0, UNIT)
    fleet.heartbeat("b")
    assert fleet.held["b"] == NONE


@pytest.mark.parametrize("count", range(1, 8))
def test_shares_become_fair(count: int) -> None:
    """After some heartbeats the whole quota is assigned, and no block is over twice another."""
    fleet = Fleet()
    for me in NAMES[:count]:
        fleet.heartbeat(me)
        fleet.wait(SECOND)
    fleet.settle(NAMES[:count])
    sizes = [size for _, size in fleet.held.values()]
    assert sum(sizes) == UNIT
    assert max(sizes) <= 2 * min(sizes)
    for me in NAMES[1:count]:
        fleet.leave(me)
    fleet.settle(NAMES[0])
    assert fleet.held[NAMES[0]] == (0, UNIT)


@pytest.mark.parametrize("count", range(1, 5))
def test_processes_that_start_together_have_shares_at_once(count: int) -> None:
    """The first response assigns a block to each of up to four processes."""
    fleet = Fleet()
    for me in NAMES[:count]:
        fleet.heartbeat(me)
    assert all(size for _, size in fleet.held.values())


def test_newcomer_beside_idle_process_has_share_at_once() -> None:
    """An idle process keeps a block and leaves room for others."""
    fleet = Fleet()
    fleet.settle("a")
    fleet.heartbeat("a", idle=True)
    fleet.heartbeat("a", idle=True)
    assert 0 < fleet.held["a"][1] <= UNIT // 2
    fleet.heartbeat("b")
    assert fleet.held["b"][1] > 0


def test_blocks_assigned_twice_are_divided_again() -> None:
    """The log lost a process: a block that was assigned twice is divided again."""
    fleet = Fleet()
    fleet.settle("ab")
    fleet.log, first = QuotaLog(), fleet.held.pop("a")
    fleet.settle("b")
    fleet.held["a"], fleet.heartbeat_at["a"] = first, fleet.now
    assert not disjoint(list(fleet.held.values()))
    fleet.settle("ab")
    assert disjoint(list(fleet.held.values()))
    assert sum(size for _, size in fleet.held.values()) == UNIT


# --- What a block allows -----------------------------------------------------------------


def membership(block: Block) -> LeaseResponse:
    return LeaseResponse(member_count=9, start=block[0], size=block[1])


BLOCKS = st.recursive(
    st.just(1), lambda parts: st.tuples(parts, parts), max_leaves=9
)  # a tree of halves


def leaves(tree: Any, start: int = 0, size: int = UNIT) -> list[Block]:
    if isinstance(tree, tuple):
        halves: list[Any] = [*tree]
        left, right = halves
        return [*leaves(left, start, size // 2), *leaves(right, start + size // 2, size // 2)]
    return [(start, size)]


@settings(max_examples=25)
@given(BLOCKS, st.integers(1, 7), st.sampled_from([0.5, 1.0, 3.0]))
def test_fallback_of_all_blocks_keeps_the_quota(tree: object, limit: int, period: float) -> None:
    """However the quota is divided, and however small a block: never too many calls."""
    quota, clock = Quota(limit, period), StoreClock()
    clock.update(0.0, 0.0, EPOCH)
    sends: list[float] = []
    for block in leaves(tree):
        share = fallback_policy([quota], membership(block), clock, 0.3)
        assert isinstance(share, (StaticShare, TimeSlots))
        now = 0.0
        for _ in itertools.count():
            now = max(now, share.next_permit_at(now))
            if now > 40 * period:
                break
            share.acquire(_permit(now), now)
            share.settle(_permit(now), now, sent=True)
            sends.append(now)
    assert most_in(0.999 * period, sends) <= limit
    assert sends


KINDS = (
    Demand(),
    Demand(cost=5),
    Demand(operation="events.list"),
    Demand(2, "events.add", Share("night", 0.5)),
    Demand(share=Share("night", 0.5)),
)


@settings(max_examples=15)
@given(BLOCKS, st.integers(0, 2**32))
def test_fallback_of_all_blocks_keeps_quotas_of_all_kinds(tree: object, seed: int) -> None:
    """However the quota is divided: operations, shares, costs and the hour's quota hold."""
    random, clock = Random(seed), StoreClock()
    clock.update(0.0, 0.0, EPOCH)
    hourly, events = Quota.calendar(60, "hour"), Quota(12, 1.0, operations=("events.*",))
    quotas = [Quota(40, 1.0), events, hourly]
    sends: list[tuple[float, Demand]] = []
    for block in leaves(tree):
        share = fallback_policy(
            quotas, membership(block), clock, 0.3, wall_time=lambda at: 3598.0 + at
        )
        for now in (step / 50 for step in range(500)):
            demand = random.choice(KINDS)
            if share.next_permit_at(now, demand) <= now:
                share.acquire(_permit(now), now, demand)
                share.settle(_permit(now), now, sent=True)
                sends.append((now, demand))
    night = Share("night", 0.5)
    for quota, counted in (
        (quotas[0], sends),
        (events, [each for each in sends if events.applies_to(each[1].operation)]),
        (night.of(quotas[0]), [each for each in sends if each[1].share == night]),
        (hourly, sends),
    ):
        units = [now for now, demand in counted for _ in range(demand.cost)]
        assert most_in(0.999 * quota.period, units) <= quota.limit
    assert all(now >= 2.0 for now, _ in sends), "the hour's quota was spent when it began"


def _permit(now: float) -> Permit:
    return Permit(1, now)


def test_quotas_of_other_programs_apply_in_an_outage() -> None:
    """Several quotas: each is divided, and the smallest decides between share and turns."""
    clock = StoreClock()
    clock.update(0.0, 0.0, EPOCH)
    quotas = [Quota(100, 60.0), Quota(2, 1.0)]
    half = fallback_policy(quotas, membership((0, UNIT // 2)), clock, 0.3)
    assert half.description == "1 of 9 processes, 50 per 60 s and 1 per 1 s"
    assert isinstance(fallback_policy(quotas, membership((0, UNIT // 4)), clock, 0.3), TimeSlots)
    assert fallback_policy(quotas, membership(NONE), clock, 0.3).next_permit_at(9.0) == float("inf")


# --- Processes, a vendor and a store in virtual time -----------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("age", [0.05, 1.0])
@pytest.mark.parametrize("processes", [1, 4])
async def test_young_processes_send_in_an_outage(age: float, processes: int) -> None:
    """Processes that have just started send when the store fails, within the quota."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), TWENTY)
    for _ in range(processes):
        world.start().work(4)
    await asyncio.sleep(age)
    world.store.down = True
    down = asyncio.get_running_loop().time()
    await asyncio.sleep(10)
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 20
    assert all(any(at > down + 5 for at in process.sent) for process in world.processes)
    assert world.admitted(down + 4, down + 10) >= 0.45 * 20 * 6


@pytest.mark.virtual_time
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("idle", [64.5, 70.0])
async def test_idle_process_sends_in_an_outage(idle: float, others: int) -> None:
    """A process that was idle for long sends in an outage, beside idle and busy ones."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), TWENTY)
    process = world.start()
    busy = [world.start() for _ in range(others)]
    await process.call()
    for other in busy:
        other.work(2)
    await asyncio.sleep(idle)
    world.store.down = True
    await asyncio.sleep(1)
    assert await asyncio.wait_for(process.call(), 25)
    process.work(4)
    await asyncio.sleep(10)
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 20


@pytest.mark.virtual_time
@pytest.mark.parametrize(("workers", "when"), [(4, 5.05), (4, 5.25), (0, 63.0)])
async def test_newcomer_has_a_share_in_half_a_second(workers: int, when: float) -> None:
    """The owner of the whole quota gives up half of it at once; an idle one has done so before."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), TWENTY)
    owner = world.start()
    await owner.call()
    owner.work(workers)
    await asyncio.sleep(when)
    newcomer = world.start()
    newcomer.work(4)
    await asyncio.sleep(0.5)
    world.store.down = True
    down = asyncio.get_running_loop().time()
    await asyncio.sleep(6)
    await world.stop()
    assert any(at > down + 3 for at in newcomer.sent)


@pytest.mark.virtual_time
@pytest.mark.parametrize("when", [0.0, 0.4, 1.3])
@pytest.mark.parametrize("change", ["join", "leave", "die", "wake"])
async def test_membership_changes_before_an_outage_exceed_no_quota(
    change: str, when: float
) -> None:
    """The store fails while processes join, leave, die or wake: the quota is kept."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), TWENTY)
    first, second, sleeper = world.start(), world.start(), world.start()
    for process in (sleeper, first, second):
        await process.call()
    await asyncio.sleep(70)
    first.work(4)
    second.work(4)
    await asyncio.sleep(4)
    if change == "join":
        for _ in range(3):
            world.start().work(4)
    elif change == "leave":
        await second.stop()
    elif change == "die":
        await second.kill()
    else:
        sleeper.work(4)
    await asyncio.sleep(when)
    world.store.down = True
    down = asyncio.get_running_loop().time()
    await asyncio.sleep(8)
    world.store.down = False
    await asyncio.sleep(5)
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 20
    assert any(at > down + 5 for at in first.sent)


@pytest.mark.virtual_time
@pytest.mark.parametrize("outage", [1.5, 9.0, 14.0])
async def test_newcomer_after_an_outage_of_idle_processes_waits(outage: float) -> None:
    """Idle processes woke in an outage: a new process that is first at the store waits for them."""
    world = SharedQuotaSimulation(SlidingLog(20, 1.0), TWENTY)
    idle = [world.start(), world.start()]
    for process in idle:
        await process.call()
    await asyncio.sleep(75)
    world.store.down = True
    for process in idle:
        process.work(6)
    await asyncio.sleep(outage)
    world.store.down = False
    world.start().work(20)
    await asyncio.sleep(10)
    await world.stop()
    assert most_in(1.0, world.arrivals) <= 20
