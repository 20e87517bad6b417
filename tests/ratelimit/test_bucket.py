"""The bucket, and what it relies upon in aiolimiter."""

# pyright: reportPrivateUsage=false
# The names that this file pins are private upstream; that is its purpose.

from __future__ import annotations

from itertools import pairwise

import pytest
from aiolimiter import AsyncLimiter

from asyncclients.ratelimit.bucket import RATE_SAFETY, TokenBucket
from asyncclients.ratelimit.quota import Quota


class _Clock:
    """All that aiolimiter asks of its loop, outside of waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Told(AsyncLimiter):
    """aiolimiter as it is, with another clock."""

    clock = _Clock()

    @property
    def _loop(self) -> _Clock:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.clock


def test_aiolimiter_reads_its_clock_where_it_is_told_the_time() -> None:
    """Upstream leaks by `_loop.time()` from `_level`, `_last_check` and `_rate_per_sec`."""
    bucket = _Told(2, 4)
    bucket.clock.now = 10.0
    assert bucket.has_capacity(2)
    assert bucket._last_check == 10.0
    bucket._level = 2.0
    assert not bucket.has_capacity(1)
    bucket.clock.now = 11.0
    assert not bucket.has_capacity(1)
    assert bucket._level == pytest.approx(1.5)
    bucket._rate_per_sec = 1.0
    bucket.clock.now = 11.5
    assert bucket.has_capacity(1)
    bucket.max_rate = 1.5
    assert not bucket.has_capacity(1)


def test_aiolimiter_leaks_where_it_is_asked_to() -> None:
    """Upstream: `_leak` takes off what ran out since `_last_check`, to 0 at the least.

    `_loop` is a property of the class, which a slot of ours by that name hides.
    """
    assert isinstance(vars(AsyncLimiter)["_loop"], property)
    bucket = _Told(4, 4)
    bucket._last_check, bucket._level, bucket.clock.now = 10.0, 3.0, 12.0
    bucket._leak()
    assert (bucket._level, bucket._last_check) == (1.0, 12.0)
    bucket.clock.now = 20.0
    bucket._leak()
    assert (bucket._level, bucket._last_check) == (0.0, 20.0)


def test_the_burst_goes_at_once_and_the_rest_at_the_pace() -> None:
    """100 per 60 s: five calls at once, then one every 60/100 s, a fraction of a percent slower."""
    pacer = TokenBucket(Quota(100, 60.0), 0.0)
    now, sent = 0.0, list[float]()
    for _ in range(12):
        now = pacer.ready_at(now)
        pacer.take(now)
        sent.append(now)
    assert sent[:5] == [0.0] * 5
    gaps = [after - before for before, after in pairwise(sent[4:])]
    assert gaps == pytest.approx([0.6 / RATE_SAFETY] * 7)
    assert RATE_SAFETY >= 0.995


def test_a_bucket_asked_when_it_said_says_yes() -> None:
    """No rounding: at the instant that it named, a token is there, at any scale of time."""
    for start in (0.0, 1e-3, 12345.678, 1e9):
        pacer = TokenBucket(Quota(7, 3.0), start)
        now = start
        for _ in range(200):
            at = pacer.ready_at(now)
            assert pacer.ready_at(at) == at
            pacer.take(at)
            now = at


def test_the_nth_token_is_there_when_n_calls_would_have_gone() -> None:
    """`ready_at(now, n)` is the instant at which the nth of n calls in a row would go."""
    asked, used = TokenBucket(Quota(100, 60.0), 0.0), TokenBucket(Quota(100, 60.0), 0.0)
    now = 0.0
    for calls in range(1, 30):
        now = used.ready_at(now)
        used.take(now)
        assert asked.ready_at(0.0, calls) == pytest.approx(now)


def test_a_clock_that_goes_back_fills_no_bucket() -> None:
    """A bucket that is empty stays so when it is asked for an earlier instant."""
    pacer = TokenBucket(Quota(2, 1.0), 0.0)
    for _ in range(2):
        pacer.take(5.0)
    assert pacer.ready_at(4.0) >= 5.0
    assert pacer.ready_at(5.0) > 5.0


def test_after_a_pause_calls_go_one_by_one() -> None:
    """Where the bucket is emptied until an instant, one call may go then, not a burst."""
    pacer = TokenBucket(Quota(100, 60.0), 0.0)
    pacer.drain_until(30.0)
    assert pacer.ready_at(0.0) == pytest.approx(30.0)
    pacer.take(30.0)
    assert pacer.ready_at(30.0) == pytest.approx(30.0 + pacer.interval)


def test_a_token_given_back_can_be_taken_again() -> None:
    """A call that was not sent costs no token."""
    pacer = TokenBucket(Quota(2, 1.0), 0.0)
    pacer.take(0.0)
    pacer.take(0.0)
    assert pacer.ready_at(0.0) > 0.0
    pacer.refund()
    assert pacer.ready_at(0.0) == 0.0


def test_the_shape_is_rate_and_burst() -> None:
    """Half the share is half the rate; no ease is no burst."""
    pacer = TokenBucket(Quota(100, 60.0), 0.0)
    full = pacer.interval
    pacer.set_rate(0.5, 0.0)
    assert pacer.interval == pytest.approx(2 * full)
    pacer.take(0.0)
    assert pacer.ready_at(0.0) == pytest.approx(0.95 * 2 * full)
