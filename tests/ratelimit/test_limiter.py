"""The limiter of one scope: safety, feedback, estimates. Plain values; no clock."""

from __future__ import annotations

import gc
import math
import weakref
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, Literal
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit import slots
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Delay, Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.slots import Permit, SlidingWindow

TWO = Quota(2, 1.0)
HUNDRED = Quota(100, 60.0)
EITHER: tuple[Literal["adaptive", "exact"], ...] = ("adaptive", "exact")

quotas = st.builds(
    Quota, limit=st.integers(1, 12), period=st.sampled_from([0.1, 1.0, 7.3, 60.0, 3600.0])
)
latencies = st.floats(0.0, 5.0)
shares = st.floats(0.0, 1.0)


def most_in_any_window(arrivals: list[float], period: float) -> int:
    """Return the most instants in any half-open window of *period*."""
    return max(
        (sum(1 for other in arrivals if at - period < other <= at) for at in arrivals), default=0
    )


def send(limiter: Limiter, now: float) -> Permit:
    """Send one call as soon as the limiter allows it."""
    at = limiter.next_permit_at(now)
    assert at < math.inf
    return limiter.acquire(at)


# --- Safety ------------------------------------------------------------------------


@given(
    limits=st.lists(quotas, min_size=1, max_size=3),
    legs=st.lists(st.tuples(latencies, latencies), min_size=1, max_size=60),
    start=st.sampled_from([0.0, 1e6]),
)
def test_exact_never_exceeds_the_quota_on_arrival(
    limits: list[Quota], legs: list[tuple[float, float]], start: float
) -> None:
    """`exact`: never more than N arrivals in any W, whatever the latencies each way."""
    limiter = Limiter(limits, admission="exact", now=start)
    arrivals: list[float] = []
    answers: list[tuple[float, int, Permit]] = []
    now = start
    for order, (up, down) in enumerate(legs):
        while (at := limiter.next_permit_at(now)) > now:
            if answers and answers[0][0] <= at:
                now, _, permit = heappop(answers)
                limiter.on_response(permit, now, None)
            else:
                now = at
        arrivals.append(now + up)
        heappush(answers, (now + up + down, order, limiter.acquire(now)))
    for quota in limits:
        # Rounding may move an arrival by its last bits, and no more.
        assert most_in_any_window(arrivals, quota.period * (1 - 1e-9)) <= quota.limit


@given(
    limit=st.integers(1, 5),
    steps=st.lists(st.tuples(shares, shares), min_size=20, max_size=40),
    admission=st.sampled_from(EITHER),
)
def test_limiter_keeps_the_quota_with_a_coarse_clock(
    limit: int, steps: list[tuple[float, float]], admission: Literal["adaptive", "exact"]
) -> None:
    """A clock of 1/64 s, as on Windows, lets no more than N calls arrive in any W."""
    tick = 1 / 64
    with patch.object(slots, "CLOCK_STEP", tick):
        limiter = Limiter([Quota(limit, 1.0)], admission=admission)
    arrivals: list[float] = []
    now = 0.0
    for late, latency in steps:
        at = limiter.next_permit_at(math.floor(now / tick) * tick)
        now = max(now, math.ceil(at / tick - 1e-6) * tick) + late * tick * 0.999
        permit = limiter.acquire(math.floor(now / tick) * tick)
        now += latency * tick
        arrivals.append(now)
        limiter.on_response(permit, math.floor(now / tick) * tick, None)
    assert most_in_any_window(arrivals, 1.0 - 1e-9) <= limit


