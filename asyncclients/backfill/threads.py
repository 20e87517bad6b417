"""Run blocking code in threads, and let it finish before a cancellation is raised.

A thread cannot be cancelled. If its caller continued while the thread still writes, both would
write to the same file, or the caller would open a file that the thread has not closed yet.
`asyncio.run` cancels every task at its end, internal ones too, so threads are awaited as
futures, which `asyncio.run` does not cancel.

An iterable that may block, such as a generator that reads a database, runs in one thread from
its first row to its close, because files and connections often belong to the thread that opened
them. The thread reads some rows ahead; rows that are ready are returned even while the next one
blocks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from concurrent.futures import Executor, Future
from inspect import isgenerator
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from asyncclients.core.events import logger
from asyncclients.errors import error_text

T = TypeVar("T")
P = ParamSpec("P")

_READ_AHEAD = 256
"""Maximum number of rows read ahead."""
_POLL = 0.02
"""Seconds after which a partial chunk is returned."""
_CLOSE_GRACE = 5.0
"""Seconds that closing waits for a blocked iterator."""
_IN_MEMORY = (list, tuple, range, set, frozenset, dict, deque, str, bytes)


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


# --- Iterables that may block -----------------------------------------------------------------


async def iterate(rows: Iterable[T]) -> AsyncGenerator[T]:
    """Yield each of *rows*; read them in another thread unless they are in memory."""
    if isinstance(rows, _IN_MEMORY):
        for row in cast("Iterable[T]", rows):
            yield row
        return
    reader = _Reader(rows)
    try:
        while chunk := await reader.chunk():
            for row in chunk:
                yield row
    finally:
        await reader.aclose()


class _Reader:
    """Reads *rows* in a thread, a chunk at a time."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._source = rows
        self._rows: Iterable[Any] | None = None
        self._ready: deque[Any] = deque()
        self._thread = _DaemonThread("asyncclients-source")
        self._reading: asyncio.Future[Any] | None = None

    async def chunk(self) -> list[Any]:
        """Return the next rows; an empty list at the end."""
        while True:
            if self._reading is None:
                self._reading = self._run(self._read)
            await asyncio.wait([self._reading], timeout=_POLL)
            ended = self._reading.done()
            if self._ready:
                return [self._ready.popleft() for _ in range(len(self._ready))]
            if ended:
                outcome, self._reading = self._reading.result(), None
                if outcome.error is not None:
                    raise outcome.error
                if not outcome.result:
                    return []

    def _read(self) -> int:
        """Read some rows; return their number."""
        if self._rows is None:
            self._rows = iter(self._source)
        count = 0
        for row in islice(self._rows, _READ_AHEAD):
            self._ready.append(row)
            count += 1
        return count

    async def aclose(self) -> None:
        """Close the generator in its thread; abandon it if it stays blocked."""
        closing = self._run(self._close)
        self._thread.shutdown()
        ended, _ = await asyncio.wait([closing], timeout=_CLOSE_GRACE)
        if not ended:
            logger.warning(
                "the iterable of rows is still blocked after %.0f s: its thread is abandoned",
                _CLOSE_GRACE,
            )
        elif (error := closing.result().error) is not None:
            logger.warning("closing the iterable of rows failed: %s", error_text(error))

    def _close(self) -> None:
        if isgenerator(self._source):
            self._source.close()

    def _run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._thread, outcome_of, work)


class _DaemonThread(Executor):
    """One daemon thread, which does not delay the end of the process. Work must not raise."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._do, name=name, daemon=True).start()

    def _do(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(fn(*args, **kwargs))

        self._work.put(work)
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as in `Executor`
        """End the thread after the work submitted so far."""
        self._work.put(None)
