"""The window log of one quota: which slots are held, and until when.

A slot is held from the send until *arrival bound + period*. While the call is
in flight with no bound yet, the slot is *open*: held with no end in sight.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncclients.core.quota import Quota

_TRIM = 256
"""Dead entries kept at the head of the list before they are cut off at once."""


class Window:
    """The slots of one quota. `ends` is sorted; entries before `head` are over."""

    __slots__ = ("ends", "head", "limit", "opened", "period")

    def __init__(self, quota: Quota) -> None:
        self.limit = quota.limit
        self.period = quota.period
        self.opened = 0
        self.ends: list[float] = []
        self.head = 0

    def held(self, now: float) -> int:
        """Slots in use at *now*."""
        ends, head = self.ends, self.head
        while head < len(ends) and ends[head] <= now:
            head += 1
        if head > _TRIM:
            del ends[:head]
            head = 0
        self.head = head
        return self.opened + len(ends) - head

    def free_at(self, now: float, spare: int) -> float:
        """When a slot can be taken that leaves *spare* others; inf if only an answer can free it."""
        missing = self.held(now) + spare - self.limit
        if missing < 0:
            return now
        index = self.head + missing
        return self.ends[index] if index < len(self.ends) else math.inf

    def hold_until(self, end: float) -> None:
        """Hold one slot until *end*."""
        insort(self.ends, end, self.head)

    def drop(self, end: float) -> None:
        """Free the slot that was held until *end*, if it still is."""
        index = bisect_left(self.ends, end, self.head)
        if index < len(self.ends) and self.ends[index] == end:
            del self.ends[index]
