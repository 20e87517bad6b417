"""What round trips tell of arrivals, and how calls are kept apart."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from asyncclients.ratelimit.adaptive import Feedback
from asyncclients.ratelimit.headers import RateLimitInfo
from asyncclients.ratelimit.latency import SLACK, RttEstimator
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota


def trips_of(*seconds: float) -> RttEstimator:
    """The experience of these round trips."""
    trips = RttEstimator()
    for each in seconds:
        trips.add(each)
    return trips


def test_no_floor_is_believed_without_experience() -> None:
    """31 calls tell nothing of the floor; the 32nd does."""
    assert trips_of(*[0.1] * 31).min_rtt == 0.0
    assert trips_of(*[0.1] * 32).min_rtt == pytest.approx(0.1)


def test_the_floor_lies_below_the_shortest_by_the_gap_to_the_next() -> None:
    """Of 60 and 64 ms the floor is 56 ms: how far the shortest is off, the second tells."""
    assert trips_of(*[0.1] * 40, 0.064, 0.060).min_rtt == pytest.approx(0.056)


def test_the_floor_is_below_what_comes_after() -> None:
    """On a route with random excess, hardly any of the next calls undercuts the floor."""
    random = Random(5)
    trips = trips_of(*(0.06 + random.expovariate(50) for _ in range(1000)))
    undercut = sum(0.06 + random.expovariate(50) < trips.min_rtt for _ in range(1000))
    assert undercut <= 1
    assert trips.min_rtt > 0.059


def test_a_route_that_got_longer_is_learned() -> None:
    """The memory is 512 to 1,024 calls: after that many the old floor is forgotten."""
    trips = trips_of(*[0.05] * 512, *[0.15] * 511)
    assert trips.min_rtt == pytest.approx(0.05)
    for _ in range(513):
        trips.add(0.15)
    assert trips.min_rtt == pytest.approx(0.15)


def test_a_long_window_takes_no_credit() -> None:
    """A tenth of a second is nothing in a minute: there the answer itself is the bound."""
    trips = trips_of(*[0.1] * 100)
    assert trips.arrival_before_response(60.0, 1.0) == 0.0
    assert trips.arrival_before_response(1.0, 1.0) == pytest.approx(0.1)


def test_caution_takes_credit_away() -> None:
    """The more caution, the less of the floor is credited; never less than nothing."""
    trips = trips_of(*[0.1, 0.3] * 50)
    taken = [trips.arrival_before_response(1.0, caution) for caution in (1.0, 4.0, 8.0, 1000.0)]
    assert taken == sorted(taken, reverse=True)
    assert taken[-1] == 0.0


def test_the_way_there_is_trusted_only_where_answers_come_late_and_unevenly() -> None:
    """Slow, varied work: a slot ends by the send; steady answers, or a long window: it waits."""
    slow, steady = trips_of(*[0.2, 1.4] * 50), trips_of(*[0.10, 0.16] * 50)
    lessons = Feedback([Quota(2, 1.0)])
    assert slow.assumed_arrival(1.0, lessons) == SLACK
    assert slow.assumed_arrival(600.0, lessons) == math.inf
    assert steady.assumed_arrival(1.0, lessons) == math.inf
    lessons.margin_factor = 2.0
    assert slow.assumed_arrival(1.0, lessons) == 2 * SLACK


def test_a_small_bucket_is_recognised_at_the_first_call() -> None:
    """A refusal though the window was rested: no bursts from then on, calls an interval apart."""
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


def test_a_late_arrival_pushes_the_next_call_back() -> None:
    """With a small bucket, an answer 200 ms later than usual delays the next call by most of it."""
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
