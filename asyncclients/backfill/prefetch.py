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

from asyncclients.arguments import check_text
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
                    status = classify_error(error, maybe_sent=True, idempotent=True)
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
        path, ahead = Path(self.paginator.vendor, self.paginator.operation), _ReadAhead(self, until)
        try:
            while True:
                page = await ahead.page(number)
                path.go_on(page)
                self.note_last(page)
                number += 1
                is_last = page.last or number > until
                if not is_last:
                    ahead.start(number)
                await take(page)
                if is_last:
                    return
        finally:
            await ahead.aclose()

    def note_last(self, page: Page[Any]) -> None:
        """Set `last` according to the total of *page*."""
        here = len(page.items) + len(page.invalid_items)
        if page.last:
            self.last = 0
        elif page.total is not None and here:
            self._size, self.last = here, -(-page.total // here)
        elif not page.invalid_items:
            self.last = 0


class _ReadAhead:
    """The requests of a reader for the next pages, up to page *until*.

    At most `prefetch` run at a time, and one more while the next page is awaited. Pages that arrive
    early wait; none is requested that is more than twice `prefetch` pages ahead.
    """

    def __init__(self, reader: PagePrefetcher, until: int) -> None:
        self._reader, self._until = reader, until
        self._next, self._running, self._most = 0, 0, reader.prefetch
        self._pages: dict[int, asyncio.Task[Page[Any]]] = {}

    async def page(self, number: int) -> Page[Any]:
        """Return page *number*, the next one."""
        self._most = self._reader.prefetch + 1
        self.start(number)
        task = self._pages[number]
        if not task.done():
            # Not `await task`: a GeneratorExit that it raised would end this run without its cleanup.
            await asyncio.wait([task])
        self._most = self._reader.prefetch
        del self._pages[number]
        return task.result()

    def start(self, number: int) -> None:
        """Request page *number*, the next one, and those after it, as far as they exist."""
        self._next, furthest = number, number + 2 * self._reader.prefetch
        known = min(max(number, min(self._reader.last, furthest)), self._until)
        first = max(self._pages, default=number - 1) + 1
        for each in range(first, min(known + 1, first + self._most - self._running)):
            page = asyncio.create_task(self._reader.page(each))
            page.add_done_callback(self._on_done)
            self._pages[each] = page
            self._running += 1

    def _on_done(self, _: asyncio.Task[Page[Any]]) -> None:
        self._running -= 1
        if self._pages:
            self.start(self._next)

    async def aclose(self) -> None:
        """Cancel the requests that are still in flight."""
        pages, self._pages = [*self._pages.values()], {}
        for page in pages:
            page.cancel()
        if pages:
            await asyncio.wait(pages)


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

    *is_known* returns whether an item of a page was taken before; it is needed to resume.
    *may_miss_some* returns whether the first reading may have missed items; by default *state*
    decides.
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
    state.unverified = state.find_unverified()
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