@given(
    limits=st.lists(quotas, min_size=1, max_size=2),
    fates=st.lists(
        st.tuples(
            st.sampled_from(["answered", "lost", "returned", "refused"]),
            st.floats(0.0, 3.0),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
    admission=st.sampled_from(["adaptive", "exact"]),
)
def test_limiter_frees_every_slot(
    limits: list[Quota],
    fates: list[tuple[str, float, int]],
    admission: Literal["adaptive", "exact"],
) -> None:
    """However calls end, every slot is free one period after all are settled."""
    limiter = Limiter(limits, admission=admission)
    out: list[Permit] = []
    now = 0.0
    for fate, step, pick in fates:
        now += step
        if limiter.next_permit_at(now) <= now:
            out.append(limiter.acquire(now))
            assert limiter.snapshot(now).held >= 1
        if out and pick < len(out):
            permit = out.pop(pick)
            _settle(limiter, permit, fate, now)
            _settle(limiter, permit, "returned", now)  # a fate is settled once
    for permit in out:
        limiter.on_response(permit, now, None)
    over = max(now, limiter.paused_until) + max(quota.period for quota in limits) + 1e-6
    assert limiter.snapshot(over).held == 0
    later = over + 10 * max(quota.period for quota in limits)  # rejections lower the rate
    assert limiter.next_permit_at(later) == later


def _settle(limiter: Limiter, permit: Permit, fate: str, now: float) -> None:
    if fate == "refused":
        limiter.on_response(permit, now, RateLimitInfo(is_rate_limited=True, retry_after=1.0))
    elif fate == "answered":
        limiter.on_response(permit, now, None)
    elif fate == "lost":
        limiter.on_no_response(permit, now)
    else:
        limiter.on_no_response(permit, now, was_sent=False)


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 1.0)), max_size=80),
    admission=st.sampled_from(["adaptive", "exact"]),
)
def test_next_permit_at_keeps_its_promise(
    steps: list[tuple[float, float]], admission: Literal["adaptive", "exact"]
) -> None:
    """At the instant that `next_permit_at` returned, a permit is available."""
    limiter = Limiter([TWO, HUNDRED], admission=admission)
    now = 0.0
    for wait, latency in steps:
        now += wait
        at = limiter.next_permit_at(now)
        assert at >= now
        assert limiter.next_permit_at(at) == at
        permit = limiter.acquire(at)
        now = at + latency
        limiter.on_response(permit, now, None)


def test_call_without_response_holds_its_slot() -> None:
    """Only a response frees a slot; giving up frees it one period later."""
    limiter = Limiter([TWO])
    first, second = send(limiter, 0.0), send(limiter, 0.0)
    assert limiter.next_permit_at(100.0) == math.inf
    limiter.on_no_response(first, 100.0)
    assert limiter.next_permit_at(100.0) == 101.0
    limiter.on_no_response(second, 100.0, was_sent=False)
    assert limiter.next_permit_at(100.0) == 100.0


def test_reserved_slots_are_left_free() -> None:
    """With two of four reserved, the third call waits for a slot that leaves two."""
    limiter = Limiter([Quota(4, 10.0)], admission="exact")
    for now in (0.0, 5.0):
        limiter.on_response(send(limiter, now), now, None)
    assert limiter.next_permit_at(7.0) < math.inf
    assert limiter.next_permit_at(7.5) == 7.5
    assert limiter.next_permit_at(7.5, reserve=2) == 10.0
    assert limiter.next_permit_at(7.5, reserve=3) == 15.0
    assert limiter.next_permit_at(7.5, reserve=99) == 15.0, "one slot at least can always be had"


def test_spaced_call_keeps_its_distance() -> None:
    """Half a period after the last call of 2 per 1 s, although both slots are free."""
    limiter = Limiter([TWO])
    limiter.on_response(send(limiter, 0.0), 0.0, None)
    assert limiter.next_permit_at(0.0) == 0.0
    assert limiter.next_permit_at(0.0, spaced=True) == 0.5


def test_limiter_obeys_every_quota() -> None:
    """Of two quotas the full one decides."""
    limiter = Limiter([Quota(5, 1.0), Quota(6, 60.0)], admission="exact")
    now = 0.0
    for _ in range(6):
        now = limiter.next_permit_at(now)
        limiter.on_response(limiter.acquire(now), now, None)
    assert limiter.next_permit_at(now) == 60.0


def test_added_quota_counts_earlier_calls() -> None:
    """A stricter quota that is added later is full at once if it would have been."""
    limiter = Limiter([Quota(10, 1.0)], admission="exact")
    for _ in range(2):
        limiter.on_response(send(limiter, 0.0), 0.0, None)
    limiter.add(Quota(2, 60.0), 0.5)
    assert limiter.quotas == (Quota(10, 1.0), Quota(2, 60.0))
    assert limiter.next_permit_at(0.5) == pytest.approx(60.0, abs=0.2)


