"""The slots that a process holds, and the reports about them that the store has not had yet."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from asyncclients.ratelimit.quota import ONE, Demand

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SLOTS = 512
"""Slots in each list of one request; the rest is sent with the next one."""


class Lease(NamedTuple):
    """The slots of one call, to be used from `usable_at` until `lapses_at`, in loop time.

    *number* is that of the first slot, and *demand* is what the call takes.
    """

    usable_at: float
    lapses_at: float
    number: int
    demand: Demand = ONE


class LeaseBook:
    """The slots of one process for one scope, and what the store does not know about them yet.

    A report stays here until the store has responded, so that a request can be repeated. A
    call of cost N has N slots with consecutive numbers.

    Args:
        first: number of the first slot.

    Attributes:
        leases: slots that are held and not used, the earliest first.
        in_flight: used slots whose calls may not have arrived yet, and their demands.
        arrived: used slots to be reported, with the latest arrival of their calls.
        released: slots that will not be used, to be reported.
    """

    __slots__ = ("_next", "arrived", "in_flight", "leases", "released")

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self.leases: deque[Lease] = deque()
        self.in_flight: dict[int, Demand] = {}
        self.arrived: dict[int, tuple[float, Demand]] = {}
        self.released: dict[int, Demand] = {}

    def reserve_numbers(self, count: int) -> int:
        """Reserve *count* slot numbers and return the first."""
        first = self._next
        self._next += count
        return first

    def first_lease(self, now: float, demand: Demand = ONE) -> Lease | None:
        """Return the earliest lease for *demand* that has not lapsed; release those that have."""
        while self.leases and self.leases[0].lapses_at < now:
            lapsed = self.leases.popleft()
            self.release(lapsed.number, lapsed.demand)
        return next((each for each in self.leases if each.demand is demand), None)

    def wanted(self, demand: Demand, waiting: int) -> int:
        """Return for how many of *waiting* calls to ask; 0 while many arrivals are unreported."""
        most = 0 if len(self.arrived) > MAX_SLOTS else max(1, MAX_SLOTS // demand.cost)
        return min(most, max(0, waiting - self.held(demand)))

    def held(self, demand: Demand) -> int:
        """Return the number of leases for *demand*."""
        return sum(lease.demand is demand for lease in self.leases)

    def expire(self, now: float, longest: float) -> None:
        """Release lapsed leases; of many arrivals, drop those older than the *longest* period."""
        self.first_lease(now)
        if len(self.arrived) > MAX_SLOTS:
            for number in [n for n, (at, _) in self.arrived.items() if at <= now - longest]:
                del self.arrived[number]

    def consume(self, demand: Demand = ONE) -> int:
        """Use the first lease for *demand*, or slots without a lease in an outage.

        Returns the number of the first slot.
        """
        for index, lease in enumerate(self.leases):
            if lease.demand is demand:
                del self.leases[index]
                number = lease.number
                break
        else:
            number = self.reserve_numbers(demand.cost)
        self.in_flight.update(dict.fromkeys(range(number, number + demand.cost), demand))
        return number

    def record_arrival(self, number: int, demand: Demand, arrived_by: float) -> None:
        """Record that the call of slot *number* arrives by *arrived_by*; infinity if unknown."""
        if arrived_by < math.inf:
            for slot in range(number, number + demand.cost):
                self.in_flight.pop(slot, None)
                self.arrived[slot] = arrived_by, demand

    def release(self, number: int, demand: Demand, count: int = 1) -> None:
        """Record that *count* calls of the slots from *number* on were not sent."""
        for slot in range(number, number + count * demand.cost):
            self.in_flight.pop(slot, None)
            self.arrived.pop(slot, None)
            self.released[slot] = demand

    def drop_leases(self) -> None:
        """Release all slots that are held and not used."""
        for lease in self.leases:
            self.release(lease.number, lease.demand)
        self.leases.clear()

    def has_unreported(self) -> bool:
        """Return whether there is something to report."""
        return bool(self.arrived or self.released)

    def acknowledge(
        self, arrived: dict[int, tuple[float, Demand]], released: Iterable[int]
    ) -> None:
        """Drop what the store knows now; arrivals that changed since stay."""
        for number in released:
            self.released.pop(number, None)
        for number, reported in arrived.items():
            if self.arrived.get(number) == reported:
                del self.arrived[number]
