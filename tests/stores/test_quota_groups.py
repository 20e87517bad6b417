"""Costs, groups of quotas and calendar quotas in the quota log, some against a brute-force server."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncclients.ratelimit.quota import Demand
from asyncclients.stores.lease_book import LeaseBook
from asyncclients.stores.protocol import LeaseRequest, QuotaSpec
from asyncclients.stores.quota_log import QuotaLog

from .test_quota_log import SECOND, START, calendar_spec, lease_request

KINDS = ((), ("ops",), ("share",), ("ops", "share"))
LEASE, GRACE = 100_000, 150_000
OFFSET = 7_777_777
"""The wall clock of the vendor minus the store's clock."""
LENGTHS = (3 * SECOND, 5 * SECOND, 2 * SECOND, 6 * SECOND)
"""Lengths of the calendar windows, which follow each other in this order, as days of 23 h do."""


def window_at(wall: int) -> tuple[int, int, int]:
    """Return the start of the window before *wall*'s, of its own and of the next one."""
    cycle = sum(LENGTHS)
    start = wall - wall % cycle
    bounds = [start - LENGTHS[-1]]
    while bounds[-1] <= wall:
        bounds.append(start)
        start += LENGTHS[(len(bounds) - 2) % len(LENGTHS)]
    return (bounds[-3], bounds[-2], bounds[-1]) if len(bounds) > 2 else (0, bounds[0], bounds[1])


class Call(msgspec.Struct):
    """A call on its way: its slots, kind, and the instants of its send and arrival."""

    first: int
    cost: int
    kind: int
    sent_at: int
    arrives_at: int
    responds_at: int


class Process:
    """One process: it reports what it knows, and its clock differs from the vendor's."""

    def __init__(self, name: str, skew: int) -> None:
        self.name, self.skew = name, skew
        self.number = 1
        self.calls: list[Call] = []
        self.unused: list[Call] = []
        self.is_dead = False


class World:
    """A store, a vendor that counts every arrival, and processes that send what they may."""

    def __init__(self, quotas: list[QuotaSpec], skews: list[int]) -> None:
        self.log, self.now, self.quotas = QuotaLog(), START, quotas
        self.processes = [Process(f"p{i}", skew) for i, skew in enumerate(skews)]
        self.arrivals: list[tuple[int, int, tuple[str, ...]]] = []

    def request(self, process: Process, **wanted: object) -> LeaseRequest:
        now, wall = self.now, self.now + OFFSET + process.skew
        done = [call for call in process.calls if call.responds_at <= now]
        waiting = [call for call in process.calls if call.sent_at <= now < call.responds_at]
        process.calls = [call for call in process.calls if call.responds_at > now]
        lapsed = [call for call in process.unused if call.sent_at <= now]
        process.unused = [call for call in process.unused if call.sent_at > now]
        previous, start, end = window_at(wall)
        return lease_request(
            process=process.name,
            wall=wall,
            quotas=tuple(
                msgspec.structs.replace(spec, previous=previous, start=start, next=end)
                if spec.calendar
                else spec
                for spec in self.quotas
            ),
            arrived=tuple(
                (n, now - call.responds_at, KINDS[call.kind]) for call in done for n in slots(call)
            ),
            in_flight=tuple((n, KINDS[call.kind]) for call in waiting for n in slots(call)),
            released=tuple(n for call in lapsed for n in slots(call)),
            first=process.number,
            lease=LEASE,
            grace=GRACE,
            **wanted,
        )

    def ask(self, process: Process, kind: int, cost: int, count: int, fates: list[int]) -> int:
        """Ask for *count* calls; return the number granted. *fates*: what becomes of each."""
        request = self.request(
            process, count=count, cost=cost, groups=KINDS[kind], priority=fates[0] % 2
        )
        response = self.log.apply(request, self.now)
        for index, opens_in in enumerate(response.opens_in):
            fate = fates[index % len(fates)]
            sent_at = self.now + opens_in + (LEASE if fate % 3 else 0)
            arrives_at = sent_at + (fate * 37_000) % GRACE
            call = Call(process.number + index * cost, cost, kind, sent_at, arrives_at, arrives_at)
            if fate % 5 == 0:
                process.unused.append(call)
                continue
            if fate % 7 == 0:  # slow: the response proves the arrival, and it comes late
                call.responds_at = sent_at + 2_500_000
                call.arrives_at = call.responds_at - (fate % 2) * 1000
            process.calls.append(call)
            self.arrivals.append((call.arrives_at, cost, KINDS[kind]))
        process.number += count * cost
        return len(response.opens_in)

    def pass_time(self, duration: int) -> None:
        """Let time pass; living processes report every half second."""
        end = self.now + duration
        while self.now < end:
            self.now = min(end, self.now + 500_000)
            for process in self.processes:
                if not process.is_dead:
                    self.log.apply(self.request(process), self.now)

    def kill(self, process: Process) -> None:
        """Kill *process*: no more reports. What it sent arrives within the grace."""
        process.is_dead = True
        for call in process.calls:
            if call.arrives_at > max(call.sent_at, self.now) + GRACE:
                self.arrivals.remove((call.arrives_at, call.cost, KINDS[call.kind]))


