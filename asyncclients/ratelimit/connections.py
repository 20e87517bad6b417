"""The bound that all scopes of a pool share: how many requests are in flight."""

from __future__ import annotations

import math
from collections.abc import Callable


class InFlightLimit:
    """How many requests the whole pool may have in flight, over all scopes.

    Attributes:
        in_use: how many it has.
        limit: how many it may have.
        blocked: the pumps of the scopes that were told that it is full.
    """

    __slots__ = ("blocked", "in_use", "limit")

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.in_use = 0
        self.blocked: dict[Callable[[], None], None] = {}

    def full(self, pump: Callable[[], None]) -> bool:
        """Is there no room? If so, *pump* is called when there is."""
        if self.in_use < self.limit:
            return False
        self.blocked[pump] = None
        return True

    def wake(self) -> None:
        """A request is over: let those in who were told that it was full."""
        # They may not want it any more: ask on.
        while self.blocked and self.in_use < self.limit:
            pump = next(iter(self.blocked))
            del self.blocked[pump]
            pump()
