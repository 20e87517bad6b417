"""An event loop whose clock jumps: an hour of waiting passes in no time.

For asyncio code that waits for timers and for itself, never for a socket of
another process: where nothing is ready, time jumps to the next timer, exactly.
Where nothing is scheduled either, the program would wait for ever, and that is
raised as an error.

A *tick* lets the clock creep at each turn of the loop. Code that waits for an
instant, wakes, and then finds that it lacks the last bit of it by rounding
(aiolimiter's own waiting does) would otherwise turn for ever at one instant.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never sleeps: asks what is ready, else tells its loop to jump."""

    loop: VirtualClockLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self.loop.jump(timeout)
        self.loop.now += self.loop.tick
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop that starts at second 0 and never sleeps."""

    def __init__(self, tick: float = 0.0) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.now = 0.0
        self.tick = tick
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def jump(self, seconds: float | None) -> None:
        """Move the clock on to the next timer, which is due in *seconds*; None is never."""
        if seconds is None:
            raise RuntimeError("nothing is ready and nothing is scheduled: this would never end")
        self.now += seconds

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002
        func: Callable[..., _T],
        *args: Any,
    ) -> asyncio.Future[_T]:
        """Run *func* here and now: a thread would take real time."""
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  (it is the awaiting task's)
            future.set_exception(error)
        return future


def run_virtual(main: Coroutine[Any, Any, _T], *, tick: float = 0.0) -> _T:
    """Run *main* on a `VirtualClockLoop`, as `asyncio.run` would."""
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(tick)) as runner:
        return runner.run(main)
