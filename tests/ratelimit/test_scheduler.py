"""The scheduler: order, fairness, deadlines, cancellation and limits, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.errors import ClientClosedError, DeadlineExceededError
from asyncclients.ratelimit.fair_queue import FlowQueue
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Quota
from asyncclients.ratelimit.scheduler import (
    InFlightLimit,
    InteractiveForecast,
    PermitRequest,
    Scheduler,
)
from asyncclients.ratelimit.slots import Permit
from asyncclients.testing.clock import run_virtual

INTERACTIVE, BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND
pytestmark = pytest.mark.virtual_time


def scheduler(
    *quotas: Quota, max_in_flight: int | None = None, in_flight_limit: InFlightLimit | None = None
) -> Scheduler:
    loop = asyncio.get_running_loop()
    limiter = Limiter(quotas, now=loop.time())
    return Scheduler(limiter, loop, max_in_flight=max_in_flight, in_flight_limit=in_flight_limit)


def now() -> float:
    return asyncio.get_running_loop().time()


async def call(queue: Scheduler, request: PermitRequest, took: float = 0.0) -> float:
    """Send one call through *queue*; return when it was sent."""
    permit = queue.try_acquire(request) or await queue.acquire(request)
    sent = now()
    try:
        if took:
            await asyncio.sleep(took)
        queue.on_response(permit, None)
    except asyncio.CancelledError:
        queue.on_no_response(permit)
        raise
    finally:
        queue.on_done()
    return sent


def start(
    queue: Scheduler, requests: Sequence[PermitRequest], order: list[int]
) -> list[asyncio.Task[None]]:
    """Start a task for each request, in order; each records its number when it is sent."""

    async def run(number: int, request: PermitRequest) -> None:
        await call(queue, request)
        order.append(number)

    return [asyncio.create_task(run(*numbered)) for numbered in enumerate(requests)]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# --- Order ----------------------------------------------------------------------


async def test_flow_is_first_in_first_out() -> None:
    """Calls of one flow are sent in the order in which they were made."""
    order: list[int] = []
    await asyncio.gather(
        *start(scheduler(Quota(2, 1.0)), [PermitRequest() for _ in range(20)], order)
    )
    assert order == list(range(20))


async def test_interactive_call_precedes_background() -> None:
    """A later interactive call is sent before all waiting background calls."""
    queue, order = scheduler(Quota(1, 1.0)), list[int]()
    backfill = start(queue, [PermitRequest(BACKGROUND) for _ in range(5)], order)
    await settle()
    web = start(queue, [PermitRequest()], web_order := list[int]())
    await asyncio.gather(*web)
    assert web_order == [0]
    assert order == [0]
    await asyncio.gather(*backfill)


async def test_background_gets_every_tenth_grant() -> None:
    """While both classes wait, every tenth grant goes to background."""
    queue, order = scheduler(Quota(10, 1.0)), list[int]()
    tasks = start(queue, [PermitRequest()] * 90 + [PermitRequest(BACKGROUND)] * 20, order)
    await asyncio.sleep(5.0)
    done = Counter(number >= 90 for number in order[10:50])
    assert done == {False: 36, True: 4}
    await asyncio.gather(*tasks)


async def test_background_gets_its_share_without_a_queue() -> None:
    """Interactive calls made one after the other leave background every tenth grant."""
    queue = scheduler(Quota(10, 1.0))
    order: list[int] = []
    backfill = start(queue, [PermitRequest(BACKGROUND) for _ in range(30)], order)
    end = now() + 20.0
    web = 0
    while now() < end:
        await call(queue, PermitRequest())
        web += 1
    assert len(order) >= 15
    assert web + len(order) >= 195
    for task in backfill:
        task.cancel()
    await asyncio.gather(*backfill, return_exceptions=True)


async def test_background_turn_does_not_delay_interactive_calls() -> None:
    """When the tenth grant is due to background, it is granted without a reserve."""
    queue = scheduler(Quota(100, 60.0))
    for _ in range(100):
        await call(queue, PermitRequest())
    backfill = start(queue, [PermitRequest(BACKGROUND) for _ in range(100)], done := list[int]())
    sent = [await call(queue, PermitRequest()) for _ in range(200)]
    assert max(after - before for before, after in pairwise(sent)) < 4.0
    assert len(done) >= 20
    for task in backfill:
        task.cancel()
    await asyncio.gather(*backfill, return_exceptions=True)


async def test_reserve_holds_back_background_only() -> None:
    """No interactive call waits while a slot is free."""
    queue = scheduler(Quota(100, 60.0))
    for _ in range(30):
        await call(queue, PermitRequest())
    await asyncio.sleep(60.0)
    backfill = start(queue, [PermitRequest(BACKGROUND) for _ in range(200)], [])
    await asyncio.sleep(10.0)
    asked = now()
    sent = await call(queue, PermitRequest())
    assert sent - asked <= 0.6 + 0.001
    for task in backfill:
        task.cancel()
    await asyncio.gather(*backfill, return_exceptions=True)


async def test_flows_share_the_quota() -> None:
    """A flow of three calls finishes long before a flow of a hundred."""
    queue, order = scheduler(Quota(1, 1.0)), list[int]()
    big = [PermitRequest(flow="big") for _ in range(100)]
    tasks = start(queue, [*big, *[PermitRequest(flow="small") for _ in range(3)]], order)
    await asyncio.sleep(8.0)
    assert [number for number in order if number >= 100] == [100, 101, 102]
    assert len(order) <= 9
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_retry_goes_to_the_front_of_its_flow() -> None:
    """A retry is sent before new calls of its flow."""
    queue, order = scheduler(Quota(1, 1.0)), list[int]()
    again = PermitRequest()
    again = again.as_retry()
    tasks = start(queue, [PermitRequest(), PermitRequest(), PermitRequest(), again], order)
    await asyncio.gather(*tasks)
    assert order == [0, 3, 1, 2]


async def test_no_free_slot_is_left_unused() -> None:
    """A thousand calls at 100 per second take ten seconds."""
    queue = scheduler(Quota(100, 1.0))
    began = now()
    sent = await asyncio.gather(*(call(queue, PermitRequest()) for _ in range(1000)))
    assert max(sent) - began <= 10.0


# --- Deadlines --------------------------------------------------------------------


async def test_deadline_that_cannot_be_met_fails_at_once() -> None:
    """The error names the expected wait, and no slot is used."""
    queue = scheduler(Quota(1, 1.0))
    tasks = start(queue, [PermitRequest() for _ in range(10)], [])
    await settle()
    asked = now()
    with pytest.raises(
        DeadlineExceededError, match=r"would wait 10\.0 s .* 3\.0 s are left"
    ) as late:
        await queue.acquire(PermitRequest(deadline_at=now() + 3.0))
    assert now() == asked
    assert late.value.eta == pytest.approx(10.0, abs=0.2)
    assert late.value.advice
    assert queue.queued() == {"interactive": 9, "background": 0}
    await asyncio.gather(*tasks)


async def test_deadline_is_checked_against_the_flows_turn() -> None:
    """A hundred calls of another flow do not delay a call that is second."""
    queue = scheduler(Quota(1, 1.0))
    tasks = start(queue, [PermitRequest(flow="big") for _ in range(100)], [])
    await settle()
    sent = await call(queue, PermitRequest(flow="small", deadline_at=now() + 3.0))
    assert sent <= 3.0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_eta_counts_calls_ahead() -> None:
    """It is early by at most one slot; background waits for interactive calls as well."""
    queue = scheduler(Quota(2, 1.0))
    assert queue.eta(1) == 0.0
    tasks = start(queue, [PermitRequest()] * 6 + [PermitRequest(BACKGROUND)] * 4, [])
    await settle()
    assert queue.eta(1) == pytest.approx(3.0, abs=0.6)
    assert queue.eta(1, BACKGROUND) == pytest.approx(5.0, abs=0.6)
    assert queue.eta(1) < queue.eta(1, BACKGROUND) < queue.eta(20, BACKGROUND)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("before", [9, 18, 45])
@pytest.mark.parametrize("priority", Priority)
async def test_deadline_counts_the_share_of_background(priority: Priority, before: int) -> None:
    """One grant in ten is background's: a deadline before the turn fails at once, a later one not.

    *before* calls of the same class wait, and 40 of the other.
    """
    due = await seconds_until_sent(priority, before, math.inf)
    for deadline in (0.5 * due, due - 1.1):
        with pytest.raises(DeadlineExceededError):
            await seconds_until_sent(priority, before, deadline)
    assert await seconds_until_sent(priority, before, due + 0.1) == pytest.approx(due, abs=0.1)


async def seconds_until_sent(priority: Priority, before: int, deadline: float) -> float:
    """Virtual seconds of a call behind *before* of its class and 40 of the other."""
    queue = scheduler(Quota(1, 1.0))
    queue.on_response(await queue.acquire(PermitRequest()), None)
    queue.on_done()
    requests = [PermitRequest(priority)] * before + [PermitRequest(Priority(1 - priority))] * 40
    tasks = start(queue, requests, [])
    await settle()
    asked = now()
    try:
        return await call(queue, PermitRequest(priority, deadline_at=asked + deadline)) - asked
    except DeadlineExceededError:
        assert now() == asked, "it waited before it failed"
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


CALLS = st.tuples(st.sampled_from(Priority), st.sampled_from("abc"), st.booleans(), st.booleans())


@given(st.lists(CALLS, max_size=60), st.integers(0, 40), CALLS)
def test_deadline_check_counts_the_grants_before_exactly(
    calls: list[tuple[Priority, str, bool, bool]],
    served: int,
    late: tuple[Priority, str, bool, bool],
) -> None:
    """With flows, classes, retries and cancelled calls, as many calls are sent first as counted."""

    async def run() -> None:
        queue, order = scheduler(max_in_flight=1), list[int]()
        permit = queue.try_acquire(PermitRequest())
        assert permit is not None
        requests = [
            PermitRequest(priority, flow, is_retry=again) for priority, flow, again, _ in calls
        ]
        tasks = start(queue, requests, order)
        await settle()
        for task, (*_, cancelled) in zip(tasks, calls, strict=True):
            if cancelled:
                task.cancel()
        await settle()
        queue.max_in_flight = 0
        queue.on_response(permit, None)
        queue.on_done()
        await serve(queue, order, min(served, sum(queue.queued().values())))
        priority, flow, again, _ = late
        own = queue._queues[priority].ahead(flow, front=again)  # pyright: ignore[reportPrivateUsage]
        before = queue._grants_before(own, priority)  # pyright: ignore[reportPrivateUsage]
        sent = len(order)
        last = start(queue, [PermitRequest(priority, flow, is_retry=again)], turn := list[int]())
        await settle()
        while not turn:
            await serve(queue, order, 1, turn)
        assert len(order) - sent == before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *last, return_exceptions=True)

    virtually(run)


async def serve(
    queue: Scheduler, order: list[int], count: int, other: list[int] | None = None
) -> None:
    """Grant *count* permits, one at a time; stop when one is recorded in *other*."""
    other = [] if other is None else other
    goal = len(order) + count
    while len(order) < goal and not other:
        queue.max_in_flight = queue.in_flight + 1
        queue.dispatch()
        queue.max_in_flight = 0
        await settle()


@pytest.mark.parametrize(("interactive", "background"), [(40, 0), (40, 3), (30, 30), (0, 20)])
@pytest.mark.parametrize("priority", Priority)
async def test_eta_counts_the_share_of_background(
    priority: Priority, interactive: int, background: int
) -> None:
    """`eta` is when a new call is sent, whichever class waits before it."""
    queue = scheduler(Quota(1, 1.0))
    await call(queue, PermitRequest())
    requests = [PermitRequest()] * interactive + [PermitRequest(BACKGROUND)] * background
    tasks = start(queue, requests, [])
    await settle()
    asked, eta = now(), queue.eta(1, priority)
    assert await call(queue, PermitRequest(priority)) - asked == pytest.approx(eta, abs=0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- Cancellation -------------------------------------------------------------------


async def test_cancelled_waiter_takes_no_slot() -> None:
    """Later waiters move up, and the counts are right."""
    queue, order = scheduler(Quota(1, 1.0)), list[int]()
    tasks = start(queue, [PermitRequest() for _ in range(5)], order)
    await settle()
    for task in tasks[1:4]:
        task.cancel()
    await settle()
    assert queue.queued()["interactive"] == 1
    await tasks[4]
    assert order == [0, 4]
    assert now() == pytest.approx(1.0, abs=0.1)
    assert (queue.in_flight, queue.sent) == (0, 2)


async def test_waiter_cancelled_in_the_tick_of_its_grant() -> None:
    """Its permit is returned and granted to the next waiter in the same tick."""
    queue = scheduler(Quota(1, 1.0), max_in_flight=1)
    first = queue.try_acquire(PermitRequest())
    assert first is not None
    waiting = [asyncio.create_task(queue.acquire(PermitRequest())) for _ in range(2)]
    await settle()
    queue.on_response(first, None)
    await asyncio.sleep(2.0)
    queue.on_done()  # grants to the first waiter, which has not run yet
    waiting[0].cancel()
    await settle()
    assert waiting[0].cancelled()
    permit = await waiting[1]
    assert now() == pytest.approx(2.0, abs=0.01)
    assert (queue.in_flight, queue.sent) == (1, 2)
    queue.on_no_response(permit, was_sent=False)
    queue.on_done()


async def test_scheduler_counts_background_calls() -> None:
    """`sent_background` has the background calls among `sent`, without those that are cancelled."""
    queue = scheduler()
    for priority in (INTERACTIVE, BACKGROUND, BACKGROUND):
        await call(queue, PermitRequest(priority))
    assert (queue.sent, queue.sent_background) == (3, 2)
    for priority in (INTERACTIVE, BACKGROUND):
        permit = queue.try_acquire(PermitRequest(priority))
        assert permit is not None
        queue.on_no_response(permit, was_sent=False)
        queue.on_done()
    assert (queue.sent, queue.sent_background) == (3, 2)


async def test_eta_of_flow_takes_turns_with_planned_flows() -> None:
    """A flow that waits counts with its planned calls, at most as many as the flow itself has."""
    queue = scheduler(Quota(1, 1.0))
    requests = [PermitRequest(BACKGROUND, flow) for flow in ("a", "b", "c", "a", "b", "c")]
    tasks = start(queue, requests, [])
    await settle()
    alone = queue.eta_of_flow("a", 10)
    for planned, turns in (({"b": 3, "c": 4}, 17), ({"b": 30, "c": 0}, 20), ({"c": 1}, 21)):
        queue.planned.clear()
        queue.planned.update(planned)
        assert queue.eta_of_flow("a", 10) == pytest.approx(turns, abs=1.5)
    assert alone == pytest.approx(30, abs=1.5)
    for task in tasks:
        task.cancel()
    await settle()


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=40), st.integers(1, 4))
def test_random_cancellations_leak_nothing(steps: list[tuple[int, bool]], in_flight: int) -> None:
    """After random calls and cancellations nothing is in flight or queued."""

    async def run() -> None:
        in_flight_limit = InFlightLimit(in_flight)
        queues = [scheduler(Quota(5, 1.0), in_flight_limit=in_flight_limit) for _ in range(2)]
        tasks: list[asyncio.Task[float]] = []
        for number, (place, cancel) in enumerate(steps):
            request = PermitRequest(Priority(place % 2), flow=str(place))
            tasks.append(asyncio.create_task(call(queues[number % 2], request, took=0.001)))
            if cancel:
                tasks[place % len(tasks)].cancel()
            if place % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 100)
        for queue in queues:
            assert queue.in_flight == 0
            assert queue.queued() == {"interactive": 0, "background": 0}
        assert in_flight_limit.in_use == 0

    virtually(run)


def virtually(run: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run a coroutine function on a loop whose time is virtual."""
    run_virtual(run())


