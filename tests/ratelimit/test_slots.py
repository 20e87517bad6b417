"""The token bucket, and the private names of aiolimiter that it uses."""

# pyright: reportPrivateUsage=false
# The names that this file pins are private upstream; that is its purpose.

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise

import aiolimiter
import pytest
from aiolimiter import AsyncLimiter

from asyncclients.ratelimit import slots
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.slots import RATE_SAFETY, Permit, SlidingWindow, TokenBucket


class _Clock:
    """The event loop that aiolimiter sees when it does not wait."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _UpstreamBucket(AsyncLimiter):
    """An unchanged aiolimiter with another clock."""

    clock = _Clock()

    @property
    def _loop(self) -> _Clock:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.clock


def take(bucket: TokenBucket, now: float) -> float:
    """Take a token at *now*, as a window does; return the level."""
    bucket.ready_at(now)
    bucket._level += 1
    return bucket._level


def test_aiolimiter_leaks_by_its_loop_time() -> None:
    """The base class leaks by `_loop.time()`, from `_level`, `_last_check` and `_rate_per_sec`."""
    bucket = _UpstreamBucket(2, 4)
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


def test_aiolimiter_leak_is_bounded_at_zero() -> None:
    """`has_capacity` reduces the level by the time since `_last_check`, not below 0.

    `_loop` is a property of the class, which a slot of the subclass hides.
    """
    assert isinstance(vars(AsyncLimiter)["_loop"], property)
    bucket = _UpstreamBucket(4, 4)
    bucket._last_check, bucket._level, bucket.clock.now = 10.0, 3.0, 12.0
    bucket.has_capacity()
    assert (bucket._level, bucket._last_check) == (1.0, 12.0)
    bucket.clock.now = 20.0
    bucket.has_capacity()
    assert (bucket._level, bucket._last_check) == (0.0, 20.0)


def test_token_bucket_does_not_need_the_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an aiolimiter of other private names the bucket grants at the same instants."""
    monkeypatch.setattr(aiolimiter, "AsyncLimiter", type("AsyncLimiter", (), {}))
    spec = importlib.util.spec_from_file_location("slots_without_names", slots.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not issubclass(module.TokenBucket, AsyncLimiter)
    quota = Quota(100, 60.0)
    buckets = TokenBucket(quota, 5.0), module.TokenBucket(quota, 5.0)
    for step in range(300):
        if step == 100:
            for bucket in buckets:
                bucket.set_rate(0.5, 0.3)
        if step == 200:
            for bucket in buckets:
                bucket.drain_until(200.0)
        now = 5.0 + step * 0.7
        ready = [bucket.ready_at(now) for bucket in buckets]
        assert ready[0] == ready[1]
        if ready[0] <= now:
            levels = [take(bucket, now) for bucket in buckets]
            assert levels[0] == levels[1]


def test_token_bucket_allows_a_burst_then_the_rate() -> None:
    """100 per 60 s: five calls at once, then one every 0.6 s and a fraction of a percent."""
    bucket = TokenBucket(Quota(100, 60.0), 0.0)
    now, sent = 0.0, list[float]()
    for _ in range(12):
        now = bucket.ready_at(now)
        take(bucket, now)
        sent.append(now)
    assert sent[:5] == [0.0] * 5
    gaps = [after - before for before, after in pairwise(sent[4:])]
    assert gaps == pytest.approx([0.6 / RATE_SAFETY] * 7)
    assert RATE_SAFETY >= 0.995


def test_token_bucket_is_ready_at_the_returned_instant() -> None:
    """At the instant that `ready_at` returned a token is available, at any scale of time."""
    for start in (0.0, 1e-3, 12345.678, 1e9):
        bucket = TokenBucket(Quota(7, 3.0), start)
        now = start
        for _ in range(200):
            at = bucket.ready_at(now)
            assert bucket.ready_at(at) == at
            take(bucket, at)
            now = at


def test_token_bucket_ready_at_counts_calls() -> None:
    """`ready_at(now, n)` is the instant at which the nth of n consecutive calls is sent."""
    asked, used = TokenBucket(Quota(100, 60.0), 0.0), TokenBucket(Quota(100, 60.0), 0.0)
    now = 0.0
    for calls in range(1, 30):
        now = used.ready_at(now)
        take(used, now)
        assert asked.ready_at(0.0, calls) == pytest.approx(now)


def test_token_bucket_ignores_a_clock_that_steps_back() -> None:
    """An empty bucket stays empty when it is asked for an earlier instant."""
    bucket = TokenBucket(Quota(2, 1.0), 0.0)
    for _ in range(2):
        take(bucket, 5.0)
    assert bucket.ready_at(4.0) >= 5.0
    assert bucket.ready_at(5.0) > 5.0


def test_token_bucket_drain_allows_no_burst() -> None:
    """After `drain_until` one call can be sent at that instant, and no burst."""
    bucket = TokenBucket(Quota(100, 60.0), 0.0)
    bucket.drain_until(30.0)
    assert bucket.ready_at(0.0) == pytest.approx(30.0)
    take(bucket, 30.0)
    assert bucket.ready_at(30.0) == pytest.approx(30.0 + bucket.interval)


def test_sliding_window_cancel_returns_slot_and_token() -> None:
    """A call that was not sent uses no slot and no token."""
    window = SlidingWindow(Quota(2, 1.0), 0.0)
    window.take(Permit(1, 0.0))
    window.take(Permit(2, 0.0))
    assert (window.held(0.0), window.next_at(0.0, 0)) == (2, math.inf)
    assert window.ready_at(0.0) > 0.0
    window.cancel(math.inf, 1)
    assert (window.held(0.0), window.next_at(0.0, 0)) == (1, 0.0)


def test_token_bucket_set_rate_scales_rate_and_burst() -> None:
    """A rate factor of 0.5 halves the rate; a burst factor of 0 allows no burst."""
    bucket = TokenBucket(Quota(100, 60.0), 0.0)
    full = bucket.interval
    bucket.set_rate(0.5, 0.0)
    assert bucket.interval == pytest.approx(2 * full)
    take(bucket, 0.0)
    assert bucket.ready_at(0.0) == pytest.approx(0.95 * 2 * full)
