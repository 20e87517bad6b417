"""Interrupts a coroutine at each of its suspension points, one run after another.

A suspension point is where the task gives the loop a turn. `Steps` counts them and,
at the one it is told, does something to the task: cancels it, lets the time of an
outer timeout be over, or has a sibling in a task group fail.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final


class Steps:
    """*work*, with its suspension points counted; at the *at*-th, *strike* is called."""

    def __init__(
        self, work: Coroutine[Any, Any, Any], at: int = 0, strike: Callable[[], Any] | None = None
    ) -> None:
        self._work, self._at, self._strike = work, at, strike
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = self._next
        while True:
            try:
                waits_for = resume()
            except StopIteration as done:
                return done.value
            self.count += 1
            if self.count == self._at and self._strike is not None:
                self._strike()
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - re-raised unchanged
                resume = self._throwing(thrown)
            else:
                resume = self._next

    def _next(self) -> Any:
        return self._work.send(None)

    def _throwing(self, thrown: BaseException) -> Callable[[], Any]:
        return lambda: self._work.throw(thrown)


class SiblingError(Exception):
    """The failure of a task beside the call."""


Interruption = Callable[[Coroutine[Any, Any, Any], int], Coroutine[Any, Any, bool]]
"""Run a coroutine and interrupt it at the given point; return False if it has fewer points."""


async def cancelled(work: Coroutine[Any, Any, Any], at: int) -> bool:
    """Cancel the task itself, which must then end as cancelled."""
    task: asyncio.Task[Any]
    steps = Steps(work, at, lambda: task.cancel())  # noqa: PLW0108 - there is no task yet
    task = asyncio.create_task(_run(steps))
    await asyncio.wait([task])
    struck = steps.count >= at
    assert task.cancelled() is struck
    if not struck:
        task.result()
    return struck


async def timed_out(work: Coroutine[Any, Any, Any], at: int) -> bool:
    """Let a timeout around it expire."""
    now = asyncio.get_running_loop().time()
    limit = asyncio.timeout(None)
    steps = Steps(work, at, lambda: limit.reschedule(now))
    try:
        async with limit:
            await steps
    except TimeoutError as over:
        # The library's errors are timeouts as well: only the one around it counts.
        if type(over) is not TimeoutError or steps.count < at:
            raise
    return steps.count >= at


async def beside_a_failure(work: Coroutine[Any, Any, Any], at: int) -> bool:
    """Have a sibling in the same task group fail."""
    event = asyncio.Event()
    steps = Steps(work, at, event.set)

    async def fails() -> None:
        await event.wait()
        raise SiblingError

    async def works() -> None:
        await steps
        event.set()

    with contextlib.suppress(SiblingError):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(works())
        except ExceptionGroup as failed:
            (failure,) = failed.exceptions
            raise failure from None
    return steps.count >= at


async def _run(steps: Steps) -> Any:
    return await steps


INTERRUPTIONS: Final[tuple[Interruption, ...]] = (cancelled, timed_out, beside_a_failure)
