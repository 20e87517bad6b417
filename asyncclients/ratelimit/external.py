"""External usage: calls that other clients make on the same quota.

The external rate is the greatest of three estimates (docs/theory-of-limits.md has the reasons):

* *Level*: limit − remaining − our calls of the last period. It works for servers that
  forget each call one period after it arrived.
* *Depletion*: the decrease of `remaining` from one response to a later one − our calls in
  between. It works for servers that reset their count at fixed instants.
* *Pauses*: the share of calls that are rejected although the pause that the vendor asked for
  was obeyed, and no call of ours is left in the window. The Erlang formula gives the rate of
  calls at random instants that take all slots so often. It needs no reports, and works for
  small quotas: with many slots the window is never empty.

The level also limits the free slots: of the vendor's count and ours, the one that leaves
fewer slots applies.

Three kinds of reports are ignored: more remaining than the limit; the response to a call sent
before one already evaluated; and all reports of a vendor that three times reported 0 remaining
until a reset and accepted a call long before it.

External usage is *significant*, and reported to the user, once it takes a tenth of the
quota and has lasted for two periods. Until then it may be calls of this program before it
was restarted. When it ends, what rejections taught in the meantime is rolled back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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
_PAUSE_HALF_LIFE = 300.0
"""Seconds in which pauses lose half their weight. They are rarer than reports."""
_PAUSES_VALID_FOR = 120.0
"""Seconds without a rejected call after which the estimate from pauses ends."""
_MIN_PAUSES = 8.0
"""Pauses, weighted by age, before their estimate is used."""
_MAX_REJECTED = 0.5
"""Above this share of rejected calls the vendor's pauses are too short to prove anything."""
_UNAVOIDABLE = 0.02
"""Below this share of rejected calls a lower rate is a remedy, and others may be few or none."""
_MANY_SLOTS = 1000
"""The Erlang formula is not evaluated for more: their use varies little, so no call is lost."""
_SIGNIFICANT_SHARE = 0.1
"""Share of the quota from which on external usage is reported to the user."""


@dataclass(slots=True, eq=False)
class DepletionEstimator:
    """Estimates how fast `remaining` decreases beyond our own calls.

    A *run* is a sequence of responses, each to a call sent after the previous response and
    each with less remaining; so they are in the order in which the vendor counted them. The
    rate is the external calls of all runs divided by their seconds. Both decay with age: a
    short run has little weight, and an old one none.

    Attributes:
        rate: calls per second.
    """

    rate: float = 0.0
    _past_calls: float = 0.0  # of earlier runs, decayed
    _past_seconds: float = 0.0
    _run_start: tuple[float, float, int] = (-math.inf, 0.0, 0)  # sent at, round trip, remaining
    _run_calls: int = 0
    _run_seconds: float = 0.0
    _last_remaining: int = -1
    _last_response_at: float = -math.inf
    _ended_at: float = -math.inf
    _window: SlidingWindow | None = None

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


@dataclass(slots=True, eq=False)
class PauseEstimator:
    """Estimates how fast others call from the rejected calls after pauses that were obeyed."""

    _calls: float = 0.0  # decayed
    _rejected: float = 0.0
    _ended_at: float = -math.inf
    _rate: float = 0.0

    def add(self, window: SlidingWindow, now: float, *, is_rejected: bool) -> None:
        """Record the first call after a pause, for which *window* was empty."""
        decay = 0.5 ** ((now - self._ended_at) / _PAUSE_HALF_LIFE)
        self._calls = self._calls * decay + 1
        self._rejected = self._rejected * decay + is_rejected
        self._ended_at = now
        share = self._rejected / self._calls
        is_proof = self._calls >= _MIN_PAUSES and _UNAVOIDABLE < share < _MAX_REJECTED
        self._rate = erlang_load(window.limit, share) / window.period if is_proof else 0.0

    def rate(self, now: float) -> float:
        """Return the calls per second of others; 0 if no pause has ended lately."""
        return self._rate if now - self._ended_at <= _PAUSES_VALID_FOR else 0.0


