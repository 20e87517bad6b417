"""When did a call arrive? What a client can know about it.

A server counts a call when it *arrives*, which the client never sees. It sees
the send and the answer, and the arrival lies between. Four bounds, from the
surest to the boldest:

* *answer*: the call had arrived when its answer came. Always true.
* *answer − floor*: nothing comes back faster than the shortest round trip ever
  seen, so the next call cannot overtake this one by more. The floor that was
  seen lies a little above the true one. How much is told by the gap between
  the two shortest, so that gap is taken off, and a share of the usual excess
  with it. The memory is long (512 to 1,024 calls): with a short one the floor
  is too high too often.
* *send + slack*: where the vendor works long and unevenly on each call, the
  answer says little about the arrival, and waiting for it costs a third of the
  quota. There the way to the server is trusted to vary by no more than `SLACK`;
  the slot may then be free again while the call is still in flight.
* nothing: a call without an answer. Its slot is held until one is given up on.

*Caution*, learned from refusals (see `feedback.py`), widens the last two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.adaptive import Feedback
    from asyncclients.ratelimit.window import Permit, SlidingWindow

SLACK = 0.125
"""Seconds by which one-way latency is trusted to vary, before any experience."""
_MARGIN = 0.05
"""Share of the usual excess over the floor by which the floor is not believed."""
_EXPERIENCE = 32
"""Calls before any floor is believed."""
_GENERATION = 16 * _EXPERIENCE
"""Calls after which the memory of the floor moves on by one half."""
_SMOOTHING = 0.02
_TAIL = 2.5
_WORTH_FLOOR = 0.005
_WORTH_SLACK = 0.01
"""A bolder bound is used where the surer one costs this share of the period."""


class RttEstimator:
    """The shortest and the usual round trip of admitted calls, in seconds."""

    __slots__ = ("_before", "_count", "_lowest", "_second", "mean_rtt", "min_rtt")

    def __init__(self) -> None:
        self.min_rtt = 0.0
        self.mean_rtt = 0.0
        self._count = 0
        self._lowest = self._second = math.inf
        self._before = (math.inf, math.inf)

    def add(self, seconds: float) -> None:
        """One more call was answered *seconds* after it was sent."""
        self._count = count = self._count + 1
        self.mean_rtt += (seconds - self.mean_rtt) * (1 / count if count < 50 else _SMOOTHING)
        if seconds < self._second:
            self._lowest, self._second = sorted((self._lowest, seconds))
            self._estimate()
        if not count % _EXPERIENCE:
            self._age(count)

    def _age(self, count: int) -> None:
        """After the first calls the floor is believed; after many the eldest are forgotten."""
        if not count % _GENERATION:
            self._before = (self._lowest, self._second)
            self._lowest = self._second = math.inf
        self._estimate()

    def _estimate(self) -> None:
        """The floor, from the two shortest: as far below the one as the other is above."""
        first, second = sorted((self._lowest, self._second, *self._before))[:2]
        self.min_rtt = max(0.0, first - (second - first)) if self._count >= _EXPERIENCE else 0.0

    def arrival_before_response(self, period: float, margin_factor: float) -> float:
        """Seconds before its answer by which a call has surely arrived."""
        if self.mean_rtt <= _WORTH_FLOOR * period:
            return 0.0
        return max(0.0, self.min_rtt - _MARGIN * margin_factor * (self.mean_rtt - self.min_rtt))

    def assumed_arrival(self, period: float, feedback: Feedback) -> float:
        """Seconds after its send by which a call has arrived; inf: wait for the answer."""
        excess = self.mean_rtt - self.min_rtt
        if excess <= _WORTH_SLACK * period or excess <= 2 * (
            slack := SLACK * feedback.margin_factor
        ):
            return math.inf
        return slack * (1 - feedback.bound_relaxation)

    def is_rtt_reliable(self, interval: float) -> bool:
        """An answer that is late means a late arrival, not long work, on the scale of *interval*."""
        return self.mean_rtt - self.min_rtt < min(SLACK, interval / 3)

    def expected_hold(self, period: float, feedback: Feedback) -> float:
        """How long after its send a call is expected to be known to have arrived."""
        return min(
            self._response_based_hold(period, feedback), self.assumed_arrival(period, feedback)
        )

    def p95_hold(self, period: float, feedback: Feedback) -> float:
        """The same for nearly every call: latencies have long tails."""
        return min(
            _TAIL * self._response_based_hold(period, feedback),
            self.assumed_arrival(period, feedback),
        )

    def _response_based_hold(self, period: float, feedback: Feedback) -> float:
        """How long after its send its answer tells that a call has arrived."""
        credit = self.arrival_before_response(period, feedback.margin_factor)
        return (self.mean_rtt - credit) * (1 - feedback.bound_relaxation if credit else 1)


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
