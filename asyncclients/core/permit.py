"""Leave to put one call on the wire, and what was true when it was given."""

from __future__ import annotations


class Permit:
    """One call's slots, from the take until it is settled.

    Attributes:
        number: 1 for the first call of the limiter, then ever higher.
        sent_at: the instant of the take, loop clock.
        held: slots in use right after the take, per quota.
        ends: until when the slots are held as far as was known at the take, per quota.
        bunched: the call went out sooner after another than the rate's interval.
        rested: for how many seconds its scarcest slot had been free.
        settled: its fate is known to the limiter.
    """

    __slots__ = ("bunched", "ends", "held", "number", "rested", "sent_at", "settled")

    def __init__(self, number: int, sent_at: float) -> None:
        self.number = number
        self.sent_at = sent_at
        self.held: tuple[int, ...] = ()
        self.ends: tuple[float, ...] = ()
        self.bunched = False
        self.rested = 0.0
        self.settled = False
