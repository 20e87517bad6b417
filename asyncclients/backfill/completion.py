"""Run work to its end before a cancellation is raised.

A thread cannot be cancelled. If its caller continued while the thread still writes, both would
write to the same file, or the caller would open a file that the thread has not closed yet.
`asyncio.run` cancels every task at its end, internal ones too, so threads are awaited as
futures, which `asyncio.run` does not cancel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Outcome(NamedTuple):
    """The result of a function, or the exception that it raised."""

    result: Any = None
    error: BaseException | None = None


def outcome_of(work: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call *work*; return an exception instead of raising it.

    A future cannot hold every exception: in Python 3.11 a `StopIteration` never reaches the
    waiter, and a `GeneratorExit` ends the waiter without running its cleanup.
    """
    try:
        return Outcome(work(*arguments))
    except BaseException as error:  # noqa: BLE001 - the waiter decides
        return Outcome(error=error)


async def in_thread(work: Callable[..., T], *arguments: Any, executor: Executor | None = None) -> T:
    """Return the result of *work*, run in a thread; a cancellation is raised after its end."""
    loop = asyncio.get_running_loop()
    outcome = await finish_before_cancel(
        loop.run_in_executor(executor, outcome_of, work, *arguments)
    )
    if outcome.error is not None:
        raise outcome.error
    result: T = outcome.result
    return result


async def finish_before_cancel(work: Awaitable[T]) -> T:
    """Return the result of *work*; a cancellation is raised after its end."""
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
        future.exception()  # avoids asyncio's warning: the cancellation is raised instead
    raise cancelled
