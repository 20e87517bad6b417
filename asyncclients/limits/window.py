"""The window log of one quota: which slots are held, and until when.

A slot is held from the send until *arrival bound + period*, its *end*. While no
bound is known the end is infinite: only an answer can free the slot.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncclients.limits.quota import Quota

_TRIM = 256
"""Ends that are over are cut from the list this many at a time."""


class Window:
    """The slots of one quota. `ends` is sorted; those before `head` are over.

    Attributes:
        foreign: slots that others hold, as far as the vendor's figures say so.
        foreign_until: the instant until which that is believed.
    """

    __slots__ = ("ends", "foreign", "foreign_until", "head", "limit", "period")

    def __init__(self, quota: Quota) -> None:
        self.limit = quota.limit
        self.period = quota.period
        self.ends: list[float] = []
        self.head = 0
        self.foreign = 0
        self.foreign_until = -math.inf

    def held(self, now: float) -> int:
        """Slots in use at *now* by our own calls."""
        ends, head = self.ends, self.head
        size = len(ends)
        while head < size and ends[head] <= now:
            head += 1
        if head > self.limit + _TRIM:
            del ends[: head - self.limit]  # `take` looks back over *limit* of them
            size -= head - self.limit
            head = self.limit
        self.head = head
        return size - head

    def free_at(self, now: float, spare: int) -> float:
        """The earliest instant at which a slot can be taken that leaves *spare* others.

        `math.inf` if only an answer can free one.
        """
        ends, head = self.ends, self.head
        held = len(ends) - head
        if held and ends[head] <= now:
            held = self.held(now)
        missing = held - self.limit
        if spare:
            missing += min(spare, self.limit - 1)
        if now >= self.foreign_until:
            return now if missing < 0 else self._opens(missing, now)
        shared = self._opens(missing + self.foreign, now)
        return min(shared, max(self.foreign_until, self._opens(missing, now)))

    def _opens(self, missing: int, now: float) -> float:
        if missing < 0:
            return now
        index = self.head + missing
        return self.ends[index] if index < len(self.ends) else math.inf

    def take(self, now: float, end: float) -> float:
        """Hold one more slot until *end*; return for how long it had been free, inf if ever."""
        ends = self.ends
        index = len(ends) - self.limit
        rested = now - ends[index] if index >= 0 else math.inf
        if not ends or end >= ends[-1]:
            ends.append(end)
        else:
            insort(ends, end, self.head)
        return rested

    def move(self, end: float, to: float) -> None:
        """Hold the slot that is held until *end* until *to* instead."""
        ends, head = self.ends, self.head
        if len(ends) > head and ends[-1] == end:
            ends.pop()
        else:
            self.release(end)
        if not ends or to >= ends[-1]:
            ends.append(to)
        else:
            insort(ends, to, head)

    def follow(self, other: Window, now: float) -> None:
        """Hold slots for the calls that *other* remembers; those in flight arrive by *now*."""
        arrivals = (min(end - other.period, now) for end in other.ends)
        self.ends = [at + self.period for at in arrivals if at + self.period > now]

    def release(self, end: float) -> None:
        """Free the slot that is held until *end*, unless it is over already."""
        ends = self.ends
        index = bisect_left(ends, end, self.head)
        if index < len(ends) and ends[index] == end:
            del ends[index]

    def held_since(self, instant: float) -> int:
        """Slots that were in use at *instant*, of late, or have been taken since."""
        return len(self.ends) - bisect_right(self.ends, instant)

    def nth_free_at(self, nth: int, now: float, lag: float) -> float:
        """When the *nth* of as many calls could take a slot; *nth* is at most the limit.

        *lag* is for how many seconds a slot is expected to be held beyond its period.
        """
        held = self.held(now)
        missing = nth - 1 + held - self.limit
        if now < self.foreign_until:
            missing += self.foreign
        if missing < 0:
            return now
        end = self.ends[self.head + missing] if missing < held else self.foreign_until
        return min(end, now + self.period + lag)