@dataclass(slots=True, eq=False)
class ExternalUsage:
    """The external usage of one scope's quotas. *feedback* is notified when usage starts and ends.

    Attributes:
        rate: calls per second of other clients.
        on_change: called with the average rate when external usage becomes significant,
            and with 0 when it has ended.
    """

    feedback: Feedback
    rate: float = 0.0
    on_change: Callable[[float], None] | None = None
    _is_significant: bool = False
    _level_estimate: float = 0.0
    _depletion: DepletionEstimator = field(default_factory=DepletionEstimator)
    _pauses: PauseEstimator = field(default_factory=PauseEstimator)
    _last_number: int = 0  # number of the latest call whose report was used
    _contradictions: int = 0
    _zero_until: float = -math.inf  # until then the vendor reported 0 remaining
    _started_at: float = -math.inf
    _last_seen_at: float = -math.inf
    _updated_at: float = -math.inf
    _average: float = 0.0

    def rejects_at_any_rate(self, window: SlidingWindow) -> bool:
        """Return whether others cause rejections in *window* even if we send few calls."""
        return erlang_b(window.limit, self.rate * window.period) > _UNAVOIDABLE

    def on_pause_obeyed(self, window: SlidingWindow, now: float, *, is_rejected: bool) -> bool:
        """Record the response to the first call after a pause; return whether the rate changed.

        *window* held no call of ours when it was sent.
        """
        self._pauses.add(window, now, is_rejected=is_rejected)
        return self.refresh(window, now)

    def observe(
        self, windows: Sequence[SlidingWindow], permit: Permit, now: float, info: RateLimitInfo
    ) -> bool:
        """Evaluate the report in the response to *permit*; return whether the rate changed."""
        window, remaining = _window_of(windows, info), info.remaining
        is_ignored = self._contradictions >= _MAX_CONTRADICTIONS
        if window is None or remaining is None or permit.number <= self._last_number or is_ignored:
            return False
        if remaining > min(window.limit, info.limit or math.inf):
            return False
        self._last_number = permit.number
        valid_for = self._valid_for(window, now, info)
        # A relaxed bound may have freed a slot that the vendor still counted, at most one
        # round trip earlier.
        since = permit.sent_at - (now - permit.sent_at)
        window.external = max(0, window.limit - remaining - window.held_since(since))
        window.external_until = now + valid_for if window.external else -math.inf
        level = window.external / window.period
        self._level_estimate += (level - self._level_estimate) * _SMOOTHING
        if self._level_estimate * window.period < _SMOOTHING / 10:
            self._level_estimate = 0.0
        self._depletion.observe(window, permit, now, remaining)
        return self.refresh(window, now)

    def _valid_for(self, window: SlidingWindow, now: float, info: RateLimitInfo) -> float:
        """Seconds for which the report is valid. Counts an earlier 0 that was not true."""
        if info.remaining or info.reset is None:
            return window.period
        if now < self._zero_until - _RESET_ROUNDING:
            self._contradictions += 1
        valid_for = min(window.period, info.reset)
        self._zero_until = now + valid_for
        return valid_for

    def refresh(self, window: SlidingWindow, now: float) -> bool:
        """Let the estimates end that are outdated at *now*; return whether the rate changed."""
        before = (self.rate, self._is_significant)
        self.rate = max(self._level_estimate, self._depletion.rate, self._pauses.rate(now))
        if self._contradictions >= _MAX_CONTRADICTIONS:
            window.external_until, self.rate, self._last_seen_at = -math.inf, 0.0, -math.inf
        half_life = _half_life(window)
        decay = 0.5 ** ((now - self._updated_at) / half_life)
        self._average = self._average * decay + self.rate * (1 - decay)
        self._updated_at = now
        if self.rate:
            if now - self._last_seen_at > half_life:
                self._started_at = now
                self.feedback.on_external_usage()
            self._last_seen_at = now
        if self._is_significant:
            significant = now - self._last_seen_at <= half_life
        else:
            calls = min(self.rate, self._average) * window.period
            is_large = calls > _SIGNIFICANT_SHARE * window.limit
            significant = is_large and now - self._started_at >= 2 * half_life
        if significant is not self._is_significant:
            self._is_significant = significant
            if not significant:
                self.feedback.on_external_usage_end()
            if self.on_change is not None:
                self.on_change(self._average if significant else 0.0)
        return (self.rate, self._is_significant) != before


def erlang_b(slots: int, load: float) -> float:
    """Return the share of calls at random instants that find all *slots* taken.

    *load* is their number in the time for which each takes a slot (the Erlang B formula).
    The result is 0 for more than `_MANY_SLOTS`.
    """
    if slots > _MANY_SLOTS:
        return 0.0
    share = 1.0
    for number in range(1, slots + 1):
        share = load * share / (number + load * share)
    return share


def erlang_load(slots: int, share: float) -> float:
    """Return the load, to a thousandth of *slots*, for which `erlang_b` is *share*, below 0.5.

    The result is 0 for more than `_MANY_SLOTS`.
    """
    low, high = 0.0, 2.0 * slots if slots <= _MANY_SLOTS else 0.0
    while high - low > slots / 1000:
        middle = (low + high) / 2
        if erlang_b(slots, middle) < share:
            low = middle
        else:
            high = middle
    return low


def _half_life(window: SlidingWindow) -> float:
    return max(_HALF_LIFE, window.period)


def _window_of(windows: Sequence[SlidingWindow], info: RateLimitInfo) -> SlidingWindow | None:
    """Return the window with the reported limit; without a match, the only window if any."""
    for window in windows:
        if window.limit == info.limit:
            return window
    return windows[0] if len(windows) == 1 and not info.several else None
