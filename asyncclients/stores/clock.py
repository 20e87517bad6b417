"""The store's clock, seen from the loop's.

Each answer carries the store's time. It was read before the answer came in and
after the question went out; of the last answers the quickest tells most. The
estimate never runs ahead of the truth by more than clocks drift in a few
answers, so a slot is never used before it opens. The process's own wall clock
is never looked at.
"""

from __future__ import annotations

import math
from collections import deque

SECOND = 1_000_000
"""Microseconds: the store counts in whole ones."""
_MEMORY = 16
_LEAP = 1.0
"""Seconds by which a clock was surely set: less is drift, or another server of a cluster."""
_LATELY = 60.0


def micros(seconds: float) -> int:
    """*seconds* as the store counts them."""
    return round(seconds * SECOND)


class StoreClock:
    """Which loop instant an instant of the store is."""

    __slots__ = ("_heard_at", "_least", "_offsets")

    def __init__(self) -> None:
        self._offsets: deque[float] = deque(maxlen=_MEMORY)
        self._least = self._heard_at = -math.inf

    def leapt(self, asked_at: float, heard_at: float, store_now: int) -> bool:
        """Was the store's clock set forward since an answer that came lately?

        Then its log looks older than it is. A process that was put to sleep with its
        host, unlike the store, cannot tell that from this.
        """
        stamp = store_now / SECOND
        leapt = heard_at - stamp < self._least - _LEAP and heard_at < self._heard_at + _LATELY
        self._least, self._heard_at = asked_at - stamp, heard_at
        return leapt

    def hear(self, asked_at: float, heard_at: float, store_now: int) -> float:
        """The loop instant of *store_now*, which the answer carried. At most *heard_at*."""
        stamp = store_now / SECOND
        self._offsets.append(heard_at - stamp)
        at = min(self._offsets) + stamp
        if at < asked_at:  # one of the clocks was set: forget what was before
            self._offsets.clear()
            self._offsets.append(heard_at - stamp)
            at = heard_at
        return at

    def store_time(self, now: float) -> float:
        """The store's seconds at loop instant *now*; 0 before the first answer."""
        return now - min(self._offsets) if self._offsets else 0.0
