"""The clock of a simulation: virtual, with occasional jumps.

Both ends of each socket are in this process, where the kernel delivers bytes at once: one poll
finds all that have arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, Self

from asyncclients.testing.clock import VirtualClock

_BEGIN: Final = 1_000_000.0


class Clock(VirtualClock):
    """A virtual clock that starts at the same instant in every run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._began = self._now = _BEGIN

    @classmethod
    @contextmanager
    def in_place(cls) -> Generator[Self]:
        """Serve the running loop inside the block."""
        clock = cls(asyncio.get_running_loop())
        clock.start()
        try:
            yield clock
        finally:
            clock.stop()

    def jump(self, seconds: float) -> None:
        """Stand still for *seconds*, as when the machine pauses: all that was due is late."""
        self._now += seconds

    def _select(self, timeout: float | None) -> list[Any]:
        ready = self._real_select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return self._real_select(None)
        self._now += timeout
        return []
