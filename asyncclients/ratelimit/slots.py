"""The counters of one quota: the window of its slots, and its token bucket.

`SlidingWindow` keeps the quota. A slot is held from the send of a call until its *expiry*:
the latest instant at which the call can have arrived, plus the period. While no such bound
is known the expiry is infinite, and only the response frees the slot.

`CalendarWindow` does the same for a quota that resets at midnight. It has no bucket.

`TokenBucket` spreads the calls over the period. `aiolimiter.AsyncLimiter` does the
arithmetic. Its own waiting is not used, because every decision here is a function of
(state, now): the base class reads its clock from `_loop`, and the subclass replaces that by
the instant of the question. If a release of aiolimiter has other private names, the same
arithmetic is done here. `tests/ratelimit/test_slots.py` compares the two.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from aiolimiter import AsyncLimiter

from asyncclients.ratelimit.timer import CLOCK_STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncclients.ratelimit.quota import Quota

_TRIM = 256
"""Expired entries are removed from the list this many at a time."""
RATE_SAFETY = 0.998
"""Share of limit/period at which calls are sent. 0.99 would lose 1 % of the quota."""
_SPACED_BURST = 1.05
"""Capacity in calls where bursts are off; the 0.05 absorbs rounding and timer jitter."""
_SKEW = 1.0
"""Seconds by which the vendor's clock may differ from ours, at the end of a calendar window."""
_CLOCK_ROUNDING = 1e-6
"""Seconds. Instants since 1970 are rounded to a quarter of this."""
_ROUNDING = 1e-9
"""Seconds. At the instant that `ready_at` returned, the bucket must be ready."""


class SlidingWindow:
    """The slots of one quota.

    Attributes:
        expiries: loop instants at which slots become free, ascending.
        first_live: index of the first entry of `expiries` that may lie in the future.
        external: slots held by other clients, according to the vendor.
        external_until: loop instant until which `external` is valid.
        period: that of the quota; with a coarse clock, longer by one of its steps, because a call
            may have arrived later than at the instant that was read.
    """

    __slots__ = ("expiries", "external", "external_until", "first_live", "limit", "period")

    def __init__(self, quota: Quota) -> None:
        self.limit = quota.limit
        self.period = quota.period + CLOCK_STEP
        self.expiries: list[float] = []
        self.first_live = 0
        self.external = 0
        self.external_until = -math.inf

    def held(self, now: float) -> int:
        """Return how many slots this client's calls hold at *now*."""
        expiries, first = self.expiries, self.first_live
        size = len(expiries)
        while first < size and expiries[first] <= now:
            first += 1
        if first > self.limit + _TRIM:
            del expiries[: first - self.limit]  # `acquire` looks back over *limit* entries
            size -= first - self.limit
            first = self.limit
        self.first_live = first
        return size - first

    def free_at(self, now: float, reserve: int, cost: int = 1) -> float:
        """Return the earliest instant at which *cost* slots are free and *reserve* more are.

        *cost* slots are always usable, whatever *reserve* is. `math.inf` if only a response
        can free a slot.
        """
        expiries, first = self.expiries, self.first_live
        held = len(expiries) - first
        if held and expiries[first] <= now:
            held = self.held(now)
        missing = held - self.limit + cost - 1
        if reserve:
            missing += min(reserve, self.limit - cost)
        if now >= self.external_until:
            return now if missing < 0 else self._expiry_of(missing, now)
        shared = self._expiry_of(missing + self.external, now)
        return min(shared, max(self.external_until, self._expiry_of(missing, now)))

    def _expiry_of(self, missing: int, now: float) -> float:
        if missing < 0:
            return now
        index = self.first_live + missing
        return self.expiries[index] if index < len(self.expiries) else math.inf

    def acquire(self, now: float, expiry: float) -> float:
        """Hold a slot until *expiry*; return for how many seconds it was idle (inf: unused)."""
        expiries = self.expiries
        index = len(expiries) - self.limit
        idle_for = now - expiries[index] if index >= 0 else math.inf
        if not expiries or expiry >= expiries[-1]:
            expiries.append(expiry)
        else:
            insort(expiries, expiry, self.first_live)
        return idle_for

    def move(self, expiry: float, to: float) -> None:
        """Change the expiry of one slot from *expiry* to *to*."""
        expiries, first = self.expiries, self.first_live
        if len(expiries) > first and expiries[-1] == expiry:
            expiries.pop()
        else:
            self.release(expiry)
        if not expiries or to >= expiries[-1]:
            expiries.append(to)
        else:
            insort(expiries, to, first)

    def inherit(self, other: SlidingWindow, now: float) -> None:
        """Hold slots for the calls in *other*; calls in flight count as arriving by *now*.

        A window that was in use before holds its own slots, and those of later calls.
        """
        own = [expiry for expiry in self.expiries if expiry > now]
        newest = max((expiry for expiry in own if expiry < math.inf), default=now)
        arrivals = (min(expiry - other.period, now) for expiry in other.expiries)
        own += [at + self.period for at in arrivals if at + self.period > newest]
        self.expiries, self.first_live = sorted(own), 0

    def release(self, expiry: float) -> None:
        """Free the slot that expires at *expiry*, unless it has expired already."""
        expiries = self.expiries
        index = bisect_left(expiries, expiry, self.first_live)
        if index < len(expiries) and expiries[index] == expiry:
            del expiries[index]

    def held_since(self, instant: float) -> int:
        """Return how many slots expire after *instant*."""
        return len(self.expiries) - bisect_right(self.expiries, instant)

    def nth_free_at(self, nth: int, now: float, extra_hold: float) -> float:
        """Return when the *nth* slot from now could be taken; *nth* is cut to the limit.

        *extra_hold* is how many seconds beyond the period a slot is expected to be held.
        """
        nth = min(nth, self.limit)
        held = self.held(now)
        missing = nth - 1 + held - self.limit
        if now < self.external_until:
            missing += self.external
        if missing < 0:
            return now
        free_at = (
            self.expiries[self.first_live + missing] if missing < held else self.external_until
        )
        return min(free_at, now + self.period + extra_hold)


