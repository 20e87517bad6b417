"""Costs, quotas of operations, shares and calendar quotas: the limiter and the queue."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.errors import ClientClosedError, ConfigurationError, DeadlineExceededError
from asyncclients.ratelimit.fair_queue import FlowQueue
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Quota, Share
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.ratelimit.slots import Permit
from asyncclients.ratelimit.timer import wall_clock
from asyncclients.testing.clock import run_virtual

INTERACTIVE, BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND
BERLIN = ZoneInfo("Europe/Berlin")
EVENTS = Quota(5, 10.0, operations=("events.*",))


def berlin(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


# --- The proof: a server that counts each quota, against every combination ------------


class Arrival(NamedTuple):
    at: float
    demand: Demand


def most_counted(quota: Quota, arrivals: list[Arrival], ahead: float) -> int:
    """The most that a server counts in one period; its clock is *ahead* seconds ahead of ours."""
    if quota.unit:
        counts = Counter[object]()
        for at, demand in arrivals:
            local = datetime.fromtimestamp(at + ahead, ZoneInfo(quota.timezone))
            hour = (local.hour, local.utcoffset()) if quota.unit == "hour" else None
            day = None if quota.unit == "month" else local.day
            counts[local.year, local.month, day, hour] += demand.cost
        return max(counts.values(), default=0)
    return max(
        (
            sum(d.cost for other, d in arrivals if at - quota.period < other <= at)
            for at, _ in arrivals
        ),
        default=0,
    )


def of_operations(quota: Quota, operations: tuple[str, ...]) -> Quota:
    return replace(quota, operations=operations)


QUOTAS = st.lists(
    st.builds(
        of_operations,
        st.one_of(
            st.builds(Quota, st.integers(4, 12), st.sampled_from([1.0, 7.0, 60.0])),
            st.builds(
                Quota.calendar,
                st.integers(6, 20),
                st.sampled_from(["hour", "day", "month"]),
                st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
            ),
        ),
        st.sampled_from([(), ("events.*",), ("*.list",)]),
    ),
    min_size=1,
    max_size=4,
    unique=True,
)
DEMANDS = st.builds(
    Demand,
    st.integers(1, 4),
    st.sampled_from(["events.list", "events.get", "tags.list", ""]),
    st.sampled_from([None, Share("nightly", 1.0), Share("", 0.99)]),
)
STARTS = st.sampled_from(
    [berlin("2026-03-28T23:58"), berlin("2026-10-25T01:58"), berlin("2026-10-25T02:58")]
)


class Vendor:
    """A limiter, the instants at which its calls arrive, and what is in flight."""

    def __init__(self, quotas: list[Quota], started_at: float, data: st.DataObject) -> None:
        self.limiter = Limiter(quotas, admission="exact", wall_time=lambda at: started_at + at)
        self.now, self.arrivals = 0.0, list[Arrival]()
        self._started_at, self._data = started_at, data
        self._in_flight: list[Permit] = []

    def call(self, demand: Demand) -> None:
        """Send one call as soon as the limiter allows it."""
        demand = self.limiter.kind_of(demand)
        while (at := self.limiter.next_permit_at(self.now, demand=demand)) > self.now:
            if at == math.inf:
                self.settle_one()
            else:
                self.now = at
        self._in_flight.append(self.limiter.acquire(self.now, demand))
        # It arrives between its send and its response.
        took = self._data.draw(st.sampled_from([0.0, 0.4, 3.0]), "seconds to arrive")
        self.arrivals.append(Arrival(self._started_at + self.now + took, demand))
        if len(self._in_flight) > 3:
            self.settle_one()

    def settle_one(self) -> None:
        permit = self._in_flight.pop(0)
        self.now = max(self.now, permit.sent_at + 3.0)
        if self._data.draw(st.booleans(), "has a response"):
            self.limiter.on_response(permit, self.now, None)
        else:
            self.limiter.on_no_response(permit, self.now)


@given(
    QUOTAS,
    st.lists(DEMANDS, min_size=5, max_size=40),
    STARTS,
    st.sampled_from([-1, 0, 1]),
    st.data(),
)
def test_exact_limiter_exceeds_no_quota_of_any_kind(
    quotas: list[Quota], demands: list[Demand], started_at: float, ahead: int, data: st.DataObject
) -> None:
    """Whatever calls cost and whenever they arrive, no server counts more than a quota.

    The clock of the server may be a second away from ours.
    """
    vendor = Vendor(quotas, started_at, data)
    for demand in demands:
        with suppress(ConfigurationError):  # it costs more than its share allows
            vendor.call(demand)
    for quota in quotas:
        for share in {None, *(demand.share for demand in demands)}:
            limit = quota.limit if share is None else share.of(quota).limit
            counted = [
                arrival
                for arrival in vendor.arrivals
                if quota.applies_to(arrival.demand.operation)
                and share in (None, arrival.demand.share)
            ]
            assert most_counted(quota, counted, ahead) <= limit


# --- The limiter --------------------------------------------------------------------


def send_all(limiter: Limiter, demand: Demand, until: float, now: float = 0.0) -> list[float]:
    """Send calls of *demand*, each answered at once; return when they were sent."""
    demand, sent = limiter.kind_of(demand), list[float]()
    while (now := limiter.next_permit_at(now, demand=demand)) < until:
        sent.append(now)
        limiter.on_response(limiter.acquire(now, demand), now, None)
    return sent


def test_limiter_spends_the_cost_of_a_call() -> None:
    """Of 100 per 60 s, calls that cost 5 may be sent 20 times a minute, and are."""
    sent = send_all(Limiter([Quota(100, 60.0)]), Demand(cost=5), until=600.0)
    assert 195 <= len(sent) <= 200
    assert all(later - earlier >= 59.99 for earlier, later in zip(sent, sent[20:], strict=False))


def test_limiter_sends_a_call_that_costs_more_than_the_burst() -> None:
    """A call may cost the whole quota; the next one waits for the period."""
    sent = send_all(Limiter([Quota(100, 60.0)]), Demand(cost=100), until=200.0)
    assert len(sent) == 4
    assert [round(at) for at in sent] == [0, 60, 120, 180]


def test_limiter_returns_what_a_cancelled_call_took() -> None:
    """After a call that was not sent, slots and tokens of all its quotas are free again."""
    quotas = [Quota(6, 60.0), EVENTS, Quota.calendar(5, "hour")]
    limiter = Limiter(quotas)
    demand = limiter.kind_of(Demand(5, "events.list", Share("", 1.0)))
    before = limiter.snapshot(0.0)
    limiter.on_no_response(limiter.acquire(0.0, demand), 0.0, was_sent=False)
    assert limiter.snapshot(0.0) == before
    assert limiter.next_permit_at(0.0, demand=demand) == 0.0
    assert limiter.is_idle(2.0 + 60.0)


@pytest.mark.parametrize("demand", [Demand(11), Demand(3, share=Share("", 0.2))])
def test_limiter_refuses_a_cost_above_the_limit(demand: Demand) -> None:
    """A call that could never be sent is an error that names cost and quota."""
    limiter = Limiter([Quota(10, 1.0)])
    with pytest.raises(ConfigurationError, match=rf"costs {demand.cost}.* per 1 s,? never"):
        limiter.kind_of(demand)


def test_limiter_treats_equal_needs_as_one_kind() -> None:
    """Operations without a quota of their own are ordinary calls, and those of one quota a kind."""
    limiter = Limiter([Quota(10, 1.0), EVENTS])
    assert limiter.kind_of(Demand(1, "tags.list")) is ONE
    events = limiter.kind_of(Demand(1, "events.list"))
    assert events is limiter.kind_of(Demand(1, "events.get")) is not ONE


def test_limiter_forgets_idle_shares() -> None:
    """Thousands of flows with a share of their own leave nothing behind."""
    limiter = Limiter([Quota(100, 1.0)])
    for number in range(5_000):
        demand = limiter.kind_of(Demand(share=Share(f"job {number}", 0.5)))
        now = limiter.next_permit_at(number / 10, demand=demand)
        limiter.on_response(limiter.acquire(now, demand), now, None)
    assert len(limiter._counters) < 1100  # pyright: ignore[reportPrivateUsage]


def test_limiter_keeps_a_share_with_nobody_else() -> None:
    """A share of 0.6 of 100 per 60 s sends 60 a minute, evenly, though the rest is unused."""
    limiter = Limiter([Quota(100, 60.0)])
    sent = send_all(limiter, Demand(share=Share("nightly", 0.6)), until=600.0)
    assert 595 <= len(sent) <= 603
    assert all(later - earlier >= 59.99 for earlier, later in zip(sent, sent[60:], strict=False))
    assert limiter.next_permit_at(600.0) == 600.0


def test_limiter_adds_a_quota_of_operations_and_of_a_calendar() -> None:
    """A quota that is added later counts the calls that are remembered."""
    limiter = Limiter([Quota(10, 60.0)], wall_time=lambda at: at)
    for _ in range(2):
        limiter.on_response(limiter.acquire(0.0), 0.0, None)
    limiter.add(Quota.calendar(2, "hour"), 1.0)
    limiter.add(Quota(2, 30.0, operations=("events.*",)), 1.0)
    assert limiter.next_permit_at(1.0) == pytest.approx(3601.0)
    assert limiter.openings(1.0, demand=Demand(1, "events.x"))["operations:events.*"] == 30.0
    limiter.add(EVENTS, 1.0)
    limiter.add(EVENTS, 1.0)
    assert len(limiter.quotas) == 4


def test_limiter_waits_no_longer_than_a_lowered_limit_needs() -> None:
    """A waiting call whose cost is above a quota that was added takes all of it, and is sent."""
    limiter = Limiter([Quota(10, 1.0)])
    demand = limiter.kind_of(Demand(8))
    limiter.add(Quota(4, 1.0), 0.0)
    assert send_all_again(limiter, demand) == [0.0]


def send_all_again(limiter: Limiter, demand: Demand) -> list[float]:
    at = limiter.next_permit_at(0.0, demand=demand)
    limiter.on_response(limiter.acquire(at, demand), at, None)
    assert limiter.next_permit_at(at, demand=demand) < math.inf
    return [at]


def test_calendar_quota_may_be_used_up_at_once_and_opens_at_midnight() -> None:
    """Nothing spaces the calls of a daily cap, and it is free a second after midnight."""
    start = berlin("2026-10-24T12:00")
    limiter = Limiter([Quota.calendar(50, "day", "Europe/Berlin")], wall_time=lambda at: start + at)
    sent = send_all(limiter, ONE, until=100_000.0)
    assert sent[:50] == [0.0] * 50
    midnight = berlin("2026-10-25T00:00") - start
    assert sent[50:100] == pytest.approx([midnight + 1.0] * 50)
    assert berlin("2026-10-26T00:00") - berlin("2026-10-25T00:00") == 25 * 3600


def test_calendar_quota_follows_a_clock_that_is_set() -> None:
    """If the system's clock is set past midnight, the new day has its own quota."""
    ahead = berlin("2026-06-01T12:00")
    limiter = Limiter([Quota.calendar(1, "day", "Europe/Berlin")], wall_time=lambda at: at + ahead)
    assert len(send_all(limiter, ONE, until=60.0)) == 1
    ahead += 12 * 3600.0
    assert len(send_all(limiter, ONE, until=120.0, now=61.0)) == 1


