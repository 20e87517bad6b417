"""Timers that work the same on every event loop.

Loops differ in the handle that `call_at` returns and in when they call back. uvloop calls back
up to half a millisecond early, and for a timer due sooner than that it returns a plain `Handle`
without `when()` (MagicStack/uvloop#482). So `Timer` keeps the due time itself, uses only
`cancel()` of a handle, and sets a timer that fires early again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

_RESOLUTION = time.get_clock_info("monotonic").resolution
TICK = max(1e-3, _RESOLUTION)
"""Seconds. Loops call back early by less than this, the coarsest clock among them."""
CLOCK_STEP = _RESOLUTION if _RESOLUTION >= 1e-3 else 0.0
"""Seconds by which an instant may be read too early: 1/64 with Python 3.11 and 3.12 on Windows."""

_ROUNDING = 1e-9
"""Seconds. Equal instants may differ by this much after arithmetic."""
_MIN_SWEEP_INTERVAL, _MAX_SWEEP_INTERVAL = 0.05, 30.0
"""Seconds between two sweeps for idle scopes."""

_ahead_of: WeakKeyDictionary[asyncio.AbstractEventLoop, float] = WeakKeyDictionary()
"""Seconds by which the monotonic clock was ahead of each loop when it was first asked for."""


def system_time(at: float) -> float:
    """Return the seconds since 1970 of the instant *at* of a loop that runs in real time."""
    return at + time.time() - time.monotonic()


def wall_clock(loop: asyncio.AbstractEventLoop) -> Callable[[float], float]:
    """Return the function that gives the seconds since 1970 of an instant of *loop*.

    It follows the system's clock where that is set, and the loop where its time is virtual.
    """
    ahead = _ahead_of.setdefault(loop, time.monotonic() - loop.time())
    return lambda at: system_time(at + ahead)


class Timer:
    """Calls *callback* when *loop* reaches `due_at`, and not before; inf if no instant is set."""

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
            # At least a tick later: a loop that rounds a short delay to zero would call back
            # in every iteration until its clock moves.
            self._handle = self._loop.call_at(max(self.due_at, now + TICK), self._fire)
            return
        self._handle, self.due_at = None, math.inf
        self._callback()


class IdleSweep:
    """Calls *sweep* twice per shortest period of the watched scopes, while it returns True.

    *sweep* evicts the scopes that are idle at the given loop instant.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sweep: Callable[[float], bool]) -> None:
        self._loop, self._sweep = loop, sweep
        self._interval = _MAX_SWEEP_INTERVAL
        self._timer = Timer(loop, self._run)

    def watch(self, period: float) -> None:
        """Start the timer unless it runs; *period* is the new scope's longest, in seconds."""
        self._interval = min(self._interval, max(_MIN_SWEEP_INTERVAL, period / 2))
        self._timer.set(self._loop.time() + self._interval)

    def _run(self) -> None:
        now = self._loop.time()
        if self._sweep(now):
            self._timer.set(now + self._interval)

    def stop(self) -> None:
        """Cancel the timer."""
        self._timer.cancel()
