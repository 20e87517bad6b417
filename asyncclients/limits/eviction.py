"""When idle scopes are looked for: one timer for all scopes of a pool or of a middleware."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SHORTEST, _LONGEST = 0.05, 30.0
"""Seconds between two sweeps."""


class Eviction:
    """Calls *sweep* twice in the shortest period, for as long as it returns True.

    Args:
        loop: the event loop of the timer.
        sweep: evicts the scopes that are idle at the given loop instant; returns whether
            any are left.
    """

    __slots__ = ("_due_at", "_every", "_loop", "_sweep", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, sweep: Callable[[float], bool]) -> None:
        self._loop, self._sweep = loop, sweep
        self._every = _LONGEST
        self._due_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, period: float) -> None:
        """Start the timer, unless it runs: there is a scope whose longest period is *period*."""
        self._every = min(self._every, max(_SHORTEST, period / 2))
        if self._due_at > self._loop.time() + self._every:
            self._start()

    def _start(self) -> None:
        self.stop()
        self._due_at = self._loop.time() + self._every
        self._timer = self._loop.call_at(self._due_at, self._run)

    def _run(self) -> None:
        self._timer, self._due_at = None, math.inf
        if self._sweep(self._loop.time()):
            self._start()

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due_at = None, math.inf