def slots(call: Call) -> range:
    return range(call.first, call.first + call.cost)


def check(quota: QuotaSpec, arrivals: list[tuple[int, int, tuple[str, ...]]]) -> None:
    """Assert that the calls of *quota*'s group never exceed it."""
    counted = sorted((at, cost) for at, cost, groups in arrivals if quota.group in ("", *groups))
    if quota.calendar:
        used: dict[int, int] = {}
        for at, cost in counted:
            start = window_at(at + OFFSET)[1]
            used[start] = used.get(start, 0) + cost
        assert all(units <= quota.limit for units in used.values()), (quota.name, used)
        return
    for index, (at, _) in enumerate(counted):
        units = sum(cost for other, cost in counted[index:] if other < at + quota.period)
        assert units <= quota.limit, (quota.name, at, units)


def sliding(limit: int, period: int, group: str = "") -> QuotaSpec:
    interval = period // limit
    return QuotaSpec(limit=limit, period=period, interval=interval, burst=float(limit), group=group)


def calendar(limit: int, group: str = "") -> QuotaSpec:
    return calendar_spec(limit, 0, 6 * SECOND, group=group)


QUOTAS = st.lists(
    st.sampled_from(
        [
            sliding(5, SECOND),
            sliding(8, 3 * SECOND),
            sliding(4, 2 * SECOND, "ops"),
            sliding(3, SECOND, "share"),
            calendar(9),
            calendar(6, "ops"),
            calendar(4, "share"),
        ]
    ),
    min_size=1,
    max_size=5,
    unique=True,
)
STEP = st.tuples(
    st.integers(0, 2),  # process
    st.integers(0, 3),  # kind
    st.integers(1, 3),  # cost
    st.integers(1, 4),  # calls
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.sampled_from([0, 1000, 90_000, 300_000, 700_000, 1_600_000]),
    st.integers(0, 40),  # 0 kills the process
)


BUCKET = QuotaSpec(limit=100, period=SECOND, interval=100_000, burst=4.0)
"""A quota whose token bucket decides: four units at once, then ten a second."""
DAY = 86_400 * SECOND
DAILY = calendar_spec(5, START, DAY)


def used(log: QuotaLog, quota: QuotaSpec) -> int:
    """Return the units of *quota* that are used in its current window."""
    return log.quotas[quota.name].used.get(quota.start, 0)


def at_wall(wall: int, **changes: object) -> LeaseRequest:
    """Return a request for one call at *wall*, with a quota of five a day."""
    return lease_request(quotas=(DAILY,), wall=wall, count=1, **changes)


def test_call_takes_its_cost_from_the_window() -> None:
    """Ten units a second: two calls of four units leave two for cheaper calls."""
    log = QuotaLog()
    request = lease_request(quotas=(sliding(10, SECOND),), count=2, cost=4)
    assert log.apply(request, START).opens_in == (0, 0)
    cheap = lease_request(quotas=request.quotas, count=3, first=9)
    assert log.apply(cheap, START).opens_in == (0, 0)


def test_call_takes_its_cost_from_the_bucket() -> None:
    """A call of four units empties a bucket of four, which is full again after four intervals."""
    log = QuotaLog()
    request = lease_request(quotas=(BUCKET,), count=1, cost=4)
    assert log.apply(request, START).opens_in == (0,)
    response = log.apply(msgspec.structs.replace(request, first=5), START)
    assert (response.opens_in, response.retry_in) == ((), 400_000 - LEASE)


def test_call_takes_its_cost_from_the_calendar() -> None:
    """Five units a day: two calls of two units are sent, and one unit is left for another."""
    log = QuotaLog()
    request = at_wall(DAILY.start + 9 * SECOND)
    response = log.apply(msgspec.structs.replace(request, count=3, cost=2), START)
    assert (response.opens_in, used(log, DAILY)) == ((0, 0), 4)
    assert log.apply(msgspec.structs.replace(request, first=7), START).opens_in == (0,)


