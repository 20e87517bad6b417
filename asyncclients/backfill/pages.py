"""The pages of a list, in order, some of them fetched ahead.

The first page tells how many there are. From then on up to *ahead* more are
under way at any time, so that the way there and back costs no quota; they are
handed out in order, and what is fetched too far when the list ends is dropped.

A page that is not what its document says is asked for again, and then mended: items
that nobody can read are set aside, with their bytes. A page of which nothing can be
read is set aside whole, if it is known that it is one of the list.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Sequence
from typing import Any

from asyncclients.backfill.meter import Meter
from asyncclients.backfill.outage import Outage
from asyncclients.backfill.verdict import Verdict, judge
from asyncclients.core.capture import capture_responses
from asyncclients.core.endpoint import lane
from asyncclients.errors import DecodeError
from asyncclients.limits.priority import Priority
from asyncclients.paging import Page, Paginator, Path, Spoiled

_TRIES = 2
"""How often a page that cannot be read is asked for again."""

Pages = Paginator[Any] | AsyncIterable[Page[Any]] | Awaitable[Sequence[Any]]


class PageReader:
    """Fetches pages of a paginator, patiently, behind all interactive calls.

    Args:
        paginator: the list.
        ahead: pages under way at the same time beyond the one that is handed out.
        flow: whose turn the calls take.
        meter: counts them.
        outage: knows whether the vendor answers.
        mends: set aside what cannot be read; else raise for it.
    """

    def __init__(
        self,
        paginator: Paginator[Any],
        ahead: int,
        flow: str,
        meter: Meter,
        outage: Outage,
        *,
        mends: bool = False,
    ) -> None:
        self._paginator, self._ahead, self._flow = paginator, ahead, flow
        self._meter, self._outage, self._mends = meter, outage, mends
        self.start = paginator.start
        self._size = self._last = 0

    async def page(self, number: int) -> Page[Any]:
        """Page *number*, however long the vendor is away.

        Raises:
            BackfillStoppedError: it has been away for longer than the patience.
            DecodeError: nobody can say what is on it.
        """
        tries = unreadable = 0
        while True:
            async with self._outage.turn():
                try:
                    with lane(Priority.BACKGROUND, self._flow, self._meter):
                        page = await self._fetch(number, unreadable)
                except Exception as error:
                    unreadable += isinstance(error, DecodeError)
                    verdict = judge(error, sent=True, repeatable=True)
                    if verdict is not Verdict.AGAIN or unreadable > self._mends * _TRIES:
                        raise
                    self._outage.failed(error)
                else:
                    self._outage.succeeded()
                    return page
            tries += 1
            await self._outage.pause(tries)

    async def _fetch(self, number: int, unreadable: int) -> Page[Any]:
        """Page *number*; mended, if it was *unreadable* before."""
        if not unreadable:
            return await self._paginator.page(number)
        with capture_responses() as answers:
            try:
                return await self._paginator.page(number)
            except DecodeError as error:
                bad = error
        body = answers[-1].body if answers else b""
        mended = self._paginator.mended(number, body)
        if mended is None and unreadable == _TRIES and number <= self._last:
            lost = Spoiled(raw=body, reason=bad.message, items=self._size)
            mended = Page(items=(), number=number, last=number == self._last, spoiled=[lost])
        if mended is None:
            raise bad
        return mended

    async def walk(self, number: int) -> AsyncGenerator[Page[Any]]:
        """The pages from *number* to the last.

        Raises:
            PaginationError: the server repeats a page.
        """
        under_way: deque[asyncio.Task[Page[Any]]] = deque()
        path = Path(self._paginator.vendor, self._paginator.operation)
        try:
            while True:
                page = await (under_way.popleft() if under_way else self.page(number))
                path.go_on(page)
                number = page.number + 1
                self._learn(page)
                while len(under_way) < self._ahead and number + len(under_way) <= self._last:
                    under_way.append(asyncio.create_task(self.page(number + len(under_way))))
                yield page
                if page.last:
                    return
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _learn(self, page: Page[Any]) -> None:
        """How many pages there are, as far as *page* tells; 0 where it does not."""
        here = len(page.items) + len(page.spoiled)
        if page.last:
            self._last = 0
        elif page.total is not None and here:
            self._size, self._last = here, -(-page.total // here)
        elif not page.spoiled:
            self._last = 0


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
        return PageReader(source, ahead, flow, meter, outage, mends=True)
    return OnePass(source, flow, meter)
