"""The window log of one quota: which slots are held, and until when.

A slot is held from the send until *arrival bound + period*, its *end*. While no
bound is known the end is infinite: only an answer can free the slot.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from asyncclients.ratelimit.quota import Quota

_TRIM = 256
"""Ends that are over are cut from the list this many at a time."""


class SlidingWindow:
    """The slots of one quota. `ends` is sorted; those before `head` are over.

    Attributes:
        external: slots that others hold, as far as the vendor's figures say so.
        external_until: the instant until which that is believed.
    """

    __slots__ = ("expiries", "external", "external_until", "first_live", "limit", "period")

    def __init__(self, quota: Quota) -> None:
        self.limit = quota.limit
        self.period = quota.period
        self.expiries: list[float] = []
        self.first_live = 0
        self.external = 0
        self.external_until = -math.inf

    def held(self, now: float) -> int:
        """Slots in use at *now* by our own calls."""
        ends, head = self.expiries, self.first_live
        size = len(ends)
        while head < size and ends[head] <= now:
            head += 1
        if head > self.limit + _TRIM:
            del ends[: head - self.limit]  # `take` looks back over *limit* of them
            size -= head - self.limit
            head = self.limit
        self.first_live = head
        return size - head

    def free_at(self, now: float, reserve: int) -> float:
        """The earliest instant at which a slot can be taken that leaves *spare* others.

        `math.inf` if only an answer can free one.
        """
        ends, head = self.expiries, self.first_live
        held = len(ends) - head
        if held and ends[head] <= now:
            held = self.held(now)
        missing = held - self.limit
        if reserve:
            missing += min(reserve, self.limit - 1)
        if now >= self.external_until:
            return now if missing < 0 else self._opens(missing, now)
        shared = self._opens(missing + self.external, now)
        return min(shared, max(self.external_until, self._opens(missing, now)))

    def _opens(self, missing: int, now: float) -> float:
        if missing < 0:
            return now
        index = self.first_live + missing
        return self.expiries[index] if index < len(self.expiries) else math.inf

    def acquire(self, now: float, end: float) -> float:
        """Hold one more slot until *end*; return for how long it had been free, inf if ever."""
        ends = self.expiries
        index = len(ends) - self.limit
        rested = now - ends[index] if index >= 0 else math.inf
        if not ends or end >= ends[-1]:
            ends.append(end)
        else:
            insort(ends, end, self.first_live)
        return rested

    def move(self, end: float, to: float) -> None:
        """Hold the slot that is held until *end* until *to* instead."""
        ends, head = self.expiries, self.first_live
        if len(ends) > head and ends[-1] == end:
            ends.pop()
        else:
            self.release(end)
        if not ends or to >= ends[-1]:
            ends.append(to)
        else:
            insort(ends, to, head)

    def inherit(self, other: SlidingWindow, now: float) -> None:
        """Hold slots for the calls that *other* remembers; those in flight arrive by *now*."""
        arrivals = (min(end - other.period, now) for end in other.expiries)
        self.expiries = [at + self.period for at in arrivals if at + self.period > now]

    def release(self, end: float) -> None:
        """Free the slot that is held until *end*, unless it is over already."""
        ends = self.expiries
        index = bisect_left(ends, end, self.first_live)
        if index < len(ends) and ends[index] == end:
            del ends[index]

    def held_since(self, instant: float) -> int:
        """Slots that were in use at *instant*, of late, or have been taken since."""
        return len(self.expiries) - bisect_right(self.expiries, instant)

    def nth_free_at(self, nth: int, now: float, lag: float) -> float:
        """When the *nth* of as many calls could take a slot; *nth* is at most the limit.

        *lag* is for how many seconds a slot is expected to be held beyond its period.
        """
        held = self.held(now)
        missing = nth - 1 + held - self.limit
        if now < self.external_until:
            missing += self.external
        if missing < 0:
            return now
        end = self.expiries[self.first_live + missing] if missing < held else self.external_until
        return min(end, now + self.period + lag)


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
