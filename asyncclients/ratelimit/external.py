"""External usage: calls that other clients make on the same quota.

A vendor that reports `remaining` has counted the calls of all clients. What it counted
beyond our own calls is external usage. There are two estimates. Neither takes our calls for
external ones, because every one that may have arrived is counted as ours.

* *Level*: limit − remaining − our calls of the last period. It works for servers that
  forget each call one period after it arrived (sliding window). If the server resets its
  count at fixed instants, our calls of the last period are more than it still counts, and
  hide external usage until shortly before the next reset.
* *Depletion*: the decrease of `remaining` from one response to a later one − our calls in
  between. It works for servers that reset their count. If each call is forgotten
  separately, the slots that come back hide external usage.

The external rate is the greater of the two. The level also limits the free slots: of the
vendor's count and ours, the one that leaves fewer slots applies.

Once a report has *proven* external usage, the level is estimated more closely for
`_PROOF_LASTS` seconds: our calls count from their estimated arrivals, not from the latest
possible ones, and rejected calls, with 0 remaining, are reports as well. Accepted calls
alone show the quota at instants at which a slot was free; if it has few slots, others hold
fewer at these instants than on average. Without proof a rejection is no evidence, because
servers with a small bucket or two counters reject calls without any other client.

Three kinds of reports are ignored: impossible ones (more remaining than the limit);
outdated ones (the response to a call sent before one already evaluated); and all reports
of a vendor that three times reported 0 remaining until a reset and accepted a call long
before it.

External usage is *significant*, and reported to the user, once it takes a tenth of the
quota and has lasted for two periods. Until then it may be calls of this program before it
was restarted. When it ends, what rejections taught in the meantime is rolled back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncclients.ratelimit.adaptive import Feedback
    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.slots import Permit, SlidingWindow

_SMOOTHING = 0.1
"""Weight of a new report in the level estimate."""
_MAX_CONTRADICTIONS = 3
"""Reports of 0 remaining that proved wrong before the vendor's reports are ignored."""
_RESET_ROUNDING = 1.0
"""Seconds by which a vendor may round up a reset."""
_HALF_LIFE = 60.0
"""Seconds in which old observations lose half their weight; one period if that is longer."""
_SAME_INSTANT = 1e-6
"""Seconds. Calls closer together than this count as sent at once."""
_MIN_SECONDS = 15.0
"""Seconds of observed depletion before its rate is used."""
_MIN_CALLS = 0.5
"""External calls, weighted by age, below which the depletion rate is 0."""
_PROOF_LASTS = 300.0
"""Seconds after a proof of external usage during which rejections are evaluated as well."""
_UNAVOIDABLE_SHARE = 0.02
"""Share of our calls, if they are few, whose rejection by others is no reason to send fewer."""
_MANY_SLOTS = 1000
"""With more slots the number that others hold varies little, and a lower rate is a remedy."""
_SIGNIFICANT_SHARE = 0.1
"""Share of the quota from which on external usage is reported to the user."""


class ExternalUsage:
    """The external usage of one scope's quotas. *feedback* is notified when usage starts and ends.

    Attributes:
        rate: calls per second of other clients.
        on_change: called with the average rate when external usage becomes significant,
            and with 0 when it has ended.
    """

    __slots__ = (
        "_average",
        "_contradictions",
        "_depletion",
        "_feedback",
        "_last_number",
        "_last_seen_at",
        "_level_estimate",
        "_proven_at",
        "_significant",
        "_started_at",
        "_updated_at",
        "_window",
        "_zero_until",
        "on_change",
        "rate",
    )

    def __init__(self, feedback: Feedback) -> None:
        self.rate = 0.0
        self.on_change: Callable[[float], None] | None = None
        self._significant = False
        self._feedback = feedback
        self._level_estimate = 0.0
        self._depletion = DepletionEstimator()
        self._last_number = 0  # number of the latest call whose report was used
        self._contradictions = 0
        self._window: SlidingWindow | None = None  # that of the latest report
        self._zero_until = -math.inf  # until then the vendor reported 0 remaining
        self._started_at = self._last_seen_at = self._updated_at = self._proven_at = -math.inf
        self._average = 0.0

    def is_proven(self, now: float) -> bool:
        """Return whether the report of an accepted call has lately proven external usage."""
        return now - self._proven_at <= _PROOF_LASTS

    def rejects_at_any_rate(self, now: float) -> bool:
        """Return whether other clients cause rejections even if we send few calls."""
        window = self._window
        if window is None or window.limit > _MANY_SLOTS or not self.is_proven(now):
            return False
        return erlang_b(window.limit, self.rate * window.period) > _UNAVOIDABLE_SHARE

    def observe(
        self, windows: Sequence[SlidingWindow], permit: Permit, now: float, info: RateLimitInfo
    ) -> bool:
        """Evaluate the report in the response to *permit*; return whether the rate changed."""
        window, remaining = _window_of(windows, info), info.remaining
        if (
            window is None
            or permit.number <= self._last_number
            or self._contradictions >= _MAX_CONTRADICTIONS
            or (info.is_rate_limited and not self.is_proven(now))
        ):
            return False
        if remaining is None or remaining > min(window.limit, info.limit or math.inf):
            return False
        self._last_number, self._window = permit.number, window
        before = (self.rate, self._significant)
        valid_for = self._valid_for(window, now, info)
        # A relaxed bound may have freed a slot that the vendor still counted, at most one
        # round trip earlier.
        since = permit.sent_at - (now - permit.sent_at)
        used = window.limit - remaining
        if info.is_rate_limited:
            used += permit.taken.cost  # it holds slots, but the vendor did not count it
        window.external = seen = max(0, used - window.held_since(since))
        window.external_until = now + valid_for if window.external else -math.inf
        if window.external and not info.is_rate_limited:
            self._proven_at = now
        if self.is_proven(now):
            # A rejection takes no work, so its response is no evidence of the arrival.
            arrived_at = permit.sent_at if info.is_rate_limited else permit.arrived_by
            seen = max(0, used - window.held_since(arrived_at))
        level = seen / window.period
        self._level_estimate += (level - self._level_estimate) * _SMOOTHING
        if self._level_estimate * window.period < _SMOOTHING / 10:
            self._level_estimate = 0.0
        self._depletion.observe(window, permit, now, remaining)
        self._update(window, now)
        return (self.rate, self._significant) != before

    def _valid_for(self, window: SlidingWindow, now: float, info: RateLimitInfo) -> float:
        """Seconds for which the report is valid. Counts an earlier 0 that was not true."""
        if info.remaining or info.reset is None:
            return window.period
        if now < self._zero_until - _RESET_ROUNDING and not info.is_rate_limited:
            self._contradictions += 1
        valid_for = min(window.period, info.reset)
        self._zero_until = now + valid_for
        return valid_for

    def _update(self, window: SlidingWindow, now: float) -> None:
        self.rate = max(self._level_estimate, self._depletion.rate)
        if self._contradictions >= _MAX_CONTRADICTIONS:
            window.external_until, self.rate, self._last_seen_at = -math.inf, 0.0, -math.inf
        half_life = _half_life(window)
        decay = 0.5 ** ((now - self._updated_at) / half_life)
        self._average = self._average * decay + self.rate * (1 - decay)
        self._updated_at = now
        if self.rate:
            if now - self._last_seen_at > half_life:
                self._started_at = now
                self._feedback.on_external_usage()
            self._last_seen_at = now
        if self._significant:
            significant = now - self._last_seen_at <= half_life
        else:
            calls = min(self.rate, self._average) * window.period
            is_large = calls > _SIGNIFICANT_SHARE * window.limit
            significant = is_large and now - self._started_at >= 2 * half_life
        if significant is not self._significant:
            self._significant = significant
            if not significant:
                self._feedback.on_external_usage_end()
            if self.on_change is not None:
                self.on_change(self._average if significant else 0.0)