# --- Caps ---------------------------------------------------------------------------


async def test_max_in_flight_is_never_exceeded() -> None:
    """A finished call makes room at once."""
    queue = scheduler(Quota(1000, 1.0), max_in_flight=4)
    most = 0

    async def one() -> None:
        nonlocal most
        permit = queue.try_acquire(PermitRequest()) or await queue.acquire(PermitRequest())
        most = max(most, queue.in_flight)
        await asyncio.sleep(1.0)
        queue.on_response(permit, None)
        queue.on_done()

    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 4
    assert now() == pytest.approx(5.0, abs=0.1)


async def test_in_flight_limit_is_shared_by_scopes() -> None:
    """Two scopes with 3 requests between them both progress, never more than 3 at once."""
    in_flight_limit = InFlightLimit(3)
    queues = [scheduler(Quota(1000, 1.0), in_flight_limit=in_flight_limit) for _ in range(2)]
    most = 0

    async def one(queue: Scheduler) -> None:
        nonlocal most
        permit = queue.try_acquire(PermitRequest()) or await queue.acquire(PermitRequest())
        most = max(most, in_flight_limit.in_use)
        await asyncio.sleep(1.0)
        queue.on_response(permit, None)
        queue.on_done()

    await asyncio.gather(*(one(queue) for queue in queues for _ in range(9)))
    assert most == 3
    assert in_flight_limit.in_use == 0
    assert now() == pytest.approx(6.0, abs=0.1)


