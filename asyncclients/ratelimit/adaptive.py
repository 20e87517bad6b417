"""Learning from rejections: a controller that corrects the limiter's model.

A rejection (429) concerns the quota, not only the call that received it. It has two
effects.

*It pauses the scope.* The end of the pause only moves forward. The pause lasts as long as
the vendor asked. If the vendor gives no time, it lasts one slot interval, doubled for each
further consecutive rejection. An absurd request (a year) is cut to max(2 periods, 120 s).
From the second consecutive rejection on, and after an absurd request, calls are sent one
at a time until one is accepted: *probing*.

*It is attributed to a cause.* Each correction fades as calls are accepted:

* *Burst*: the call was sent in a burst although its slot had been idle for half a period,
  so the window cannot have been full. The server has a small token bucket. Bursts stop
  (`burst_factor` 0) and calls arrive a full interval apart. Bursts return over 5,000
  calls, slowly at first.
* *Window*: in any other case an arrival bound was too optimistic. `margin_factor` grows by
  half.
* *Rate*, in both cases: the server may count in a way that accepts less than the limit (a
  two-counter server does). `rate_factor` falls by 3 %. It recovers by 0.01 % per accepted
  call at first, so a server that really accepts less rejects about one call in 150, and
  faster the longer no call is rejected.

Calls that were in flight when a rejection arrived carry no new information. Rejections
while other clients use the quota teach how to share it; that is rolled back when their
usage ends.

A long run without rejections is informative as well. Many servers use a token bucket of
the full limit or fixed windows. There the arrival bounds are stricter than necessary, and
cost some percent of a short window. After 1,500 accepted calls `bound_relaxation` moves
the bounds towards the send, over 300 calls, and spaces the calls evenly. A rejection in
that state is attributed to the relaxation alone: it is reset, and the next attempt waits
for twice as many calls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.quota import Quota
    from asyncclients.ratelimit.window import Permit

MAX_PAUSE = 120.0
"""Seconds. The longest pause, unless two periods are longer."""
_MARGIN_GROWTH = 1.5
"""Factor on the margins after a rejection attributed to the window."""
_MARGIN_GROWTH_IF_BURSTS = 1.1
"""The same while bursts are restricted, since they may be the cause."""
_MARGIN_DECAY = 1 - 1 / 1500
"""Factor on the margins after each accepted call."""
_MIN_MARGIN, _MAX_MARGIN = 0.7, 8.0
_RELAX_AFTER = 1500
"""Accepted calls in a row before the arrival bounds are relaxed."""
_RELAX_OVER = 300
"""Accepted calls over which the relaxation grows to 1."""
_RATE_CUT = 0.97
"""Factor on the rate after a rejection."""
_RATE_RECOVERY = 0.0001
"""Share of the full rate regained with an accepted call, directly after a rejection."""
_MIN_RATE = 0.1
_BURST_RECOVERY = 0.0001
"""Share of the full burst regained with an accepted call; five times that from 0.4 on."""
_BURSTS_SUSPECTED = 0.9
"""Below this burst factor bursts have been restricted recently."""
_IDLE_SHARE = 0.5
"""A slot idle for this share of the longest period was free at the server as well."""


class Feedback:
    """The corrections learned from the rejections of one scope.

    Attributes:
        paused_until: loop instant before which nothing is sent.
        probing: calls are sent one at a time.
        bound_relaxation: 0 if slots are held from the arrival bound, 1 if from the send.
        margin_factor: factor on the margins of the arrival bounds, initially 1.
        rate_factor: share of the full rate in use.
        burst_factor: 1 if full bursts are allowed, 0 if calls are spaced evenly.
        interval: seconds between two calls at the quotas' lowest rate.
        period: seconds of the longest quota.
        max_pause: seconds of the longest pause.
    """

    __slots__ = (
        "_accepted_after",
        "_baseline",
        "_consecutive_rejections",
        "_last_rejected",
        "_relax_after",
        "_rolled_back",
        "_successes",
        "bound_relaxation",
        "burst_factor",
        "interval",
        "margin_factor",
        "max_pause",
        "paused_until",
        "period",
        "probing",
        "rate_factor",
    )

    def __init__(self, quotas: Sequence[Quota], *, may_relax: bool = True) -> None:
        self.set_quotas(quotas)
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
        self._baseline = (self.rate_factor, self.burst_factor, self.margin_factor)

    def set_quotas(self, quotas: Sequence[Quota]) -> None:
        """Take the time scale of pauses from *quotas*."""
        self.interval = max((quota.period / quota.limit for quota in quotas), default=1.0)
        self.period = max((quota.period for quota in quotas), default=0.0)
        self.max_pause = max(MAX_PAUSE, 2 * self.period)

    def on_accepted(self, permit: Permit | None = None) -> bool:
        """Record an accepted call of this quota; return whether the pace changes.

        *permit* is None for a call of another process.
        """
        if permit is not None:
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

    def on_rejected(self, now: float, permit: Permit | None, last_sent: int) -> None:
        """Learn from a rejection, before `pause`.

        *permit* is the rejected call's, if known; *last_sent* is the number of the latest
        call sent.
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
        self._attribute_cause(permit)

    def _attribute_cause(self, permit: Permit | None) -> None:
        if self.bound_relaxation:
            self.bound_relaxation = 0.0
            self._relax_after *= 2
            return
        self.rate_factor = max(_MIN_RATE, self.rate_factor * _RATE_CUT)
        if permit is not None and permit.slot_idle_for > _IDLE_SHARE * self.period:
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
