"""The counters of one quota: the window of its slots, with its token bucket.

A slot is held from the send of a call until one period after its *arrival bound*, the latest
instant at which the call can have arrived. While no bound is known, only the response frees it.

`aiolimiter.AsyncLimiter` does the arithmetic of the token bucket. Its own waiting is not used,
because every decision here is a function of (state, now): the base class reads its clock from
`_loop`, and the subclass replaces that by the instant of the question. If a release of
aiolimiter has other private names, the same arithmetic is done here.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

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
_BURST_LEVEL = 0.01
"""Bucket level above which a call follows another one faster than the rate."""
_SKEW = 1.0
"""Seconds by which the vendor's clock may differ from ours, at the end of a calendar window."""
_CLOCK_ROUNDING = 1e-6
"""Seconds. Instants since 1970 are rounded to a quarter of this."""
_ROUNDING = 1e-9
"""Seconds. At the instant that `ready_at` returned, the bucket must be ready."""

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

    Its capacity, the burst, is a twentieth of the limit and at least two calls: enough for one
    web page, and too little for a backfill to send a minute's quota in the first second.
    """

    __slots__ = ("_clock", "_loop", "full_burst", "full_rate")

    def __init__(self, quota: Quota, now: float) -> None:
        self.full_burst = min(float(quota.limit), max(2.0, quota.limit / 20))
        self.full_rate = RATE_SAFETY * quota.rate
        super().__init__(self.full_burst, self.full_burst / self.full_rate)
        self._loop = self._clock = _Clock(now)  # type: ignore[misc,assignment]  # a slot of ours
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

        For one that costs more than the burst, later calls wait until the rest is refilled. One
        token less than a full bucket, because a full one would lose what is refilled.
        """
        return cost if cost == 1 else min(cost, max(1.0, self.max_rate - 1))

    def drain_until(self, until: float) -> None:
        """Leave exactly one token at *until*, so that no burst follows a pause."""
        self._level = self.max_rate  # the level is the capacity in use: no token is left
        self._last_check = max(self._last_check, until - self.interval)


# --- Windows -----------------------------------------------------------------------


