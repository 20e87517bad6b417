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

3. **Feedback.** A rejection pauses the scope and is attributed to a cause (`adaptive.py`).
   If the vendor reports the remaining calls, its count applies when it leaves fewer slots
   than ours (`external.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.adaptive import ArrivalSpacing, Feedback, RttEstimator
from asyncclients.ratelimit.external import ExternalUsage
from asyncclients.ratelimit.slots import Permit, SlidingWindow, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.quota import Quota


_BURST_LEVEL = 1.01
"""Bucket level above which a call follows another one faster than the rate."""
_MIN_RATE = 0.1
"""Lowest share of the full rate, after rejections or with external usage."""


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a limiter at one instant. Durations in seconds.

    Attributes:
        held: slots in use of the fullest quota.
        holds: slots in use, by quota.
        opens_in: until a slot of each quota is free; inf if only a response can free one.
        paced_for: until the token bucket allows the next call.
        in_flight: calls sent and not yet settled.
        paused_for: until the pause ends; 0 without a pause.
        external_rate: calls per second of other clients on the same quota.
        probing: calls are sent one at a time, after consecutive rejections.
        rate_factor: share of the quota's rate in use; below 1 after rejections.
        bursts: whether calls may follow each other faster than the rate.
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


class Limiter:
    """The quotas of one scope.

    Args:
        quotas: all of them apply; without any, only the vendor's rejections limit the rate.
        admission: `exact` never exceeds a quota in any window. `adaptive` uses more of a
            short one, at the price of about one rejection in some thousands of calls.
        cold_start: `empty` assumes that nothing was sent before *now*, `full` that all
            quotas are spent.
        now: loop instant of the creation.

    Raises:
        ConfigurationError: for any other *admission* or *cold_start*.
    """

    __slots__ = (
        "_buckets",
        "_exact",
        "_in_flight",
        "_probe",
        "_rtt",
        "_sent",
        "_spacing",
        "_windows",
        "_windows_and_buckets",
        "external",
        "feedback",
        "quotas",
    )

    def __init__(
        self,
        quotas: Sequence[Quota],
        *,
        admission: Literal["adaptive", "exact"] = "adaptive",
        cold_start: Literal["empty", "full"] = "empty",
        now: float = 0.0,
    ) -> None:
        _one_of("admission", admission, ("adaptive", "exact"))
        _one_of("cold_start", cold_start, ("empty", "full"))
        self.quotas = tuple(quotas)
        self._exact = admission == "exact"
        self._windows = tuple(SlidingWindow(quota) for quota in self.quotas)
        self._buckets = tuple(TokenBucket(quota, now) for quota in self.quotas)
        self._windows_and_buckets = tuple(zip(self._windows, self._buckets, strict=True))
        self._rtt = RttEstimator()
        self.feedback = Feedback(self.quotas, may_relax=not self._exact)
        self.external = ExternalUsage(self.feedback)
        self._sent = 0
        self._in_flight = 0
        self._probe: Permit | None = None
        self._spacing = ArrivalSpacing()
        if cold_start == "full":
            for window in self._windows:
                window.expiries = [now + window.period] * window.limit

    @property
    def paused_until(self) -> float:
        """Loop instant before which nothing is sent; -inf before the first pause."""
        return self.feedback.paused_until

    @property
    def external_rate(self) -> float:
        """Calls per second that other clients make on the same quota."""
        return self.external.rate

    def next_permit_at(self, now: float, reserve: int = 0, *, spaced: bool = False) -> float:
        """Return the earliest instant, not before *now*, at which a permit may be acquired.

        *reserve* slots of each quota are left free. *spaced* is for background calls: it
        keeps a distance to the previous call, so that slots expire one at a time and bursts
        are left to interactive calls. `math.inf` means that only a response can free a
        slot: ask again when a call is settled.
        """
        if self._probe is not None:
            return math.inf
        at = now
        if self.feedback.paused_until > at:
            at = self.feedback.paused_until
        if self._spacing.next_at > at:
            at = self._spacing.next_at
        for window, bucket in self._windows_and_buckets:
            if (free_at := window.free_at(now, reserve)) > at:
                at = free_at
            if (due := bucket.ready_at(now)) > at:
                at = due
        if spaced:
            at = max(at, self._spacing.next_even_at(self._windows, self._rtt, self.feedback))
        return at

    def acquire(self, now: float) -> Permit:
        """Hold a slot of each quota. Only if `next_permit_at(now) <= now`."""
        self._sent += 1
        self._spacing.sent_at = now
        self._in_flight += 1
        permit, feedback = Permit(self._sent, now), self.feedback
        expiry = math.inf
        for window, bucket in self._windows_and_buckets:
            if not self._exact:
                expiry = now + window.period + self._rtt.assumed_arrival(window.period, feedback)
            if (idle_for := window.acquire(now, expiry)) < permit.slot_idle_for:
                permit.slot_idle_for = idle_for
            permit.slots.append((window, expiry))
            if bucket.take(now) > _BURST_LEVEL:
                permit.in_burst = True
        if feedback.probing:
            self._probe = permit
        if feedback.burst_factor < 0.5:
            self._spacing.on_sent(permit, self._interval(), self._rtt)
        return permit

    def on_response(self, permit: Permit, now: float, info: RateLimitInfo | None) -> None:
        """Settle the call: its response arrived at *now* and reports *info* about the quota."""
        if not self._settle(permit):
            return
        if info is not None and (info.is_rate_limited or info.unavailable):
            self._on_rejected(permit, now, info)
            return
        feedback, rtt = self.feedback, self._rtt
        seconds = now - permit.sent_at
        if permit is self._spacing.last:
            self._spacing.on_response(permit, self._interval(), seconds - rtt.mean_rtt)
        rtt.add(seconds)
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
        pace_changed = feedback.on_accepted(permit)
        if info is not None and info.remaining is not None:
            pace_changed |= self.external.observe(self._windows, permit, now, info)
        if pace_changed:
            self._set_rates()

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
        if self._settle(permit):
            for window, expiry in permit.slots:
                window.move(expiry, now + window.period)

    def cancel(self, permit: Permit, now: float) -> None:
        """Settle the call: it was never sent, so its slots are free at once."""
        if not self._settle(permit):
            return
        for window, expiry in permit.slots:
            window.release(expiry)
        for bucket in self._buckets:
            bucket.refund()
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
        self.feedback.on_rejected(now, permit, self._sent)
        self._set_rates()
        self._pause(now, retry_after)

    def add(self, quota: Quota, now: float) -> None:
        """Obey *quota* as well. Calls sent before count, as far as they are remembered."""
        window = SlidingWindow(quota)
        if self._windows:
            window.inherit(max(self._windows, key=lambda other: other.period), now)
        self.quotas = (*self.quotas, quota)
        self._windows = (*self._windows, window)
        self._buckets = (*self._buckets, TokenBucket(quota, now))
        self._windows_and_buckets = tuple(zip(self._windows, self._buckets, strict=True))
        self.feedback.set_quotas(self.quotas)
        self._set_rates()

    def nth_permit_at(self, calls: int, now: float) -> float:
        """Return the estimated instant at which *calls* more calls have been sent."""
        at = max(now, self.feedback.paused_until)
        for window, bucket in self._windows_and_buckets:
            hold = self._rtt.mean_rtt
            if not self._exact:
                hold = self._rtt.expected_hold(window.period, self.feedback)
            full_windows, before = divmod(calls - 1, window.limit)
            first = window.nth_free_at(before + 1, now, hold)
            first = max(first, bucket.ready_at(now, before + 1))
            last = first + full_windows * (window.period + hold)
            at = max(at, last, bucket.ready_at(now, calls))
        return at

    def held(self, now: float) -> int:
        """Return how many slots of the fullest quota are in use at *now*."""
        return max((window.held(now) for window in self._windows), default=0)

    def is_idle(self, now: float) -> bool:
        """Return True if no slot is held, no pause is in force and no call is in flight.

        A limiter without quotas is idle one second after its last call.
        """
        feedback = self.feedback
        if self._in_flight or now < self._spacing.sent_at + (feedback.period or 1.0):
            return False
        return now >= feedback.paused_until and not any(
            w.held(now) or now < w.external_until for w in self._windows
        )

    def snapshot(self, now: float) -> LimiterState:
        """Return the state at *now*."""
        feedback = self.feedback
        paced_until = max((bucket.ready_at(now) for bucket in self._buckets), default=now)
        return LimiterState(
            held=self.held(now),
            holds=tuple(window.held(now) for window in self._windows),
            opens_in=tuple(window.free_at(now, 0) - now for window in self._windows),
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
        for bucket in self._buckets:
            bucket.drain_until(self.feedback.paused_until)

    def _settle(self, permit: Permit) -> bool:
        """Mark the call as settled; return False if it was settled before."""
        if permit.settled:
            return False
        permit.settled = True
        self._in_flight -= 1
        if permit is self._probe:
            self._probe = None
        return True

    def _interval(self) -> float:
        return max((bucket.interval for bucket in self._buckets), default=0.0)

    def _set_rates(self) -> None:
        """Apply the corrections of `feedback` and the external rate to the token buckets."""
        feedback = self.feedback
        for window, bucket in self._windows_and_buckets:
            our_share = 1 - self.external.rate / bucket.full_rate
            relaxation = 0.0
            if self._rtt.arrival_before_response(window.period, feedback.margin_factor):
                relaxation = feedback.bound_relaxation
            bucket.set_rate(
                max(_MIN_RATE, min(feedback.rate_factor, our_share)),
                min(feedback.burst_factor, 1 - relaxation),
            )


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(
            f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}",
            advice=f"Leave {name} out for the default, {choices[0]!r}",
        )