@pytest.mark.parametrize("now", [0.0, 1000.0])
def test_cold_start_full_waits_for_a_period(now: float) -> None:
    """`cold_start="full"`: nothing is sent for one period; `"empty"`: at once."""
    assert Limiter([TWO], cold_start="full", now=now).next_permit_at(now) == now + 1.0
    assert Limiter([TWO], cold_start="empty", now=now).next_permit_at(now) == now


def test_limiter_tolerates_a_clock_that_stops_or_jumps() -> None:
    """At one instant N calls are sent and no more; after a jump of years, N again."""
    limiter = Limiter([Quota(3, 1.0)], admission="exact")
    for year in range(3):
        now = year * 3.2e7
        sent = 0
        while limiter.next_permit_at(now) <= now and sent < 10:
            limiter.on_response(limiter.acquire(now), now, None)
            sent += 1
        assert 1 <= sent <= 3


def test_limiter_without_quotas_obeys_rejections() -> None:
    """Every call is sent at once until the vendor rejects one."""
    limiter = Limiter([])
    permits = [send(limiter, 0.0) for _ in range(1000)]
    limiter.on_response(permits[0], 0.0, RateLimitInfo(is_rate_limited=True, retry_after=7.0))
    assert limiter.next_permit_at(0.0) == 7.0
    assert limiter.nth_permit_at(5, 0.0) == 7.0


