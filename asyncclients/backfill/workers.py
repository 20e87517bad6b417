"""Many deliveries at the same time, and how they end together.

On the first error, or when cancelled, nothing more is sent; calls that are on
the wire may finish, within a grace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from asyncclients.backfill.delivery import Delivery
from asyncclients.core.events import logger

T = TypeVar("T")

GRACE = 30.0
"""Seconds that an interrupted run gives calls on the wire to end."""
_CANCEL_GRACE = 5.0
"""Seconds that a cancelled call has to end: one that ignores its cancellation is left behind."""


async def run_workers(
    work: Sequence[Coroutine[Any, Any, None]], delivery: Delivery, stop: Callable[[], None]
) -> None:
    """Do all of *work*, which calls *delivery*; *stop* ends the rows that it is fed."""
    tasks = [asyncio.create_task(_tracked(each, delivery)) for each in work]
    ended = _Ended(tasks)
    try:
        await ended.over
    finally:
        await _drain([task for task in tasks if not task.done()], delivery, stop)
        for each, task in zip(work, tasks, strict=True):
            if task.done():
                each.close()  # one that was cancelled before it began
    if ended.error is not None:
        raise ended.error


class _Ended:
    """How *tasks* end: *over* is done when all have, or the first one raised or was cancelled.

    `asyncio.wait(return_when=FIRST_EXCEPTION)` does not count a task that is cancelled.
    """

    def __init__(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: BaseException | None = None
        self._left = len(tasks)
        for task in tasks:
            task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[Any]) -> None:
        self._left -= 1
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        # A cancellation that comes from landing is no reason to end.
        if self.error is None and not (self.over.done() and task.cancelled()):
            self.error = error
        if (error is not None or not self._left) and not self.over.done():
            self.over.set_result(None)


async def _tracked(work: Coroutine[Any, Any, None], delivery: Delivery) -> None:
    with delivery.tracked():
        await work


async def _drain(
    running: list[asyncio.Task[None]], delivery: Delivery, stop: Callable[[], None]
) -> None:
    """End the *running* tasks: those with a call on the wire may finish it."""
    if not running:
        return
    stop()
    delivery.stopping = True
    flights = delivery.flights
    for task in running:
        if task not in flights or not flights[task].sent:
            task.cancel()
    try:
        await asyncio.wait(running, timeout=GRACE)
    finally:
        for task in running:
            task.cancel()
        _, left = await asyncio.wait(running, timeout=_CANCEL_GRACE)
        if left:
            logger.warning(
                "%d calls ignore their cancellation and are left behind; their rows are unknown",
                len(left),
            )


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of *work*, done at the same time; on the first error the rest ends."""
    tasks = [asyncio.create_task(each) for each in work]
    ended = _Ended(tasks)
    try:
        await ended.over
        if ended.error is not None:
            raise ended.error
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
