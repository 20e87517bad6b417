"""Lists in pages.

A `Paginator` is lazy: nothing is sent before the first item is requested, and a page is
fetched when the page before it is used up. Between two pages no connection, permit or
lock is held, so the loop can be left at any time.

A repeated page is an error: a server that repeats one or several pages in turn would
otherwise be read without end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Never, TypeVar

import msgspec

from asyncclients.errors import DecodeError, PaginationError

T_co = TypeVar("T_co", covariant=True)

MOST_EMPTY = 1000
"""Empty pages in a row after which the list is considered endless."""


class InvalidItem(msgspec.Struct, frozen=True, kw_only=True):
    """Items that do not match their manual, undecoded; their number may be an estimate."""

    raw: bytes
    reason: str
    items: int = 1

    def __repr__(self) -> str:
        return f"<InvalidItem, {len(self.raw)} bytes: {self.reason}>"


class Page(msgspec.Struct, Generic[T_co], frozen=True, kw_only=True):
    """One page of a list.

    Attributes:
        items: its items, in the server's order.
        number: its number in the response, from 1.
        total: number of items on all pages; None if the server sends none.
        last: whether it is the last page.
        invalid_items: items that could not be decoded.
    """

    items: Sequence[T_co]
    number: int
    total: int | None = None
    last: bool = False
    invalid_items: Sequence[InvalidItem] = ()


class Paginator(msgspec.Struct, Generic[T_co], frozen=True, eq=False):
    """All items of a list, page by page.

    `async for item in paginator` · `async for page in paginator.pages()` ·
    `await paginator.first()`. Each loop starts at page *start*.

    Attributes:
        fetch: returns a page by its number.
        start: number of the first page.
        vendor: name of the vendor.
        operation: name of the operation that lists.
        lenient_parser: decodes the body of a page with invalid items; raises DecodeError if that is
            not possible.
        query: arguments of the list. With *owner* it identifies the list in the state of
            a backfill.
        owner: the resource that created it.
        newest_first: returns the same list, sorted by the time field of the given name, newest
            first; raises `ConfigurationError` if the vendor cannot sort by it.
    """

    fetch: Callable[[int], Awaitable[Page[T_co]]]
    start: int = 1
    vendor: str | None = None
    operation: str | None = None
    lenient_parser: Callable[[bytes], Page[T_co]] | None = None
    query: Mapping[str, Any] | None = None
    owner: object = None
    newest_first: Callable[[str], Paginator[T_co]] | None = None

    if not TYPE_CHECKING:  # type checkers report both by themselves

        def __iter__(self) -> Never:
            """Raise `TypeError`: a list is read with `async for`."""
            raise TypeError("a list is read with `async for`, as in `async for item in paginator:`")

        def __await__(self) -> Never:
            """Raise `TypeError`: a list is read with `async for`."""
            raise TypeError(
                "a list is not awaited: write `async for item in paginator:`, "
                "`[item async for item in paginator]` or `await paginator.first()`"
            )

    async def __aiter__(self) -> AsyncIterator[T_co]:
        # Not a loop over `pages`, which a `break` would leave to be closed by the event loop.
        number = self.start
        path: Path | None = None
        while True:
            page = self._checked(await self.fetch(number), number)  # `page` is a coroutine more
            if path is not None or not page.last:  # a list of one page repeats none
                path = path or Path(self.vendor, self.operation)
                path.go_on(page)
            for item in page.items:
                yield item
            if page.last:
                return
            number += 1

    async def pages(self) -> AsyncIterator[Page[T_co]]:
        """Iterate over the pages from the first on."""
        number, path = self.start, Path(self.vendor, self.operation)
        while True:
            page = await self.page(number)
            path.go_on(page)
            yield page
            if page.last:
                return
            number += 1

    async def first(self) -> T_co | None:
        """Return the first item; None if there is none."""
        async for page in self.pages():
            if page.items:
                return page.items[0]
        return None

    async def page(self, number: int) -> Page[T_co]:
        """Return page *number*; raise `PaginationError` if the server sent another one."""
        return self._checked(await self.fetch(number), number)

    def page_without_invalid_items(self, number: int, body: bytes) -> Page[T_co] | None:
        """Return page *number* without its invalid items; None if its *body* cannot be decoded at all."""
        if self.lenient_parser is None:
            return None
        try:
            page = self.lenient_parser(body)
        except DecodeError:
            return None
        return self._checked(page, number)

    def _checked(self, page: Page[T_co], number: int) -> Page[T_co]:
        if page.number != number:
            raise PaginationError(
                f"asked for page {number} and got page {page.number}",
                vendor=self.vendor,
                operation=self.operation,
                advice="The server repeats a page; the list was read no further",
            )
        return page

    def __repr__(self) -> str:
        return f"<Paginator from page {self.start}>"


class Path:
    """Detects repeated pages, one or several in turn.

    Each page is compared with the page before it and with a kept page, which is replaced
    after 1, 2, 4, 8 ... pages. A cycle of any length is detected before its third
    repetition (Brent, "An improved Monte Carlo factorization algorithm", 1980), with two
    pages in memory. Empty pages may repeat, up to `MOST_EMPTY` in a row.
    """

    def __init__(self, vendor: str | None = None, operation: str | None = None) -> None:
        self._vendor, self._operation = vendor, operation
        self._before: Page[Any] | None = None
        self._kept: Page[Any] | None = None
        self._kept_for, self._left = 1, 0
        self._empty = 0

    def go_on(self, page: Page[Any]) -> None:
        """Check the next page.

        Raises:
            PaginationError: its items are those of an earlier page, or too many are empty.
        """
        self._empty = 0 if page.items or page.invalid_items else self._empty + 1
        if self._empty >= MOST_EMPTY and not page.last:
            raise self._error(
                f"the last {self._empty} pages, up to page {page.number}, are empty, and the "
                "server announces more"
            )
        if not page.items:
            return
        for earlier in (self._before, self._kept):
            if earlier is not None and page.items == earlier.items:
                raise self._error(f"page {page.number} has the same items as page {earlier.number}")
        self._before = page
        if not self._left:
            self._kept = page
            self._left, self._kept_for = self._kept_for, 2 * self._kept_for
        self._left -= 1

    def _error(self, problem: str) -> PaginationError:
        return PaginationError(
            problem,
            vendor=self._vendor,
            operation=self._operation,
            advice="The pages before are good; the list cannot be read to its end",
        )
