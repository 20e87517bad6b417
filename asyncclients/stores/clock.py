"""Convert the store's clock to the event loop's.

Each response carries the store's time, read between request and response, so the response
with the shortest delay gives the best estimate. The estimate is never early by more than the
clocks drift within a few responses: a slot is not used before it opens. The wall clock of the
process is not used.
"""

from __future__ import annotations

import math
from collections import deque

SECOND = 1_000_000
"""Microseconds per second: the store counts in whole microseconds."""
_SAMPLES = 16
_JUMP = 1.0
"""Seconds: a smaller difference is drift, or another server of a cluster."""
_JUMP_WINDOW = 60.0
"""Seconds between two responses within which a jump is detected."""


def micros(seconds: float) -> int:
    """Return *seconds* as whole microseconds."""
    return round(seconds * SECOND)


class StoreClock:
    """The offset between the store's clock and the loop's.

    Attributes:
        has_jumped: the store's clock was set forward between the last two responses. A process
            that was suspended while the store was not sees the same difference.
    """

    __slots__ = ("_min_offset", "_offsets", "_updated_at", "has_jumped")

    def __init__(self) -> None:
        self._offsets: deque[float] = deque(maxlen=_SAMPLES)
        self._min_offset = self._updated_at = -math.inf
        self.has_jumped = False

    def update(self, sent_at: float, received_at: float, store_now: int) -> float:
        """Return the loop instant of *store_now*, at most *received_at*."""
        time = store_now / SECOND
        offset = received_at - time
        is_recent = received_at < self._updated_at + _JUMP_WINDOW
        self.has_jumped = is_recent and offset < self._min_offset - _JUMP
        self._min_offset, self._updated_at = sent_at - time, received_at
        self._offsets.append(offset)
        at = min(self._offsets) + time
        if at < sent_at:  # one of the clocks was set: discard the earlier samples
            self._offsets.clear()
            self._offsets.append(offset)
            at = received_at
        return at

    def store_time(self, now: float) -> float:
        """Return the store's time in seconds at loop instant *now*; 0 before the first response."""
        return now - min(self._offsets) if self._offsets else 0.0
