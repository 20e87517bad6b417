"""The slots of one process in one scope: held, in flight, settled, and not yet told.

Every slot has a number, given once. What the store has to hear of it stays here
until the store has answered; a claim that is repeated says the same, and
counts once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

MOST = 512
"""Facts of each kind in one claim: what is left goes with the next."""


class Lease(NamedTuple):
    """A slot that may be used from `usable_at` until `lapses_at`, loop clock."""

    usable_at: float
    lapses_at: float
    number: int


class LeaseBook:
    """Leases and reports.

    Args:
        first: the first number to give.

    Attributes:
        leases: held and not used, the earliest first.
        in_flight: used, and nothing known of the arrival.
        arrived: used, arrived by that instant; the store does not know yet.
        released: will not be used; the store does not know yet.
    """

    __slots__ = ("_next", "arrived", "in_flight", "leases", "released")

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self.leases: deque[Lease] = deque()
        self.in_flight: set[int] = set()
        self.arrived: dict[int, float] = {}
        self.released: set[int] = set()

    def numbers(self, count: int) -> int:
        """Set *count* numbers aside and return the first."""
        first = self._next
        self._next += count
        return first

    def first(self, now: float) -> Lease | None:
        """The next lease that is still good; those that lapsed are given up."""
        while self.leases and self.leases[0].lapses_at < now:
            self.released.add(self.leases.popleft().number)
        return self.leases[0] if self.leases else None

    def expire(self, now: float, longest: float) -> None:
        """Give up leases that lapsed, and forget calls that no window counts any more."""
        self.first(now)
        if len(self.arrived) > MOST:
            self.arrived = {n: at for n, at in self.arrived.items() if at > now - longest}

    def consume(self) -> int:
        """The number of a slot that is used now: the first lease's, or one without a lease."""
        number = self.leases.popleft().number if self.leases else self.numbers(1)
        self.in_flight.add(number)
        return number

    def report_arrival(self, number: int, arrived_by: float) -> None:
        """The call of slot *number* has arrived by *arrived_by*; inf: nobody knows."""
        if arrived_by < math.inf:
            self.in_flight.discard(number)
            self.arrived[number] = arrived_by

    def release(self, number: int) -> None:
        """The call of slot *number* never left."""
        self.in_flight.discard(number)
        self.arrived.pop(number, None)
        self.released.add(number)

    def drop_leases(self) -> None:
        """Give up all that is held and not used."""
        self.released.update(lease.number for lease in self.leases)
        self.leases.clear()

    def has_unreported(self) -> bool:
        """Is there anything that the store has not heard?"""
        return bool(self.arrived or self.released)

    def snapshot(self, settled: Iterable[tuple[int, int]]) -> dict[int, float]:
        """What is known now of the slots that a claim settles."""
        return {number: self.arrived[number] for number, _ in settled}

    def acknowledge(self, settled: dict[int, float], freed: set[int]) -> None:
        """The store has heard that; what changed since stays."""
        self.released -= freed
        for number, arrived_by in settled.items():
            if self.arrived.get(number) == arrived_by:
                del self.arrived[number]
