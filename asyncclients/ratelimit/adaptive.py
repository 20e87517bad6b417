"""The lessons of responses: when calls arrive at the vendor, and why some are rejected.

docs/theory-of-limits.md explains the rules and has the figures.

A server counts a call when it *arrives*, between the send and the response. The bounds of that
instant, from the safest to the most optimistic, are *response*, *response − minimum RTT*,
*send + slack*, and *the send*: after many accepted calls `bound_relaxation` moves the bounds
there, and spaces the calls evenly. A rejection in that state is attributed to it alone: it is
reset, and the next attempt waits for twice as many calls. `margin_factor` widens the margins of
the second and the third bound.

A rejection (429) pauses the scope: as long as the vendor asked, else for one slot interval,
doubled for each further consecutive rejection. From the second one on, calls are sent one at a
time until one is accepted (`probing`). And it is attributed to a cause, whose correction fades as
calls are accepted:

* *burst*: the slot had been idle for half a period, so the window cannot have been full. The
  server has a small token bucket: calls arrive a full interval apart (`ArrivalSpacing`).
* *window*: in any other case an arrival bound was too optimistic.
* *rate*, in both cases: the server may count in a way that accepts less than the limit.

Calls that were in flight when a rejection arrived carry no new information. The
lessons of rejections while other clients used the quota are rolled back when their usage ends.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.quota import Quota
    from asyncclients.ratelimit.slots import Permit

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
TAIL = 2.5
"""Nearly every call is held for at most this many times the mean; latencies have long tails."""
_MIN_RESPONSE_COST = 0.005
"""Share of the period: below this mean RTT, holding slots until the response is cheap."""
_MIN_EXCESS_COST = 0.01
"""Share of the period: below this mean excess, waiting for the response is cheap."""
_LATE = 0.1
"""Share of an interval by which a response may exceed the mean RTT before it counts."""
_SPACING = 0.97
"""Share of an interval to keep between arrivals; the token bucket keeps the rest."""


class ArrivalSpacing:
    """The earliest instant at which the next call may follow the previous one.

    With a small bucket spacing the sends is not enough, because a late arrival shortens the gap
    to the next one. So the next call waits for the response to this one.

    Attributes:
        last: the previous call, while its response is awaited.
        next_at: before this instant the next call would arrive too soon after it.
    """

    def __init__(self) -> None:
        self.last: Permit | None = None
        self.next_at = -math.inf

    def on_sent(self, permit: Permit, interval: float) -> None:
        """Delay the next call until this one's response, at most by an interval and `SLACK`."""
        self.last = permit
        self.next_at = permit.sent_at + _SPACING * interval + SLACK

    def on_response(self, permit: Permit, interval: float, late: float) -> None:
        """Allow the next call; the response to *permit* exceeded the mean RTT by *late* seconds."""
        delay = max(0.0, late - _LATE * _SPACING * interval)
        self.next_at = min(self.next_at, permit.sent_at + _SPACING * interval + delay)


# --- Rejections --------------------------------------------------------------------

MAX_PAUSE = 120.0
"""Seconds. The longest pause, unless two periods are longer."""
_MARGIN_GROWTH = 1.5
"""Factor on the margins after a rejection attributed to the window."""
_MARGIN_GROWTH_IF_BURSTS = 1.1
"""The same while bursts are restricted, since they may be the cause."""
_MARGIN_DECAY = 1 - 1 / 1500
"""Factor on the margins after each accepted call."""
_MIN_MARGIN, _MAX_MARGIN = 0.7, 8.0
QUICK_RTT = 2 * _MIN_MARGIN * SLACK
"""Seconds. Up to this mean RTT, `assumed_arrival` is infinite."""
_RELAX_AFTER = 1500
"""Accepted calls in a row before the arrival bounds are relaxed."""
_RELAX_OVER = 300
"""Accepted calls over which the relaxation grows to 1."""
_RATE_CUT = 0.97
"""Factor on the rate after a rejection."""
_RATE_RECOVERY = 0.0001
"""Share of the full rate regained with an accepted call, directly after a rejection."""
_MIN_RATE = 0.1
_MIN_SHARED_RATE = 0.5
"""The same while rejections are unavoidable: an even share of two clients."""
_BURST_RECOVERY = 0.0001
"""Share of the full burst regained with an accepted call; five times that from 0.4 on."""
_BURSTS_SUSPECTED = 0.9
"""Below this burst factor bursts have been restricted recently."""
_IDLE_SHARE = 0.5
"""A slot idle for this share of the longest period was free at the server as well."""


