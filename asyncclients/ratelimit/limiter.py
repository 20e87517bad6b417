"""The limiter of one scope: how many calls may be sent, and when.

A scope is one origin with one credential, or with one `quota_key`. Every decision is a plain
function of (state, now), in loop seconds: nothing here waits, reads a clock or knows an event
loop. The rules; docs/theory-of-limits.md has the reasons and the proof:

1. **Window (safety).** A slot of each quota is held from the send until *arrival bound + W*. The
   arrival bound is an instant by which the call has certainly arrived: the response with
   `admission="exact"`, an earlier one with `"adaptive"` (`adaptive.py`). A call is sent only
   while fewer than N slots are held.
2. **Token bucket (shape).** It spreads the N calls over W. It is asked for the instant of the
   send: calls spaced in advance would bunch up while they wait for the window.
3. **Kinds of calls.** A call takes *cost* slots of every quota that applies to it, all at one
   instant. A share of a quota is one more quota, from which only its own calls take (`Demand`).
4. **Feedback.** A rejection pauses the scope. If the vendor reports the remaining calls, that
   is a second count of the free slots: the smaller of the two applies (`external.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.adaptive import QUICK_RTT, TAIL, ArrivalSpacing, Feedback
from asyncclients.ratelimit.control import NO_CONTROL, Control, clock_time
from asyncclients.ratelimit.external import ExternalUsage
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Quota
from asyncclients.ratelimit.slots import CalendarWindow, Permit, SlidingWindow, Taken, Window
from asyncclients.ratelimit.timer import system_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asyncclients.ratelimit.headers import RateLimitInfo


_MAX_DEMANDS = 1024
"""Demands remembered before those that hold no slot are forgotten."""
_LONG_DELAY = 60.0
"""Seconds above which a call is better sent later than with a longer deadline."""
_MIN_RATE = 0.1
"""Lowest share of the full rate, after rejections or with external usage."""


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a limiter at one instant. Durations in seconds.

    Attributes:
        held, holds: slots in use of the fullest quota, and by quota.
        opens_in: until a slot of each quota is free by this process's count; inf if only a
            response can free one.
        paced_for: until the token bucket allows the next call.
        held_for: until the pause of an operator ends; 0 without one.
        external_rate: calls per second of other clients on the same quota.
        bursts: whether calls may follow each other faster than the rate.
        store_wait: until the limit store may grant a slot, or its fallback in an outage.
        store_quota: the quota for which it waits; None if it is not known.
        outage: the limit that applies while the store is unreachable; empty without an outage.
        unasked_store: the limit store that has not responded yet; empty if there is none.
    """

    held: int
    holds: tuple[int, ...]
    opens_in: tuple[float, ...]
    paced_for: float
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
    """The longest delay of a call; its end is not in the future if nothing is known.

    Attributes:
        until: loop instant of its end.
        cause: its name and its end, for people.
        name: the same while it lasts.
        remedy: how to end it early; empty if that is not possible.
    """

    until: float
    cause: str = ""
    advice: str = ""
    name: str = ""
    remedy: str = ""


