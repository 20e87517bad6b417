"""What must not be left half done: a cancellation waits until it is over.

A thread cannot be cancelled. Who goes on while it still writes would write beside it,
or open again what it has not closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def completed(work: Awaitable[T]) -> T:
    """The result of *work*; a cancellation meanwhile is raised once that is over."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    if not future.cancelled():
        future.exception()  # the cancellation is what is raised
    raise cancelled
