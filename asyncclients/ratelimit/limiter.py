"""The limiter of one scope: how many calls may be sent, and when.

A scope is one vendor's origin with one credential. Every decision is a plain function of
(state, now), in loop seconds: nothing here waits, reads a clock or knows an event loop.

The theory
==========

A vendor accepts N calls in any W seconds, and counts a call when it *arrives*. The client
decides when a call is *sent*. The latency in between varies, so arrivals can be closer
together than sends. Three rules follow.

1. **Window (safety).** A slot of each quota is held from the send until *arrival bound +
   W*. The arrival bound is an instant by which the call has certainly arrived. A call is
   sent only while fewer than N slots are held.

   Proof. Suppose N+1 calls arrive within W seconds. Consider the instant at which the last
   of them is sent. Each of the other N calls either has no bound yet, or has a bound that
   is not before its arrival and so is less than W seconds old. So all N hold a slot,
   and the last call could not have been sent.

   With the response as the bound (`admission="exact"`) the proof holds without
   assumptions. It costs one round trip per W: negligible for a minute, a tenth of the
   quota for a second. For short windows `admission="adaptive"` uses tighter bounds
   (`adaptive.py`), and rejections widen their margins.

2. **Token bucket (shape).** A token bucket (`slots.py`) spreads the N calls over W. It is
   asked for the instant of the send, not in advance: calls spaced in advance would bunch
   up while they wait for the window. For a server that turns out to have a small bucket
   the *arrivals* are kept an interval apart (`ArrivalSpacing`).

3. **Kinds of calls.** A call takes *cost* slots of every quota that applies to it, all at
   one instant. Some quotas apply to certain operations only, and a share of a quota is one
   more quota, from which only its own calls take (`Demand`). The proof holds for each quota
   by itself, because each call that counts at the vendor holds its slots.

4. **Feedback.** A rejection pauses the scope and is attributed to a cause (`adaptive.py`).
   If the vendor reports the remaining calls, its count applies when it leaves fewer slots
   than ours (`external.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.adaptive import ArrivalSpacing, Feedback, RttEstimator
from asyncclients.ratelimit.control import NO_CONTROL, Control, clock_time
from asyncclients.ratelimit.external import ExternalUsage
from asyncclients.ratelimit.quota import ONE, Demand, Quota
from asyncclients.ratelimit.slots import CalendarWindow, Permit, SlidingWindow, Taken, TokenBucket
from asyncclients.ratelimit.timer import system_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncclients.ratelimit.headers import RateLimitInfo


_BURST_LEVEL = 1.01
"""Bucket level above which a call follows another one faster than the rate."""
_MAX_DEMANDS = 1024
"""Demands remembered before those that hold no slot are forgotten."""
_LONG_DELAY = 60.0
"""Seconds above which a call is better sent later than with a longer deadline."""
_MIN_RATE = 0.1
"""Lowest share of the full rate, after rejections or with external usage."""


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a limiter at one instant. Durations in seconds.

    Attributes:
        held: slots in use of the fullest quota.
        holds: slots in use, by quota.
        opens_in: until a slot of each quota is free by this process's count; inf if only a
            response can free one.
        paced_for: until the token bucket allows the next call.
        in_flight: calls sent and not yet settled.
        paused_for: until the pause ends; 0 without a pause.
        held_for: until the pause of an operator ends; 0 without one.
        external_rate: calls per second of other clients on the same quota.
        probing: calls are sent one at a time, after consecutive rejections.
        rate_factor: share of the quota's rate in use; below 1 after rejections.
        bursts: whether calls may follow each other faster than the rate.
        control: what an operator has set through a limit store.
        store_wait: until the limit store may grant a slot, or its fallback in an outage.
        store_quota: the quota for which it waits; None if it is not known.
        outage: the limit that applies while the store is unreachable; empty without an outage.
        unasked_store: the limit store that has not responded yet; empty if there is none.
    """

    held: int
    holds: tuple[int, ...]
    opens_in: tuple[float, ...]
    paced_for: float
    in_flight: int
    paused_for: float
    external_rate: float
    probing: bool
    rate_factor: float
    bursts: bool
    held_for: float = 0.0
    control: Control = NO_CONTROL
    store_wait: float = 0.0
    store_quota: Quota | None = None
    outage: str = ""
    unasked_store: str = ""


