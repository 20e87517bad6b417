"""What round trips tell of arrivals, and how calls are kept apart."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from asyncclients.limits.arrival import SLACK, RoundTrips
from asyncclients.limits.feedback import Feedback
from asyncclients.limits.limiter import Limiter
from asyncclients.limits.quota import Quota
from asyncclients.limits.ratelimit_headers import Signal


def trips_of(*seconds: float) -> RoundTrips:
    """The experience of these round trips."""
    trips = RoundTrips()
    for each in seconds:
        trips.add(each)
    return trips


def test_no_floor_is_believed_without_experience() -> None:
    """31 calls tell nothing of the floor; the 32nd does."""
    assert trips_of(*[0.1] * 31).floor == 0.0
    assert trips_of(*[0.1] * 32).floor == pytest.approx(0.1)


def test_the_floor_lies_below_the_shortest_by_the_gap_to_the_next() -> None:
    """Of 60 and 64 ms the floor is 56 ms: how far the shortest is off, the second tells."""
    assert trips_of(*[0.1] * 40, 0.064, 0.060).floor == pytest.approx(0.056)


def test_the_floor_is_below_what_comes_after() -> None:
    """On a route with random excess, hardly any of the next calls undercuts the floor."""
    random = Random(5)
    trips = trips_of(*(0.06 + random.expovariate(50) for _ in range(1000)))
    undercut = sum(0.06 + random.expovariate(50) < trips.floor for _ in range(1000))
    assert undercut <= 1
    assert trips.floor > 0.059


def test_a_route_that_got_longer_is_learned() -> None:
    """The memory is 512 to 1,024 calls: after that many the old floor is forgotten."""
    trips = trips_of(*[0.05] * 512, *[0.15] * 511)
    assert trips.floor == pytest.approx(0.05)
    for _ in range(513):
        trips.add(0.15)
    assert trips.floor == pytest.approx(0.15)


def test_a_long_window_takes_no_credit() -> None:
    """A tenth of a second is nothing in a minute: there the answer itself is the bound."""
    trips = trips_of(*[0.1] * 100)
    assert trips.credit(60.0, 1.0) == 0.0
    assert trips.credit(1.0, 1.0) == pytest.approx(0.1)


def test_caution_takes_credit_away() -> None:
    """The more caution, the less of the floor is credited; never less than nothing."""
    trips = trips_of(*[0.1, 0.3] * 50)
    taken = [trips.credit(1.0, caution) for caution in (1.0, 4.0, 8.0, 1000.0)]
    assert taken == sorted(taken, reverse=True)
    assert taken[-1] == 0.0


def test_the_way_there_is_trusted_only_where_answers_come_late_and_unevenly() -> None:
    """Slow, varied work: a slot ends by the send; steady answers, or a long window: it waits."""
    slow, steady = trips_of(*[0.2, 1.4] * 50), trips_of(*[0.10, 0.16] * 50)
    lessons = Feedback([Quota(2, 1.0)])
    assert slow.trusted(1.0, lessons) == SLACK
    assert slow.trusted(600.0, lessons) == math.inf
    assert steady.trusted(1.0, lessons) == math.inf
    lessons.caution = 2.0
    assert slow.trusted(1.0, lessons) == 2 * SLACK


def test_a_small_bucket_is_recognised_at_the_first_call() -> None:
    """A refusal though the window was rested: no bursts from then on, calls an interval apart."""
    limiter = Limiter([Quota(2, 1.0)])
    first, second = limiter.take(0.0), limiter.take(0.0)
    limiter.answered(first, 0.1, None)
    limiter.answered(second, 0.1, Signal(refused=True, retry_after=1.0))
    assert not limiter.snapshot(0.1).bursts
    now, sent = 0.1, list[float]()
    for _ in range(10):
        now = limiter.ready_at(now)
        sent.append(now)
        limiter.answered(limiter.take(now), now + 0.1, None)
        now += 0.1
    assert all(after - before > 0.47 for before, after in pairwise(sent))


def test_a_late_arrival_pushes_the_next_call_back() -> None:
    """With a small bucket, an answer 200 ms later than usual delays the next call by most of it."""
    limiter = Limiter([Quota(2, 1.0)])
    first, second = limiter.take(0.0), limiter.take(0.0)
    limiter.answered(first, 0.1, None)
    limiter.answered(second, 0.1, Signal(refused=True, retry_after=1.0))
    now = 2.0
    for _ in range(40):
        now = limiter.ready_at(now)
        limiter.answered(limiter.take(now), now + 0.1, None)
        now += 0.1
    sent = limiter.ready_at(now)
    permit = limiter.take(sent)
    limiter.answered(permit, sent + 0.3, None)
    assert limiter.ready_at(sent + 0.3) - sent == pytest.approx(0.5 + 0.15, abs=0.03)
