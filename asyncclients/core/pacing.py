"""The token bucket that gives traffic its shape: `aiolimiter`, told the time.

`aiolimiter.AsyncLimiter` does the arithmetic of the bucket; its waiting is
never used, because here every decision is a function of (state, now). It reads
its clock through the private property `_loop`, and that is where it is told the
time instead. What is relied upon (`_loop`, `_level`, `_last_check`,
`_rate_per_sec`, `max_rate`) is pinned by `tests/core/test_pacing.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    import asyncio

_ROUNDING = 1e-9
"""Seconds. A bucket asked at the very instant it named must not say no."""


class Pacer(AsyncLimiter):
    """A bucket of *burst* tokens, filled at *rate* a second, full at *now*."""

    __slots__ = ("_now",)

    def __init__(self, rate: float, burst: float, now: float) -> None:
        super().__init__(burst, burst / rate)
        self._now = now
        self._last_check = now

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """All that upstream asks of its loop, outside of waiting, is `time()`."""
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        """The instant of the question that is being answered."""
        return self._now

    def ready_at(self, now: float) -> float:
        """The earliest instant, not before *now*, at which a token is there."""
        self._now = now
        if self.has_capacity():
            return now
        due = self._last_check + (self._level + 1 - self.max_rate) / self._rate_per_sec
        return due if due > now + _ROUNDING else now

    def take(self, now: float) -> None:
        """Take one token; the caller has asked `ready_at`."""
        self._now = now
        self._leak()
        self._level += 1

    def give_back(self) -> None:
        """Put a token back that was not used."""
        self._level = max(0.0, self._level - 1)
