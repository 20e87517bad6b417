"""Lists that arrive in pages.

A `Paginator` is lazy: nothing is sent before the first item is asked for, and a
page is fetched only when the one before it is used up. Between two pages no
connection, permit or lock is held, so leaving the loop early releases all.

A page that comes again is an error, not a longer list: a server that repeats
pages would otherwise be read for ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from asyncclients.errors import PaginationError

T_co = TypeVar("T_co", covariant=True)


class Page(msgspec.Struct, Generic[T_co], frozen=True, kw_only=True):
    """One page of a list.

    Attributes:
        items: what is on it, in the server's order.
        number: which page it is, from 1, as the server says.
        total: items on all pages, None where the server does not say.
        last: whether it is the last one.
    """

    items: Sequence[T_co]
    number: int
    total: int | None = None
    last: bool = False


class Paginator(Generic[T_co]):
    """All items of a list, page by page.

    `async for item in paginator` · `async for page in paginator.pages()` ·
    `await paginator.first()`. Each loop starts anew, at page *start*.
    """

    def __init__(
        self,
        fetch: Callable[[int], Awaitable[Page[T_co]]],
        start: int = 1,
        *,
        vendor: str | None = None,
        operation: str | None = None,
    ) -> None:
        self._fetch = fetch
        self.start = start
        self.vendor, self.operation = vendor, operation

    async def __aiter__(self) -> AsyncIterator[T_co]:
        number, before = self.start, None
        while True:
            page = self._checked(await self._fetch(number), number, before)
            for item in page.items:
                yield item
            if page.last:
                return
            number, before = number + 1, page

    async def pages(self) -> AsyncIterator[Page[T_co]]:
        """The pages, from the first one on."""
        number, before = self.start, None
        while True:
            page = await self.page(number, before)
            yield page
            if page.last:
                return
            number, before = number + 1, page

    async def first(self) -> T_co | None:
        """The first item, None when there is none."""
        page = await self.page(self.start)
        return page.items[0] if page.items else None

    async def page(self, number: int, before: Page[T_co] | None = None) -> Page[T_co]:
        """Page *number*, checked against the page *before* it.

        Raises:
            PaginationError: if the server answered with another page, or with
                the same items again.
        """
        return self._checked(await self._fetch(number), number, before)

    def _checked(self, page: Page[T_co], number: int, before: Page[T_co] | None) -> Page[T_co]:
        if page.number != number:
            raise PaginationError(
                f"asked for page {number} and got page {page.number}",
                vendor=self.vendor,
                operation=self.operation,
                advice="The server repeats a page; nothing more was read",
            )
        if before is not None and page.items and page.items == before.items:
            raise PaginationError(
                f"page {number} has the same items as page {before.number}",
                vendor=self.vendor,
                operation=self.operation,
                advice="The server repeats a page; nothing more was read",
            )
        return page

    def __repr__(self) -> str:
        return f"<Paginator from page {self.start}>"
