"""Lists in pages: lazy, restartable, and finite."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from asyncclients.errors import PaginationError
from asyncclients.paging import MOST_EMPTY, Page, Paginator

PAGES = [["a", "b"], ["c"], ["d", "e"]]


class Shelf:
    """A server with pages; counts what is fetched."""

    def __init__(self, pages: Sequence[Sequence[str]]) -> None:
        self.pages, self.asked = pages, list[int]()

    async def fetch(self, number: int) -> Page[str]:
        self.asked.append(number)
        items = self.pages[number - 1]
        return Page(items=items, number=number, total=5, last=number == len(self.pages))


async def test_pager_yields_all_items_in_order() -> None:
    """Item by item or page by page, each page fetched once."""
    shelf = Shelf(PAGES)
    assert [item async for item in Paginator(shelf.fetch)] == list("abcde")
    assert shelf.asked == [1, 2, 3]
    pages = [page async for page in Paginator(shelf.fetch).pages()]
    assert [(page.number, page.total, page.last) for page in pages] == [
        (1, 5, False),
        (2, 5, False),
        (3, 5, True),
    ]


async def test_pager_is_lazy() -> None:
    """Creating one sends nothing, and a page is fetched when the previous one is used up."""
    shelf = Shelf(PAGES)
    paginator = Paginator(shelf.fetch)
    assert shelf.asked == []
    async for item in paginator:
        if item == "b":
            break
    assert shelf.asked == [1]


async def test_pager_can_be_iterated_again() -> None:
    """One pager serves several loops, also concurrently, each from the start."""
    shelf = Shelf(PAGES)
    paginator = Paginator(shelf.fetch, start=2)

    async def read() -> list[str]:
        return [item async for item in paginator]

    one, other = await asyncio.gather(read(), read())
    assert one == other == ["c", "d", "e"]


async def test_pager_first_sends_one_request() -> None:
    """It returns the first item, or None for an empty list."""
    shelf = Shelf(PAGES)
    assert await Paginator(shelf.fetch).first() == "a"
    assert shelf.asked == [1]
    assert await Paginator(Shelf([[]]).fetch).first() is None
    assert [item async for item in Paginator(Shelf([[]]).fetch)] == []


async def test_pager_rejects_the_first_page_again() -> None:
    """If page 2 is page 1 again, the error comes after one page of items."""
    seen: list[str] = []

    async def stuck(number: int) -> Page[str]:
        del number
        return Page(items=["a"], number=1)

    async def read() -> None:
        async for item in Paginator(stuck, operation="things.list"):
            seen.append(item)  # noqa: PERF401 - what was seen before the error counts

    with pytest.raises(PaginationError, match="asked for page 2 and got page 1") as caught:
        await read()
    assert seen == ["a"]
    assert caught.value.operation == "things.list"
    assert caught.value.advice


async def test_pager_rejects_repeated_items() -> None:
    """The same items under a new page number are not read without end."""
    with pytest.raises(PaginationError, match="page 2 has the same items as page 1"):
        async for _ in Paginator(Shelf([["a"], ["a"], ["b"]]).fetch):
            pass


@pytest.mark.parametrize("lead", [0, 1, 2, 5])
@pytest.mark.parametrize("circle", [1, 2, 3, 7])
async def test_pager_rejects_a_cycle_of_pages(lead: int, circle: int) -> None:
    """A cycle of any length ends before its third round is over."""
    asked: list[int] = []

    async def fetch(number: int) -> Page[str]:
        asked.append(number)
        place = number if number <= lead else lead + (number - lead) % circle
        return Page(items=[f"item {place}"], number=number)

    with pytest.raises(PaginationError, match="the same items as page"):
        async for _ in Paginator(fetch):
            pass
    assert len(asked) <= 3 * (lead + circle)


async def test_pager_accepts_repeated_empty_pages() -> None:
    """Two empty pages in a row prove nothing; the server's `last` ends them."""
    assert [item async for item in Paginator(Shelf([[], [], ["a"]]).fetch)] == ["a"]


async def test_pager_first_skips_empty_pages() -> None:
    """The first item may be on a later page than the first."""
    shelf = Shelf([[], [], ["a"], ["b"]])
    assert await Paginator(shelf.fetch).first() == "a"
    assert shelf.asked == [1, 2, 3]


async def test_pager_rejects_endless_empty_pages() -> None:
    """A server that always announces one more page is not read without end."""
    asked: list[int] = []

    async def fetch(number: int) -> Page[str]:
        asked.append(number)
        return Page(items=[], number=number)

    with pytest.raises(PaginationError, match="are empty") as caught:
        await Paginator(fetch, vendor="toy").first()
    assert len(asked) == MOST_EMPTY
    assert caught.value.vendor == "toy"
