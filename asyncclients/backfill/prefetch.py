"""Read the pages of a list in order, and fetch some of them ahead.

The total on the first page gives the number of pages. After that, up to *prefetch* pages beyond
the next one are requested concurrently, so that round trips do not waste quota. Pages are
delivered in order; pages fetched beyond the end are dropped.

A page that cannot be decoded is requested again, then parsed leniently: unreadable items are set
aside with their bytes. A page without any readable item is set aside as one invalid item if the
total shows that it belongs to the list.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from asyncclients.arguments import (
    check_text,
)
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import classify_error
from asyncclients.backfill.files.source import iterate
from asyncclients.backfill.report import RequestCounter
from asyncclients.backfill.state.pull_state import PullState
from asyncclients.core.events import capture_responses
from asyncclients.core.options import call_context
from asyncclients.errors import ConfigurationError, DecodeError
from asyncclients.paging import InvalidItem, Page, Paginator, Path
from asyncclients.ratelimit.quota import Priority

_MAX_RETRIES = 2
"""Number of times an unreadable page is requested again."""

Take = Callable[[Page[Any]], Awaitable[None]]
IsKnown = Callable[[Page[Any]], Awaitable[bool]]
Pages = Paginator[Any] | AsyncIterable[Page[Any]] | Iterator[Page[Any]] | Awaitable[Sequence[Any]]


class PagePrefetcher:
    """Fetches pages of a paginator with background priority, and waits during outages.

    Args:
        paginator: the list.
        prefetch: concurrent requests beyond the next page.
        flow: of the calls, for fair queueing.
        counter: counts the requests.
        breaker: shared by the calls of the run.
        lenient: set unreadable items aside instead of raising.

    Attributes:
        last: number of the last page; 0 if it is unknown.
    """

    def __init__(
        self,
        paginator: Paginator[Any],
        prefetch: int,
        flow: str,
        counter: RequestCounter,
        breaker: CircuitBreaker,
        *,
        lenient: bool = False,
    ) -> None:
        self.paginator, self.prefetch, self._flow = paginator, prefetch, flow
        self._counter, self._breaker, self._is_lenient = counter, breaker, lenient
        self.start = paginator.start
        self._size = self.last = 0

    async def page(self, number: int) -> Page[Any]:
        """Return page *number*; retry during an outage of the vendor.

        Raises:
            BackfillStoppedError: the outage is longer than max_outage.
            DecodeError: the page cannot be decoded.
        """
        attempts = unreadable = 0
        while True:
            async with self._breaker.guard():
                try:
                    with call_context(Priority.BACKGROUND, self._flow, self._counter):
                        page = await (
                            self._parse_leniently(number, unreadable)
                            if unreadable
                            else self.paginator.page(number)
                        )
                except Exception as error:
                    unreadable += isinstance(error, DecodeError)
                    status = classify_error(error, sent=True, idempotent=True)
                    max_unreadable = _MAX_RETRIES if self._is_lenient else 0
                    if status != "pending" or unreadable > max_unreadable:
                        raise
                    self._breaker.on_failure(error)
                else:
                    self._breaker.on_success()
                    return page
            attempts += 1
            await self._breaker.backoff(attempts)

    async def _parse_leniently(self, number: int, unreadable: int) -> Page[Any]:
        """Return page *number* without its unreadable items, after *unreadable* failed attempts."""
        with capture_responses() as responses:
            try:
                return await self.paginator.page(number)
            except DecodeError as error:
                bad = error
        body = responses[-1].body if responses else b""
        page = self.paginator.page_without_invalid_items(number, body)
        if page is None and unreadable == _MAX_RETRIES and number <= self.last:
            lost = InvalidItem(raw=body, reason=bad.message, items=self._size)
            page = Page(items=(), number=number, last=number == self.last, invalid_items=[lost])
        if page is None:
            raise bad
        return page

    async def read(self, number: int, take: Take, *, until: int = sys.maxsize) -> None:
        """Call *take* with the pages from *number* to the last or to *until*, one at a time.

        Raises:
            PaginationError: the server repeats a page.
        """
        await _Prefetch(self, number, take, until).run()

    def note_last(self, page: Page[Any]) -> None:
        """Set `last` according to the total of *page*."""
        here = len(page.items) + len(page.invalid_items)
        if page.last:
            self.last = 0
        elif page.total is not None and here:
            self._size, self.last = here, -(-page.total // here)
        elif not page.invalid_items:
            self.last = 0


class _Prefetch:
    """One pass over the list by concurrent workers.

    The worker that fetches the next page in order delivers it at once, while it is in the
    processor's cache, and then the later pages that are waiting.
    """

    def __init__(self, reader: PagePrefetcher, number: int, take: Take, until: int) -> None:
        self._reader, self._take, self._until = reader, take, until
        self._next_to_fetch = self._next_to_deliver = number
        self._is_last_reached = self._is_delivering = False
        self._results: dict[int, Page[Any] | Exception] = {}
        self._path = Path(reader.paginator.vendor, reader.paginator.operation)
        self._workers: set[asyncio.Task[None]] = set()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Read to the end; cancel requests that are still in flight then."""
        try:
            self._start_workers()
            await self._finished
            if self._error is not None:
                raise self._error
        finally:
            workers = [*self._workers]
            for worker in workers:
                worker.cancel()
            if workers:
                await asyncio.wait(workers)

    def _start_workers(self) -> None:
        while len(self._workers) <= self._reader.prefetch and (number := self._claim()) is not None:
            worker = asyncio.create_task(self._work(number))
            self._workers.add(worker)
            worker.add_done_callback(self._on_worker_done)

    def _on_worker_done(self, worker: asyncio.Task[None]) -> None:
        """End the pass if *worker* failed or was cancelled, even before its first step."""
        self._workers.discard(worker)
        error = asyncio.CancelledError() if worker.cancelled() else worker.exception()
        if error is not None and not self._finished.done():
            self._error = error
            self._finished.set_result(None)

    def _claim(self) -> int | None:
        """Return the page to fetch next; None if it may not exist, or is too far ahead."""
        number = self._next_to_fetch
        known = min(self._reader.last, self._next_to_deliver + 2 * self._reader.prefetch)
        may_exist = number <= min(max(known, self._next_to_deliver), self._until)
        if self._is_last_reached or not may_exist:
            return None
        self._next_to_fetch += 1
        return number

    async def _work(self, number: int | None) -> None:
        while number is not None:
            try:
                self._results[number] = await self._reader.page(number)
            except Exception as error:  # noqa: BLE001 - raised when the page is delivered
                self._results[number] = error
            if not self._is_delivering:
                await self._deliver_ready()
            number = self._claim()

    async def _deliver_ready(self) -> None:
        """Deliver the pages that are next in order; only one worker does so at a time."""
        self._is_delivering = True
        while (page := self._results.pop(self._next_to_deliver, None)) is not None:
            if isinstance(page, Exception):
                raise page
            self._path.go_on(page)
            self._next_to_deliver += 1
            self._reader.note_last(page)
            self._is_last_reached = page.last or page.number == self._until
            self._start_workers()
            await self._take(page)
            if self._is_last_reached:
                if not self._finished.done():
                    self._finished.set_result(None)
                return
        self._is_delivering = False


