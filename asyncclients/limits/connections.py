"""The bound that all scopes of a pool share: how many requests are in flight."""

from __future__ import annotations

import math
from collections.abc import Callable


class Connections:
    """How many requests the whole pool may have in flight, over all scopes."""

    __slots__ = ("_blocked", "in_use", "limit")

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.in_use = 0
        self._blocked: dict[Callable[[], None], None] = {}

    def full(self, pump: Callable[[], None]) -> bool:
        """Is there no room? If so, *pump* is called when there is."""
        if self.in_use < self.limit:
            return False
        self._blocked[pump] = None
        return True

    def release(self) -> None:
        """One request is over."""
        self.in_use -= 1
        # Those who were told that it was full may not want it any more: ask on.
        while self._blocked and self.in_use < self.limit:
            pump = next(iter(self._blocked))
            del self._blocked[pump]
            pump()
