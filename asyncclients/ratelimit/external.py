"""Others who use the same quota, as the vendor's `remaining` betrays them.

A vendor that says how many calls remain has counted everyone's. What it has
counted beyond ours is foreign. There are two ways to see it, and neither ever
sees too much: ours are counted too high rather than too low, each call included
that can have arrived by any chance, so none of ours is taken for a foreigner's.

* *What stands.* Limit − remaining − ours of one period back. It is all there is
  to see where calls are forgotten one by one, a period after each. Where the
  vendor sets its count back at fixed instants, ours of one period back are more
  than it still counts, and hide foreigners until shortly before the next one.
* *What drains.* What `remaining` lost from one answer to a later one, − ours in
  between. It is all there is to see where nothing comes back until the count is
  set back. Where calls are forgotten one by one, what comes back hides it.

The greater of the two is the foreign rate. The first also bounds the slots that
are left: of the vendor's view and ours the lower wins.

What cannot be is not believed (more remaining than the limit), nor what is out
of date (the answer to a call sent before one already heard), nor a vendor that
says 0 until a reset and admits a call long before that, three times over.

Others are told of once they take a tenth of the quota and are seen for two
periods: until then they may be nobody but this program before it was started
again. Once they are gone, so is what refusals taught in their time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncclients.ratelimit.adaptive import Feedback
    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.window import Permit, SlidingWindow

_SMOOTHING = 0.1
_MOST_CONTRADICTIONS = 3
_ROUNDED = 1.0
"""Seconds by which a reset may be rounded up."""
_HALF_LIFE = 60.0
"""Seconds, or one period where that is longer, in which what was counted fades by half."""
_INSTANT = 1e-6
"""Seconds: calls so close together are sent at once."""
_ENOUGH = 15.0
"""Seconds of draining that say something."""
_MIN_CALLS = 0.5
"""Foreign calls in the time remembered that are no more than a trace of former ones."""
_SIGNIFICANT_SHARE = 0.1
"""Share of the quota from which on foreign use is worth telling."""


class ExternalUsage:
    """The foreign share of one scope's quotas; *lessons* are what refusals teach about it.

    Attributes:
        rate: calls per second that others make.
        on_change: told the usual rate once others make enough to be told of, and 0 once they are gone.
    """

    __slots__ = (
        "_came_at",
        "_concluded_at",
        "_contradictions",
        "_depletion",
        "_feedback",
        "_heard",
        "_level_estimate",
        "_seen_at",
        "_significant",
        "_usual",
        "_zero_until",
        "on_change",
        "rate",
    )

    def __init__(self, lessons: Feedback) -> None:
        self.rate = 0.0
        self.on_change: Callable[[float], None] | None = None
        self._significant = False
        self._feedback = lessons
        self._level_estimate = 0.0
        self._depletion = DepletionEstimator()
        self._heard = 0
        self._contradictions = 0
        self._zero_until = -math.inf
        self._came_at = self._seen_at = self._concluded_at = -math.inf
        self._usual = 0.0

    def observe(
        self, windows: Sequence[SlidingWindow], permit: Permit, now: float, signal: RateLimitInfo
    ) -> bool:
        """Merge what the answer to *permit* says. Returns whether the rate changed."""
        window, remaining = _spoken_of(windows, signal), signal.remaining
        if (
            window is None
            or permit.number <= self._heard
            or self._contradictions >= _MOST_CONTRADICTIONS
        ):
            return False
        if remaining is None or remaining > min(window.limit, signal.limit or math.inf):
            return False
        self._heard = permit.number
        before = (self.rate, self._significant)
        believed = self._believed(window, now, signal)
        # A bold bound may have freed a slot that the vendor still counted: by a round trip.
        since = permit.sent_at - (now - permit.sent_at)
        window.external = max(0, window.limit - remaining - window.held_since(since))
        window.external_until = now + believed if window.external else -math.inf
        self._level_estimate += (
            window.external / window.period - self._level_estimate
        ) * _SMOOTHING
        if self._level_estimate * window.period < _SMOOTHING / 10:
            self._level_estimate = 0.0
        self._depletion.observe(window, permit, now, remaining)
        self._conclude(window, now)
        return (self.rate, self._significant) != before

    def _believed(self, window: SlidingWindow, now: float, signal: RateLimitInfo) -> float:
        """For how many seconds the figure holds; 0 remaining that was not true is a lie."""
        if signal.remaining or signal.reset is None:
            return window.period
        if now < self._zero_until - _ROUNDED:
            self._contradictions += 1
        believed = min(window.period, signal.reset)
        self._zero_until = now + believed
        return believed

    def _conclude(self, window: SlidingWindow, now: float) -> None:
        self.rate = max(self._level_estimate, self._depletion.rate)
        if self._contradictions >= _MOST_CONTRADICTIONS:
            window.external_until, self.rate, self._seen_at = -math.inf, 0.0, -math.inf
        memory = _memory(window)
        faded = 0.5 ** ((now - self._concluded_at) / memory)
        self._usual = self._usual * faded + self.rate * (1 - faded)
        self._concluded_at = now
        if self.rate:
            if now - self._seen_at > memory:
                self._came_at = now
                self._feedback.on_external_usage()
            self._seen_at = now
        if self._significant:
            crowded = now - self._seen_at <= memory
        else:
            much = min(self.rate, self._usual) * window.period > _SIGNIFICANT_SHARE * window.limit
            crowded = much and now - self._came_at >= 2 * memory
        if crowded is not self._significant:
            self._turn(crowded=crowded)

    def _turn(self, *, crowded: bool) -> None:
        """Others are here to stay, or are gone."""
        self._significant = crowded
        if not crowded:
            self._feedback.on_external_usage_end()
        if self.on_change is not None:
            self.on_change(self._usual if crowded else 0.0)


class DepletionEstimator:
    """How fast `remaining` falls beyond our own calls.

    A *stretch* is a row of answers, each to a call sent after the last answer,
    so that their order is the vendor's, in which less and less remains. The
    rate is all foreign calls of the stretches by all their seconds, both fading
    with time: a short stretch says little, and what was long ago nothing.

    Attributes:
        rate: calls per second.
    """

    __slots__ = (
        "_answered_at",
        "_began",
        "_calls",
        "_ended_at",
        "_lost",
        "_low",
        "_seconds",
        "_span",
        "_window",
        "rate",
    )

    def __init__(self) -> None:
        self.rate = 0.0
        self._calls = self._seconds = 0.0  # of the stretches before, as of the last one's end
        self._began = (-math.inf, 0.0, 0)  # this stretch: sent at, took, remaining
        self._low = -1
        self._lost, self._span = 0, 0.0
        self._answered_at = self._ended_at = -math.inf
        self._window: SlidingWindow | None = None

    def observe(self, window: SlidingWindow, permit: Permit, now: float, remaining: int) -> None:
        """*remaining* were left when the call of *permit* had arrived; its answer is here *now*."""
        sent_at = permit.sent_at
        if sent_at < self._answered_at:
            return
        self._answered_at = now
        if remaining >= self._low or window is not self._window:
            self._end(window, now)
            self._window = window
            self._began = (sent_at, now - sent_at, remaining)
        began, took, full = self._began
        # A bold bound may have freed a slot before its call arrived: by a round trip.
        ours = window.held_since(began - took + window.period - _INSTANT)
        self._lost, self._span = max(0, full - remaining - ours), sent_at - began
        self._low = remaining
        calls, seconds = self._calls + self._lost, self._seconds + self._span
        self.rate = calls / seconds if calls >= _MIN_CALLS and seconds >= _ENOUGH else 0.0

    def _end(self, window: SlidingWindow, now: float) -> None:
        """The stretch is over; what it counted begins to fade."""
        self._calls += self._lost
        self._seconds += self._span
        faded = 0.5 ** ((now - self._ended_at) / _memory(window))
        self._calls, self._seconds = self._calls * faded, self._seconds * faded
        self._ended_at = now
        self._lost, self._span = 0, 0.0


def _memory(window: SlidingWindow) -> float:
    return max(_HALF_LIFE, window.period)


def _spoken_of(windows: Sequence[SlidingWindow], signal: RateLimitInfo) -> SlidingWindow | None:
    """The quota that *signal* speaks of, by its limit; where it fits none, the only one there is."""
    for window in windows:
        if window.limit == signal.limit:
            return window
    return windows[0] if len(windows) == 1 and not signal.several else None
