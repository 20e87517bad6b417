"""When idle scopes are looked for: one timer for all scopes of a pool or of a middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncclients.ratelimit.timer import Timer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_SHORTEST, _LONGEST = 0.05, 30.0
"""Seconds between two sweeps."""


class IdleSweep:
    """Calls *sweep* twice in the shortest period, for as long as it returns True.

    Args:
        loop: the event loop of the timer.
        sweep: evicts the scopes that are idle at the given loop instant; returns whether
            any are left.
    """

    __slots__ = ("_every", "_loop", "_sweep", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, sweep: Callable[[float], bool]) -> None:
        self._loop, self._sweep = loop, sweep
        self._every = _LONGEST
        self._timer = Timer(loop, self._run)

    def watch(self, period: float) -> None:
        """Start the timer, unless it runs: there is a scope whose longest period is *period*."""
        self._every = min(self._every, max(_SHORTEST, period / 2))
        self._timer.set(self._loop.time() + self._every)

    def _run(self) -> None:
        now = self._loop.time()
        if self._sweep(now):
            self._timer.set(now + self._every)

    def stop(self) -> None:
        """Cancel the timer."""
        self._timer.cancel()