class Delay(NamedTuple):
    """What delays a call longest.

    Attributes:
        until: loop instant at which it ends; not in the future if nothing is known.
        cause: what it is, and when it ends; empty if nothing is known.
        advice: what to do about it; empty for nothing special.
        name: what it is, the same while it lasts.
        remedy: how to end it early; empty if that is not possible.
    """

    until: float
    cause: str = ""
    advice: str = ""
    name: str = ""
    remedy: str = ""


def quota_delay(name: str, until: float, now: float, wall: float) -> Delay:
    """Return the delay by the quota *name*, until loop instant *until*, which is *wall* in UTC."""
    at = clock_time(math.ceil(wall))
    advice = f"Send it after {at}" if until - now > _LONG_DELAY else ""
    return Delay(until, f"{name} is used up until {at}", advice, name)


class Limiter:
    """The quotas of one scope.

    Args:
        quotas: all of them apply, those with `operations` to matching calls; without any,
            only the vendor's rejections limit the rate.
        admission: `exact` never exceeds a quota in any window. `adaptive` uses more of a
            short one, at the price of about one rejection in some thousands of calls.
        cold_start: `empty` assumes that nothing was sent before *now*, `full` that all
            quotas are spent.
        now: loop instant of the creation.
        wall_time: returns the seconds since 1970 of a loop instant, for calendar quotas.

    Attributes:
        by_operation: whether a quota applies to certain operations only.
        wall_time: returns the seconds since 1970 of a loop instant.

    Raises:
        ConfigurationError: for any other *admission* or *cold_start*.
    """

    __slots__ = (
        "_calendars",
        "_equal",
        "_exact",
        "_first_after_pause",
        "_in_flight",
        "_kinds",
        "_obeys_pause",
        "_ordinary",
        "_pairs",
        "_plans",
        "_probe",
        "_rtt",
        "_sent",
        "_sliding",
        "_spacing",
        "_windows",
        "by_operation",
        "external",
        "feedback",
        "quotas",
        "wall_time",
    )

    def __init__(
        self,
        quotas: Sequence[Quota],
        *,
        admission: Literal["adaptive", "exact"] = "adaptive",
        cold_start: Literal["empty", "full"] = "empty",
        now: float = 0.0,
        wall_time: Callable[[float], float] = system_time,
    ) -> None:
        _one_of("admission", admission, ("adaptive", "exact"))
        _one_of("cold_start", cold_start, ("empty", "full"))
        self.quotas: tuple[Quota, ...] = ()
        self._exact, self.wall_time = admission == "exact", wall_time
        # The counters of each quota and share of one, by group and quota.
        self._sliding: dict[tuple[str, Quota], tuple[SlidingWindow, TokenBucket]] = {}
        self._calendars: dict[tuple[str, Quota], CalendarWindow] = {}
        self._rtt = RttEstimator()
        self.feedback = Feedback((), may_relax=not self._exact)
        self.external = ExternalUsage(self.feedback)
        self._sent = 0
        self._in_flight = 0
        self._probe: Permit | None = None
        self._obeys_pause = False  # since the last call, a pause that the vendor asked for
        self._spacing = ArrivalSpacing()
        self._set_quotas(quotas, now)
        if cold_start == "full":
            for window, _ in self._sliding.values():
                window.expiries = [now + window.period] * window.limit
            for calendar in self._calendars.values():
                calendar.hold(now, calendar.limit)

    def _set_quotas(self, quotas: Iterable[Quota], now: float) -> None:
        self.quotas = tuple(dict.fromkeys(quotas))
        self.by_operation = any(quota.operations for quota in self.quotas)
        # The first call after a pause, if it is in flight and found the only window empty.
        self._first_after_pause: Permit | None = None
        self._forget_demands(now)
        ordinary = self._plan(ONE, now)
        for quota in self.quotas:
            self._counter((quota.group, quota), now)
        self._ordinary, self._pairs = ordinary.taken, ordinary.taken.pairs
        self._windows = tuple(window for window, _ in self._pairs)
        self.feedback.set_quotas([q for q in self.quotas if not q.unit and not q.operations])

    @property
    def configured(self) -> tuple[Quota, ...]:
        """The configured quotas; a limit store may have others in force."""
        return self.quotas

    @property
    def paused_until(self) -> float:
        """Loop instant before which nothing is sent; -inf before the first pause."""
        return self.feedback.paused_until

    @property
    def external_rate(self) -> float:
        """Calls per second that other clients make on the same quota."""
        return self.external.rate

    # --- Kinds of calls -----------------------------------------------------------

    def kind_of(self, demand: Demand) -> Demand:
        """Return the demand that stands for all with the same cost and the same quotas.

        Raises:
            ConfigurationError: a call costs more than one of the quotas allows.
        """
        found = self._kinds.get(demand)
        if found is None:
            same = (demand.cost, demand.quotas(self.quotas))
            _check_cost(*same)
            if len(self._kinds) >= _MAX_DEMANDS:
                self._forget_demands(self._spacing.sent_at)
            is_ordinary = same == (1, ONE.quotas(self.quotas))
            found = ONE if is_ordinary else self._equal.setdefault(same, demand)
            self._kinds[demand] = found
        return found

    def _plan(self, demand: Demand, now: float) -> _Plan:
        """Return the counters of *demand*; those of a new share are empty at *now*."""
        plan = self._plans.get(demand)
        if plan is None:
            groups: dict[str, list[tuple[str, Quota]]] = {"": []}
            for key in demand.quotas(self.quotas):
                groups.setdefault(key[0], []).append(key)
            keys = [key for group in groups.values() for key in group]
            plan = self._plans[demand] = _Plan(
                self._counters(demand.cost, keys, now),
                {name: self._counters(demand.cost, group, now) for name, group in groups.items()},
            )
        return plan

    def _counters(self, cost: int, keys: Iterable[tuple[str, Quota]], now: float) -> Taken:
        found = [self._counter(key, now) for key in keys]
        return Taken(
            cost,
            tuple(each for each in found if not isinstance(each, CalendarWindow)),
            tuple(each for each in found if isinstance(each, CalendarWindow)),
        )

    def _counter(
        self, key: tuple[str, Quota], now: float
    ) -> tuple[SlidingWindow, TokenBucket] | CalendarWindow:
        quota = key[1]
        if quota.unit:
            if key not in self._calendars:
                self._calendars[key] = CalendarWindow(quota, self.wall_time)
            return self._calendars[key]
        if key not in self._sliding:
            self._sliding[key] = (SlidingWindow(quota), TokenBucket(quota, now))
            if self._sent:
                self._set_rate(key[0], *self._sliding[key])
        return self._sliding[key]

    def _forget_demands(self, now: float) -> None:
        """Forget what is derived from the quotas, and the shares of which no slot is held."""
        self._kinds: dict[Demand, Demand] = {}
        self._equal: dict[tuple[int, tuple[tuple[str, Quota], ...]], Demand] = {}
        self._plans: dict[Demand, _Plan] = {}
        kept = {(quota.group, quota) for quota in self.quotas}
        self._sliding = {
            key: pair for key, pair in self._sliding.items() if key in kept or pair[0].held(now)
        }
        self._calendars = {
            key: window
            for key, window in self._calendars.items()
            if key in kept or window.held(now)
        }

    def openings(
        self, now: float, reserve: int = 0, *, spaced: bool = False, demand: Demand = ONE
    ) -> dict[str, float]:
        """Return for each group of quotas when a call of *demand* may take from it, from *now* on.

        The group of all calls, `""`, is always among them. The arguments are those of
        `next_permit_at`; *reserve* and *spaced* concern that group only.
        """
        found = {
            group: _opens_at(taken, now, 0 if group else reserve)
            for group, taken in self._plan(demand, now).groups.items()
        }
        found[""] = max(found[""], self._not_before(now, spaced=spaced))
        return found

    def _not_before(self, now: float, *, spaced: bool) -> float:
        if self._probe is not None:
            return math.inf
        at = max(now, self.feedback.paused_until, self._spacing.next_at)
        return max(at, self._spaced_at()) if spaced else at

    def _spaced_at(self) -> float:
        return self._spacing.next_even_at(self._windows, self._rtt, self.feedback)

    # --- Granting and settling ------------------------------------------------------

    def next_permit_at(
        self, now: float, reserve: int = 0, *, spaced: bool = False, demand: Demand = ONE
    ) -> float:
        """Return the earliest instant, not before *now*, at which a permit may be acquired.

        *demand* comes from `kind_of`. *reserve* slots of each quota are left free. *spaced* is
        for background calls: they keep a distance to the previous call, so that slots expire
        one at a time. `math.inf`: only a response can free a slot, so ask again after one.
        """
        if demand is not ONE or self._ordinary.calendars:
            return max(self.openings(now, reserve, spaced=spaced, demand=demand).values())
        if self._probe is not None:
            return math.inf
        at = now
        if self.feedback.paused_until > at:
            at = self.feedback.paused_until
        if self._spacing.next_at > at:
            at = self._spacing.next_at
        for window, bucket in self._pairs:
            if (free_at := window.free_at(now, reserve)) > at:
                at = free_at
            if (due := bucket.ready_at(now)) > at:
                at = due
        return max(at, self._spaced_at()) if spaced else at

    def acquire(self, now: float, demand: Demand = ONE) -> Permit:
        """Hold the slots of *demand*. Only if `next_permit_at(now, demand=demand) <= now`."""
        taken = self._ordinary if demand is ONE else self._plan(demand, now).taken
        self._sent += 1
        self._spacing.sent_at, self._spacing.cost = now, taken.cost
        self._in_flight += 1
        permit, feedback = Permit(self._sent, now, taken=taken), self.feedback
        if self._obeys_pause:
            self._on_pause_obeyed(permit, demand)
        expiry = math.inf
        for window, bucket in taken.pairs:
            if not self._exact:
                expiry = now + window.period + self._rtt.assumed_arrival(window.period, feedback)
            if (idle_for := window.acquire(now, expiry)) < permit.slot_idle_for:
                permit.slot_idle_for = idle_for
            permit.slots.append((window, expiry))
            if bucket.take(now) > _BURST_LEVEL:
                permit.in_burst = True
        if taken.cost > 1 or taken.calendars:
            _take_the_rest(permit, now)
        if feedback.probing:
            self._probe = permit
        if feedback.burst_factor < 0.5:
            self._spacing.on_sent(permit, self._interval(), self._rtt)
        return permit

    def on_response(self, permit: Permit, now: float, info: RateLimitInfo | None) -> None:
        """Settle the call: its response arrived at *now* and reports *info* about the quota."""
        if not self._settle(permit, now):
            return
        if permit is self._first_after_pause:
            self._on_response_after_pause(now, info)
        if info is not None and (info.is_rate_limited or info.unavailable):
            self._on_rejected(permit, now, info)
            return
        feedback, rtt = self.feedback, self._rtt
        seconds = now - permit.sent_at
        if permit is self._spacing.last:
            self._spacing.on_response(permit, self._interval(), seconds - rtt.mean_rtt)
        rtt.add(seconds)
        pace_changed = feedback.on_accepted(permit)
        for index, (window, expiry) in enumerate(permit.slots):
            bound = now
            if not self._exact and (
                known := rtt.arrival_before_response(window.period, feedback.margin_factor)
            ):
                bound -= known + feedback.bound_relaxation * (seconds - known)
            new_expiry = bound + window.period
            if new_expiry < expiry:
                window.move(expiry, new_expiry)
                permit.slots[index] = (window, new_expiry)
        if self.external.rate or (info is not None and info.remaining is not None):
            pace_changed |= self._observe(permit, now, info)
        if pace_changed:
            self._set_rates()

    def _on_pause_obeyed(self, permit: Permit, demand: Demand) -> None:
        """Watch for the response to the first call after a pause, if no call of ours remains."""
        self._obeys_pause = False
        is_alone = len(self._windows) == 1 and not self._windows[0].held(permit.sent_at)
        self._first_after_pause = permit if is_alone and demand is ONE else None

    def _on_response_after_pause(self, now: float, info: RateLimitInfo | None) -> None:
        self._first_after_pause = None
        is_rejected = info is not None and info.is_rate_limited
        if self.external.on_pause_obeyed(self._windows[0], now, is_rejected=is_rejected):
            self._set_rates()

    def _observe(self, permit: Permit, now: float, info: RateLimitInfo | None) -> bool:
        """Use the vendor's count, unless it may be that of another quota than the windows'."""
        if info is None or info.remaining is None:
            return bool(self._windows) and self.external.refresh(self._windows[0], now)
        others = [quota.limit for quota in self.quotas if quota.unit or quota.operations]
        if others and (info.limit is None or info.limit in others):
            return False
        return self.external.observe(self._windows, permit, now, info)

    def _on_rejected(self, permit: Permit, now: float, info: RateLimitInfo) -> None:
        # A rejection takes less work than a call: the minimum RTT does not apply to it.
        for index, (window, expiry) in enumerate(permit.slots):
            if (new_expiry := now + window.period) < expiry:
                window.move(expiry, new_expiry)
                permit.slots[index] = (window, new_expiry)
        if info.is_rate_limited:
            self.on_rate_limited(now, info.retry_after, permit)
        else:
            self._pause(now, info.retry_after)

    def on_no_response(self, permit: Permit, now: float) -> None:
        """Settle the call: it gets no response, but may have arrived, at *now* at the latest."""
        if self._settle(permit, now):
            for window, expiry in permit.slots:
                window.move(expiry, now + window.period)

    def cancel(self, permit: Permit, now: float) -> None:
        """Settle the call: it was never sent, so its slots are free at once."""
        if not self._settle(permit, None):
            return
        for window, expiry in permit.slots:
            window.release(expiry)
        for _, bucket in permit.taken.pairs:
            bucket.refund(permit.taken.cost)
        if permit is self._spacing.last:
            self._spacing.next_at = now

    def on_rate_limited(
        self, now: float, retry_after: float | None, permit: Permit | None = None
    ) -> None:
        """Learn from a rejection and pause.

        If only the response body shows the rejection, `on_response` was called before.
        *retry_after* is in seconds; None, negative values and NaN mean that the vendor gave
        no time.
        """
        is_unavoidable = any(map(self.external.rejects_at_any_rate, self._windows))
        self.feedback.on_rejected(now, permit, self._sent, is_unavoidable=is_unavoidable)
        self._set_rates()
        self._pause(now, retry_after)
        self._obeys_pause = retry_after is not None and 0 < retry_after <= self.feedback.max_pause

    def add(self, quota: Quota, now: float) -> None:
        """Obey *quota* as well. Calls sent before count, as far as they are remembered."""
        if quota not in self.quotas:
            self.replace((*self.quotas, quota), now)

    def replace(self, quotas: Iterable[Quota], now: float) -> None:
        """Obey *quotas* in place of the present ones.

        Calls sent before count for the new ones, as far as they are remembered.
        """
        known = self.quotas
        longest = max(self._windows, key=lambda window: window.period, default=None)
        self._set_quotas(quotas, now)
        for quota in self.quotas:
            if longest is None or quota in known:
                continue
            counter = self._counter((quota.group, quota), now)
            if isinstance(counter, CalendarWindow):
                counter.hold(now, longest.held(now))
            else:
                counter[0].inherit(longest, now)
        self._set_rates()

    def nth_permit_at(self, calls: int, now: float, demand: Demand = ONE) -> float:
        """Return the estimated instant at which *calls* more calls of *demand* have been sent."""
        taken, cost = self._plan(demand, now).taken, demand.cost
        at, interval = max(now, self.feedback.paused_until), 0.0
        for window, bucket in taken.pairs:
            hold = self._rtt.mean_rtt
            if not self._exact:
                hold = self._rtt.expected_hold(window.period, self.feedback)
            full_windows, before = divmod(calls - 1, max(1, window.limit // cost))
            tokens = before * cost + bucket.needed(cost)
            first = window.nth_free_at((before + 1) * cost, now, hold)
            first = max(first, bucket.ready_at(now, tokens))
            last = first + full_windows * (window.period + hold)
            at = max(at, last, bucket.ready_at(now, (calls - 1) * cost + bucket.needed(cost)))
            interval = max(interval, bucket.interval)
        for calendar in taken.calendars:
            opens_at, number = calendar.nth_free_at(calls * cost, now)
            at = max(at, opens_at + (number - 1) * interval if opens_at > now else now)
        return at

    def delay(self, now: float, demand: Demand = ONE, *, own: bool = False) -> Delay:  # noqa: ARG002
        """Return the pause or the quota that delays a call of *demand* longest, from *now* on.

        *own* leaves out what a limit store has reported; this limiter has none.
        """
        longest, name = max(now, self.feedback.paused_until), ""
        for group, quota in demand.quotas(self.quotas):
            counter = self._counter((group, quota), now)
            window = counter if isinstance(counter, CalendarWindow) else counter[0]
            at = window.free_at(now, 0, min(demand.cost, quota.limit))
            if longest < at < math.inf:  # at inf a response frees a slot
                longest, name = (
                    at,
                    demand.describe(group, self.quotas) if group else f"quota {quota}",
                )
        if name:
            return quota_delay(f"the {name}", longest, now, self.wall_time(longest))
        if longest == now:
            return Delay(now)
        at_text = clock_time(math.ceil(self.wall_time(longest)))
        name = "the vendor has rate-limited calls or is unavailable"
        return Delay(longest, f"{name} until {at_text}", name=name)

    def used(self, group: str, quota: Quota, now: float) -> int:
        """Return how many units of the calendar quota this process's calls hold at *now*."""
        window = self._calendars.get((group, quota))
        return window.held(now) if window is not None else 0

    def held(self, now: float) -> int:
        """Return how many slots of the fullest quota are in use at *now*."""
        return max((window.held(now) for window in self._windows_of_quotas()), default=0)

    def _windows_of_quotas(self) -> list[SlidingWindow | CalendarWindow]:
        keys = [(quota.group, quota) for quota in self.quotas]
        return [self._calendars[k] if k[1].unit else self._sliding[k][0] for k in keys]

    def is_idle(self, now: float) -> bool:
        """Return True if no slot is held, no pause is in force and no call is in flight.

        A limiter without quotas is idle one second after its last call.
        """
        feedback = self.feedback
        if self._in_flight or now < self._spacing.sent_at + (feedback.period or 1.0):
            return False
        return now >= feedback.paused_until and not (
            any(w.held(now) or now < w.external_until for w, _ in self._sliding.values())
            or any(calendar.held(now) for calendar in self._calendars.values())
        )

    def snapshot(self, now: float) -> LimiterState:
        """Return the state at *now*."""
        feedback, windows = self.feedback, self._windows_of_quotas()
        paced_until = max((bucket.ready_at(now) for _, bucket in self._pairs), default=now)
        return LimiterState(
            held=self.held(now),
            holds=tuple(window.held(now) for window in windows),
            opens_in=tuple(window.free_at(now, 0) - now for window in windows),
            paced_for=max(paced_until, self._spacing.next_at) - now,
            in_flight=self._in_flight,
            paused_for=max(0.0, feedback.paused_until - now),
            external_rate=self.external.rate,
            probing=feedback.probing,
            rate_factor=feedback.rate_factor,
            bursts=feedback.burst_factor > 0,
        )

    def _pause(self, now: float, retry_after: float | None) -> None:
        """Send nothing for *retry_after* seconds, and no burst afterwards."""
        self.feedback.pause(now, retry_after)
        for _, bucket in self._sliding.values():
            bucket.drain_until(self.feedback.paused_until)

    def _settle(self, permit: Permit, arrived_by: float | None) -> bool:
        """Settle the call, as not sent without *arrived_by*; return False if it was settled."""
        if permit.settled:
            return False
        if permit.taken.calendars:
            _settle_calendars(permit.taken, arrived_by)
        permit.settled = True
        self._in_flight -= 1
        if permit is self._probe:
            self._probe = None
        return True

    def _interval(self) -> float:
        return max((bucket.interval for _, bucket in self._pairs), default=0.0)

    def _set_rates(self) -> None:
        """Apply the corrections of `feedback` and the external rate to the token buckets."""
        for (group, _), (window, bucket) in self._sliding.items():
            self._set_rate(group, window, bucket)

    def _set_rate(self, group: str, window: SlidingWindow, bucket: TokenBucket) -> None:
        feedback = self.feedback
        our_share = 1.0 if group else 1 - self.external.rate / bucket.full_rate
        relaxation = 0.0
        if self._rtt.arrival_before_response(window.period, feedback.margin_factor):
            relaxation = feedback.bound_relaxation
        bucket.set_rate(
            max(_MIN_RATE, min(feedback.rate_factor, our_share)),
            min(feedback.burst_factor, 1 - relaxation),
        )


class _Plan(NamedTuple):
    """The counters of the calls of one kind: all of them, and by group."""

    taken: Taken
    groups: dict[str, Taken]


def _opens_at(taken: Taken, now: float, reserve: int) -> float:
    at, cost = now, taken.cost
    # A limit may have been lowered since the call was made: it then takes all of it.
    for window, bucket in taken.pairs:
        at = max(at, window.free_at(now, reserve, min(cost, window.limit)))
        at = max(at, bucket.ready_at(now, bucket.needed(cost)))
    for calendar in taken.calendars:
        at = max(at, calendar.free_at(now, reserve, min(cost, calendar.limit)))
    return at


def _take_the_rest(permit: Permit, now: float) -> None:
    """Take all but the first slot and token of each sliding window, and the calendars' slots."""
    more = permit.taken.cost - 1
    for window, expiry in [*permit.slots]:
        for _ in range(more):
            permit.slot_idle_for = min(permit.slot_idle_for, window.acquire(now, expiry))
            permit.slots.append((window, expiry))
    for _, bucket in permit.taken.pairs:
        bucket.take(now, more)
    for calendar in permit.taken.calendars:
        calendar.in_flight += permit.taken.cost


def _settle_calendars(taken: Taken, arrived_by: float | None) -> None:
    for calendar in taken.calendars:
        calendar.in_flight -= taken.cost
        if arrived_by is not None:
            calendar.hold(arrived_by, taken.cost)


def _check_cost(cost: int, quotas: Iterable[tuple[str, Quota]]) -> None:
    for group, quota in quotas:
        if cost > quota.limit:
            is_share = group.startswith("share:")
            whose = f"its share of the quota, {quota}," if is_share else f"the quota of {quota}"
            raise ConfigurationError(
                f"the call costs {cost}, but {whose} never has that many slots",
                advice="Lower the cost of its endpoint, or raise the quota or the share",
            )


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(
            f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}",
            advice=f"Leave {name} out for the default, {choices[0]!r}",
        )
