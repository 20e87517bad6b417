"""How many calls may be sent, and when: the limiter of one scope.

A scope is one vendor's origin with one credential. Every decision is a plain
function of (state, now), in loop seconds: nothing waits, reads a clock or knows a loop.

The theory
==========

A vendor admits N calls in any W seconds, and counts a call when it *arrives*.
The client decides when a call is *sent*. Latency is between the two, it varies,
and so arrivals can lie closer together than sends. Three rules follow.

1. **Window (safety).** A slot of each quota is held from the send until
   *arrival bound + W*, where the bound is an instant by which the call has
   arrived. A call is sent only while fewer than N slots are held. Suppose N+1
   calls arrived within W: when the last-sent of them was sent, each of the N
   others had either no bound yet, or a bound not before its arrival, hence less
   than W ago. All N held a slot, and the last could not have been sent.
   With the answer as the bound (`admission="exact"`) this is a proof. It costs
   one round trip in each W: nothing in a minute, a tenth of a second. Where W is
   short bolder bounds are used, see `arrival.py`, and refusals teach caution.

2. **Pacing (shape).** A token bucket, `pacing.py`, spreads the N over W. It is
   asked after the window: spacing decided before lets calls bunch up behind it.
   Where a server turns out to hold a small bucket, the *arrivals* are kept an
   interval apart, see `spacing.py`.

3. **Feedback.** A refusal pauses the scope and is put down to a cause, see
   `feedback.py`. Of what the vendor says remains and our count the lower wins,
   see `foreign.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.adaptive import Feedback
from asyncclients.ratelimit.bucket import TokenBucket
from asyncclients.ratelimit.external import ExternalUsage
from asyncclients.ratelimit.latency import ArrivalSpacing, RttEstimator
from asyncclients.ratelimit.window import Permit, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.ratelimit.headers import RateLimitInfo
    from asyncclients.ratelimit.quota import Quota


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """What a limiter knew at one instant. Durations in seconds.

    Attributes:
        held: slots in use in the fullest quota.
        holds: slots in use, by quota.
        opens_in: until each quota has a free slot; inf where only an answer can free one.
        paced_for: until the next call keeps its distance from the last one.
        in_flight: calls sent and not yet settled.
        paused_for: until the pause ends; 0 where there is none.
        external_rate: calls per second that others make on the same quota.
        probing: calls go out one at a time, since refusals came in a row.
        rate_factor: share of the quota's rate in use; below 1 after refusals.
        bursts: whether calls may follow each other faster than the rate.
        round_trip: the usual round trip of an admitted call.
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
    round_trip: float