class Feedback:
    """The round trips of the accepted calls of one scope, and the corrections after rejections.

    Attributes:
        min_rtt, mean_rtt: seconds of a round trip; the minimum is 0 until it is known.
        bound_relaxation: 0 if slots are held from the arrival bound, 1 if from the send.
        margin_factor: factor on the margins of the arrival bounds, initially 1.
        rate_factor: share of the full rate in use.
        burst_factor: 1 if full bursts are allowed, 0 if calls are spaced evenly.
        interval: seconds between two calls at the quotas' lowest rate.
        period: seconds of the longest quota.
        max_pause: seconds of the longest pause.
    """

    def __init__(self, quotas: Sequence[Quota] = (), *, may_relax: bool = True) -> None:
        self.set_quotas(quotas)
        self.min_rtt = self.mean_rtt = 0.0
        self._responses = 0
        self._lowest = self._second = math.inf  # of this generation
        self._previous = (math.inf, math.inf)  # the same of the previous one
        self.paused_until = -math.inf
        self.probing = False
        self.bound_relaxation = 0.0
        self.margin_factor = self.rate_factor = self.burst_factor = 1.0
        self._consecutive_rejections = 0
        self._successes = 0  # accepted calls since the last rejection
        self._relax_after = _RELAX_AFTER if may_relax else math.inf
        self._last_rejected = 0  # number of the latest call sent when a rejection arrived
        # The run of rejections that an accepted call ended, and the number of that call.
        self._rolled_back = self._accepted_after = 0
        self.on_external_usage()

    def set_quotas(self, quotas: Sequence[Quota]) -> None:
        """Take the time scale of pauses from *quotas*."""
        self.interval = max((quota.period / quota.limit for quota in quotas), default=1.0)
        self.period = max((quota.period for quota in quotas), default=0.0)
        self.max_pause = max(MAX_PAUSE, 2 * self.period)

    def on_accepted(self, permit: Permit | None = None, rtt: float = 0.0) -> bool:
        """Record an accepted call and its round trip; return whether the pace changes.

        *permit* is None for a call of another process.
        """
        if permit is not None:
            self._responses = count = self._responses + 1
            self.mean_rtt += (rtt - self.mean_rtt) * (1 / count if count < 50 else _SMOOTHING)
            if rtt < self._second or not count % _MIN_SAMPLES:
                self._estimate_min_rtt(rtt)
            if permit.number <= self._last_rejected:
                return False
            if self._consecutive_rejections:
                self._rolled_back = self._consecutive_rejections
                self._accepted_after = permit.number
                self._consecutive_rejections = 0
                self.probing = False
        self._successes = successes = self._successes + 1
        relaxes = successes > self._relax_after and self.bound_relaxation < 1.0
        if relaxes:
            self.bound_relaxation = min(1.0, (successes - self._relax_after) / _RELAX_OVER)
        if self.margin_factor > _MIN_MARGIN:
            self.margin_factor *= _MARGIN_DECAY
        if self.rate_factor == 1.0 and self.burst_factor == 1.0:
            return relaxes
        self.rate_factor = min(1.0, self.rate_factor + _RATE_RECOVERY * (1 + successes / 1000))
        recovery = _BURST_RECOVERY if self.burst_factor < 0.4 else 5 * _BURST_RECOVERY
        self.burst_factor = min(1.0, self.burst_factor + recovery)
        return True

    def _estimate_min_rtt(self, rtt: float) -> None:
        """Set `min_rtt` one gap below the lowest sample; the gap is that to the second lowest."""
        self._lowest, self._second = sorted((self._lowest, self._second, rtt))[:2]
        if not self._responses % _GENERATION:
            self._previous = (self._lowest, self._second)
            self._lowest = self._second = math.inf
        if self._responses >= _MIN_SAMPLES:
            first, second = sorted((self._lowest, self._second, *self._previous))[:2]
            self.min_rtt = max(0.0, first - (second - first))

    def arrival_before_response(self, period: float) -> float:
        """Seconds before its response by which a call has certainly arrived."""
        if self.mean_rtt <= _MIN_RESPONSE_COST * period:
            return 0.0
        return max(
            0.0, self.min_rtt - _MARGIN * self.margin_factor * (self.mean_rtt - self.min_rtt)
        )

    def assumed_arrival(self, period: float) -> float:
        """Seconds from send until a call is assumed to have arrived; inf: wait for the response."""
        excess, slack = self.mean_rtt - self.min_rtt, SLACK * self.margin_factor
        if excess <= max(2 * slack, _MIN_EXCESS_COST * period):
            return math.inf
        return slack * (1 - self.bound_relaxation)

    def expected_hold(self, period: float, tail: float = 1.0) -> float:
        """Expected seconds from send until the call is known or assumed to have arrived.

        *tail* is a factor on round trips: `TAIL` gives a bound for nearly every call.
        """
        known = self.arrival_before_response(period)
        until_known = (self.mean_rtt - known) * (1 - self.bound_relaxation if known else 1)
        return min(tail * until_known, self.assumed_arrival(period))

    def is_rtt_reliable(self, interval: float) -> bool:
        """Return whether a late response means a late arrival, on the scale of *interval*."""
        return self.mean_rtt - self.min_rtt < min(SLACK, interval / 3)

    def on_rejected(
        self, now: float, permit: Permit | None, last_sent: int, *, is_unavoidable: bool = False
    ) -> None:
        """Learn from a rejection, before `pause`.

        *permit* is the rejected call's, if known; *last_sent* is the number of the latest
        call sent. *is_unavoidable*: other clients cause rejections at any rate of ours.
        """
        is_new = now >= self.paused_until if permit is None else permit.number > self._last_rejected
        if not is_new:
            return
        if permit is not None and permit.number == self._accepted_after:
            # The call counted as accepted until its body turned out to be a rejection.
            self._consecutive_rejections = self._rolled_back
        self._consecutive_rejections += 1
        self._successes = 0
        self._last_rejected = last_sent
        if self.bound_relaxation:
            self.bound_relaxation = 0.0
            self._relax_after *= 2
            return
        min_rate = _MIN_SHARED_RATE if is_unavoidable else _MIN_RATE
        self.rate_factor = max(min_rate, self.rate_factor * _RATE_CUT)
        if permit is not None and permit.sent_at - permit.slot_free_at > _IDLE_SHARE * self.period:
            self.burst_factor = 0.0
            return
        bursts_suspected = self.burst_factor <= _BURSTS_SUSPECTED
        growth = _MARGIN_GROWTH_IF_BURSTS if bursts_suspected else _MARGIN_GROWTH
        if permit is not None and permit.in_burst:
            self.burst_factor = self.burst_factor / 2 if self.burst_factor > 0.4 else 0.0
        self.margin_factor = min(_MAX_MARGIN, self.margin_factor * growth)

    def on_external_usage(self) -> None:
        """Save the corrections: from now on, rejections may be due to other clients."""
        self._baseline = (self.rate_factor, self.burst_factor, self.margin_factor)

    def on_external_usage_end(self) -> None:
        """Roll back what was learned while other clients used the quota."""
        rate_factor, burst_factor, margin_factor = self._baseline
        self.rate_factor = max(self.rate_factor, rate_factor)
        self.burst_factor = max(self.burst_factor, burst_factor)
        self.margin_factor = min(self.margin_factor, margin_factor)

    def pause(self, now: float, retry_after: float | None) -> None:
        """Send nothing for *retry_after* seconds; without it for the backoff of a rejection."""
        requested = 0.0
        if retry_after is not None and retry_after >= 0.001:  # False for NaN and for 0
            requested = retry_after
        rejections, backoff = self._consecutive_rejections, 0.0
        if rejections > 1 or not requested:
            backoff = self.interval * 2.0 ** min(rejections - 1, 40)
        self.probing = self.probing or rejections > 1 or requested > self.max_pause
        wait = min(max(requested, backoff), self.max_pause)
        self.paused_until = max(self.paused_until, now + wait)