class CalendarWindow:
    """The slots of one calendar quota, counted per window and not per call.

    A call counts in each window in which it may arrive: in the current one and all later
    ones while it is in flight, then in those up to its response. The vendor's clock may
    differ from ours by `_SKEW`. So a slot is held until the end of the window that contains
    its response plus `_SKEW`, plus `_SKEW`.

    Args:
        quota: made by `Quota.calendar`.
        wall_time: returns the seconds since 1970 of a loop instant.

    Attributes:
        in_flight: units of the calls in flight.
    """

    __slots__ = ("_held", "_quota", "_wall_time", "_window", "in_flight", "limit")

    def __init__(self, quota: Quota, wall_time: Callable[[float], float]) -> None:
        self.limit = quota.limit
        self.in_flight = 0
        self._quota, self._wall_time = quota, wall_time
        self._held: dict[float, int] = {}  # seconds since 1970 of the end -> units
        self._window = (math.inf, -math.inf)

    def held(self, now: float) -> int:
        """Return how many slots this client's calls hold at *now*."""
        if self._held:
            time = self._wall_time(now) + _CLOCK_ROUNDING
            for end in [end for end in self._held if end <= time]:
                del self._held[end]
        return self.in_flight + sum(self._held.values())

    def free_at(self, now: float, reserve: int, cost: int = 1) -> float:
        """Return the earliest instant at which *cost* slots are free and *reserve* more are.

        *cost* slots are always usable, whatever *reserve* is. `math.inf` if only a response
        can free a slot.
        """
        missing = self.held(now) + cost + min(reserve, self.limit - cost) - self.limit
        if missing <= 0:
            return now
        for end in sorted(self._held):
            missing -= self._held[end]
            if missing <= 0:
                return now + end - self._wall_time(now)
        return math.inf

    def nth_free_at(self, nth: int, now: float) -> tuple[float, int]:
        """Return when the *nth* slot from now could be taken, and its number in its window."""
        free = max(0, self.limit - self.held(now))
        if nth <= free:
            return now, nth
        skip, number = divmod(nth - free - 1, self.limit)
        time = self._wall_time(now)
        end = self._quota.window(time, skip)[1] + _SKEW
        return now + end - time, number + 1

    def hold(self, now: float, cost: int) -> None:
        """Hold *cost* slots of a call that had arrived by *now*, and is not in flight any more."""
        time = self._wall_time(now) + _SKEW
        start, end = self._window
        if not start <= time < end:
            self._window = _, end = self._quota.window(time)
        self._held[end + _SKEW] = self._held.get(end + _SKEW, 0) + cost


class Taken(NamedTuple):
    """The counters of the calls of one kind, each of which takes *cost* slots of all of them.

    Attributes:
        cost: slots.
        pairs: the sliding windows, each with its token bucket.
        calendars: the calendar windows.
    """

    cost: int
    pairs: tuple[tuple[SlidingWindow, TokenBucket], ...]
    calendars: tuple[CalendarWindow, ...]


_NOTHING = Taken(1, (), ())