@pytest.mark.parametrize("wrong", [{"admission": "loose"}, {"cold_start": "warm"}])
def test_limiter_rejects_unknown_modes(wrong: dict[str, Any]) -> None:
    """An unknown `admission` or `cold_start` is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong.values()))):
        Limiter([TWO], **wrong)


# --- Estimates -----------------------------------------------------------------------


@given(
    quota=st.sampled_from([TWO, Quota(5, 1.0), Quota(1, 3.0), HUNDRED]),
    sent=st.integers(1, 30),
    calls=st.integers(1, 250),
    latency=st.floats(0.0, 0.4),
    admission=st.sampled_from(["adaptive", "exact"]),
)
@example(quota=Quota(5, 1.0), sent=5, calls=10, latency=0.4, admission="adaptive")
def test_nth_permit_at_is_late_by_at_most_1_5_intervals(
    quota: Quota, sent: int, calls: int, latency: float, admission: Literal["adaptive", "exact"]
) -> None:
    """With unchanged latency, the nth call is sent at most 1.5 slot intervals after its estimate.

    The half is for the rate after a window has opened, which is not predicted: of 250,000
    random cases 884 took more than one interval, and the worst of them 1.38.
    """
    limiter = Limiter([quota], admission=admission)
    now = _send_many(limiter, sent, latency, 0.0)
    estimate = limiter.nth_permit_at(calls, now)
    gone = _send_many(limiter, calls, latency, now)
    assert gone <= estimate + 1.5 * quota.period / quota.limit
    slower = 2 * quota.period + latency * (1 + calls / quota.limit)
    assert estimate <= gone + slower, "nor darker than a limiter without experience is"


def _send_many(limiter: Limiter, calls: int, latency: float, now: float) -> float:
    """Send *calls*, each with a response after *latency*; return when the last one was sent."""
    flying: list[tuple[float, Permit]] = []
    for _ in range(calls):
        while (at := limiter.next_permit_at(now)) > now:
            if flying and flying[0][0] <= at:
                now, permit = flying.pop(0)
                limiter.on_response(permit, now, None)
            else:
                now = at
        flying.append((now + latency, limiter.acquire(now)))
    gone = now
    for answered_at, permit in flying:
        limiter.on_response(permit, max(now, answered_at), None)
    return gone


# --- Refusals ------------------------------------------------------------------------


@given(
    refusals=st.lists(
        st.tuples(
            st.floats(0.0, 100.0),
            st.one_of(
                st.none(),
                st.floats(allow_nan=True, allow_infinity=True),
                st.floats(0.0, 300.0),
            ),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_pause_moves_forward_by_at_most_120_seconds(
    refusals: list[tuple[float, float | None]],
) -> None:
    """Each rejection leaves the end of the pause or moves it later."""
    limiter = Limiter([HUNDRED])
    now = 0.0
    for step, retry_after in refusals:
        now += step
        before = limiter.paused_until
        limiter.on_rate_limited(now, retry_after)
        assert before <= limiter.paused_until <= max(before, now + 120.0)
        assert limiter.paused_until > now, "a rejection without Retry-After still pauses"
        assert limiter.next_permit_at(now) >= limiter.paused_until


def test_rejection_pauses_all_calls() -> None:
    """After one rejected call all calls wait for the pause and are spaced afterwards."""
    limiter = Limiter([HUNDRED])
    permit = send(limiter, 0.0)
    limiter.on_response(permit, 0.1, RateLimitInfo(is_rate_limited=True, retry_after=10.0))
    first = limiter.next_permit_at(0.1)
    assert first == pytest.approx(10.1)
    limiter.on_response(limiter.acquire(first), first + 0.05, None)
    assert limiter.next_permit_at(first + 0.05) > first + 0.5


def test_absurd_retry_after_is_cut_and_probed() -> None:
    """A year of Retry-After: one call after max(2 periods, 120 s), others after its response."""
    limiter = Limiter([TWO])
    limiter.on_response(
        send(limiter, 0.0), 0.0, RateLimitInfo(is_rate_limited=True, retry_after=3.2e7)
    )
    assert limiter.next_permit_at(0.0) == 120.0
    probe = limiter.acquire(120.0)
    assert limiter.next_permit_at(121.0) == math.inf
    limiter.on_response(probe, 121.0, None)
    assert limiter.next_permit_at(121.0) < 122.5


def test_consecutive_rejections_back_off() -> None:
    """Always 429 without a time: one call at a time, at last one in two minutes."""
    limiter = Limiter([TWO])
    now, sent = 0.0, list[float]()
    for _ in range(20):
        now = limiter.next_permit_at(now)
        permit = limiter.acquire(now)
        sent.append(now)
        if len(sent) > 2:
            assert limiter.next_permit_at(now) == math.inf, "one at a time"
        now += 0.05
        limiter.on_response(permit, now, RateLimitInfo(is_rate_limited=True))
    gaps = [round(after - before, 6) for before, after in pairwise(sent)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(120.05)


def test_concurrent_rejections_count_once() -> None:
    """Ten calls rejected together pause as long as one."""
    limiter = Limiter([Quota(200, 60.0)])
    permits = [send(limiter, 0.0) for _ in range(10)]
    for permit in permits:
        limiter.on_response(permit, 0.1, RateLimitInfo(is_rate_limited=True))
    state = limiter.snapshot(0.1)
    assert state.paused_for == pytest.approx(0.3)
    assert not state.probing


def test_rejection_in_the_body_counts_like_429() -> None:
    """Rejections that only the body shows, each after `on_response`, lengthen the pause."""
    limiter = Limiter([TWO])
    now, pauses = 0.0, list[float]()
    for _ in range(5):
        now = limiter.next_permit_at(now)
        permit = limiter.acquire(now)
        limiter.on_response(permit, now, None)
        limiter.on_rate_limited(now, None, permit)
        pauses.append(limiter.paused_until - now)
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0])


def test_rejections_lower_the_rate_and_successes_restore_it() -> None:
    """The rate falls to a tenth at worst, and recovers completely."""
    limiter = Limiter([HUNDRED])
    now = 0.0
    for _ in range(200):
        now = limiter.next_permit_at(now)
        limiter.on_response(
            limiter.acquire(now), now, RateLimitInfo(is_rate_limited=True, retry_after=0.01)
        )
    assert limiter.snapshot(now).rate_factor == pytest.approx(0.1)
    for _ in range(12_000):
        now = limiter.next_permit_at(now)
        limiter.on_response(limiter.acquire(now), now, None)
    state = limiter.snapshot(now)
    assert (state.rate_factor, state.bursts, state.probing) == (1.0, True, False)


def test_exact_never_relaxes_its_bounds() -> None:
    """However long nothing is rejected, `exact` frees a slot one period after the response."""
    opened: list[float] = []
    for admission in EITHER:
        limiter = Limiter([TWO], admission=admission)
        first = _send_many(limiter, 3000, 0.2, 0.0) + 10.0
        limiter.on_response(limiter.acquire(first), first + 0.2, None)
        second = limiter.next_permit_at(first + 0.6)
        limiter.on_response(limiter.acquire(second), second + 0.2, None)
        opened.append(limiter.next_permit_at(second + 0.2) - first)
    assert opened[0] < 1.1, "adaptive is held by its pace alone"
    assert opened[1] == pytest.approx(1.2)


# --- Reported remaining calls --------------------------------------------------------


def test_reported_remaining_limits_the_calls() -> None:
    """100 per 60 s, one call sent, 3 remain: 3 more are sent, the rest after the window."""
    limiter = Limiter([HUNDRED])
    limiter.on_response(send(limiter, 0.0), 0.0, RateLimitInfo(limit=100, remaining=3, reset=30.0))
    now = 0.0
    for _ in range(3):
        now = limiter.next_permit_at(now)
        limiter.acquire(now)
        assert now < 10.0
    assert limiter.next_permit_at(now) >= 60.0


def test_reported_zero_pauses_until_the_reset() -> None:
    """0 remain, reset in 7 s: the next call is sent in 7 s."""
    limiter = Limiter([HUNDRED])
    limiter.on_response(send(limiter, 0.0), 0.0, RateLimitInfo(limit=100, remaining=0, reset=7.0))
    assert limiter.next_permit_at(0.0) == 7.0


def test_own_calls_are_no_external_usage() -> None:
    """Counts that our own calls explain, those in flight included, change nothing."""
    limiter = Limiter([HUNDRED])
    permits = [send(limiter, 0.0) for _ in range(4)]
    for remaining, permit in zip((99, 98, 97, 96), permits, strict=True):
        limiter.on_response(permit, 0.1, RateLimitInfo(limit=100, remaining=remaining, reset=60.0))
    assert limiter.external.rate == 0.0
    assert limiter.snapshot(0.1).held == 4


def test_external_usage_is_detected_and_forgotten() -> None:
    """Others take half: we leave it to them; when they stop, we use all of it again."""
    limiter = Limiter([HUNDRED])
    now = 0.0
    for _ in range(100):
        now = limiter.next_permit_at(now)
        permit = limiter.acquire(now)
        remaining = 100 - 50 - limiter.snapshot(now).held
        info = RateLimitInfo(limit=100, remaining=max(0, remaining), reset=1.0)
        limiter.on_response(permit, now, info)
    assert 0.3 < limiter.external.rate < 50 / 60 * 1.3
    for _ in range(100):
        now = limiter.next_permit_at(now)
        permit = limiter.acquire(now)
        info = RateLimitInfo(limit=100, remaining=100 - limiter.snapshot(now).held, reset=60.0)
        limiter.on_response(permit, now, info)
    assert limiter.external.rate == 0.0


@pytest.mark.parametrize(
    "info",
    [
        RateLimitInfo(limit=100, remaining=101),
        RateLimitInfo(limit=100, remaining=10**9),
        RateLimitInfo(limit=50, remaining=60),
        RateLimitInfo(limit=10_000, remaining=9_000),
        RateLimitInfo(remaining=None, reset=1e9),
        RateLimitInfo(retry_after=1e9),
    ],
)
def test_invalid_reports_are_ignored(info: RateLimitInfo) -> None:
    """More remaining than the limit, another quota's limit, a wait on a success: no effect."""
    limiter = Limiter([HUNDRED])
    limiter.on_response(send(limiter, 0.0), 0.0, info)
    assert limiter.next_permit_at(0.0) == 0.0
    assert limiter.external.rate == 0.0


