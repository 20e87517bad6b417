"""The token bucket that gives traffic its shape: `aiolimiter`, told the time.

`aiolimiter.AsyncLimiter` does the arithmetic of the bucket; its waiting is
never used, because here every decision is a function of (state, now). It reads
its clock through the private property `_loop`, and a slot of that name is where
it is told the time instead. What is relied upon (`_loop`, `_leak`, `_level`, `_last_check`,
`_rate_per_sec`, `max_rate`) is pinned by `tests/ratelimit/test_bucket.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from asyncclients.ratelimit.quota import Quota

RATE_SAFETY = 0.998
"""Share of limit/period at which calls are paced. At 0.99 a percent is lost for good."""
_EVEN_BURST = 1.05
"""The burst where bursts are not allowed: rounding and jitter must not cost a slot."""
_ROUNDING = 1e-9
"""Seconds. A bucket asked at the very instant that it named must not say no."""


class _Clock:
    """All that upstream asks of its loop, outside of waiting: the instant of the question."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


class TokenBucket(AsyncLimiter):
    """The bucket of one quota, full at *now*.

    Its capacity, the *burst*, is a twentieth of the limit, at least two calls
    and at most the limit: enough for a page's few calls, too little for a
    backfill to eat the minute in its first second.
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
        """Seconds between two calls at the rate in force."""
        return 1 / self._rate_per_sec

    def set_rate(self, share: float, ease: float) -> None:
        """Set the rate to *share* of the full one; the burst to 1 (*ease* 0) … full (1)."""
        self._rate_per_sec = self.full_rate * share
        self.max_rate = _EVEN_BURST + (self.full_burst - _EVEN_BURST) * ease

    def ready_at(self, now: float, calls: int = 1) -> float:
        """The earliest instant, not before *now*, at which *calls* tokens were there."""
        if now > self._last_check:  # never back: the bucket would fill by it
            self._clock.now = now
            self._leak()
        short = self._level + calls - self.max_rate
        if short <= 0 and self._last_check <= now:
            return now
        due = self._last_check + short / self._rate_per_sec
        return due if due > now + _ROUNDING else now

    def take(self, now: float) -> float:
        """Take one token, after asking `ready_at`; return the level, 1 after a full rest."""
        if now > self._last_check:
            self._clock.now = now
            self._leak()
        self._level += 1
        return self._level

    def refund(self) -> None:
        """Put back a token that was not used."""
        self._level = max(0.0, self._level - 1)

    def drain_until(self, until: float) -> None:
        """Hold one token, and no more, at *until*: what follows a pause is paced."""
        self._level = self.max_rate
        self._last_check = max(self._last_check, until - self.interval)
