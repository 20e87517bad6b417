"""The part of an event loop that a scheduler needs, in virtual time.

A scheduler reads the clock, sets timers and waits for futures, but never for a socket. A
heap of timers and a queue of callbacks are enough.
"""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVarTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context


_Ts = TypeVarTuple("_Ts")


class _Timer(asyncio.TimerHandle):
    """A callback with its arguments."""

    __slots__ = ("args", "callback", "is_cancelled")
    __repr__ = object.__repr__

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback, self.args, self.is_cancelled = callback, args, False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class SimulatedLoop:
    """An event loop that starts at second 0 and jumps from timer to timer.

    Timers fire in the order of their instants; timers of the same instant in the order in
    which they were set. Contexts are ignored.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._order = 0
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []

    def run(self, seconds: float) -> None:
        """Run until second *seconds*, or until nothing is left to do."""
        while True:
            while self._ready:
                callback, args = self._ready.popleft()
                callback(*args)
            if not self._timers or self._timers[0][0] > seconds:
                return
            self._now, _, timer = heappop(self._timers)
            if not timer.cancelled():
                timer.callback(*timer.args)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* up to its first future at once, and resume it when that is done."""
        try:
            future: asyncio.Future[Any] = work.send(None)
        except StopIteration:
            return
        future.add_done_callback(lambda _: self.start(work))

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        """This loop, typed for code that asks for a complete event loop."""
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def get_debug(self) -> bool:
        """Always False."""
        return False

    def create_future(self) -> asyncio.Future[Any]:
        """A future whose callbacks run on this loop."""
        return asyncio.Future(loop=self.as_loop)

    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,  # noqa: ARG002
    ) -> asyncio.Handle:
        """Call *callback* before time advances. It cannot be cancelled."""
        self._ready.append((callback, args))
        return _Timer(callback, args)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,  # noqa: ARG002
    ) -> asyncio.TimerHandle:
        """Call *callback* at second *when*."""
        timer = _Timer(callback, args)
        self._order += 1
        heappush(self._timers, (max(when, self._now), self._order, timer))
        return timer
