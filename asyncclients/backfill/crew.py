"""Many deliveries at the same time, and how they end together.

On the first error, or when cancelled, nothing more is sent; calls that are on
the wire may finish, within a grace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from asyncclients.backfill.delivery import Delivery

GRACE = 30.0
"""Seconds that an interrupted run gives calls on the wire to end."""


async def together(
    work: Sequence[Coroutine[Any, Any, None]], delivery: Delivery, stop: Callable[[], None]
) -> None:
    """Do all of *work*, which calls *delivery*; *stop* ends the rows that it is fed."""
    tasks = [asyncio.create_task(_aboard(each, delivery)) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await _land([task for task in tasks if not task.done()], delivery, stop)
        for each in work:
            each.close()  # one that was cancelled before it began
        errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors:
        raise errors[0]


async def _aboard(work: Coroutine[Any, Any, None], delivery: Delivery) -> None:
    with delivery.aboard():
        await work


async def _land(
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
        await asyncio.gather(*running, return_exceptions=True)
