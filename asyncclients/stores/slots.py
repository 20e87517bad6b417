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


class Slots:
    """Leases and reports.

    Args:
        first: the first number to give.

    Attributes:
        leases: held and not used, the earliest first.
        in_flight: used, and nothing known of the arrival.
        settled: used, arrived by that instant; the store does not know yet.
        freed: will not be used; the store does not know yet.
    """

    __slots__ = ("_next", "freed", "in_flight", "leases", "settled")

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self.leases: deque[Lease] = deque()
        self.in_flight: set[int] = set()
        self.settled: dict[int, float] = {}
        self.freed: set[int] = set()

    def numbers(self, count: int) -> int:
        """Set *count* numbers aside and return the first."""
        first = self._next
        self._next += count
        return first

    def first(self, now: float) -> Lease | None:
        """The next lease that is still good; those that lapsed are given up."""
        while self.leases and self.leases[0].lapses_at < now:
            self.freed.add(self.leases.popleft().number)
        return self.leases[0] if self.leases else None

    def tidy(self, now: float, longest: float) -> None:
        """Give up leases that lapsed, and forget calls that no window counts any more."""
        self.first(now)
        if len(self.settled) > MOST:
            self.settled = {n: at for n, at in self.settled.items() if at > now - longest}

    def use(self) -> int:
        """The number of a slot that is used now: the first lease's, or one without a lease."""
        number = self.leases.popleft().number if self.leases else self.numbers(1)
        self.in_flight.add(number)
        return number

    def settle(self, number: int, arrived_by: float) -> None:
        """The call of slot *number* has arrived by *arrived_by*; inf: nobody knows."""
        if arrived_by < math.inf:
            self.in_flight.discard(number)
            self.settled[number] = arrived_by

    def give_back(self, number: int) -> None:
        """The call of slot *number* never left."""
        self.in_flight.discard(number)
        self.settled.pop(number, None)
        self.freed.add(number)

    def drop_leases(self) -> None:
        """Give up all that is held and not used."""
        self.freed.update(lease.number for lease in self.leases)
        self.leases.clear()

    def news(self) -> bool:
        """Is there anything that the store has not heard?"""
        return bool(self.settled or self.freed)

    def snapshot(self, settled: Iterable[tuple[int, int]]) -> dict[int, float]:
        """What is known now of the slots that a claim settles."""
        return {number: self.settled[number] for number, _ in settled}

    def told(self, settled: dict[int, float], freed: set[int]) -> None:
        """The store has heard that; what changed since stays."""
        self.freed -= freed
        for number, arrived_by in settled.items():
            if self.settled.get(number) == arrived_by:
                del self.settled[number]
