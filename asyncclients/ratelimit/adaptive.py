"""What a refusal teaches. Feedback corrects the limiter's model; it does not replace it.

A refusal belongs to the quota, not to the call that met it. It does two things.

*It pauses the scope.* The pause is an instant that only moves forward. It is
what the vendor asked for; a vendor that asks for nothing gets one slot
interval, and each refusal in a row doubles that. An absurd request (a year) is
cut to max(2 periods, 120 s). From the second refusal in a row on, and after an
absurd one, calls go out one at a time until one is admitted: the *probe*.

*It is put down to a cause*, and what it teaches fades with success:

* *spacing*: the call was sent in a burst although the window was rested, so no
  window can have been full. The server has a small bucket. Bursts stop
  (`ease` 0), calls keep a full interval between their arrivals, and the burst
  comes back over 5,000 calls, slowly at first.
* *the window*: otherwise an arrival bound was too bold. `caution` grows by half.
* *the rate*, in every case: the server may count in a way that admits less than
  N (two counters do). `share` of the rate falls by 3 %. It climbs back at first
  by 0.01 % a call, so that a server that really admits less refuses about one
  call in 150, and ever faster the longer no refusal comes.

Calls that were in flight when a refusal came in say nothing new. Refusals while
others use the quota teach how to live with them; it is forgotten when they go.

A long time without any refusal teaches as well. Many servers count by a bucket
of N or by fixed windows; there the arrival bounds are more than is needed, and
cost some per cent of a short window. After 1,500 calls without a refusal
`boldness` moves the bounds towards the send, over 300 calls, and spaces the
calls evenly. A refusal then is put down to that alone: boldness ends, and the
next attempt waits for twice as many calls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.quota import Quota
    from asyncclients.ratelimit.window import Permit

LONGEST_PAUSE = 120.0
_CAUTION_GROWTH = 1.5
_DOUBTFUL_GROWTH = 1.1
"""Where spacing is suspected already."""
_CAUTION_FADE = 1 - 1 / 1500
_LEAST_CAUTION, _MOST_CAUTION = 0.7, 8.0
_PATIENCE, _DARING = 1500, 300
_CUT = 0.97
_CLIMB = 0.0001
_LEAST_SHARE = 0.1
_EASE_STEP = 0.0001
_SUSPECTED = 0.9
_RESTED = 0.5
"""A slot that was free for this share of its period cannot have been held by mistake."""


class Feedback:
    """What refusals have taught about one scope.

    Attributes:
        paused_until: nothing is sent before this instant.
        probing: calls go out one at a time.
        bound_relaxation: 0 where the arrival bounds hold, 1 where the sends are counted.
        margin_factor: factor on the arrival bounds' margins, 1 at first.
        rate_factor: share of the full rate in use.
        burst_factor: 1 where bursts are allowed, 0 where calls are spaced evenly.
    """

    __slots__ = (
        "_baseline",
        "_consecutive_rejections",
        "_last_rejected",
        "_relax_after",
        "_rolled_back",
        "_rolled_back_by",
        "_successes",
        "bound_relaxation",
        "burst_factor",
        "interval",
        "longest_pause",
        "margin_factor",
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
        self.margin_factor = 1.0
        self.rate_factor = 1.0
        self.burst_factor = 1.0
        self._consecutive_rejections = 0  # refusals in a row
        self._successes = 0  # admitted calls since the last refusal
        self._relax_after = _PATIENCE if may_relax else math.inf  # a streak this long makes bold
        self._last_rejected = 0  # number of the last call sent when a refusal came in
        self._rolled_back = 0
        self._rolled_back_by = 0
        self._baseline = (self.rate_factor, self.burst_factor, self.margin_factor)

    def set_quotas(self, quotas: Sequence[Quota]) -> None:
        """Take the scale of pauses from *quotas*."""
        self.interval = max((quota.period / quota.limit for quota in quotas), default=1.0)
        self.period = max((quota.period for quota in quotas), default=0.0)
        self.longest_pause = max(LONGEST_PAUSE, 2 * self.period)

    def on_accepted(self, permit: Permit) -> bool:
        """The call was let in. Returns whether the pace changes by it."""
        if permit.number <= self._last_rejected:
            return False
        if self._consecutive_rejections:
            self._rolled_back, self._rolled_back_by = self._consecutive_rejections, permit.number
            self._consecutive_rejections = 0
            self.probing = False
        return self.on_success()

    def on_success(self) -> bool:
        """One more call of this quota was let in, here or elsewhere. As `admitted`."""
        self._successes = streak = self._successes + 1
        bolder = streak > self._relax_after and self.bound_relaxation < 1.0
        if bolder:
            self.bound_relaxation = min(1.0, (streak - self._relax_after) / _DARING)
        if self.margin_factor > _LEAST_CAUTION:
            self.margin_factor *= _CAUTION_FADE
        if self.rate_factor == 1.0 and self.burst_factor == 1.0:
            return bolder
        self.rate_factor = min(1.0, self.rate_factor + _CLIMB * (1 + streak / 1000))
        self.burst_factor = min(
            1.0, self.burst_factor + (_EASE_STEP if self.burst_factor < 0.4 else 5 * _EASE_STEP)
        )
        return True

    def on_rejected(self, now: float, permit: Permit | None, sent: int) -> None:
        """Learn from a refusal; `pause` follows. *sent* is the number of the latest call sent."""
        news = now >= self.paused_until if permit is None else permit.number > self._last_rejected
        if news:
            if permit is not None and permit.number == self._rolled_back_by:
                self._consecutive_rejections = (
                    self._rolled_back
                )  # it was taken for admitted until its body was read
            self._consecutive_rejections += 1
            self._successes = 0
            self._last_rejected = sent
            self._attribute_cause(permit)

    def on_external_usage(self) -> None:
        """Others are seen to use the quota: refusals may be theirs from now on."""
        self._baseline = (self.rate_factor, self.burst_factor, self.margin_factor)

    def on_external_usage_end(self) -> None:
        """They are gone: what was learned since they came was about them."""
        share, ease, caution = self._baseline
        self.rate_factor, self.burst_factor = (
            max(self.rate_factor, share),
            max(self.burst_factor, ease),
        )
        self.margin_factor = min(self.margin_factor, caution)

    def pause(self, now: float, retry_after: float | None) -> None:
        """Send nothing for *retry_after* seconds, or where that is not said for a slot interval."""
        asked = 0.0
        if retry_after is not None and retry_after >= 0.001:  # no for NaN, and for no time at all
            asked = retry_after
        backoff = 0.0
        if self._consecutive_rejections > 1 or not asked:
            backoff = self.interval * 2.0 ** min(self._consecutive_rejections - 1, 40)
        self.probing = (
            self.probing or self._consecutive_rejections > 1 or asked > self.longest_pause
        )
        wait = min(max(asked, backoff), self.longest_pause)
        self.paused_until = max(self.paused_until, now + wait)

    def _attribute_cause(self, permit: Permit | None) -> None:
        if self.bound_relaxation:
            self.bound_relaxation = 0.0
            self._relax_after *= 2
            return
        self.rate_factor = max(_LEAST_SHARE, self.rate_factor * _CUT)
        if permit is not None and permit.slot_idle_for > _RESTED * self.period:
            self.burst_factor = 0.0
            return
        growth = _CAUTION_GROWTH if self.burst_factor > _SUSPECTED else _DOUBTFUL_GROWTH
        if permit is not None and permit.in_burst:
            self.burst_factor = self.burst_factor / 2 if self.burst_factor > 0.4 else 0.0
        self.margin_factor = min(_MOST_CAUTION, self.margin_factor * growth)