def test_calendar_quota_starts_used_up_with_a_cold_start() -> None:
    """`cold_start="full"` assumes that this day's calls are spent."""
    limiter = Limiter([Quota.calendar(5, "hour")], cold_start="full", wall_time=lambda at: at + 10)
    assert limiter.next_permit_at(0.0) == pytest.approx(3591.0)


def test_calendar_quota_that_has_ended_makes_a_limiter_idle() -> None:
    """A scope is kept while its day counts calls, and may be evicted afterwards."""
    limiter = Limiter([Quota.calendar(5, "hour")], wall_time=lambda at: at)
    limiter.on_response(limiter.acquire(0.0), 0.0, None)
    assert not limiter.is_idle(3600.0)
    assert limiter.is_idle(3601.0)


@pytest.mark.parametrize(
    ("quotas", "demand", "calls", "seconds"),
    [
        ([Quota(100, 60.0)], Demand(share=Share("", 0.6)), 601, 600.0),
        ([Quota(100, 60.0)], Demand(5), 201, 600.0),
        ([Quota(100, 60.0), Quota.calendar(1000, "hour")], ONE, 2500, 2 * 3600 + 300.0),
        ([Quota.calendar(1000, "day")], ONE, 5000, 4 * 86_400.0),
    ],
)
def test_nth_permit_is_estimated_by_cost_share_and_calendar(
    quotas: list[Quota], demand: Demand, calls: int, seconds: float
) -> None:
    """The estimate is near the instant at which the last call is really sent."""
    limiter = Limiter(quotas, wall_time=lambda at: at)
    estimate = limiter.nth_permit_at(calls, 0.0, demand)
    assert estimate == pytest.approx(seconds, rel=0.02)
    assert send_all(limiter, demand, until=seconds * 1.1)[calls - 1] == pytest.approx(
        estimate, rel=0.02
    )


