"""Estimates of when a call arrived at the vendor.

A server counts a call when it *arrives*, and the client cannot observe that instant. It
knows only the send and the response; the arrival lies between. Four upper bounds on the
arrival, from the safest to the most optimistic:

* *response*: the call had arrived when its response came. Always true.
* *response − minimum RTT*: no response travels back faster than the shortest round trip
  ever measured, so the next call cannot overtake this one by more than the rest. The
  shortest measured round trip lies a little above the true minimum. The gap between the
  two shortest estimates by how much, so the estimate is one gap lower, less a share of
  the mean excess. The memory is long (512 to 1,024 calls): with a short one the estimated
  minimum is too high too often.
* *send + slack*: if the vendor takes long and varying times to process a call, the
  response is weak evidence of the arrival, and waiting for it would cost a third of the
  quota. In that case the time to the server is assumed to vary by at most `SLACK`. A slot
  may then become free while its call is still in flight.
* *none*: a call without a response. Its slot is held until the call is given up.

`Feedback.margin_factor`, learned from rejections (see `adaptive.py`), widens the margins
of the second and the third bound.

`ArrivalSpacing` uses the same estimates to keep calls an interval apart on *arrival*, for
servers with a small token bucket. Spacing the sends is not enough there, because a late
arrival shortens the gap to the next one. So the next call waits for the response to the
previous one: a response that is later than the mean by more than a tenth of the interval
delays the next call by the rest. If response times vary by more than a third of the
interval they are no evidence of arrivals on that scale, and only the sends are spaced.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.adaptive import Feedback
    from asyncclients.ratelimit.window import Permit, SlidingWindow

SLACK = 0.125
"""Seconds by which the time to the server is assumed to vary, before any rejection."""
_MARGIN = 0.05
"""Share of the mean excess over the minimum RTT that is taken off the minimum."""
_MIN_SAMPLES = 32
"""Calls before the minimum RTT is used at all."""
_GENERATION = 16 * _MIN_SAMPLES
"""Calls per generation of minima; the current and the previous generation count."""
_SMOOTHING = 0.02
"""Weight of a new sample in the mean RTT, after the first 50."""
_TAIL = 2.5
"""Nearly every call is held for at most this many times the mean; latencies have long tails."""
_MIN_RESPONSE_COST = 0.005
"""Share of the period: below this mean RTT, holding slots until the response is cheap."""
_MIN_EXCESS_COST = 0.01
"""Share of the period: below this mean excess, waiting for the response is cheap."""
_LATE = 0.1
"""Share of an interval by which a response may exceed the mean RTT before it counts."""
_SPACING = 0.97
"""Share of an interval to keep between arrivals; the token bucket keeps the rest."""


class RttEstimator:
    """The minimum and the mean round trip of accepted calls, in seconds."""

    __slots__ = ("_count", "_lowest", "_previous", "_second", "mean_rtt", "min_rtt")

    def __init__(self) -> None:
        self.min_rtt = 0.0
        self.mean_rtt = 0.0
        self._count = 0
        self._lowest = self._second = math.inf
        self._previous = (math.inf, math.inf)  # the two lowest of the previous generation

    def add(self, rtt: float) -> None:
        """Record the round trip of one accepted call."""
        self._count = count = self._count + 1
        self.mean_rtt += (rtt - self.mean_rtt) * (1 / count if count < 50 else _SMOOTHING)
        if rtt < self._second:
            self._lowest, self._second = sorted((self._lowest, rtt))
            self._estimate()
        if not count % _MIN_SAMPLES:
            if not count % _GENERATION:
                self._previous = (self._lowest, self._second)
                self._lowest = self._second = math.inf
            self._estimate()

    def _estimate(self) -> None:
        """Set `min_rtt` one gap below the lowest sample; the gap is that to the second lowest."""
        first, second = sorted((self._lowest, self._second, *self._previous))[:2]
        self.min_rtt = max(0.0, first - (second - first)) if self._count >= _MIN_SAMPLES else 0.0

    def arrival_before_response(self, period: float, margin_factor: float) -> float:
        """Seconds before its response by which a call has certainly arrived."""
        if self.mean_rtt <= _MIN_RESPONSE_COST * period:
            return 0.0
        return max(0.0, self.min_rtt - _MARGIN * margin_factor * (self.mean_rtt - self.min_rtt))

    def assumed_arrival(self, period: float, feedback: Feedback) -> float:
        """Seconds from send until a call is assumed to have arrived; inf: wait for the response."""
        excess = self.mean_rtt - self.min_rtt
        if excess <= _MIN_EXCESS_COST * period:
            return math.inf
        slack = SLACK * feedback.margin_factor
        return math.inf if excess <= 2 * slack else slack * (1 - feedback.bound_relaxation)

    def is_rtt_reliable(self, interval: float) -> bool:
        """Return whether a late response means a late arrival, on the scale of *interval*."""
        return self.mean_rtt - self.min_rtt < min(SLACK, interval / 3)

    def expected_hold(self, period: float, feedback: Feedback) -> float:
        """Expected seconds from send until the call is known or assumed to have arrived."""
        return min(
            self._response_based_hold(period, feedback), self.assumed_arrival(period, feedback)
        )

    def p95_hold(self, period: float, feedback: Feedback) -> float:
        """Like `expected_hold`, but an upper bound for nearly every call instead of the mean."""
        return min(
            _TAIL * self._response_based_hold(period, feedback),
            self.assumed_arrival(period, feedback),
        )

    def _response_based_hold(self, period: float, feedback: Feedback) -> float:
        """Expected seconds from send until the response proves arrival."""
        known = self.arrival_before_response(period, feedback.margin_factor)
        return (self.mean_rtt - known) * (1 - feedback.bound_relaxation if known else 1)


class ArrivalSpacing:
    """The earliest instants at which the next call may follow the previous one.

    Attributes:
        sent_at: loop instant at which the previous call was sent.
        last: the previous call, while its response is awaited.
        next_at: before this instant the next call would arrive too soon after it.
    """

    __slots__ = ("last", "next_at", "sent_at")

    def __init__(self) -> None:
        self.sent_at = -math.inf
        self.last: Permit | None = None
        self.next_at = -math.inf

    def next_even_at(
        self, windows: Sequence[SlidingWindow], rtt: RttEstimator, feedback: Feedback
    ) -> float:
        """Return when a background call may follow, so that slots expire one at a time.

        A gap of period/limit would be too short: about every second call would find its
        slot still held, because a slot is held until its call is known to have arrived,
        and that varies. So the gap allows for `p95_hold`.
        """
        gaps = ((w.period + rtt.p95_hold(w.period, feedback)) / w.limit for w in windows)
        return self.sent_at + max(gaps, default=0.0)

    def on_sent(self, permit: Permit, interval: float, rtt: RttEstimator) -> None:
        """Delay the next call until this one's response, at most by an interval and `SLACK`."""
        if rtt.is_rtt_reliable(interval):
            self.last = permit
            self.next_at = permit.sent_at + _SPACING * interval + SLACK

    def on_response(self, permit: Permit, interval: float, late: float) -> None:
        """Allow the next call; the response to *permit* exceeded the mean RTT by *late* seconds."""
        delay = max(0.0, late - _LATE * _SPACING * interval)
        self.next_at = min(self.next_at, permit.sent_at + _SPACING * interval + delay)