async def test_in_flight_limit_wakes_the_next_scope_after_a_cancellation() -> None:
    """If the first blocked scope has no waiter left, the next one is woken."""
    in_flight_limit = InFlightLimit(1)
    one, two, three = (scheduler(Quota(9, 1.0), in_flight_limit=in_flight_limit) for _ in range(3))
    permit = one.try_acquire(PermitRequest())
    assert permit is not None
    gives_up = asyncio.create_task(two.acquire(PermitRequest()))
    await settle()
    waits = asyncio.create_task(three.acquire(PermitRequest()))
    await settle()
    gives_up.cancel()
    await settle()
    one.on_response(permit, None)
    one.on_done()
    await settle()
    assert waits.done()
    three.on_no_response(await waits, was_sent=False)
    three.on_done()


@pytest.mark.parametrize("blocked_by", ["scope", "pool"])
async def test_scheduler_grants_a_burst_in_several_ticks(blocked_by: str) -> None:
    """200 slots that open at once are granted 64 per iteration of the loop."""
    in_flight_limit = InFlightLimit(1 if blocked_by == "pool" else math.inf)
    queue = scheduler(
        max_in_flight=1 if blocked_by == "scope" else None, in_flight_limit=in_flight_limit
    )
    first = queue.try_acquire(PermitRequest())
    assert first is not None
    waiting = [
        asyncio.create_task(queue.acquire(PermitRequest(Priority(n % 2)))) for n in range(200)
    ]
    await settle()
    queue.max_in_flight = in_flight_limit.limit = math.inf
    queue.on_response(first, None)
    queue.on_done()
    granted = [queue.in_flight]
    while granted[-1] < 200 and len(granted) < 20:
        await asyncio.sleep(0)
        granted.append(queue.in_flight)
    assert granted[-1] == 200
    assert max(after - before for before, after in pairwise([0, *granted])) == 64
    for task in waiting:
        queue.on_response(await task, None)
        queue.on_done()


