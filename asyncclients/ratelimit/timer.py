"""One timer that does not depend on the kind of event loop.

Loops differ in the handle that `call_at` returns and in when they call back.
uvloop counts whole milliseconds: it calls back up to half of one early by its own
clock, and for a timer due sooner than that it returns a plain `Handle`, which has no
`when()` (MagicStack/uvloop#482). So the due time is kept here, nothing but
`cancel()` is used of a handle, and a timer that fires early is set again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

TICK = max(1e-3, time.get_clock_info("monotonic").resolution)
"""Seconds. The coarsest clock of the known event loops: they may call back early by less."""

_ROUNDING = 1e-9
"""Seconds. Arithmetic alone may put this much between two equal instants."""


class Timer:
    """Calls *callback* when *loop* reaches the instant that was set, and not before.

    Attributes:
        due_at: the instant that is set; inf when none is.
    """

    __slots__ = ("_callback", "_handle", "_loop", "due_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self._loop, self._callback = loop, callback
        self._handle: asyncio.Handle | None = None
        self.due_at = math.inf

    def set(self, at: float) -> None:
        """Call back at *at*, unless an earlier instant is set. Infinity sets nothing."""
        if at < self.due_at:
            self.cancel()
            self.due_at = at
            self._handle = self._loop.call_at(at, self._fire)

    def cancel(self) -> None:
        """Forget the instant that is set."""
        self.due_at = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        now = self._loop.time()
        if now < self.due_at - _ROUNDING:
            # Not at the same instant again: a loop that rounds that delay to zero would call
            # back in each of its turns until its clock moves.
            self._handle = self._loop.call_at(max(self.due_at, now + TICK), self._fire)
            return
        self._handle, self.due_at = None, math.inf
        self._callback()


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