class SequentialReader:
    """Reads pages that are only available from the start: an iterable, or an awaitable list."""

    def __init__(
        self,
        source: AsyncIterable[Page[Any]] | Iterator[Page[Any]] | Awaitable[Sequence[Any]],
        flow: str,
        counter: RequestCounter,
    ) -> None:
        self._source, self._flow, self._counter = source, flow, counter

    async def read(self, number: int, take: Take) -> None:
        """Call *take* with the pages from *number* to the last."""
        with call_context(Priority.BACKGROUND, self._flow, self._counter):
            if isinstance(self._source, Awaitable):
                found = await self._source
                await take(Page(items=found, number=1, total=len(found), last=True))
            elif isinstance(self._source, AsyncIterable):
                await self._read(self._source, number, take)
            else:
                async with aclosing(iterate(self._source)) as pages:
                    await self._read(pages, number, take)

    async def _read(self, pages: AsyncIterable[Page[Any]], number: int, take: Take) -> None:
        async for page in pages:
            if page.number >= number:
                await take(page)
            if page.last:
                return


async def read_list(
    reader: PagePrefetcher | SequentialReader,
    state: PullState,
    take: Take,
    is_known: IsKnown | None = None,
    may_miss_some: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Call *take* with the pages after the last one of *state*, a second time if some are missing.

    *is_known* tells whether an item of a page was taken before; it is needed to resume.
    *may_miss_some* tells whether the first reading may have missed items; by default *state* does.
    """
    if isinstance(reader, SequentialReader):
        await reader.read(state.page + (not state.has_keys), take)
    else:
        start = await resume_at(reader, state, is_known) if is_known else reader.start
        await reader.read(start, take)
        if state.pass_number == 1 and state.has_keys:
            missing = await may_miss_some() if may_miss_some else state.is_missing_some
            if missing:
                # A second pass finds items that a shift moved to a page already read.
                state.pass_number, state.page, state.total_shrank = 2, 0, False
                await reader.read(reader.start, take)
    state.unverified = state.doubts()
    state.read = True


async def resume_at(reader: PagePrefetcher, state: PullState, is_known: IsKnown) -> int:
    """Return the page to resume at: going back, the first page with a known item."""
    if not state.page:
        return reader.start
    if not state.has_keys:
        return state.page + 1
    number = state.page
    while number > reader.start and not await is_known(await reader.page(number)):
        number -= 1
    return number


def check_since(source: Any, since: Any) -> None:
    """Raise `ConfigurationError` unless the list *source* can be sorted by the field *since*."""
    check_text("since", since, "since='updated_at'")
    if not isinstance(source, Paginator) or source.newest_first is None:
        raise ConfigurationError(
            f"this list cannot be sorted by {since!r}, newest first",
            advice="Leave `since` out: the whole list is read then",
        )
    source.newest_first(since)
