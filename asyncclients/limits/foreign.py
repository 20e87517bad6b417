"""Others who use the same quota, as the vendor's `remaining` betrays them.

A vendor that says how many calls remain has counted everyone's. What it has
counted beyond ours is foreign. Ours are never undercounted here: every slot
held when the answered call was sent, and every call sent since, so a call of
our own is never taken for a foreigner's, and the lower of the two views wins.

What cannot be is not believed (more remaining than the limit), nor what is out
of date (the answer to a call sent before one already heard), nor a vendor that
says 0 until a reset and admits a call long before that, three times over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.limits.permit import Permit
    from asyncclients.limits.ratelimit_headers import Signal
    from asyncclients.limits.window import Window

_SMOOTHING = 0.1
_LIES = 3
_ROUNDED = 1.0
"""Seconds by which a reset may be rounded up."""


class Foreign:
    """The foreign share of one scope's quotas; `rate` in calls per second."""

    __slots__ = ("_heard", "_lies", "_zero_until", "rate")

    def __init__(self) -> None:
        self.rate = 0.0
        self._heard = 0
        self._lies = 0
        self._zero_until = -math.inf

    def hear(self, windows: Sequence[Window], permit: Permit, now: float, signal: Signal) -> None:
        """Merge what the answer to *permit* says."""
        window, remaining = _spoken_of(windows, signal.limit), signal.remaining
        if window is None or permit.number <= self._heard or self._lies >= _LIES:
            return
        if remaining is None or remaining > min(window.limit, signal.limit or math.inf):
            return
        self._heard = permit.number
        believed = window.period
        if remaining == 0 and signal.reset is not None:
            if now < self._zero_until - _ROUNDED:
                self._lies += 1
            believed = min(believed, signal.reset)
            self._zero_until = now + believed
        # A bold bound may have freed a slot that the vendor still counted: by a round trip.
        ours = window.held_since(permit.sent_at - (now - permit.sent_at))
        window.foreign = max(0, window.limit - remaining - ours)
        window.foreign_until = now + believed if window.foreign else -math.inf
        if self._lies >= _LIES:
            window.foreign_until, self.rate = -math.inf, 0.0
            return
        self.rate += (window.foreign / window.period - self.rate) * _SMOOTHING
        if self.rate * window.period < _SMOOTHING / 10:
            self.rate = 0.0


def _spoken_of(windows: Sequence[Window], limit: int | None) -> Window | None:
    """The quota that *limit* speaks of; the only one there is, where it fits none."""
    for window in windows:
        if window.limit == limit:
            return window
    return windows[0] if len(windows) == 1 else None
