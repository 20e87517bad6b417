"""The part of an event loop that a scheduler needs, in virtual time.

A scheduler reads the clock, sets timers and waits for futures, but never for a socket. A
heap of timers and a queue of callbacks are enough.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from heapq import heappop, heappush
from types import coroutine
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class SimulatedLoop:
    """An event loop that starts at second 0 and jumps from timer to timer.

    Timers fire in the order of their instants; timers of the same instant in the order in
    which they were set. Contexts are ignored, and callbacks of `call_soon` cannot be cancelled.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._order = 0
        self._ready = deque[partial[object]]()
        self._timers: list[tuple[float, int, _Timer]] = []

    def run(self, seconds: float) -> None:
        """Run until second *seconds*, or until nothing is left to do."""
        while True:
            while self._ready:
                self._ready.popleft()()
            if not self._timers or self._timers[0][0] > seconds:
                return
            self._now, _, timer = heappop(self._timers)
            if timer.callback is not None:
                timer.callback()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* up to its first `await` at once, and resume it when that is over."""
        try:
            awaited: asyncio.Future[Any] | float = work.send(None)
        except StopIteration:
            return
        if isinstance(awaited, asyncio.Future):
            awaited.add_done_callback(lambda _: self.start(work))
        else:
            self.call_at(awaited, self.start, work)

    @coroutine
    def sleep_until(self, at: float) -> Generator[float]:
        """Wait for second *at*, in work that this loop runs."""
        yield at

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

    def call_soon(self, callback: Callable[..., object], *args: Any, **_context: Any) -> None:
        """Call *callback* before time advances."""
        self._ready.append(partial(callback, *args))

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> _Timer:
        """Call *callback* at second *when*."""
        timer = _Timer(partial(callback, *args))
        self._order += 1
        heappush(self._timers, (max(when, self._now), self._order, timer))
        return timer