# --- The queue ----------------------------------------------------------------------


def scheduler(*quotas: Quota) -> Scheduler:
    loop = asyncio.get_running_loop()
    limiter = Limiter(quotas, now=loop.time(), wall_time=wall_clock(loop))
    return Scheduler(limiter, loop)


async def call(queue: Scheduler, request: PermitRequest) -> float:
    permit = queue.try_acquire(request) or await queue.acquire(request)
    sent = queue.loop.time()
    queue.on_response(permit, None)
    queue.on_done()
    return sent


def request(
    queue: Scheduler,
    demand: Demand = ONE,
    priority: Priority = BACKGROUND,
    flow: str | None = None,
    deadline_at: float = math.inf,
) -> PermitRequest:
    return PermitRequest(priority, flow, deadline_at, demand=queue.limiter.kind_of(demand))


def start(queue: Scheduler, asked: PermitRequest, calls: int) -> list[asyncio.Task[float]]:
    return [asyncio.create_task(call(queue, asked)) for _ in range(calls)]


async def end(*tasks: asyncio.Task[float]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.virtual_time
@pytest.mark.parametrize("priority", [INTERACTIVE, BACKGROUND])
async def test_blocked_operation_does_not_hold_up_others(priority: Priority) -> None:
    """Calls that wait for a quota of their operations are passed by calls without it."""
    queue = scheduler(Quota(100, 1.0), EVENTS)
    began = queue.loop.time()
    events = start(queue, request(queue, Demand(1, "events.list"), priority), 50)
    await asyncio.sleep(1.0)
    others = await asyncio.gather(*start(queue, request(queue), 20))
    assert max(others) - began < 1.5
    waiting = queue.queued()[priority.name.lower()]
    assert waiting == 48
    assert queue.waiting_for(queue.loop.time()) == {"quota events.* 5 per 10 s": waiting}
    sent = await asyncio.gather(*events)
    assert max(sent) - began == pytest.approx(96.0, rel=0.01)


@pytest.mark.virtual_time
async def test_expensive_call_is_not_starved_by_cheap_ones() -> None:
    """An expensive call is sent in its turn, although cheap calls could go before it."""
    queue = scheduler(Quota(10, 1.0))
    cheap = start(queue, request(queue), 50)
    await asyncio.sleep(0)
    expensive = asyncio.create_task(call(queue, request(queue, Demand(8))))
    await asyncio.sleep(0)
    later = start(queue, request(queue), 50)
    sent, last = await expensive, await asyncio.gather(*cheap)
    assert max(last) <= sent < min(await asyncio.gather(*later))


@pytest.mark.virtual_time
async def test_share_leaves_the_rest_to_interactive_calls_at_once() -> None:
    """A backfill with a share of 0.6 leaves 40 of 100 free; a burst of them is not delayed."""
    queue = scheduler(Quota(100, 60.0))
    nightly = request(queue, Demand(share=Share("nightly", 0.6)), flow="nightly")
    backfill = start(queue, nightly, 1000)
    await asyncio.sleep(300.0)
    assert sum(task.done() for task in backfill) == pytest.approx(300, abs=4)
    waiting = queue.queued()["background"]
    assert queue.waiting_for(queue.loop.time()) == {"share 0.6 (60 per 60 s)": waiting}
    asked = queue.loop.time()
    page = await asyncio.gather(*start(queue, request(queue, priority=INTERACTIVE), 3))
    assert max(page) - asked < 0.1
    await end(*backfill)


@pytest.mark.virtual_time
async def test_unused_share_of_others_is_available_at_once() -> None:
    """Without the backfill, interactive calls get the whole quota."""
    queue = scheduler(Quota(100, 60.0))
    await call(queue, request(queue, Demand(share=Share("nightly", 0.6))))
    tasks = start(queue, request(queue, priority=INTERACTIVE), 1000)
    await asyncio.sleep(300.0)
    assert sum(task.done() for task in tasks) >= 495
    await end(*tasks)


@pytest.mark.virtual_time
async def test_flow_that_was_passed_over_has_one_turn_of_credit() -> None:
    """A flow whose kind was blocked for long takes turns again, like any other."""
    queue, flows = FlowQueue(), dict[object, str]()
    blocked, loop = Demand(1, "events.list"), asyncio.get_running_loop()
    for flow, demand in [("events", blocked)] * 10 + [("tags", ONE)] * 110:
        waiter: asyncio.Future[Permit] = loop.create_future()
        flows[waiter] = flow
        queue.push(flow, waiter, demand, front=False)
    for _ in range(100):
        assert queue.pop() is not None
    order = "".join(flows[queue.pop(queue.in_order()[0])][0] for _ in range(20))
    assert order in ("et" * 10, "eet" + "te" * 8 + "t")


@pytest.mark.virtual_time
async def test_two_blocked_quotas_wake_the_queue_when_the_first_opens() -> None:
    """A call behind one that waits for its share is sent as soon as the common quota opens."""
    queue = scheduler(Quota(10, 1.0))
    slow = request(queue, Demand(share=Share("slow", 0.1)), flow="slow")
    began = queue.loop.time()
    backfill = start(queue, slow, 50)
    await asyncio.sleep(0)
    others = await asyncio.gather(*start(queue, request(queue, flow="fast"), 90))
    assert max(others) - began < 11.0
    await end(*backfill)


@pytest.mark.virtual_time
async def test_deadline_ignores_calls_that_wait_for_another_quota() -> None:
    """A long queue of events does not fail a call of another operation; their own fails at once."""
    queue = scheduler(Quota(100, 1.0), EVENTS)
    events = start(queue, request(queue, Demand(1, "events.list"), INTERACTIVE), 5000)
    await asyncio.sleep(1.0)
    now = queue.loop.time()
    asked = request(queue, ONE, INTERACTIVE, deadline_at=now + 2.0)
    assert await call(queue, asked) - now < 1.0
    doomed = request(queue, Demand(1, "events.get"), INTERACTIVE, deadline_at=now + 5.0)
    with pytest.raises(DeadlineExceededError) as error:
        await call(queue, doomed)
    assert error.value.eta == pytest.approx(10_000, rel=0.05)
    await end(*events)


@pytest.mark.virtual_time
async def test_closing_wakes_the_calls_of_every_kind() -> None:
    """When the scope ends, waiting calls of all kinds raise."""
    queue = scheduler(Quota(1, 60.0), EVENTS)
    demands = [ONE, Demand(1, "events.x"), Demand(share=Share("", 0.5)), Demand(1, "events.y")]
    tasks = [t for demand in demands for t in start(queue, request(queue, demand), 3)]
    await asyncio.sleep(1.0)
    queue.close(ClientClosedError("closed"))
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(each, ClientClosedError) for each in ends) == 11
    assert queue.queued() == {"interactive": 0, "background": 0}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from([ONE, Demand(2), Demand(3), Demand(1, "events.x")]),
        ),
        max_size=20,
    )
)
def test_order_does_not_depend_on_kinds_that_are_not_blocked(
    calls: list[tuple[str, Demand]],
) -> None:
    """Where only the common quota limits, calls of all kinds are sent in the order of one kind."""

    async def order_of(calls: Sequence[tuple[str, Demand]]) -> list[int]:
        queue = scheduler(Quota(3, 1.0), Quota(10_000, 1.0, operations=("events.*",)))
        sent: list[int] = []

        async def run(number: int, flow: str, demand: Demand) -> None:
            await call(queue, request(queue, demand, flow=flow))
            sent.append(number)

        await call(queue, request(queue, Demand(3)))
        await asyncio.gather(*(run(number, *each) for number, each in enumerate(calls)))
        return sent

    assert run_virtual(order_of(calls)) == run_virtual(order_of([(f, ONE) for f, _ in calls]))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20))
def test_cancelled_calls_of_any_kind_leave_the_queue(calls: list[tuple[int, bool]]) -> None:
    """Whatever is cancelled, every other call is sent, and nothing is left behind."""
    demands = [ONE, Demand(2), Demand(1, "events.x"), Demand(share=Share("", 0.5))]

    async def run() -> None:
        queue = scheduler(Quota(3, 1.0), EVENTS)
        tasks = list[asyncio.Task[float]]()
        for kind, is_cancelled in calls:
            tasks += start(queue, request(queue, demands[kind]), 1)
            await asyncio.sleep(0)
            if is_cancelled:
                tasks[-1].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(each, float) for each in ends].count(True) >= len(
            [call for call in calls if not call[1]]
        )
        assert queue.queued() == {"interactive": 0, "background": 0}
        await asyncio.sleep(60.0)
        assert not queue.background.kinds
        assert queue.in_flight == 0

    run_virtual(run())
