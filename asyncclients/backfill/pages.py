"""The pages of a list, in order, some of them fetched ahead.

The first page tells how many there are. From then on up to *ahead* more are
under way at any time, so that the way there and back costs no quota; they are
handed out in order, and what is fetched too far when the list ends is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Sequence
from typing import Any

from asyncclients.backfill.meter import Meter
from asyncclients.backfill.outage import Outage
from asyncclients.backfill.verdict import Verdict, judge
from asyncclients.core.endpoint import lane
from asyncclients.errors import DecodeError, PaginationError
from asyncclients.limits.priority import Priority
from asyncclients.paging import Page, Paginator

Pages = Paginator[Any] | AsyncIterable[Page[Any]] | Awaitable[Sequence[Any]]


class PageReader:
    """Fetches pages of a paginator, patiently, behind all interactive calls."""

    def __init__(
        self, paginator: Paginator[Any], ahead: int, flow: str, meter: Meter, outage: Outage
    ) -> None:
        self._paginator, self._ahead, self._flow = paginator, ahead, flow
        self._meter, self._outage = meter, outage
        self.start = paginator.start

    async def page(self, number: int) -> Page[Any]:
        """Page *number*, however long the vendor is away.

        Raises:
            BackfillStoppedError: it has been away for longer than the patience.
        """
        tries = 0
        while True:
            async with self._outage.turn():
                try:
                    with lane(Priority.BACKGROUND, self._flow, self._meter):
                        page = await self._paginator.page(number)
                except Exception as error:
                    verdict = judge(error, sent=True, repeatable=True)
                    if verdict is not Verdict.AGAIN or isinstance(error, DecodeError):
                        raise
                    self._outage.failed(error)
                else:
                    self._outage.succeeded()
                    return page
            tries += 1
            await self._outage.pause(tries)

    async def walk(self, number: int) -> AsyncGenerator[Page[Any]]:
        """The pages from *number* to the last.

        Raises:
            PaginationError: the server repeats a page.
        """
        under_way: deque[asyncio.Task[Page[Any]]] = deque()
        before: Page[Any] | None = None
        try:
            while True:
                page = await (under_way.popleft() if under_way else self.page(number))
                if before is not None and page.items and page.items == before.items:
                    raise PaginationError(
                        f"page {page.number} has the same items as page {before.number}",
                        advice="The server repeats a page; what came before is saved",
                    )
                number = page.number + 1
                last = _last_page(page)
                while len(under_way) < self._ahead and number + len(under_way) <= last:
                    under_way.append(asyncio.create_task(self.page(number + len(under_way))))
                yield page
                if page.last:
                    return
                before = page
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


def _last_page(page: Page[Any]) -> int:
    """The number of the last page, as far as *page* tells; 0 where it does not."""
    if page.last or page.total is None or not page.items:
        return 0
    return -(-page.total // len(page.items))


class OnePass:
    """Pages that can be read from their start only: an iterable, or a list that comes whole."""

    def __init__(
        self, source: AsyncIterable[Page[Any]] | Awaitable[Sequence[Any]], flow: str, meter: Meter
    ) -> None:
        self._source, self._flow, self._meter = source, flow, meter

    async def walk(self, number: int) -> AsyncGenerator[Page[Any]]:
        """The pages from *number* to the last."""
        with lane(Priority.BACKGROUND, self._flow, self._meter):
            if not isinstance(self._source, AsyncIterable):
                found = await self._source
                yield Page(items=found, number=1, total=len(found), last=True)
                return
            async for page in self._source:
                if page.number >= number:
                    yield page
                if page.last:
                    return


def reader_of(
    source: Pages, ahead: int, flow: str, meter: Meter, outage: Outage
) -> PageReader | OnePass:
    """What reads *source*."""
    if isinstance(source, Paginator):
        return PageReader(source, ahead, flow, meter, outage)
    return OnePass(source, flow, meter)