class Limiter:
    """The quotas of one scope.

    Args:
        quotas: all hold at once; none means no limit but the vendor's refusals.
        admission: `exact` never exceeds a quota in any window; `adaptive` uses
            more of a short one, at about one refusal in some thousands of calls.
        cold_start: `empty` assumes that nothing was sent before *now*, `full`
            that the windows are spent.

    Raises:
        ConfigurationError: for any other *admission* or *cold_start*.
    """

    __slots__ = (
        "_books",
        "_buckets",
        "_exact",
        "_in_flight",
        "_probe",
        "_rtt",
        "_sent",
        "_spacing",
        "_windows",
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
        self._books = tuple(zip(self._windows, self._buckets, strict=True))
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
        """The instant before which nothing is sent; -inf before the first pause."""
        return self.feedback.paused_until

    @property
    def external_rate(self) -> float:
        """Calls per second that others are seen to make on the same quota."""
        return self.external.rate

    def next_permit_at(self, now: float, reserve: int = 0, *, spaced: bool = False) -> float:
        """The earliest instant, not before *now*, at which a permit may be taken.

        *spare* slots of each quota are left free. *even* is for a call that can
        wait where others cannot: it keeps its distance from the last one, so
        that slots open one by one, and leaves the burst to the others.
        `math.inf`: only an answer can help; ask again when one is settled.
        """
        if self._probe is not None:
            return math.inf
        at = now
        if self.feedback.paused_until > at:
            at = self.feedback.paused_until
        if self._spacing.next_at > at:
            at = self._spacing.next_at
        for window, pacer in self._books:
            if (free_at := window.free_at(now, reserve)) > at:
                at = free_at
            if (due := pacer.ready_at(now)) > at:
                at = due
        if spaced:
            at = max(at, self._spacing.next_even_at(self._windows, self._rtt, self.feedback))
        return at

    def acquire(self, now: float) -> Permit:
        """Take a slot of each quota. Only when `ready_at(now) <= now`."""
        self._sent += 1
        self._spacing.sent_at = now
        self._in_flight += 1
        permit, feedback = Permit(self._sent, now), self.feedback
        end = math.inf
        for window, pacer in self._books:
            if not self._exact:
                end = now + window.period + self._rtt.assumed_arrival(window.period, feedback)
            if (rested := window.acquire(now, end)) < permit.slot_idle_for:
                permit.slot_idle_for = rested
            permit.slots.append((window, end))
            if pacer.take(now) > 1.01:
                permit.in_burst = True
        if feedback.probing:
            self._probe = permit
        if feedback.burst_factor < 0.5:
            self._spacing.on_sent(permit, self._interval(), self._rtt)
        return permit

    def on_response(self, permit: Permit, now: float, signal: RateLimitInfo | None) -> None:
        """The headers of the answer came in at *now*, saying *signal* of the quota."""
        if not self._settle(permit):
            return
        if signal is not None and signal.is_rate_limited:
            self._rebind(permit, now, credit=False)  # refusals come back faster than work does
            self.on_rate_limited(now, signal.retry_after, permit)
            return
        if signal is not None and signal.unavailable:
            self._rebind(permit, now, credit=False)
            self._pause(now, signal.retry_after)
            return
        took = now - permit.sent_at
        if permit is self._spacing.last:
            self._spacing.on_response(permit, self._interval(), took - self._rtt.mean_rtt)
        self._rtt.add(took)
        self._rebind(permit, now, credit=not self._exact)
        learned = self.feedback.on_accepted(permit)
        if signal is not None and signal.remaining is not None:
            learned |= self.external.observe(self._windows, permit, now, signal)
        if learned:
            self._shape()

    def on_no_response(self, permit: Permit, now: float) -> None:
        """No answer will come, but the call may have arrived, as late as *now*."""
        if self._settle(permit):
            for window, end in permit.slots:
                window.move(end, now + window.period)

    def cancel(self, permit: Permit, now: float) -> None:
        """The call was never sent: its slots are free again at once, *now*."""
        if not self._settle(permit):
            return
        for window, end in permit.slots:
            window.release(end)
        for pacer in self._buckets:
            pacer.refund()
        if permit is self._spacing.last:
            self._spacing.next_at = now

    def on_rate_limited(
        self, now: float, retry_after: float | None, permit: Permit | None = None
    ) -> None:
        """The vendor said that the quota is spent; where only the body shows it, after `answered`.

        *retry_after* is in seconds; None, negative and NaN count as not said.
        """
        self.feedback.on_rejected(now, permit, self._sent)
        self._shape()
        self._pause(now, retry_after)

    def add(self, quota: Quota, now: float) -> None:
        """Obey *quota* as well. What was sent so far counts, as far as it is known."""
        window = SlidingWindow(quota)
        if self._windows:
            window.inherit(max(self._windows, key=lambda other: other.period), now)
        self.quotas = (*self.quotas, quota)
        self._windows = (*self._windows, window)
        self._buckets = (*self._buckets, TokenBucket(quota, now))
        self._books = tuple(zip(self._windows, self._buckets, strict=True))
        self.feedback.set_quotas(self.quotas)
        self._shape()

    def nth_permit_at(self, calls: int, now: float) -> float:
        """When *calls* more calls could have been sent, if answers take as long as they did."""
        at = max(now, self.feedback.paused_until)
        for window, pacer in self._books:
            trips = self._rtt
            lag = (
                trips.mean_rtt if self._exact else trips.expected_hold(window.period, self.feedback)
            )
            rounds, before = divmod(calls - 1, window.limit)
            first = window.nth_free_at(before + 1, now, lag)
            first = max(first, pacer.ready_at(now, before + 1)) + rounds * (window.period + lag)
            at = max(at, first, pacer.ready_at(now, calls))
        return at

    def held(self, now: float) -> int:
        """Slots in use at *now*, in the fullest quota."""
        return max((window.held(now) for window in self._windows), default=0)

    def is_idle(self, now: float) -> bool:
        """True if nothing known would delay a call: no slot is held, none paused, none in flight.

        A limiter without quotas is idle one second after its last call.
        """
        feedback = self.feedback
        if self._in_flight or now < self._spacing.sent_at + (feedback.period or 1.0):
            return False
        return now >= feedback.paused_until and not any(
            w.held(now) or now < w.external_until for w in self._windows
        )

    def snapshot(self, now: float) -> LimiterState:
        """The state at *now*, as a value."""
        feedback = self.feedback
        paced_until = max((pacer.ready_at(now) for pacer in self._buckets), default=now)
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
            round_trip=self._rtt.mean_rtt,
        )

    def _pause(self, now: float, retry_after: float | None) -> None:
        """Send nothing for *retry_after* seconds, and no burst after that."""
        self.feedback.pause(now, retry_after)
        for pacer in self._buckets:
            pacer.drain_until(self.feedback.paused_until)

    def _rebind(self, permit: Permit, now: float, *, credit: bool) -> None:
        """The answer came: each slot ends by it, or sooner if that was known already."""
        trips, feedback = self._rtt, self.feedback
        for index, (window, end) in enumerate(permit.slots):
            bound = now
            if credit and (
                known := trips.arrival_before_response(window.period, feedback.margin_factor)
            ):
                bound -= known + feedback.bound_relaxation * (now - known - permit.sent_at)
            until = bound + window.period
            if until < end:
                window.move(end, until)
                permit.slots[index] = (window, until)

    def _settle(self, permit: Permit) -> bool:
        """Mark the call's fate as known; False if it was before."""
        if permit.settled:
            return False
        permit.settled = True
        self._in_flight -= 1
        if permit is self._probe:
            self._probe = None
        return True

    def _interval(self) -> float:
        return max((pacer.interval for pacer in self._buckets), default=0.0)

    def _shape(self) -> None:
        """Pace by what was learned: less rate after refusals and for foreigners, no bursts."""
        feedback = self.feedback
        for window, pacer in self._books:
            ours = 1 - self.external.rate / pacer.full_rate
            bold = (
                self._rtt.arrival_before_response(window.period, feedback.margin_factor)
                and feedback.bound_relaxation
            )
            pacer.set_rate(
                max(0.1, min(feedback.rate_factor, ours)), min(feedback.burst_factor, 1 - bold)
            )


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(
            f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}",
            advice=f"Leave {name} out for the default, {choices[0]!r}",
        )
