"""The time of attempts: one timer for all that are under way in a scope.

An attempt whose time is over is cancelled, and reads that cancellation as a
timeout, by the rules of `asyncio.timeout`: a cancellation by anyone else passes
on. A timer for each attempt, nearly always cancelled unused, would cost more
than taking its permit does. The attempts are as few as connections; calls that
wait are many, and their deadlines have timers of their own.
"""

from __future__ import annotations

import asyncio
import math

import msgspec


class AttemptTimeouts:
    """Rings for each attempt that is under way when its time is over."""

    __slots__ = ("_closed", "_due", "_rings_at", "_timer")

    def __init__(self) -> None:
        self._due: dict[TimedTask, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._closed = False

    def schedule(self, timed: TimedTask, at: float) -> None:
        """Ring for *timed* at loop instant *at*, instead of any instant set before."""
        self._due[timed] = at
        if at < self._rings_at:
            self._arm(at)

    def cancel(self, timed: TimedTask) -> None:
        """Do not ring for *timed*."""
        # The timer is left alone: it finds nothing due, and is set for the next one then.
        self._due.pop(timed, None)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Leave no timer behind: cancel it as soon as no attempt is under way."""
        self._closed = True
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer, self._rings_at = None, math.inf

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._expire, at)
        self._rings_at = at

    def _expire(self, due_by: float) -> None:
        self._timer, self._rings_at = None, math.inf
        for timed in [timed for timed, at in self._due.items() if at <= due_by]:
            del self._due[timed]
            timed.expire()
        if self._due:
            self._arm(min(self._due.values()))


class TimedTask(msgspec.Struct, eq=False, kw_only=True):
    """What a task does until `over`, or until its time is over.

    Attributes:
        task: the task; None once it is over.
        cancelling: how often others have cancelled it.
        expired: its time was over before it was.
    """

    task: asyncio.Task[object] | None
    cancelling: int = 0
    expired: bool = False

    @property
    def is_running(self) -> bool:
        """Is it not over yet?"""
        return self.task is not None

    def expire(self) -> None:
        """Its time is over: cancel the task, unless it got to the end meanwhile."""
        if self.task is not None and not self.expired:
            self.expired = True
            self.task.cancel()

    def finish(self) -> bool:
        """It is over. True if the task's cancellation, if there is one, was ours alone."""
        task, self.task = self.task, None
        assert task is not None
        return self.expired and task.uncancel() <= self.cancelling