class SlidingWindow(TokenBucket):
    """The slots and the tokens of one quota; full of tokens at *now*.

    Attributes:
        in_flight: slots of calls without an arrival bound.
        expiries: loop instants at which the slots of other calls become free, ascending.
        first_live: index of the first entry of `expiries` that may lie in the future.
        external: slots held by other clients until `external_until`, according to the vendor.
        period: that of the quota; with a coarse clock, longer by one of its steps, because a call
            may have arrived later than at the instant that was read.
    """

    __slots__ = (
        "expiries",
        "external",
        "external_until",
        "first_live",
        "in_flight",
        "limit",
        "period",
    )

    def __init__(self, quota: Quota, now: float) -> None:
        super().__init__(quota, now)
        self.limit = quota.limit
        self.period = quota.period + CLOCK_STEP
        self.in_flight = 0
        self.expiries: list[float] = []
        self.first_live = 0
        self.external = 0
        self.external_until = -math.inf

    def held(self, now: float) -> int:
        """Return how many slots this client's calls hold at *now*."""
        first = bisect_right(self.expiries, now, self.first_live)
        if first > self.limit + _TRIM:
            del self.expiries[: first - self.limit]  # `take` looks back over *limit* entries
            first = self.limit
        self.first_live = first
        return len(self.expiries) - first + self.in_flight

    def next_at(self, now: float, reserve: int, cost: int = 1) -> float:
        """Return the earliest instant at which `free_at` and the bucket allow a call."""
        at = now
        # With room for all entries, expired ones included, there is no need to look at them.
        used = len(self.expiries) - self.first_live + self.in_flight + reserve
        if used + cost > self.limit or now < self.external_until:
            at = self.free_at(now, reserve, cost)
        due = self.ready_at(now, cost if cost == 1 else self.needed(cost))
        return max(at, due)

    def free_at(self, now: float, reserve: int, cost: int = 1) -> float:
        """Return the earliest instant at which *cost* slots are free and *reserve* more are.

        *reserve* is cut to `limit - cost`, so that no reserve stops a call for ever. `math.inf`
        if only a response can free a slot.
        """
        cost = min(cost, self.limit)  # the limit may have been lowered since the call was made
        missing = self.held(now) - self.limit + cost + min(reserve, self.limit - cost)
        own = self._freed_at(missing, now)
        if now >= self.external_until:
            return own
        shared = self._freed_at(missing + self.external, now)
        return min(shared, max(self.external_until, own))

    def _freed_at(self, count: int, now: float) -> float:
        """Return when *count* of the slots held at *now* are free; inf if that is not known."""
        if count <= 0:
            return now
        index = self.first_live + count - 1
        return self.expiries[index] if index < len(self.expiries) else math.inf

    def take(self, permit: Permit) -> None:
        """Hold the slots of *permit*, and spend their tokens."""
        expiries, cost, now = self.expiries, permit.taken.cost, permit.sent_at
        index = len(expiries) + self.in_flight + cost - 1 - self.limit
        if 0 <= index < len(expiries) and expiries[index] > permit.slot_free_at:
            permit.slot_free_at = expiries[index]
        if now > self._last_check:
            self.ready_at(now)  # updates the level
        if self._level > _BURST_LEVEL:
            permit.in_burst = True
        self._level += cost
        self.in_flight += cost

    def move_bound(self, old: float, new: float, cost: int) -> None:
        """Change the arrival bound of a call from *old* to *new*."""
        if old == math.inf:
            self.in_flight -= cost
        else:
            self._release(old, cost)
        expiries, expiry = self.expiries, new + self.period
        if cost == 1 and (not expiries or expiry >= expiries[-1]):
            expiries.append(expiry)
        else:
            at = bisect_right(expiries, expiry, self.first_live)
            expiries[at:at] = [expiry] * cost

    def _release(self, bound: float, cost: int) -> None:
        if bound == math.inf:
            self.in_flight -= cost
            return
        expiries, expiry = self.expiries, bound + self.period
        at = bisect_left(expiries, expiry, self.first_live)
        if at < len(expiries) and expiries[at] == expiry:
            del expiries[at : at + cost]

    def cancel(self, bound: float, cost: int) -> None:
        """Free slots and tokens of a call that was never sent."""
        self._release(bound, cost)
        self._level = max(0.0, self._level - cost)

    def fill(self, now: float) -> None:
        """Hold all slots, as if their calls had arrived at *now*."""
        self.expiries = [now + self.period] * self.limit

    def inherit(self, other: SlidingWindow, now: float) -> None:
        """Hold slots for the calls in *other*; calls in flight count as arriving by *now*.

        If this window was in use before, it keeps its slots, and adds only those of *other* that
        expire later.
        """
        own = [expiry for expiry in self.expiries if expiry > now]
        newest = max(own, default=now)
        arrivals = [min(expiry - other.period, now) for expiry in other.expiries]
        arrivals += [now] * other.in_flight
        own += [at + self.period for at in arrivals if at + self.period > newest]
        self.expiries, self.first_live = sorted(own), 0

    def held_since(self, instant: float) -> int:
        """Return how many slots expire after *instant*."""
        return len(self.expiries) - bisect_right(self.expiries, instant) + self.in_flight

    def nth_sent_at(self, calls: int, cost: int, now: float, extra_hold: float) -> float:
        """Return the estimated instant at which *calls* more calls of *cost* have been sent.

        *extra_hold* is how many seconds beyond the period a slot is expected to be held.
        """
        full_windows, before = divmod(calls - 1, max(1, self.limit // cost))
        needed, held, hold = self.needed(cost), self.held(now), self.period + extra_hold
        missing = min((before + 1) * cost, self.limit) + held - self.limit
        if now < self.external_until:
            missing += self.external
        free_at = self._freed_at(missing, now) if missing <= held else self.external_until
        first = max(min(free_at, now + hold), self.ready_at(now, before * cost + needed))
        last = first + full_windows * hold
        return max(last, self.ready_at(now, (calls - 1) * cost + needed))


class CalendarWindow:
    """The slots of a quota per hour, day or month, counted per window and not per call.

    A call counts in each window in which it may arrive: while it is in flight in the current one
    and all later ones, then in those up to its response. The vendor's clock may differ from ours
    by `_SKEW`, in either direction.
    """

    period = math.inf
    """Only the response is a bound of the arrival."""
    external_until = -math.inf

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
        """Return when *cost* slots are free and *reserve* more are, as a sliding window does."""
        cost = min(cost, self.limit)
        missing = self.held(now) + cost + min(reserve, self.limit - cost) - self.limit
        if missing <= 0:
            return now
        for end in sorted(self._held):
            missing -= self._held[end]
            if missing <= 0:
                return now + end - self._wall_time(now)
        return math.inf

    next_at = free_at

    def nth_free_at(self, nth: int, now: float) -> tuple[float, int]:
        """Return when the *nth* slot from now could be taken, and its number in its window."""
        free = max(0, self.limit - self.held(now))
        if nth <= free:
            return now, nth
        skip, number = divmod(nth - free - 1, self.limit)
        time = self._wall_time(now)
        end = self._quota.window(time, skip)[1] + _SKEW
        return now + end - time, number + 1

    def take(self, permit: Permit) -> None:
        """Hold the slots of *permit* until its response."""
        self.in_flight += permit.taken.cost

    def move_bound(self, old: float, new: float, cost: int) -> None:  # noqa: ARG002
        """Hold the slots of a call in flight for the window of its arrival, by *new*."""
        self.in_flight -= cost
        self.hold(new, cost)

    def cancel(self, bound: float, cost: int) -> None:  # noqa: ARG002
        """Free the slots of a call that was never sent."""
        self.in_flight -= cost

    def hold(self, now: float, cost: int) -> None:
        """Hold *cost* slots of a call that had arrived by *now*, and is not in flight any more."""
        time = self._wall_time(now) + _SKEW
        start, end = self._window
        if not start <= time < end:
            self._window = _, end = self._quota.window(time)
        self._held[end + _SKEW] = self._held.get(end + _SKEW, 0) + cost

    def fill(self, now: float) -> None:
        """Hold all slots of the window of *now*."""
        self.hold(now, self.limit)

    def inherit(self, other: SlidingWindow, now: float) -> None:
        """Hold slots for the calls in *other*, as if they had arrived at *now*."""
        self.hold(now, other.held(now))


Window = SlidingWindow | CalendarWindow


class Taken(msgspec.Struct, frozen=True, eq=False):
    """Calls of one kind take *cost* slots of each window; the windows also stand by group."""

    cost: int
    windows: tuple[Window, ...]
    groups: dict[str, list[Window]]


_NOTHING = Taken(1, (), {})


class Permit(msgspec.Struct, eq=False):
    """Permission to send one call. It holds its slots of each quota.

    Attributes:
        number: 1 for the first call of the limiter, then ascending.
        sent_at: loop instant at which the permit was granted.
        bounds: the arrival bounds that were assumed when it was sent.
        arrived_by: the earliest bound so far.
        slot_free_at: loop instant at which the last of the slots became free; -inf if unused.
        in_burst: the call followed another one by less than the bucket's interval.
        settled: the limiter knows how the call ended.
        is_background: the call has background priority.
    """

    number: int
    sent_at: float
    taken: Taken = _NOTHING
    bounds: dict[Window, float] | None = None
    arrived_by: float = math.inf
    slot_free_at: float = -math.inf
    in_burst: bool = False
    settled: bool = False
    is_background: bool = False

    def bound(self, window: Window) -> float:
        """Return the arrival bound in *window* when the call was sent; inf while none is known."""
        return math.inf if self.bounds is None else self.bounds[window]