def test_quota_of_a_group_limits_the_calls_of_the_group() -> None:
    """Two of three calls of the group are sent, and other calls are not delayed by its quota."""
    log = QuotaLog()
    quotas = (sliding(10, SECOND), sliding(2, SECOND, "ops"))
    grouped = log.apply(lease_request(quotas=quotas, groups=("ops",), count=3), START)
    assert (grouped.opens_in, grouped.waits_for) == ((0, 0), "2/1000000 ops")
    other = log.apply(lease_request(process="b", quotas=quotas, count=3), START)
    assert other.opens_in == (0, 0, 0)


@pytest.mark.parametrize(
    ("wall", "windows"),
    [
        (DAILY.start + SECOND - 1, {DAILY.previous, DAILY.start}),
        (DAILY.start + SECOND, {DAILY.start}),
        (DAILY.next - SECOND - LEASE - GRACE - 1, {DAILY.start}),
        (DAILY.next - SECOND - LEASE - GRACE, {DAILY.start, DAILY.next}),
    ],
    ids=["just after", "after", "before", "just before"],
)
def test_call_near_a_boundary_counts_in_both_windows(wall: int, windows: set[int]) -> None:
    """A call counts in each window in which it may arrive, by clocks that differ by a second."""
    log = QuotaLog()
    assert log.apply(at_wall(wall), START).opens_in == (0,)
    used = log.quotas[DAILY.name].used
    assert {start for start, units in used.items() if units} == windows


def test_calendar_quota_opens_when_all_clocks_have_passed_the_boundary() -> None:
    """A used-up day ends a second after midnight, also for a process that asks just after it."""
    log = QuotaLog()
    spent = (msgspec.structs.replace(DAILY, used=5),)
    wall = DAILY.next - 10 * SECOND
    request = msgspec.structs.replace(at_wall(wall), quotas=spent)
    assert log.apply(request, START).retry_in == 11 * SECOND - LEASE
    after = calendar_spec(5, DAILY.next, DAY)
    request = lease_request(quotas=(after,), wall=DAILY.next + 1, count=1)
    assert log.apply(request, START + 10 * SECOND).retry_in == SECOND - 1 - LEASE


def test_calls_sent_in_an_outage_count_once_in_the_calendar() -> None:
    """Calls that the store has not granted are counted by their first report, and only by that."""
    log, wall = QuotaLog(), DAILY.start + 9 * SECOND
    reports: list[dict[str, object]] = [
        {"arrived": ((7, 0, ()),)},
        {"arrived": ((7, 1000, ()),)},
        {"in_flight": ((7, ()), (8, ()))},
        {"in_flight": ((8, ()),)},
        {"arrived": ((8, 0, ()),)},
    ]
    counts: list[int] = []
    for report in reports:
        log.apply(lease_request(quotas=(DAILY,), wall=wall, **report), START)
        counts.append(used(log, DAILY))
    assert counts == [1, 1, 2, 2, 2]


def test_call_under_way_at_a_boundary_counts_in_the_new_window() -> None:
    """A call without a response may arrive after midnight; it counts once, also if a clock is late."""
    log, today = QuotaLog(), calendar_spec(5, DAILY.next, DAY)
    log.apply(at_wall(DAILY.next - 10 * SECOND), START)
    late = at_wall(DAILY.next - 5 * SECOND, in_flight=((1, ()),), process="a", first=2)
    log.apply(msgspec.structs.replace(late, count=0), START + 5 * SECOND)
    request = lease_request(quotas=(today,), wall=DAILY.next + SECOND, process="b")
    yesterday = lease_request(quotas=(DAILY,), wall=DAILY.next - 1, process="c")
    for each in (request, yesterday, request):
        log.apply(each, START + 11 * SECOND)
        assert used(log, DAILY) == used(log, today) == 1


@pytest.mark.parametrize(("wall", "left"), [(2 * SECOND, 0), (2 * SECOND - 1, 1)])
def test_unused_call_near_a_boundary_stays_counted(wall: int, left: int) -> None:
    """A slot that was not used is given back to the day only where its window is certain."""
    log = QuotaLog()
    log.apply(at_wall(DAILY.start + wall), START)
    released = lease_request(quotas=(DAILY,), wall=DAILY.start + wall, released=(1,))
    log.apply(released, START)
    assert used(log, DAILY) == left


