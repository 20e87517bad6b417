"""Virtual time: the running loop's clock jumps to its next timer.

The clock jumps only when nothing else can happen: no callback is ready, no
socket is readable, no thread of the loop is at work. So real sockets work, as
long as both ends live in this loop; another process is too slow for a clock
that does not wait, and its answers time out.

The clock goes on from where the loop's clock was, and never goes back.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_POLLS = 3
"""Looks at the sockets before a jump: the kernel may need a moment to hand bytes over."""
_PATIENCE = 1.0
"""Real seconds to wait for a thread before time goes on without it."""


class VirtualClock:
    """The clock of one loop, and the places where the loop is told the time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        selector: Any = getattr(loop, "_selector", None)
        if selector is None:
            raise RuntimeError(f"virtual time needs asyncio's own event loop, not {type(loop)}")
        # A whole second: sums of short waits are then alike in every run.
        self._began = self._now = float(math.ceil(loop.time()))
        self._threads = 0
        self._loop, self._selector = loop, selector
        self._real_time: Callable[[], float] = loop.time
        self._real_select: Callable[[float | None], list[Any]] = selector.select
        self._real_thread: Callable[..., asyncio.Future[Any]] = loop.run_in_executor

    @property
    def elapsed(self) -> float:
        """Virtual seconds since time became virtual."""
        return self._now - self._began

    def start(self) -> None:
        """Take the place of the loop's clock."""
        vars(self._loop)["time"] = lambda: self._now
        vars(self._loop)["run_in_executor"] = self._run_in_executor
        vars(self._selector)["select"] = self._select

    def stop(self) -> None:
        """Let time be real again, from the instant that virtual time has reached."""
        ahead = self._now - self._real_time()
        real = self._real_time
        vars(self._loop)["time"] = lambda: real() + ahead
        del vars(self._loop)["run_in_executor"]
        del vars(self._selector)["select"]

    def _select(self, timeout: float | None) -> list[Any]:
        for _ in range(_POLLS):
            if ready := self._real_select(0):
                return ready
            if timeout == 0:
                return ready
            time.sleep(0)
        if timeout is None:
            return self._real_select(None)
        if self._threads and (ready := self._real_select(_PATIENCE)):
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

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1


@contextmanager
def virtual_time() -> Generator[VirtualClock]:
    """Make the running loop's time virtual inside the block.

    Raises:
        RuntimeError: outside a running loop, or in one that is not asyncio's own.
    """
    clock = VirtualClock(asyncio.get_running_loop())
    clock.start()
    try:
        yield clock
    finally:
        clock.stop()
