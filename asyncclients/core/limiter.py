"""How many calls may be sent, and when: the limiter of one scope.

One scope is one vendor's origin with one credential. Every decision is a plain
function of (state, now); nothing here waits, reads a clock or knows a loop.

Rules:

1. Window (safety): a slot of each quota is held from the send until *arrival
   bound + period*. The instant at which the answer's headers came is such a
   bound, whatever the latency.
2. Pacing (shape): a token bucket, asked after the window, spaces the calls.
3. Feedback: a refusal pauses the scope. The pause is an instant that only moves
   forward, and an absurd one is cut to max(2 periods, 120 s).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from asyncclients.core.pacing import Pacer
from asyncclients.core.window import Window
from asyncclients.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncclients.core.quota import Quota
    from asyncclients.core.ratelimit_headers import Signal

_LONGEST_PAUSE = 120.0
_PACE = 0.998
"""Share of limit/period at which calls are paced."""


class Permit:
    """Leave to put one call on the wire."""

    __slots__ = ("sent_at", "settled")

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.settled = False


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """What the limiter knew at one instant.

    Attributes:
        held: slots in use in the fullest quota.
        in_flight: calls sent and not yet answered.
        paused_for: seconds until the pause ends; 0 when there is none.
        foreign_rate: calls per second that others make on the same quota.
    """

    held: int
    in_flight: int
    paused_for: float
    foreign_rate: float


class Limiter:
    """The quotas of one scope."""

    __slots__ = ("_longest_pause", "_pacers", "_paused_until", "_windows", "quotas")

    def __init__(
        self,
        quotas: Sequence[Quota],
        *,
        admission: Literal["adaptive", "exact"] = "adaptive",
        cold_start: Literal["empty", "full"] = "empty",
        now: float = 0.0,
    ) -> None:
        if admission not in ("adaptive", "exact"):
            raise ConfigurationError(f"admission must be 'adaptive' or 'exact', not {admission!r}")
        if cold_start not in ("empty", "full"):
            raise ConfigurationError(f"cold_start must be 'empty' or 'full', not {cold_start!r}")
        self.quotas = tuple(quotas)
        self._windows = tuple(Window(quota) for quota in self.quotas)
        self._pacers = tuple(Pacer(q.rate * _PACE, max(1.0, q.limit / 10), now) for q in quotas)
        self._paused_until = -math.inf
        self._longest_pause = max([_LONGEST_PAUSE, *(2 * quota.period for quota in self.quotas)])
        if cold_start == "full":
            for window in self._windows:
                for _ in range(window.limit):
                    window.hold_until(now + window.period)

    @property
    def paused_until(self) -> float:
        """The instant before which nothing is sent; -inf before the first pause."""
        return self._paused_until

    @property
    def foreign_rate(self) -> float:
        """Calls per second that others are seen to make on the same quota."""
        return 0.0

    def ready_at(self, now: float, spare: int = 0) -> float:
        """The earliest instant, not before *now*, at which a permit may be taken.

        *spare* slots are left free. `math.inf` means that only the answer of a
        call in flight can free a slot: ask again when one is settled.
        """
        at = max(now, self._paused_until)
        for window in self._windows:
            at = max(at, window.free_at(at, min(spare, window.limit - 1)))
        if at == math.inf:
            return at
        for pacer in self._pacers:
            at = max(at, pacer.ready_at(now))
        return at

    def take(self, now: float) -> Permit:
        """Take one slot of every quota. Only when `ready_at(now) <= now`."""
        for window in self._windows:
            window.opened += 1
        for pacer in self._pacers:
            pacer.take(now)
        return Permit(now)

    def answered(self, permit: Permit, now: float, signal: Signal | None) -> None:
        """The headers of the answer arrived at *now*."""
        self._settle(permit, now)
        if signal is not None and signal.refused:
            self.refused(now, signal.retry_after, permit)

    def lost(self, permit: Permit, now: float) -> None:
        """No answer will come, but the call may have arrived: the slot stays held."""
        self._settle(permit, now)

    def returned(self, permit: Permit, now: float) -> None:  # noqa: ARG002
        """The call was never sent: its slot is free again at once."""
        if permit.settled:
            return
        permit.settled = True
        for window in self._windows:
            window.opened -= 1
        for pacer in self._pacers:
            pacer.give_back()

    def refused(self, now: float, retry_after: float | None, permit: Permit | None = None) -> None:  # noqa: ARG002
        """The vendor said that the quota is spent; *retry_after* in seconds."""
        wait = 1.0 if retry_after is None or not retry_after >= 0 else retry_after
        self._paused_until = max(self._paused_until, now + min(wait, self._longest_pause))

    def earliest(self, calls: int, now: float) -> float:
        """The instant by which *calls* more calls could have been sent."""
        at = self.ready_at(now)
        if at == math.inf:
            at = now
        return max([at, *(at + (calls - 1) / q.rate / _PACE - q.period for q in self.quotas)])

    def held(self, now: float) -> int:
        """Slots in use at *now*, in the fullest quota."""
        return max((window.held(now) for window in self._windows), default=0)

    def snapshot(self, now: float) -> LimiterState:
        """The state at *now*, as a value."""
        return LimiterState(
            held=self.held(now),
            in_flight=max((window.opened for window in self._windows), default=0),
            paused_for=max(0.0, self._paused_until - now),
            foreign_rate=self.foreign_rate,
        )

    def _settle(self, permit: Permit, arrived_by: float) -> None:
        if permit.settled:
            return
        permit.settled = True
        for window in self._windows:
            window.opened -= 1
            window.hold_until(arrived_by + window.period)