def test_slots_of_an_expensive_call_are_reported_together() -> None:
    """A call of three units is in flight, has arrived or is given back with all of its slots."""
    book, demand = LeaseBook(), Demand(3)
    number = book.consume(demand)
    assert book.in_flight == dict.fromkeys((1, 2, 3), demand)
    book.record_arrival(number, demand, 5.0)
    assert (book.in_flight, book.arrived) == ({}, dict.fromkeys((1, 2, 3), (5.0, demand)))
    book.release(number, demand)
    assert (book.arrived, book.released) == ({}, dict.fromkeys((1, 2, 3), demand))
    book.release(book.consume(demand), demand)
    book.release(10, demand, 2)
    assert book.in_flight == {}
    assert book.released == dict.fromkeys((*range(1, 7), *range(10, 16)), demand)


def test_process_gives_back_only_its_own_slots() -> None:
    """A process that releases slots which it was not granted frees nothing."""
    log = QuotaLog()
    log.apply(lease_request(quotas=(BUCKET,), count=4), START)
    other = lease_request(process="b", quotas=(BUCKET,), released=(1, 2), first=3, count=1)
    assert log.apply(other, START).opens_in == (100_000,)


def test_new_log_counts_what_living_processes_used() -> None:
    """The store lost its data: each process reports once how much of the day's quota it used."""
    log = QuotaLog()
    for process, epoch, own, known in (
        ("a", "lost", 3, 3),
        ("b", "lost", 2, 5),
        ("a", "e1", 3, 5),
        ("c", "", 0, 5),
    ):
        quota = msgspec.structs.replace(calendar_spec(9, START, 6 * SECOND), used=own)
        log.apply(lease_request(process=process, epoch=epoch, quotas=(quota,)), START)
        assert used(log, quota) == known


def test_quota_spent_before_the_first_request_is_spent_for_all() -> None:
    """A process that starts with spent quotas reports so: no process gets a slot of the window."""
    log, quota = QuotaLog(), calendar_spec(9, START, 6 * SECOND)
    spent = msgspec.structs.replace(quota, used=9)
    assert log.apply(lease_request(quotas=(spent,), count=1), START).opens_in == ()
    response = log.apply(lease_request(process="b", quotas=(quota,), count=1), START)
    assert response.opens_in == ()
    assert response.waits_for == quota.name
    at = quota.next + SECOND
    later = calendar_spec(9, at, 6 * SECOND)
    request = lease_request(process="b", quotas=(later,), wall=at, count=1, first=2)
    assert log.apply(request, at).opens_in == (0,)


def test_clock_set_back_keeps_what_a_calendar_quota_has_used() -> None:
    """The host restarts, and its clock with it: the day's quota is not given out again."""
    log, quota = QuotaLog(), calendar_spec(3, START, 86_400 * SECOND)
    request = lease_request(quotas=(quota,), wall=START, count=3)
    assert log.apply(request, START).opens_in == (0, 0, 0)
    again = msgspec.structs.replace(request, process="b")
    for at in (5 * SECOND, 60 * SECOND):
        assert log.apply(again, at).opens_in == ()


@settings(max_examples=80)
@given(
    QUOTAS,
    st.lists(st.integers(-450_000, 450_000), min_size=3, max_size=3),
    st.lists(STEP, min_size=5, max_size=40),
)
def test_quota_log_exceeds_no_quota(
    quotas: list[QuotaSpec],
    skews: list[int],
    steps: list[tuple[int, int, int, int, list[int], int, int]],
) -> None:
    """No sliding or calendar quota of any group is exceeded, whatever processes and clocks do."""
    world = World(quotas, skews)
    for number, kind, cost, count, fates, pause, fate in steps:
        process = world.processes[number]
        if not process.is_dead:
            world.ask(process, kind, cost, count, fates)
            if fate == 0:
                world.kill(process)
        world.pass_time(pause)
    for quota in quotas:
        check(quota, world.arrivals)


@settings(max_examples=20)
@given(
    st.integers(2, 6),
    st.lists(st.integers(-490_000, 490_000), min_size=3, max_size=3),
    st.integers(0, 2**32),
)
def test_quota_log_exceeds_no_calendar_quota(limit: int, skews: list[int], seed: int) -> None:
    """A calendar quota that is spent in every window, and asked for around each boundary."""
    random = Random(seed)
    world = World([calendar(limit), calendar(max(2, limit // 2), "ops")], skews)
    granted = 0
    while world.now < START + 40 * SECOND:
        process = random.choice(world.processes)
        fates = [random.randint(1, 60) for _ in range(3)]
        granted += world.ask(process, random.randrange(2), random.randint(1, 2), 2, fates)
        world.pass_time(random.choice([1000, 40_000, 200_000]))
    assert granted
    for quota in world.quotas:
        check(quota, world.arrivals)
