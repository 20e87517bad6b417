"""The estimates of arrivals, and the spacing of calls by them."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from asyncclients.ratelimit.adaptive import SLACK, Feedback
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.slots import Permit


def feedback_of(*seconds: float) -> Feedback:
    """Return the feedback of calls with these round trips."""
    feedback = Feedback([Quota(2, 1.0)])
    for number, rtt in enumerate(seconds, start=1):
        feedback.on_accepted(Permit(number, 0.0), rtt)
    feedback.margin_factor = 1.0
    return feedback


def test_min_rtt_needs_32_samples() -> None:
    """After 31 calls the minimum RTT is unknown; after 32 it is estimated."""
    assert feedback_of(*[0.1] * 31).min_rtt == 0.0
    assert feedback_of(*[0.1] * 32).min_rtt == pytest.approx(0.1)


def test_min_rtt_is_one_gap_below_the_shortest() -> None:
    """For shortest round rtt of 60 and 64 ms it is 56 ms."""
    assert feedback_of(*[0.1] * 40, 0.064, 0.060).min_rtt == pytest.approx(0.056)


def test_min_rtt_is_below_later_samples() -> None:
    """On a route with random excess, hardly any later round trip is shorter."""
    random = Random(5)
    feedback = feedback_of(*(0.06 + random.expovariate(50) for _ in range(1000)))
    undercut = sum(0.06 + random.expovariate(50) < feedback.min_rtt for _ in range(1000))
    assert undercut <= 1
    assert feedback.min_rtt > 0.059


def test_min_rtt_follows_a_longer_route() -> None:
    """The old minimum is forgotten after 512 to 1,024 calls."""
    feedback = feedback_of(*[0.05] * 512, *[0.15] * 511)
    assert feedback.min_rtt == pytest.approx(0.05)
    for number in range(1024, 1537):
        feedback.on_accepted(Permit(number, 0.0), 0.15)
    assert feedback.min_rtt == pytest.approx(0.15)


def test_arrival_before_response_is_zero_for_long_windows() -> None:
    """A tenth of a second is negligible in a minute: the response itself is the bound."""
    feedback = feedback_of(*[0.1] * 100)
    assert feedback.arrival_before_response(60.0) == 0.0
    assert feedback.arrival_before_response(1.0) == pytest.approx(0.1)


def test_arrival_before_response_shrinks_with_the_margin() -> None:
    """A larger margin factor gives a smaller value, never below 0."""
    feedback = feedback_of(*[0.1, 0.3] * 50)
    taken: list[float] = []
    for feedback.margin_factor in (1.0, 4.0, 8.0, 1000.0):
        taken.append(feedback.arrival_before_response(1.0))
    assert taken == sorted(taken, reverse=True)
    assert taken[-1] == 0.0


def test_assumed_arrival_needs_long_varying_responses() -> None:
    """With steady responses, or a long window, the response is the bound."""
    slow, steady = feedback_of(*[0.2, 1.4] * 50), feedback_of(*[0.10, 0.16] * 50)
    assert slow.assumed_arrival(1.0) == SLACK
    assert slow.assumed_arrival(600.0) == math.inf
    assert steady.assumed_arrival(1.0) == math.inf
    slow.margin_factor = 2.0
    assert slow.assumed_arrival(1.0) == 2 * SLACK


def test_rejection_of_an_idle_slot_stops_bursts() -> None:
    """A rejection although the window was idle: calls are an interval apart from then on."""
    limiter = Limiter([Quota(2, 1.0)])
    first, second = limiter.acquire(0.0), limiter.acquire(0.0)
    limiter.on_response(first, 0.1, None)
    limiter.on_response(second, 0.1, RateLimitInfo(is_rate_limited=True, retry_after=1.0))
    assert not limiter.snapshot(0.1).bursts
    now, sent = 0.1, list[float]()
    for _ in range(10):
        now = limiter.next_permit_at(now)
        sent.append(now)
        limiter.on_response(limiter.acquire(now), now + 0.1, None)
        now += 0.1
    assert all(after - before > 0.47 for before, after in pairwise(sent))


def test_arrival_spacing_delays_after_a_late_response() -> None:
    """With a small bucket, a response 200 ms later than the mean delays the next call."""
    limiter = Limiter([Quota(2, 1.0)])
    first, second = limiter.acquire(0.0), limiter.acquire(0.0)
    limiter.on_response(first, 0.1, None)
    limiter.on_response(second, 0.1, RateLimitInfo(is_rate_limited=True, retry_after=1.0))
    now = 2.0
    for _ in range(40):
        now = limiter.next_permit_at(now)
        limiter.on_response(limiter.acquire(now), now + 0.1, None)
        now += 0.1
    sent = limiter.next_permit_at(now)
    permit = limiter.acquire(sent)
    limiter.on_response(permit, sent + 0.3, None)
    assert limiter.next_permit_at(sent + 0.3) - sent == pytest.approx(0.5 + 0.15, abs=0.03)
