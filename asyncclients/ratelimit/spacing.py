"""Calls an interval apart on arrival, for a server that holds a small bucket.

Spacing the sends is not enough there, since a late arrival shortens the gap to
the next. So the next call waits for the answer to the last one: an answer later
than usual, by more than a tenth of the interval, pushes it back by the rest.
Where answers vary more than a third of an interval they say nothing about
arrivals on that scale, and the sends alone are spaced.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from asyncclients.ratelimit.latency import SLACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.adaptive import Feedback
    from asyncclients.ratelimit.latency import RttEstimator
    from asyncclients.ratelimit.permit import Permit
    from asyncclients.ratelimit.window import SlidingWindow

_LATE = 0.1
"""Share of an interval by which an answer may be later than usual before it counts."""
_GAP = 0.97
"""Share of an interval to keep between arrivals; the bucket sees to the rest."""


class ArrivalSpacing:
    """Where the last call leaves the next one.

    Attributes:
        sent_at: when the last call was sent.
        last: the last call, while its answer is waited for.
        next_at: before this instant the next call would arrive too close to it.
    """

    __slots__ = ("last", "next_at", "sent_at")

    def __init__(self) -> None:
        self.sent_at = -math.inf
        self.last: Permit | None = None
        self.next_at = -math.inf

    def next_even_at(
        self, windows: Sequence[SlidingWindow], rtt: RttEstimator, feedback: Feedback
    ) -> float:
        """When a call that can wait may follow, so that slots open one by one for others.

        Calls one Nth of the period apart would find each slot still held about
        every other time, since it is held until its call is known to have
        arrived, and that varies. So the distance allows for late ones.
        """
        gaps = ((w.period + rtt.p95_hold(w.period, feedback)) / w.limit for w in windows)
        return self.sent_at + max(gaps, default=0.0)

    def on_sent(self, permit: Permit, interval: float, rtt: RttEstimator) -> None:
        """The call went out: the next one waits for its answer, but not for ever."""
        if rtt.is_rtt_reliable(interval):
            self.last = permit
            self.next_at = permit.sent_at + _GAP * interval + SLACK

    def on_response(self, permit: Permit, interval: float, late: float) -> None:
        """The last call's answer came *late* seconds later than usual."""
        push = max(0.0, late - _LATE * _GAP * interval)
        self.next_at = min(self.next_at, permit.sent_at + _GAP * interval + push)
