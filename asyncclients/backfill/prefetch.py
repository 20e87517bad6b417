"""The pages of a list, in order, some of them fetched ahead.

The first page tells how many there are. From then on up to *ahead* more than the
next one are under way at any time, so that the way there and back costs no quota; they
are given away in order, and what is fetched too far when the list ends is dropped.

A page that is not what its document says is asked for again, and then mended: items
that nobody can read are set aside, with their bytes. A page of which nothing can be
read is set aside whole, if it is known that it is one of the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from asyncclients.backfill.blocking import iterate
from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.delivery import RowOutcome, classify_error
from asyncclients.backfill.report import RequestCounter
from asyncclients.core.capture import capture_responses
from asyncclients.core.endpoint import call_context
from asyncclients.errors import DecodeError
from asyncclients.paging import InvalidItem, Page, Paginator, Path
from asyncclients.ratelimit.quota import Priority

_TRIES = 2
"""How often a page that cannot be read is asked for again."""

Take = Callable[[Page[Any]], Awaitable[None]]
Pages = Paginator[Any] | AsyncIterable[Page[Any]] | Iterator[Page[Any]] | Awaitable[Sequence[Any]]


class PagePrefetcher:
    """Fetches pages of a paginator, patiently, behind all interactive calls.

    Args:
        paginator: the list.
        ahead: pages under way at the same time beyond the next one.
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
        meter: RequestCounter,
        outage: CircuitBreaker,
        *,
        mends: bool = False,
    ) -> None:
        self._paginator, self.ahead, self._flow = paginator, ahead, flow
        self._meter, self._outage, self._mends = meter, outage, mends
        self.start = paginator.start
        self._size = self._last = 0

    def path(self) -> Path:
        """Sees when pages come again."""
        return Path(self._paginator.vendor, self._paginator.operation)

    async def page(self, number: int) -> Page[Any]:
        """Page *number*, however long the vendor is away.

        Raises:
            BackfillStoppedError: it has been away for longer than max_outage.
            DecodeError: nobody can say what is on it.
        """
        tries = unreadable = 0
        while True:
            async with self._outage.guard():
                try:
                    with call_context(Priority.BACKGROUND, self._flow, self._meter):
                        page = await (
                            self._mended(number, unreadable)
                            if unreadable
                            else self._paginator.page(number)
                        )
                except Exception as error:
                    unreadable += isinstance(error, DecodeError)
                    verdict = classify_error(error, sent=True, idempotent=True)
                    if verdict is not RowOutcome.RETRY or unreadable > self._mends * _TRIES:
                        raise
                    self._outage.on_failure(error)
                else:
                    self._outage.on_success()
                    return page
            tries += 1
            await self._outage.backoff(tries)

    async def _mended(self, number: int, unreadable: int) -> Page[Any]:
        """Page *number*, mended, as it was *unreadable* before."""
        with capture_responses() as answers:
            try:
                return await self._paginator.page(number)
            except DecodeError as error:
                bad = error
        body = answers[-1].body if answers else b""
        mended = self._paginator.mended(number, body)
        if mended is None and unreadable == _TRIES and number <= self._last:
            lost = InvalidItem(raw=body, reason=bad.message, items=self._size)
            mended = Page(items=(), number=number, last=number == self._last, spoiled=[lost])
        if mended is None:
            raise bad
        return mended

    async def read(self, number: int, take: Take) -> None:
        """Give *take* the pages from *number* to the last, in order, one after another.

        Raises:
            PaginationError: the server repeats a page.
        """
        await _Prefetch(self, number, take).run()

    def learn(self, page: Page[Any]) -> int:
        """Up to which page it is known that there are more, as *page* tells; 0 where it does not."""
        here = len(page.items) + len(page.spoiled)
        if page.last:
            self._last = 0
        elif page.total is not None and here:
            self._size, self._last = here, -(-page.total // here)
        elif not page.spoiled:
            self._last = 0
        return self._last


class _Prefetch:
    """One way through the list, by workers that go from page to page.

    Whoever gets the page that is wanted next gives it away at once, while the processor
    has it at hand, and after it those that came before their turn.
    """

    def __init__(self, reader: PagePrefetcher, number: int, take: Take) -> None:
        self._reader, self._take = reader, take
        self._most = 1 + reader.ahead
        self._next = self._wanted = number
        self._last = 0
        self._ended = self._gives = False
        self._found: dict[int, Page[Any] | Exception] = {}
        self._path = reader.path()
        self._workers: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Read to the end; what is under way when it is over is dropped."""
        try:
            self._start_workers()
            await self._over
            if self._error is not None:
                raise self._error
        finally:
            workers = [*self._workers]
            for worker in workers:
                worker.cancel()
            if workers:
                await asyncio.wait(workers)

    def _start_workers(self) -> None:
        while len(self._workers) < self._most and (number := self._claim()) is not None:
            worker = asyncio.create_task(self._work(number))
            self._workers.add(worker)
            worker.add_done_callback(self._worked)

    def _worked(self, worker: asyncio.Task[None]) -> None:
        """A worker is at its end; where it failed, and be it before its first step, so has all."""
        self._workers.discard(worker)
        error = asyncio.CancelledError() if worker.cancelled() else worker.exception()
        if error is not None and not self._over.done():
            self._error = error
            self._over.set_result(None)

    def _claim(self) -> int | None:
        """The page to fetch next; None where it is not known to be there, or it is too early."""
        number = self._next
        known = min(self._last, self._wanted + 2 * self._reader.ahead)
        if self._ended or number > max(known, self._wanted):
            return None
        self._next += 1
        return number

    async def _work(self, number: int | None) -> None:
        while number is not None:
            try:
                self._found[number] = await self._reader.page(number)
            except Exception as error:  # noqa: BLE001 - it is raised in its turn
                self._found[number] = error
            if not self._gives:
                await self._deliver_ready()
            number = self._claim()

    async def _deliver_ready(self) -> None:
        """Give away the pages whose turn it is; nobody else does meanwhile."""
        self._gives = True
        while (page := self._found.pop(self._wanted, None)) is not None:
            if isinstance(page, Exception):
                raise page
            self._path.go_on(page)
            self._wanted += 1
            self._last, self._ended = self._reader.learn(page), page.last
            self._start_workers()
            await self._take(page)
            if self._ended:
                if not self._over.done():
                    self._over.set_result(None)
                return
        self._gives = False


class SequentialReader:
    """Pages that can be read from their start only: an iterable, or a list that comes whole."""

    def __init__(
        self,
        source: AsyncIterable[Page[Any]] | Iterator[Page[Any]] | Awaitable[Sequence[Any]],
        flow: str,
        meter: RequestCounter,
    ) -> None:
        self._source, self._flow, self._meter = source, flow, meter

    async def read(self, number: int, take: Take) -> None:
        """Give *take* the pages from *number* to the last."""
        with call_context(Priority.BACKGROUND, self._flow, self._meter):
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


def reader_of(
    source: Pages, ahead: int, flow: str, meter: RequestCounter, outage: CircuitBreaker
) -> PagePrefetcher | SequentialReader:
    """What reads *source*."""
    if isinstance(source, Paginator):
        return PagePrefetcher(source, ahead, flow, meter, outage, mends=True)
    return SequentialReader(source, flow, meter)
