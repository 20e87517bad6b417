"""A token bucket that spreads the calls of a quota over its period.

`aiolimiter.AsyncLimiter` does the arithmetic. Its own waiting is not used, because every
decision here is a function of (state, now): the base class reads its clock from `_loop`,
and this class replaces that by the instant of the question. The private names in use
(`_loop`, `_level`, `_last_check`, `_rate_per_sec`) are pinned by
`tests/ratelimit/test_bucket.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from asyncclients.ratelimit.quota import Quota

RATE_SAFETY = 0.998
"""Share of limit/period at which calls are sent. 0.99 would lose 1 % of the quota."""
_SPACED_BURST = 1.05
"""Capacity in calls where bursts are off; the 0.05 absorbs rounding and timer jitter."""
_ROUNDING = 1e-9
"""Seconds. At the instant that `ready_at` returned, the bucket must be ready."""


class _Clock:
    """The event loop that `AsyncLimiter` sees: its time is the instant of the question."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


class TokenBucket(AsyncLimiter):
    """The bucket of one quota, full at *now*.

    Its capacity, the burst, is a twentieth of the limit, at least two calls and at most
    the limit. That is enough for the few calls of one web page, and too little for a
    backfill to send a minute's quota in the first second.
    """

    __slots__ = ("_clock", "_loop", "full_burst", "full_rate")

    def __init__(self, quota: Quota, now: float) -> None:
        self.full_burst = min(float(quota.limit), max(2.0, quota.limit / 20))
        self.full_rate = RATE_SAFETY * quota.rate
        super().__init__(self.full_burst, self.full_burst / self.full_rate)
        self._clock = _Clock(now)
        self._loop = self._clock  # type: ignore[misc,assignment]  # our slot hides the property
        self._last_check = now

    @property
    def interval(self) -> float:
        """Seconds between two calls at the current rate."""
        return 1 / self._rate_per_sec

    def set_rate(self, rate_factor: float, burst_factor: float) -> None:
        """Set the rate to *rate_factor* of the full rate.

        *burst_factor* scales the burst from one call (0) to the full burst (1).
        """
        self._rate_per_sec = self.full_rate * rate_factor
        self.max_rate = _SPACED_BURST + (self.full_burst - _SPACED_BURST) * burst_factor

    def ready_at(self, now: float, calls: int = 1) -> float:
        """Return the earliest instant, not before *now*, with tokens for *calls* calls."""
        if now > self._last_check:  # a clock that steps back must not fill the bucket
            self._clock.now = now
            if self.has_capacity(calls):
                return now
        missing = self._level + calls - self.max_rate
        if missing <= 0 and self._last_check <= now:
            return now
        due = self._last_check + missing / self._rate_per_sec
        return due if due > now + _ROUNDING else now

    def take(self, now: float) -> float:
        """Take one token, after `ready_at`; return the level, 1 after a full refill."""
        if now > self._last_check:
            self._clock.now = now
            self.has_capacity()  # updates the level
        self._level += 1
        return self._level

    def refund(self) -> None:
        """Put back a token that was not used."""
        self._level = max(0.0, self._level - 1)

    def drain_until(self, until: float) -> None:
        """Leave exactly one token at *until*, so that no burst follows a pause."""
        self._level = self.max_rate
        self._last_check = max(self._last_check, until - self.interval)
