"""Virtual time: the running loop's clock jumps to its next timer.

The clock jumps only when nothing else can happen: no callback is ready, no
socket is readable, no thread of the loop is running. So real sockets work, as
long as both ends live in this loop. A server in another process is slower than
a clock that does not wait, so its responses time out.

The clock continues from the loop's time and never goes back.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

_T = TypeVar("_T")
_POLLS = 3
"""Polls of the sockets before a jump: the kernel may need a moment to deliver bytes."""
_THREAD_WAIT = 1.0
"""Real seconds to wait for a thread before the clock jumps without it."""


class VirtualClock:
    """The virtual clock of one loop.

    Args:
        loop: an event loop of asyncio itself.
        start: its first time, in seconds. None is the loop's time, rounded up to a whole
            second, so that sums of short waits are the same in every run.
        tick: seconds by which the clock advances with each turn of the loop. Code that waits
            for an instant and then misses it by rounding would otherwise never finish.

    Raises:
        RuntimeError: *loop* has no selector.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, start: float | None = None, tick: float = 0.0
    ) -> None:
        selector: Any = getattr(loop, "_selector", None)
        if selector is None:
            raise RuntimeError(f"virtual time needs asyncio's own event loop, not {type(loop)}")
        self._began = self._now = float(math.ceil(loop.time())) if start is None else start
        self._tick = tick
        self._threads = 0
        self._loop, self._selector = loop, selector
        self._real_time: Callable[[], float] = loop.time
        self._real_select: Callable[[float | None], list[Any]] = selector.select
        self._real_thread: Callable[..., asyncio.Future[Any]] = loop.run_in_executor
        self._real_shutdown: Callable[[], Coroutine[Any, Any, None]] = (
            loop.shutdown_default_executor
        )

    @property
    def elapsed(self) -> float:
        """Virtual seconds since time became virtual."""
        return self._now - self._began

    def start(self) -> None:
        """Replace the loop's clock."""
        vars(self._loop)["time"] = lambda: self._now
        vars(self._loop)["run_in_executor"] = self._run_in_executor
        vars(self._loop)["shutdown_default_executor"] = self._shut_executor_down
        vars(self._selector)["select"] = self._select

    def stop(self) -> None:
        """Return to real time, which continues from the virtual time that was reached."""
        ahead = self._now - self._real_time()
        real = self._real_time
        vars(self._loop)["time"] = lambda: real() + ahead
        del vars(self._loop)["run_in_executor"]
        del vars(self._loop)["shutdown_default_executor"]
        del vars(self._selector)["select"]

    def _select(self, timeout: float | None) -> list[Any]:
        self._now += self._tick
        for _ in range(_POLLS):
            if ready := self._real_select(0):
                return ready
            if timeout == 0:
                return ready
            time.sleep(0)
        if timeout is None:
            return self._real_select(None)
        if self._threads and (ready := self._real_select(_THREAD_WAIT)):
            return ready
        self._now += timeout
        return []

    def _run_in_executor(
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self._real_thread(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _shut_executor_down(self, _timeout: float | None = None) -> Coroutine[Any, Any, None]:
        """Wait for the executor's threads without a limit, which would be in virtual seconds."""
        return self._real_shutdown()

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1


@contextmanager
def virtual_time() -> Generator[VirtualClock]:
    """Make the running loop's time virtual inside the block.

    Raises:
        RuntimeError: there is no running loop, or it is not asyncio's own.
    """
    clock = VirtualClock(asyncio.get_running_loop())
    clock.start()
    try:
        yield clock
    finally:
        clock.stop()


def virtual_loop(*, tick: float = 0.0) -> asyncio.AbstractEventLoop:
    """Return a new event loop whose time is virtual and starts at second 0."""
    loop = asyncio.new_event_loop()
    VirtualClock(loop, start=0.0, tick=tick).start()
    return loop


def run_virtual(main: Coroutine[Any, Any, _T], *, tick: float = 0.0) -> _T:
    """Run *main* like `asyncio.run`, in virtual time from second 0."""
    with asyncio.Runner(loop_factory=lambda: virtual_loop(tick=tick)) as runner:
        return runner.run(main)
