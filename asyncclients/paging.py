"""Lists that arrive in pages.

A `Paginator` is lazy: nothing is sent before the first item is asked for, and a
page is fetched only when the one before it is used up. Between two pages no
connection, permit or lock is held, so leaving the loop early releases all.

A page that comes again is an error, not a longer list: a server that repeats
pages, one or several in turn, would otherwise be read for ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from asyncclients.errors import DecodeError, PaginationError

T_co = TypeVar("T_co", covariant=True)

MOST_EMPTY = 1000
"""Empty pages in a row after which a server is taken to announce pages for ever."""


class InvalidItem(msgspec.Struct, frozen=True, kw_only=True):
    """Items that are not what their document says.

    Attributes:
        raw: as they came.
        reason: what is wrong with them.
        items: how many they are, at least about.
    """

    raw: bytes
    reason: str
    items: int = 1

    def __repr__(self) -> str:
        return f"<Spoiled, {len(self.raw)} bytes: {self.reason}>"


class Page(msgspec.Struct, Generic[T_co], frozen=True, kw_only=True):
    """One page of a list.

    Attributes:
        items: what is on it, in the server's order.
        number: which page it is, from 1, as the server says.
        total: items on all pages, None where the server does not say.
        last: whether it is the last one.
        spoiled: items that nobody can read, of a page that was mended.
    """

    items: Sequence[T_co]
    number: int
    total: int | None = None
    last: bool = False
    spoiled: Sequence[InvalidItem] = ()


class Paginator(msgspec.Struct, Generic[T_co], frozen=True, eq=False):
    """All items of a list, page by page.

    `async for item in paginator` · `async for page in paginator.pages()` ·
    `await paginator.first()`. Each loop starts anew, at page *start*.

    Attributes:
        fetch: gets a page by its number.
        start: the number of the first one.
        vendor: whose list it is.
        operation: the operation that lists.
        mend: makes a page of the body of one that could not be decoded, its items
            sorted into good and spoiled; raises DecodeError where that is not possible.
        query: what the list was asked for; with *owner* it tells a backfill's state
            whether it belongs to this list.
        owner: the resource that made it.
    """

    fetch: Callable[[int], Awaitable[Page[T_co]]]
    start: int = 1
    vendor: str | None = None
    operation: str | None = None
    mend: Callable[[bytes], Page[T_co]] | None = None
    query: Mapping[str, Any] | None = None
    owner: object = None

    async def __aiter__(self) -> AsyncIterator[T_co]:
        number, path = self.start, None  # most lists are one page, which needs no `Path`
        while True:
            page = await self.fetch(number)
            if page.number != number:
                raise self._another(page, number)
            if path is None and not page.last:
                path = Path(self.vendor, self.operation)
            if path is not None:
                path.go_on(page)
            for item in page.items:
                yield item
            if page.last:
                return
            number += 1

    async def pages(self) -> AsyncIterator[Page[T_co]]:
        """The pages, from the first one on."""
        number, path = self.start, Path(self.vendor, self.operation)
        while True:
            page = await self.page(number)
            path.go_on(page)
            yield page
            if page.last:
                return
            number += 1

    async def first(self) -> T_co | None:
        """The first item, None when there is none."""
        async for page in self.pages():
            if page.items:
                return page.items[0]
        return None

    async def page(self, number: int) -> Page[T_co]:
        """Page *number*.

        Raises:
            PaginationError: the server answered with another page.
        """
        page = await self.fetch(number)
        if page.number != number:
            raise self._another(page, number)
        return page

    def mended(self, number: int, body: bytes) -> Page[T_co] | None:
        """What can be read of page *number*, of which *body* could not be decoded; None: nothing.

        Raises:
            PaginationError: it is another page.
        """
        if self.mend is None:
            return None
        try:
            page = self.mend(body)
        except DecodeError:
            return None
        if page.number != number:
            raise self._another(page, number)
        return page

    def _another(self, page: Page[Any], number: int) -> PaginationError:
        return PaginationError(
            f"asked for page {number} and got page {page.number}",
            vendor=self.vendor,
            operation=self.operation,
            advice="The server repeats a page; nothing more was read",
        )

    def __repr__(self) -> str:
        return f"<Paginator from page {self.start}>"


class Path:
    """The way through a list: sees when pages come again, one or several in turn.

    Each page is compared with the one before it and with one that is kept, which is
    replaced after 1, 2, 4, 8 ... pages: so a circle of any length is seen before it was
    gone round three times (Brent, "An improved Monte Carlo factorization algorithm",
    1980), and two pages are all the memory that it takes. Empty pages prove nothing, up
    to a number in a row that no list has.
    """

    def __init__(self, vendor: str | None = None, operation: str | None = None) -> None:
        self._vendor, self._operation = vendor, operation
        self._before: Page[Any] | None = None
        self._kept: Page[Any] | None = None
        self._kept_for, self._left = 1, 0
        self._empty = 0

    def go_on(self, page: Page[Any]) -> None:
        """*page* is the next one.

        Raises:
            PaginationError: its items were there before, or too many pages were empty.
        """
        if not page.items and not page.spoiled:
            self._count_empty(page)
            return
        self._empty = 0
        if not page.items:
            return
        for earlier in (self._before, self._kept):
            if earlier is not None and page.items == earlier.items:
                raise PaginationError(
                    f"page {page.number} has the same items as page {earlier.number}",
                    vendor=self._vendor,
                    operation=self._operation,
                    advice="The server repeats pages; what came before is good",
                )
        self._before = page
        if not self._left:
            self._kept = page
            self._left, self._kept_for = self._kept_for, 2 * self._kept_for
        self._left -= 1

    def _count_empty(self, page: Page[Any]) -> None:
        self._empty += 1
        if self._empty >= MOST_EMPTY and not page.last:
            raise PaginationError(
                f"the last {self._empty} pages, up to page {page.number}, are empty, and the "
                "server announces more",
                vendor=self._vendor,
                operation=self._operation,
                advice="What came before is good; the list cannot be read to its end",
            )
