"""Blocking iterables are read in one thread beside the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from asyncclients.backfill import pull, push
from asyncclients.backfill.files.source import iterate
from asyncclients.paging import Page

MAKES: list[Callable[[range], Iterable[int]]] = [
    lambda rows: [*rows],
    lambda rows: (*rows,),
    set,
    iter,
    lambda rows: (row for row in rows),
    lambda rows: map(int, rows),
]


async def test_push_source_that_blocks_leaves_the_loop_free(tmp_path: Path) -> None:
    """While a generator waits for its next row, the loop runs and the rows before it are sent."""
    released = threading.Event()
    sent: list[int] = []

    def rows() -> Iterator[int]:
        yield 1
        yield 2
        assert released.wait(20)
        yield 3

    async def target(row: int) -> None:
        sent.append(row)
        if sent == [1, 2]:
            released.set()  # the generator would wait for ever if it blocked the loop

    report = await push(rows(), target, state=tmp_path / "s.db", concurrency=1)
    assert report.done == 3
    assert sent == [1, 2, 3]


async def test_pull_source_that_blocks_leaves_the_loop_free(tmp_path: Path) -> None:
    """The pages of a pull may come from a generator that blocks."""
    released = threading.Event()

    def pages() -> Iterator[Page[Any]]:
        yield Page(items=[{"id": "1"}], number=1)
        assert released.wait(20)
        yield Page(items=[{"id": "2"}], number=2, last=True)

    job = asyncio.ensure_future(pull(pages(), tmp_path / "a.jsonl", state=tmp_path / "s.db"))
    asyncio.get_running_loop().call_soon(released.set)
    assert (await job).done == 2


async def test_iterate_uses_one_thread() -> None:
    """A generator is started, read and closed in the same thread, so a database cursor works."""
    threads: set[int] = set()

    def rows() -> Iterator[tuple[int]]:
        database = sqlite3.connect(":memory:")
        try:
            for number in range(1000):
                threads.add(threading.get_ident())
                yield database.execute("SELECT ?", (number,)).fetchone()
        finally:
            database.close()  # raises in another thread
            threads.add(threading.get_ident())

    async with aclosing(iterate(rows())) as found:
        async for (number,) in found:
            if number == 600:
                break
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


async def test_iterate_yields_rows_before_an_error() -> None:
    """Rows before an error are yielded, and a `StopIteration` does not hang."""

    class Rows:
        def __init__(self) -> None:
            self._left = 3

        def __iter__(self) -> Rows:
            return self

        def __next__(self) -> int:
            self._left -= 1
            if self._left < 0:
                raise LookupError("no more")
            return self._left

    rows = iterate(Rows())
    assert [await anext(rows) for _ in range(3)] == [2, 1, 0]
    with pytest.raises(LookupError, match="no more"):
        await anext(rows)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("length", [0, 1, 5000])
async def test_iterate_yields_every_row(
    make: Callable[[range], Iterable[int]], length: int
) -> None:
    """Every row of any kind of iterable is yielded."""
    assert [row async for row in iterate(make(range(length)))] == [*range(length)]


async def test_iterate_of_generator_that_stays_blocked_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator that stays blocked is abandoned when the iteration is closed."""
    monkeypatch.setattr("asyncclients.backfill.files.source._CLOSE_GRACE", 0.05)
    forever: SimpleQueue[int] = SimpleQueue()
    is_blocked = threading.Event()

    def rows() -> Iterator[int]:
        yield 1
        is_blocked.set()
        yield forever.get()

    async with aclosing(iterate(rows())) as found:
        async for _ in found:
            await asyncio.to_thread(is_blocked.wait)
            break
    assert "its thread is abandoned" in caplog.text
    forever.put(1)


async def test_iterate_of_generator_that_cannot_be_closed_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error while the generator is closed is logged and does not replace the result."""

    def rows() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            raise LookupError("not closed")

    async with aclosing(iterate(rows())) as found:
        async for _ in found:
            break
    assert "not closed" in caplog.text
