"""Work that must not be left half done: a cancellation waits until it is over.

A thread cannot be cancelled: code that went on while it still writes would write beside
it, or open again a file that it has not closed. `asyncio.run` cancels every task at its
end, internal ones too, so threads are waited for as futures, which nobody else cancels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Outcome(NamedTuple):
    """What came of work in a thread: a result, or what it raised."""

    result: Any = None
    error: BaseException | None = None


def outcome_of(work: Callable[..., Any], *arguments: Any) -> Outcome:
    """Do *work*; an exception is returned.

    In a future, `StopIteration` would never be seen in Python 3.11, and `GeneratorExit` would
    end whoever awaits it without letting it clean up.
    """
    try:
        return Outcome(work(*arguments))
    except BaseException as error:  # noqa: BLE001 - the waiter decides
        return Outcome(error=error)


async def in_thread(work: Callable[..., T], *arguments: Any, executor: Executor | None = None) -> T:
    """Return the result of *work*, done in a thread, or raise what it raised.

    A cancellation meanwhile is raised once the thread is done.
    """
    loop = asyncio.get_running_loop()
    outcome = await finish_before_cancel(
        loop.run_in_executor(executor, outcome_of, work, *arguments)
    )
    if outcome.error is not None:
        raise outcome.error
    result: T = outcome.result
    return result


async def finish_before_cancel(work: Awaitable[T]) -> T:
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
