"""Leave to put one call on the wire, and what was true when it was given."""

from __future__ import annotations

import math

import msgspec

from asyncclients.ratelimit.window import SlidingWindow


class Permit(msgspec.Struct, eq=False, gc=False):
    """One call's slots, from the take until it is settled.

    Attributes:
        number: 1 for the first call of the limiter, then ever higher.
        sent_at: the instant of the take, loop clock.
        slots: each quota's window, and until when its slot is held, as far as is known.
        slot_idle_for: for how many seconds the scarcest of the slots had been free.
        in_burst: the call went out sooner after another than the rate's interval.
        settled: its fate is known to the limiter.
    """

    number: int
    sent_at: float
    slots: list[tuple[SlidingWindow, float]] = []
    slot_idle_for: float = math.inf
    in_burst: bool = False
    settled: bool = False

    @property
    def arrived_by(self) -> float:
        """The instant by which the call has arrived at the vendor; inf while nobody knows."""
        return min((end - window.period for window, end in self.slots), default=self.sent_at)