class DepletionEstimator:
    """Estimates how fast `remaining` decreases beyond our own calls.

    A *run* is a sequence of responses, each to a call sent after the previous response and
    each with less remaining; so they are in the order in which the vendor counted them. The
    rate is the external calls of all runs divided by their seconds. Both decay with age: a
    short run has little weight, and an old one none.

    Attributes:
        rate: calls per second.
    """

    __slots__ = (
        "_ended_at",
        "_last_remaining",
        "_last_response_at",
        "_past_calls",
        "_past_seconds",
        "_run_calls",
        "_run_seconds",
        "_run_start",
        "_window",
        "rate",
    )

    def __init__(self) -> None:
        self.rate = 0.0
        self._past_calls = self._past_seconds = 0.0  # of earlier runs, decayed
        self._run_start = (-math.inf, 0.0, 0)  # sent at, round trip, remaining
        self._run_calls, self._run_seconds = 0, 0.0
        self._last_remaining = -1
        self._last_response_at = self._ended_at = -math.inf
        self._window: SlidingWindow | None = None

    def observe(self, window: SlidingWindow, permit: Permit, now: float, remaining: int) -> None:
        """Record that *remaining* calls were left when the call of *permit* had arrived."""
        sent_at = permit.sent_at
        if sent_at < self._last_response_at:
            return
        self._last_response_at = now
        if remaining >= self._last_remaining or window is not self._window:
            self._end_run(window, now)
            self._window = window
            self._run_start = (sent_at, now - sent_at, remaining)
        started_at, round_trip, initial = self._run_start
        # A relaxed bound may have freed a slot before its call arrived, at most one round
        # trip earlier.
        ours = window.held_since(started_at - round_trip + window.period - _SAME_INSTANT)
        self._run_calls = max(0, initial - remaining - ours)
        self._run_seconds = sent_at - started_at
        self._last_remaining = remaining
        calls = self._past_calls + self._run_calls
        seconds = self._past_seconds + self._run_seconds
        self.rate = calls / seconds if calls >= _MIN_CALLS and seconds >= _MIN_SECONDS else 0.0

    def _end_run(self, window: SlidingWindow, now: float) -> None:
        """Add the run to the earlier ones, and let them decay."""
        decay = 0.5 ** ((now - self._ended_at) / _half_life(window))
        self._past_calls = (self._past_calls + self._run_calls) * decay
        self._past_seconds = (self._past_seconds + self._run_seconds) * decay
        self._ended_at = now
        self._run_calls, self._run_seconds = 0, 0.0


def erlang_b(slots: int, load: float) -> float:
    """Return the share of calls at random instants that find all *slots* taken.

    *load* is their number in the time for which each takes a slot (the Erlang B formula).
    """
    share = 1.0
    for number in range(1, slots + 1):
        share = load * share / (number + load * share)
    return share


def _half_life(window: SlidingWindow) -> float:
    return max(_HALF_LIFE, window.period)


def _window_of(windows: Sequence[SlidingWindow], info: RateLimitInfo) -> SlidingWindow | None:
    """Return the window with the reported limit; without a match, the only window if any."""
    for window in windows:
        if window.limit == info.limit:
            return window
    return windows[0] if len(windows) == 1 and not info.several else None