class Permit(msgspec.Struct, eq=False, gc=False):
    """Permission to send one call. It holds its slots of each quota.

    Attributes:
        number: 1 for the first call of the limiter, then ascending.
        sent_at: loop instant at which the permit was granted.
        slots: for each slot of a sliding window the window, and the expiry.
        slot_idle_for: seconds for which the most recently used of the slots was idle.
        in_burst: the call followed another one by less than the bucket's interval.
        settled: the limiter knows how the call ended.
        taken: the counters of its quotas.
    """

    number: int
    sent_at: float
    slots: list[tuple[SlidingWindow, float]] = []
    slot_idle_for: float = math.inf
    in_burst: bool = False
    settled: bool = False
    taken: Taken = _NOTHING

    @property
    def arrived_by(self) -> float:
        """The latest instant at which the call can have arrived; inf while unknown.

        With calendar quotas alone it stays unknown until the call is settled.
        """
        if self.taken.calendars and not self.slots:
            return math.inf
        return min((expiry - window.period for window, expiry in self.slots), default=self.sent_at)


# --- Token bucket ------------------------------------------------------------------


class _Clock:
    """The event loop that `AsyncLimiter` sees: its time is the instant of the question."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


_PRIVATE_NAMES = {"_last_check", "_level", "_rate_per_sec"}

if TYPE_CHECKING or {*getattr(AsyncLimiter, "__slots__", ())} >= _PRIVATE_NAMES:
    _LeakyBucket = AsyncLimiter
else:

    class _LeakyBucket:
        """The part of `AsyncLimiter` that `TokenBucket` uses."""

        __slots__ = ("_last_check", "_level", "_rate_per_sec", "max_rate")

        def __init__(self, max_rate: float, time_period: float) -> None:
            self.max_rate, self._rate_per_sec = max_rate, max_rate / time_period
            self._level = self._last_check = 0.0

        def has_capacity(self, amount: float = 1) -> bool:
            """Lower the level by the time that has passed; return whether *amount* fits."""
            now = self._loop.time()
            self._level = max(0.0, self._level - (now - self._last_check) * self._rate_per_sec)
            self._last_check = now
            return self._level + amount <= self.max_rate


class TokenBucket(_LeakyBucket):
    """The bucket of one quota, full at *now*.

    Its capacity, the burst, is a twentieth of the limit, at least two calls and at most
    the limit. That is enough for the few calls of one web page, and too little for a
    backfill to send a minute's quota in the first second.
    """

    __slots__ = ("_clock", "_loop", "full_burst", "full_rate")

    def __init__(self, quota: Quota, now: float) -> None:
        self.full_burst = min(float(quota.limit), max(2.0, quota.limit / 20))
        self.full_rate = RATE_SAFETY * quota.rate
        super().__init__(self.full_burst, self.full_burst / self.full_rate)
        self._clock = _Clock(now)
        self._loop = self._clock  # type: ignore[misc,assignment]  # our slot hides the property
        self._last_check = now

    @property
    def interval(self) -> float:
        """Seconds between two calls at the current rate."""
        return 1 / self._rate_per_sec

    def set_rate(self, rate_factor: float, burst_factor: float) -> None:
        """Set the rate to *rate_factor* of the full rate.

        *burst_factor* scales the burst from one call (0) to the full burst (1).
        """
        self._rate_per_sec = self.full_rate * rate_factor
        self.max_rate = _SPACED_BURST + (self.full_burst - _SPACED_BURST) * burst_factor

    def ready_at(self, now: float, tokens: float = 1) -> float:
        """Return the earliest instant, not before *now*, with that many tokens."""
        if now > self._last_check:  # a clock that steps back must not fill the bucket
            self._clock.now = now
            if self.has_capacity(tokens):
                return now
        missing = self._level + tokens - self.max_rate
        if missing <= 0 and self._last_check <= now:
            return now
        due = self._last_check + missing / self._rate_per_sec
        return due if due > now + _ROUNDING else now

    def needed(self, cost: int) -> float:
        """Return the tokens that must be there for a call of *cost* tokens.

        A call may cost more than the burst: then later calls wait until the rest is refilled.
        One token less than a full bucket, because a full one would lose what is refilled.
        """
        return cost if cost == 1 else min(cost, max(1.0, self.max_rate - 1))

    def take(self, now: float, tokens: int = 1) -> float:
        """Take *tokens*, after `ready_at`; return the level, *tokens* after a full refill."""
        if now > self._last_check:
            self._clock.now = now
            self.has_capacity()  # updates the level
        self._level += tokens
        return self._level

    def refund(self, tokens: int = 1) -> None:
        """Put back *tokens* that were not used."""
        self._level = max(0.0, self._level - tokens)

    def drain_until(self, until: float) -> None:
        """Leave exactly one token at *until*, so that no burst follows a pause."""
        self._level = self.max_rate
        self._last_check = max(self._last_check, until - self.interval)
