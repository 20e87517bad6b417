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

    from asyncclients.limits.permit import Permit
    from asyncclients.limits.quota import Quota

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
        boldness: 0 where the arrival bounds hold, 1 where the sends are counted.
        caution: factor on the arrival bounds' margins, 1 at first.
        share: share of the full rate in use.
        ease: 1 where bursts are allowed, 0 where calls are spaced evenly.
    """

    __slots__ = (
        "_alone",
        "_forgiven",
        "_forgiven_by",
        "_last_refused",
        "_patience",
        "_streak",
        "_strikes",
        "boldness",
        "caution",
        "ease",
        "interval",
        "longest_pause",
        "paused_until",
        "period",
        "probing",
        "share",
    )

    def __init__(self, quotas: Sequence[Quota], *, daring: bool = True) -> None:
        self.measure(quotas)
        self.paused_until = -math.inf
        self.probing = False
        self.boldness = 0.0
        self.caution = 1.0
        self.share = 1.0
        self.ease = 1.0
        self._strikes = 0  # refusals in a row
        self._streak = 0  # admitted calls since the last refusal
        self._patience = _PATIENCE if daring else math.inf  # a streak this long makes bold
        self._last_refused = 0  # number of the last call sent when a refusal came in
        self._forgiven = 0
        self._forgiven_by = 0
        self._alone = (self.share, self.ease, self.caution)

    def measure(self, quotas: Sequence[Quota]) -> None:
        """Take the scale of pauses from *quotas*."""
        self.interval = max((quota.period / quota.limit for quota in quotas), default=1.0)
        self.period = max((quota.period for quota in quotas), default=0.0)
        self.longest_pause = max(LONGEST_PAUSE, 2 * self.period)

    def admitted(self, permit: Permit) -> bool:
        """The call was let in. Returns whether the pace changes by it."""
        if permit.number <= self._last_refused:
            return False
        if self._strikes:
            self._forgiven, self._forgiven_by = self._strikes, permit.number
            self._strikes = 0
            self.probing = False
        return self.succeed()

    def succeed(self) -> bool:
        """One more call of this quota was let in, here or elsewhere. As `admitted`."""
        self._streak = streak = self._streak + 1
        bolder = streak > self._patience and self.boldness < 1.0
        if bolder:
            self.boldness = min(1.0, (streak - self._patience) / _DARING)
        if self.caution > _LEAST_CAUTION:
            self.caution *= _CAUTION_FADE
        if self.share == 1.0 and self.ease == 1.0:
            return bolder
        self.share = min(1.0, self.share + _CLIMB * (1 + streak / 1000))
        self.ease = min(1.0, self.ease + (_EASE_STEP if self.ease < 0.4 else 5 * _EASE_STEP))
        return True

    def refused(self, now: float, permit: Permit | None, sent: int) -> None:
        """Learn from a refusal; `pause` follows. *sent* is the number of the latest call sent."""
        news = now >= self.paused_until if permit is None else permit.number > self._last_refused
        if news:
            if permit is not None and permit.number == self._forgiven_by:
                self._strikes = self._forgiven  # it was taken for admitted until its body was read
            self._strikes += 1
            self._streak = 0
            self._last_refused = sent
            self._blame(permit)

    def others_came(self) -> None:
        """Others are seen to use the quota: refusals may be theirs from now on."""
        self._alone = (self.share, self.ease, self.caution)

    def others_left(self) -> None:
        """They are gone: what was learned since they came was about them."""
        share, ease, caution = self._alone
        self.share, self.ease = max(self.share, share), max(self.ease, ease)
        self.caution = min(self.caution, caution)

    def pause(self, now: float, retry_after: float | None) -> None:
        """Send nothing for *retry_after* seconds, or where that is not said for a slot interval."""
        asked = 0.0
        if retry_after is not None and retry_after >= 0.001:  # no for NaN, and for no time at all
            asked = retry_after
        backoff = 0.0
        if self._strikes > 1 or not asked:
            backoff = self.interval * 2.0 ** min(self._strikes - 1, 40)
        self.probing = self.probing or self._strikes > 1 or asked > self.longest_pause
        wait = min(max(asked, backoff), self.longest_pause)
        self.paused_until = max(self.paused_until, now + wait)

    def _blame(self, permit: Permit | None) -> None:
        if self.boldness:
            self.boldness = 0.0
            self._patience *= 2
            return
        self.share = max(_LEAST_SHARE, self.share * _CUT)
        if permit is not None and permit.rested > _RESTED * self.period:
            self.ease = 0.0
            return
        growth = _CAUTION_GROWTH if self.ease > _SUSPECTED else _DOUBTFUL_GROWTH
        if permit is not None and permit.bunched:
            self.ease = self.ease / 2 if self.ease > 0.4 else 0.0
        self.caution = min(_MOST_CAUTION, self.caution * growth)