def delay_until(until: float, name: str, now: float, wall: float) -> Delay:
    """Return the delay by *name*, until loop instant *until*, which is *wall* since 1970."""
    at = clock_time(math.ceil(wall))
    advice = f"Send it after {at}" if until - now > _LONG_DELAY else ""
    return Delay(until, f"{name} until {at}", advice, name)


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

    Raises:
        ConfigurationError: for any other *admission* or *cold_start*.
    """

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
        self._counters: dict[tuple[str, Quota], Window] = {}
        self.feedback = Feedback(may_relax=not self._exact)
        self.external = ExternalUsage(self.feedback)
        self._latest = Permit(0, -math.inf)
        self._has_ever_paused = False
        self._probe: Permit | None = None
        # The next call is the first after a pause that the vendor asked for.
        self._is_next_after_pause = False
        # The first call after a pause, if it is in flight and found the only window empty.
        self._first_after_pause: Permit | None = None
        self._spacing = ArrivalSpacing()
        self._set_quotas(quotas, now)
        if cold_start == "full":
            for window in self._counters.values():
                window.fill(now)

    def _set_quotas(self, quotas: Iterable[Quota], now: float) -> None:
        self.quotas = tuple(dict.fromkeys(quotas))
        self.by_operation = any(quota.operations for quota in self.quotas)
        self._first_after_pause = None
        self._forget_demands(now)
        self._ordinary = self._taken_by(ONE, now)
        for quota in self.quotas:
            self._window((quota.group, quota), now)
        self._windows = [w for w in self._ordinary.windows if isinstance(w, SlidingWindow)]
        self.feedback.set_quotas([q for q in self.quotas if not q.unit and not q.operations])

    @property
    def configured(self) -> tuple[Quota, ...]:
        """The configured quotas; a limit store may have others in force."""
        return self.quotas

    @property
    def paused_until(self) -> float:
        """Loop instant before which nothing is sent; -inf before the first pause."""
        return self.feedback.paused_until

    # --- Kinds of calls -----------------------------------------------------------

    def kind_of(self, demand: Demand) -> Demand:
        """Return the canonical demand of all that have the same cost and the same quotas.

        Raises:
            ConfigurationError: a call costs more than one of the quotas allows.
        """
        if (found := self._kinds.get(demand)) is None:
            same = (demand.cost, demand.quotas(self.quotas))
            _check_cost(*same)
            if len(self._kinds) >= _MAX_DEMANDS:
                self._forget_demands(self._latest.sent_at)
            found = self._kinds[demand] = self._equal.setdefault(same, demand)
        return found

    def _taken_by(self, demand: Demand, now: float) -> Taken:
        """Return what calls of *demand* take; the windows of a new share are empty at *now*."""
        if (taken := self._taken.get(demand)) is None:
            groups: dict[str, list[Window]] = {"": []}
            for key in demand.quotas(self.quotas):
                groups.setdefault(key[0], []).append(self._window(key, now))
            windows = tuple(window for group in groups.values() for window in group)
            taken = self._taken[demand] = Taken(demand.cost, windows, groups)
        return taken

    def _window(self, key: tuple[str, Quota], now: float) -> Window:
        if (window := self._counters.get(key)) is None:
            group, quota = key
            if quota.unit:
                window = CalendarWindow(quota, self.wall_time)
            else:
                window = SlidingWindow(quota, now)
                self._set_rate(group, window)
            self._counters[key] = window
        return window

    def _forget_demands(self, now: float) -> None:
        """Forget what is derived from the quotas, and the shares of which no slot is held."""
        self._kinds: dict[Demand, Demand] = {}
        self._equal = {(1, ONE.quotas(self.quotas)): ONE}
        self._taken: dict[Demand, Taken] = {}
        kept = {(quota.group, quota) for quota in self.quotas}
        self._counters = {
            key: window for key, window in self._counters.items() if key in kept or window.held(now)
        }

    def openings(
        self, now: float, demand: Demand = ONE, *, reserve: int = 0, spaced: bool = False
    ) -> dict[str, float]:
        """Return for each group of quotas when a call of *demand* may take from it, from *now* on.

        The group of all calls, `""`, is always among them. The arguments are those of
        `next_permit_at`; *reserve* and *spaced* concern that group only.
        """
        found = {
            group: max(
                (window.next_at(now, 0 if group else reserve, demand.cost) for window in windows),
                default=now,
            )
            for group, windows in self._taken_by(demand, now).groups.items()
        }
        found[""] = max(found[""], self._not_before(now))
        if spaced:
            found[""] = max(found[""], self._spaced_at())
        return found

    def _not_before(self, now: float) -> float:
        if self._probe is not None:
            return math.inf
        return max(now, self.feedback.paused_until, self._spacing.next_at)

    def _spaced_at(self) -> float:
        """Return when a background call may follow, so that slots expire one at a time."""
        # With a gap of period/limit about every second call would find its slot still held,
        # because a slot is held until its call is known to have arrived, and that varies.
        holds = ((w, self.feedback.expected_hold(w.period, TAIL)) for w in self._windows)
        gap = max(((w.period + hold) / w.limit for w, hold in holds), default=0.0)
        return self._latest.sent_at + gap * self._latest.taken.cost

    # --- Granting and settling ------------------------------------------------------

    def next_permit_at(
        self, now: float, demand: Demand = ONE, *, reserve: int = 0, spaced: bool = False
    ) -> float:
        """Return the earliest instant, not before *now*, at which a permit may be acquired.

        *demand* comes from `kind_of`. *reserve* slots of each quota are left free. *spaced* is
        for background calls: they keep a distance to the previous call, so that slots expire
        one at a time. `math.inf`: only a response can free a slot, so ask again after one.
        """
        if demand is not ONE:
            return max(self.openings(now, demand, reserve=reserve, spaced=spaced).values())
        at = self._not_before(now) if self._has_ever_paused else now
        for window in self._ordinary.windows:
            if (opens_at := window.next_at(now, reserve)) > at:
                at = opens_at
        return max(at, self._spaced_at()) if spaced else at

    def acquire(self, now: float, demand: Demand = ONE) -> Permit:
        """Hold the slots of *demand*. Only if `next_permit_at(now, demand=demand) <= now`."""
        taken = self._ordinary if demand is ONE else self._taken_by(demand, now)
        self._latest = permit = Permit(self._latest.number + 1, now, taken)
        if self._has_ever_paused:
            self._on_sent_after_pause(permit)
        for window in taken.windows:
            window.take(permit)
        if self.feedback.mean_rtt > QUICK_RTT and not self._exact:
            permit.bounds = {
                w: now + self.feedback.assumed_arrival(w.period) for w in taken.windows
            }
            permit.arrived_by = min(permit.bounds.values(), default=math.inf)
            for window, bound in permit.bounds.items():
                if bound < math.inf:
                    window.move_bound(math.inf, bound, taken.cost)
        return permit

    def on_response(self, permit: Permit, now: float, info: RateLimitInfo | None) -> None:
        """Settle the call: its response arrived at *now* and reports *info* about the quota."""
        if permit.settled:
            return
        permit.settled = True
        is_accepted = info is None or not (info.is_rate_limited or info.unavailable)
        if self._has_ever_paused:
            self._on_response_after_pause(permit, now, info, is_accepted=is_accepted)
        feedback, taken, rtt = self.feedback, permit.taken, now - permit.sent_at
        pace_changed = is_accepted and feedback.on_accepted(permit, rtt)
        # A rejection takes less work than a call: the minimum RTT does not apply to it.
        is_exact = self._exact or not is_accepted
        for window in taken.windows:
            bound = math.inf if permit.bounds is None else permit.bounds[window]
            arrived_by = now
            if not is_exact and (known := feedback.arrival_before_response(window.period)):
                arrived_by -= known + feedback.bound_relaxation * (rtt - known)
            if arrived_by < bound:
                window.move_bound(bound, arrived_by, taken.cost)
                if arrived_by < permit.arrived_by:
                    permit.arrived_by = arrived_by
        if info is not None and not is_accepted:
            if info.is_rate_limited:
                self.on_rate_limited(now, info.retry_after, permit)
            else:
                self._pause(now, info.retry_after)
        elif self.external.rate or (info is not None and info.remaining is not None):
            pace_changed |= self._observe(permit, now, info)
        if pace_changed:
            self._set_rates()

    def _on_sent_after_pause(self, permit: Permit) -> None:
        """Do for *permit* what is not needed before the first pause."""
        feedback = self.feedback
        if self._is_next_after_pause:
            self._is_next_after_pause = False
            is_alone = len(self._windows) == 1 and not self._windows[0].held(permit.sent_at)
            is_ordinary = permit.taken is self._ordinary
            self._first_after_pause = permit if is_alone and is_ordinary else None
        if feedback.probing:
            self._probe = permit
        if feedback.burst_factor < 0.5 and feedback.is_rtt_reliable(self._interval()):
            self._spacing.on_sent(permit, self._interval())

    def _on_response_after_pause(
        self, permit: Permit, now: float, info: RateLimitInfo | None, *, is_accepted: bool
    ) -> None:
        if permit is self._probe:
            self._probe = None
        if permit is self._first_after_pause:
            self._first_after_pause = None
            is_rejected = info is not None and info.is_rate_limited
            if self.external.on_pause_obeyed(self._windows[0], now, is_rejected=is_rejected):
                self._set_rates()
        if permit is self._spacing.last and is_accepted:
            late = now - permit.sent_at - self.feedback.mean_rtt
            self._spacing.on_response(permit, self._interval(), late)

    def _observe(self, permit: Permit, now: float, info: RateLimitInfo | None) -> bool:
        """Use the vendor's count, unless it may be that of another quota than the windows'."""
        if info is None or info.remaining is None:
            return bool(self._windows) and self.external.refresh(self._windows[0], now)
        others = [quota.limit for quota in self.quotas if quota.unit or quota.operations]
        if others and (info.limit is None or info.limit in others):
            return False
        return self.external.observe(self._windows, permit, now, info)

    def on_no_response(self, permit: Permit, now: float, *, was_sent: bool = True) -> None:
        """Settle the call: it may have arrived, by *now*, or never was sent and frees its slots."""
        if permit.settled:
            return
        permit.settled = True
        if permit is self._probe:
            self._probe = None
        for window in permit.taken.windows:
            if was_sent:
                window.move_bound(permit.bound(window), now, permit.taken.cost)
            else:
                window.cancel(permit.bound(window), permit.taken.cost)
        if permit is self._spacing.last and not was_sent:
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
        self.feedback.on_rejected(now, permit, self._latest.number, is_unavoidable=is_unavoidable)
        self._set_rates()
        self._pause(now, retry_after)
        self._is_next_after_pause = (
            retry_after is not None and 0 < retry_after <= self.feedback.max_pause
        )

    def add(self, quota: Quota, now: float) -> None:
        """Obey *quota* as well. Calls sent before count, as far as they are remembered."""
        self.replace((*self.quotas, quota), now)

    def replace(self, quotas: Iterable[Quota], now: float) -> None:
        """Obey *quotas* in place of the present ones. Calls sent before count as in `add`."""
        known = self.quotas
        longest = max(self._windows, key=lambda window: window.period, default=None)
        self._set_quotas(quotas, now)
        for quota in self.quotas:
            if longest is not None and quota not in known:
                self._window((quota.group, quota), now).inherit(longest, now)
        self._set_rates()

    def nth_permit_at(
        self,
        calls: int,
        now: float,
        demand: Demand = ONE,
        priority: Priority = Priority.BACKGROUND,  # noqa: ARG002 - a store may delay one class
    ) -> float:
        """Return the estimated instant at which *calls* more calls of *demand* have been sent."""
        windows, cost = self._taken_by(demand, now).windows, demand.cost
        at, interval = max(now, self.feedback.paused_until), 0.0
        for window in windows:
            if isinstance(window, SlidingWindow):
                hold = self.feedback.mean_rtt
                if not self._exact:
                    hold = self.feedback.expected_hold(window.period)
                at = max(at, window.nth_sent_at(calls, cost, now, hold))
                interval = max(interval, window.interval)
        for window in windows:
            if isinstance(window, CalendarWindow):
                opens_at, number = window.nth_free_at(calls * cost, now)
                at = max(at, opens_at + (number - 1) * interval if opens_at > now else now)
        return at

    def delay(
        self,
        now: float,
        demand: Demand = ONE,
        priority: Priority = Priority.BACKGROUND,  # noqa: ARG002 - a store may delay one class
    ) -> Delay:
        """Return the pause or the quota that delays a call of *demand* longest, from *now* on."""
        until = max(now, self.feedback.paused_until)
        name = "the vendor has rate-limited calls or is unavailable"
        for group, quota in demand.quotas(self.quotas):
            at = self._window((group, quota), now).free_at(now, 0, demand.cost)
            if until < at < math.inf:  # at inf a response frees a slot
                until = at
                used = demand.describe(group, self.quotas) if group else f"quota {quota}"
                name = f"the {used} is used up"
        return Delay(now) if until == now else delay_until(until, name, now, self.wall_time(until))

    def used(self, group: str, quota: Quota, now: float) -> int:
        """Return how many units of the calendar quota this process's calls hold at *now*."""
        return self._window((group, quota), now).held(now)

    def is_idle(self, now: float) -> bool:
        """Return True if no slot is held and no pause is in force.

        A limiter without quotas is idle one second after its last call.
        """
        busy_until = self._latest.sent_at + (self.feedback.period or 1.0)
        return now >= max(busy_until, self.feedback.paused_until) and all(
            now >= window.external_until and not window.held(now)
            for window in self._counters.values()
        )

    def snapshot(self, now: float) -> LimiterState:
        """Return the state at *now*."""
        feedback = self.feedback
        windows = [self._counters[quota.group, quota] for quota in self.quotas]
        holds = tuple(window.held(now) for window in windows)
        paced_until = max((window.ready_at(now) for window in self._windows), default=now)
        return LimiterState(
            held=max(holds, default=0),
            holds=holds,
            opens_in=tuple(window.free_at(now, 0) - now for window in windows),
            paced_for=max(paced_until, self._spacing.next_at) - now,
            paused_for=max(0.0, feedback.paused_until - now),
            external_rate=self.external.rate,
            probing=feedback.probing,
            rate_factor=feedback.rate_factor,
            bursts=feedback.burst_factor > 0,
        )

    def _pause(self, now: float, retry_after: float | None) -> None:
        """Send nothing for *retry_after* seconds, and no burst afterwards."""
        self._has_ever_paused = True
        self.feedback.pause(now, retry_after)
        for window in self._counters.values():
            if isinstance(window, SlidingWindow):
                window.drain_until(self.feedback.paused_until)

    def _interval(self) -> float:
        return max((window.interval for window in self._windows), default=0.0)

    def _set_rates(self) -> None:
        for (group, _), window in self._counters.items():
            if isinstance(window, SlidingWindow):
                self._set_rate(group, window)

    def _set_rate(self, group: str, window: SlidingWindow) -> None:
        feedback = self.feedback
        our_share = 1.0 if group else 1 - self.external.rate / window.full_rate
        relaxation = 0.0
        if feedback.arrival_before_response(window.period):
            relaxation = feedback.bound_relaxation
        window.set_rate(
            max(_MIN_RATE, min(feedback.rate_factor, our_share)),
            min(feedback.burst_factor, 1 - relaxation),
        )


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
