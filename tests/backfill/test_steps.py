"""Steps of a job whose state is kept elsewhere: batches of a push, and pages of a pull."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from asyncclients.backfill.files.source import Row
from asyncclients.backfill.steps import (
    BatchStatus,
    PullCursor,
    PushTarget,
    RowRecord,
    pull_step,
    push_step,
)
from asyncclients.core.options import current_call_context
from asyncclients.errors import ClientClosedError
from asyncclients.paging import Page, Paginator


class MemoryLog:
    """A row log in memory."""

    def __init__(self) -> None:
        self.records: dict[int, RowRecord] = {}
        self.writes = 0

    async def begin(self, _: Collection[int]) -> BatchStatus:
        return BatchStatus(settled=set(self.records), done=0)

    async def write(self, records: Mapping[int, RowRecord | None], /) -> Collection[int]:
        self.writes += 1
        for number, record in records.items():
            self.records.pop(number, None)
            if record is not None:
                self.records[number] = record
        return ()


async def test_push_step_keeps_row_unknown_if_its_client_is_closed() -> None:
    """A row that was sent when the client was closed is unknown, and a second run leaves it."""
    log, sent = MemoryLog(), 0

    async def target(_: Any) -> None:
        nonlocal sent
        sent += 1
        raise ClientClosedError("closed")

    rows = [Row(1, 1, {"id": 1})]
    with pytest.raises(ClientClosedError):
        await push_step(rows, PushTarget(target=target), log, flow="job")
    assert log.records[1].status == "unknown"
    await push_step(rows, PushTarget(target=target), log, flow="job")
    assert sent == 1


@pytest.mark.virtual_time
async def test_push_step_writes_nothing_for_requests_after_its_calls() -> None:
    """A task that a target left running, and that is rate-limited after the step, has no rows."""
    log, late, go_on = MemoryLog(), list[asyncio.Task[None]](), asyncio.Event()

    async def send_late() -> None:
        context = current_call_context()
        await go_on.wait()
        assert context is not None
        assert context.hook is not None
        context.hook.on_rate_limited()

    async def target(_: Any) -> None:
        late.append(asyncio.create_task(send_late()))

    await push_step([Row(1, 1, {"id": 1})], PushTarget(target=target), log, flow="job")
    writes = log.writes
    go_on.set()
    await late[0]
    await asyncio.sleep(0.01)
    assert log.writes == writes


@pytest.mark.parametrize("start", [1, 2, 3, 4])
async def test_pull_step_fetches_existing_pages_once(start: int) -> None:
    """A list that starts at a later page is read by its page numbers, each of them once."""
    fetched: list[int] = []
    kept: list[int] = []

    async def fetch(number: int) -> Page[int]:
        fetched.append(number)
        items = [*range(25 * (number - 1), 25 * number)]
        return Page(items=items, number=number, total=100, last=number == 4)

    class Shelf:
        async def put(self, page: Page[Any]) -> None:
            kept.append(page.number)

    reached: PullCursor | None = None
    while reached is None or not reached.last:
        pages = Paginator(fetch, start=start)
        reached = await pull_step(pages, Shelf(), after=reached, flow="job", max_pages=2)
    assert fetched == kept == list(range(start, 5))


async def test_pull_step_that_fails_leaves_no_page_under_way() -> None:
    """When one page of a step fails, the requests for the others are cancelled."""
    cancelled: list[int] = []

    async def fetch(number: int) -> Page[int]:
        if number == 3:
            raise ValueError("no")
        if number == 4:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(number)
        return Page(items=[number], number=number, total=4)

    class Shelf:
        async def put(self, page: Page[Any]) -> None:
            pass

    with pytest.raises(ValueError, match="no"):
        await pull_step(Paginator(fetch), Shelf(), after=None, flow="job")
    assert cancelled == [4]


async def test_pull_step_stores_each_page_as_soon_as_those_before_it_are_stored() -> None:
    """Pages that arrive in another order are stored in theirs, without waiting for the last one."""
    arrivals = {number: asyncio.Event() for number in range(1, 5)}
    kept: list[int] = []
    has_three = asyncio.Event()

    async def fetch(number: int) -> Page[int]:
        await arrivals[number].wait()
        return Page(items=[number], number=number, total=4, last=number == 4)

    class Shelf:
        async def put(self, page: Page[Any]) -> None:
            kept.append(page.number)
            if page.number == 3:
                has_three.set()

    arrivals[1].set()
    step = asyncio.create_task(pull_step(Paginator(fetch), Shelf(), after=None, flow="job"))
    arrivals[3].set()
    arrivals[2].set()
    await has_three.wait()
    assert (kept, step.done()) == ([1, 2, 3], False)
    arrivals[4].set()
    assert (await step).last
    assert kept == [1, 2, 3, 4]