def test_outdated_report_is_ignored() -> None:
    """A late response to an earlier call does not overwrite a newer report."""
    limiter = Limiter([HUNDRED])
    early, late = send(limiter, 0.0), send(limiter, 0.0)
    limiter.on_response(late, 0.1, RateLimitInfo(limit=100, remaining=98, reset=60.0))
    limiter.on_response(early, 0.2, RateLimitInfo(limit=100, remaining=0, reset=60.0))
    assert limiter.next_permit_at(0.2) == 0.2


def test_contradicted_zero_is_ignored_after_three_times() -> None:
    """0 remain although the next call is accepted, repeatedly: the report is ignored."""
    limiter = Limiter([HUNDRED])
    permits = [send(limiter, 0.0) for _ in range(5)]
    for permit in permits:
        limiter.on_response(permit, 0.1, RateLimitInfo(limit=100, remaining=0, reset=60.0))
    assert limiter.next_permit_at(1.0) == 1.0
    assert limiter.external.rate == 0.0


def test_window_does_not_grow() -> None:
    """After 10,000 calls a window of two keeps some hundreds of expiries."""
    window = SlidingWindow(TWO, 0.0)
    for call in range(10_000):
        assert window.next_at(float(call), 0) == call
        window.take(Permit(call, float(call)))
        window.move_bound(math.inf, float(call), 1)
    assert len(window.expiries) < 300