# --- The end ----------------------------------------------------------------------------


async def test_close_raises_in_every_waiter() -> None:
    """Each waiter gets its own error, and later calls fail as well."""
    queue = scheduler(Quota(1, 60.0))
    first = queue.try_acquire(PermitRequest())
    assert first is not None
    waiting = [asyncio.create_task(queue.acquire(PermitRequest(Priority(n % 2)))) for n in range(4)]
    await settle()
    queue.close(ClientClosedError("closed", advice="later"))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, ClientClosedError) for error in errors)
    assert len({id(error) for error in errors}) == 4
    assert queue.queued() == {"interactive": 0, "background": 0}
    assert queue.try_acquire(PermitRequest()) is None
    with pytest.raises(ClientClosedError, match="closed"):
        await queue.acquire(PermitRequest())
    queue.on_response(first, None)
    queue.on_done()


async def test_cancellation_wins_over_closing_in_the_same_tick() -> None:
    """The waiter is cancelled, and no error is left unretrieved."""
    queue = scheduler(Quota(1, 60.0))
    assert queue.try_acquire(PermitRequest()) is not None
    waiting = asyncio.create_task(queue.acquire(PermitRequest()))
    await settle()
    queue.close(ClientClosedError("closed"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# --- The arithmetic of flows ----------------------------------------------------------------


async def test_flow_queue_alternates_between_flows() -> None:
    """Flows take turns, and an idle flow accumulates no credit."""
    queue, names = FlowQueue(), dict[asyncio.Future[Permit], str]()
    loop = asyncio.get_running_loop()

    def push(flow: str) -> None:
        waiter: asyncio.Future[Permit] = loop.create_future()
        names[waiter] = flow
        queue.push(flow, waiter, front=False)

    def pop(count: int) -> str:
        popped = [queue.pop() for _ in range(count)]
        return "".join(names[waiter] for waiter in popped if waiter)

    for flow in "aaaabb":
        push(flow)
    assert pop(3) == "aba"
    for flow in "cc":
        push(flow)
    assert queue.ahead("c") == 2 + 2 + 1
    assert queue.ahead("d") == 2
    push("d")
    assert pop(6) == "bcdaca"
    assert queue.pop() is None


async def test_flow_queue_forgets_finished_flows() -> None:
    """An endless backlog with short-lived flows keeps no trace of them."""
    queue = FlowQueue()
    loop = asyncio.get_running_loop()
    queue.push("steady", loop.create_future(), front=False)
    for number in range(5_000):
        queue.push("steady", loop.create_future(), front=False)
        queue.push(f"user {number}", loop.create_future(), front=False)
        assert queue.pop() is not None
        assert queue.pop() is not None
    assert len(queue._flows) < 200  # pyright: ignore[reportPrivateUsage]


def count_call(forecast: InteractiveForecast, at: float) -> None:
    """Count a call, as a scheduler does."""
    if at >= forecast.until:
        forecast.advance(at)
    forecast.count += 1


def test_forecast_is_the_count_of_the_previous_window() -> None:
    """Less the calls of this window; 0 after a window with one call or none."""
    forecast = InteractiveForecast(1.0)
    for _ in range(5):
        count_call(forecast, 10.5)
    assert forecast.remaining(10.9) == 0
    assert forecast.remaining(11.1) == 5
    count_call(forecast, 11.2)
    count_call(forecast, 11.3)
    assert forecast.remaining(11.4) == 3
    assert forecast.remaining(12.3) == 2
    count_call(forecast, 12.4)
    assert forecast.remaining(13.3) == 0
    assert forecast.remaining(14.0) == 0


# --- Calls that a response shows to be late -----------------------------------------


def rejection(seconds: float, *, unavailable: bool = False) -> RateLimitInfo:
    return RateLimitInfo(
        is_rate_limited=not unavailable, unavailable=unavailable, retry_after=seconds
    )


async def waiting(
    queue: Scheduler, *deadlines: float, demand: Demand = ONE, priority: Priority = INTERACTIVE
) -> list[asyncio.Task[float]]:
    """Start a call for each of *deadlines*, in seconds from now, and let it wait."""
    requests = [
        PermitRequest(priority, deadline_at=now() + seconds, demand=demand) for seconds in deadlines
    ]
    tasks = [asyncio.create_task(call(queue, request)) for request in requests]
    await settle()
    return tasks


def refused(task: asyncio.Task[float]) -> DeadlineExceededError:
    """Return the error of a call that must have failed already."""
    error = task.exception()
    assert isinstance(error, DeadlineExceededError)
    return error


@pytest.mark.parametrize("unavailable", [False, True])
@pytest.mark.parametrize("is_in_body", [False, True])
async def test_pause_refuses_waiting_calls_that_end_before_it(
    unavailable: bool, is_in_body: bool
) -> None:
    """A 429, a 503 with Retry-After or a rejection in a body fails those whose deadline is earlier."""
    queue = scheduler(Quota(1, 10.0))
    permit = await queue.acquire(PermitRequest())
    tasks = await waiting(queue, 30.0, 100.0, math.inf)
    if is_in_body:
        queue.on_response(permit, None)
        queue.on_rate_limited(60.0, permit)
    else:
        queue.on_response(permit, rejection(60.0, unavailable=unavailable))
    queue.on_done()
    await settle()
    error = refused(tasks[0])
    assert "would wait 60.0 s for its turn, 30.0 s are left" in error.message
    assert "the vendor has rate-limited calls or is unavailable until" in error.message
    assert error.eta == pytest.approx(60.0)
    assert queue.queued()["interactive"] == 2
    assert await tasks[1] == pytest.approx(60.0, abs=0.1)
    assert 70.0 <= await tasks[2] < 71.0


async def test_pause_refuses_calls_again_if_it_grows() -> None:
    """A later response with a longer pause fails the calls that the first one left."""
    queue = scheduler(Quota(2, 1.0))
    first, second = [await queue.acquire(PermitRequest()) for _ in range(2)]
    tasks = await waiting(queue, 30.0, 90.0)
    queue.on_response(first, rejection(20.0))
    await settle()
    assert not any(task.done() for task in tasks)
    queue.on_response(second, rejection(60.0))
    await settle()
    refused(tasks[0])
    assert await tasks[1] == pytest.approx(60.0, abs=0.1)


async def test_pause_that_grows_slowly_refuses_calls() -> None:
    """Responses that prolong a pause by less than a second each add up."""
    queue = scheduler(Quota(5, 1.0), max_in_flight=5)
    permits = [await queue.acquire(PermitRequest()) for _ in range(5)]
    tasks = await waiting(queue, 61.5)
    for permit in permits:
        assert not tasks[0].done()
        queue.on_response(permit, rejection(60.0))
        await asyncio.sleep(0.9)
    refused(tasks[0])


async def test_calls_within_a_second_of_the_pause_are_not_refused() -> None:
    """An estimate that misses a deadline by less than a second fails no call."""
    queue = scheduler(Quota(1, 1.0))
    permit = await queue.acquire(PermitRequest())
    tasks = await waiting(queue, 59.5)
    queue.on_response(permit, rejection(60.0))
    await settle()
    assert not tasks[0].done()
    assert await tasks[0] == pytest.approx(60.0, abs=0.1)


async def test_used_up_calendar_quota_refuses_background_calls() -> None:
    """Interactive calls that take the rest of the day refuse the background calls behind them."""
    loop = asyncio.get_running_loop()
    limiter = Limiter(
        [Quota.calendar(3, "day")], now=loop.time(), wall_time=lambda at: 86_400.0 + 3600.0 + at
    )
    queue = Scheduler(limiter, loop, max_in_flight=1)
    permit = await queue.acquire(PermitRequest())
    backfill = await waiting(queue, 600.0, priority=BACKGROUND)
    web = await waiting(queue, 600.0, 600.0)
    queue.on_response(permit, None)
    queue.on_done()
    await asyncio.sleep(1.0)
    assert all(task.exception() is None for task in web)
    error = refused(backfill[0])
    assert "the quota 3 per day (UTC) is used up until 1970-01-03 00:00:0" in error.message
    assert error.advice == "Send it after 1970-01-03 00:00:01 UTC"
    assert queue.queued() == {"interactive": 0, "background": 0}


async def test_used_up_quota_of_operations_refuses_its_calls_only() -> None:
    """A call of other operations, with the same deadline, is sent."""
    loop = asyncio.get_running_loop()
    quotas = [Quota(1, 2.0), Quota.calendar(2, "day", operations=("tags.*",))]
    limiter = Limiter(quotas, now=loop.time(), wall_time=lambda at: 86_400.0 + at)
    queue, tags = Scheduler(limiter, loop), limiter.kind_of(Demand(1, "tags.list"))
    permit = await queue.acquire(PermitRequest(demand=tags))
    backfill = await waiting(queue, 60.0, demand=tags, priority=BACKGROUND)
    others = await waiting(queue, 60.0, priority=BACKGROUND)
    web = await waiting(queue, 60.0, demand=tags)
    queue.on_response(permit, None)
    queue.on_done()
    assert await web[0] == pytest.approx(2.0, abs=0.1)
    await settle()
    assert "tags.*" in refused(backfill[0]).message
    assert await others[0] == pytest.approx(4.0, abs=0.2)