class Owner:
    """Owns a limiter, which reads its clock."""

    def __init__(self) -> None:
        self.limiter = Limiter([Quota.calendar(5, "day")], wall_time=self.wall_time)

    def wall_time(self, at: float) -> float:
        return at


def test_limiter_is_collected_with_its_owner() -> None:
    """A limiter with a call in flight, and a clock that refers to it, is freed."""
    owner = Owner()
    owner.limiter.on_rate_limited(0.0, 1e9)
    owner.limiter.acquire(200.0)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_unavailability_pauses_without_feedback() -> None:
    """A vendor that is unavailable for a time pauses the scope; no correction is learned."""
    limiter = Limiter([Quota(100, 60.0)])
    permit = limiter.acquire(0.0)
    before = (
        limiter.feedback.rate_factor,
        limiter.feedback.margin_factor,
        limiter.feedback.burst_factor,
    )
    limiter.on_response(permit, 1.0, RateLimitInfo(unavailable=True, retry_after=30.0))
    assert limiter.next_permit_at(1.0) == 31.0
    assert (
        limiter.feedback.rate_factor,
        limiter.feedback.margin_factor,
        limiter.feedback.burst_factor,
    ) == before
    assert not limiter.feedback.probing


def test_replaced_quota_that_returns_counts_all_calls() -> None:
    """A quota that is replaced for a while counts the calls before and meanwhile."""
    long, short = Quota(2, 60.0), Quota(5, 1.0)
    limiter = Limiter([long], admission="exact")
    for at in (0.0, 1.0):
        limiter.on_response(limiter.acquire(at), at, None)
    limiter.replace([short], 10.0)
    assert limiter.quotas == (short,)
    assert limiter.next_permit_at(10.0) == 10.0
    limiter.on_response(limiter.acquire(11.0), 11.0, None)
    limiter.replace([long], 20.0)
    assert limiter.snapshot(20.0).held == 3
    assert limiter.next_permit_at(20.0) == 61.0


def test_delay_names_the_pause_or_the_quota_that_ends_last() -> None:
    """The cause is named with the instant of its end; a delay above a minute has an advice."""
    limiter = Limiter((Quota(1, 10.0), Quota.calendar(2, "day")), wall_time=lambda at: at)
    assert limiter.delay(0.0) == Delay(0.0)
    for at, ends_at, cause in ((0.0, 10, "1 per 10 s"), (20.0, 86400, "2 per day (UTC)")):
        limiter.on_response(limiter.acquire(at), at, None)
        found = limiter.delay(at)
        assert found.until == pytest.approx(ends_at, abs=2)
        assert found.cause.startswith(f"the quota {cause} is used up until 1970-01-0")
        assert found.advice.startswith("Send it after 1970-01-02") is (ends_at > 60)
    paused = Limiter((Quota(1, 10.0),), wall_time=lambda at: at)
    paused.on_rate_limited(0.0, 90.0)
    assert paused.delay(0.0).cause.startswith("the vendor has rate-limited calls or is unavailable")
