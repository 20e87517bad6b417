"""Lists of Intouch: pages of at most 25, by number ("Pagination" in the manual)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import msgspec

from asyncclients.core import codec
from asyncclients.core.endpoint import Endpoint, Resource
from asyncclients.errors import DecodeError
from asyncclients.paging import InvalidItem, Page, Paginator
from asyncclients.vendors.intouch.models import Envelope
from asyncclients.vendors.intouch.vendor import INTOUCH

T = TypeVar("T")


class PagedResource(Resource):
    """A resource whose list comes in pages of at most 25."""

    def _pages(
        self, endpoint: Endpoint[Envelope[T]], page: int | None, query: Mapping[str, Any]
    ) -> Paginator[T]:
        async def fetch(number: int) -> Page[T]:
            return _page(await self._send(endpoint.request(params={**query, "page": number})))

        def mend(body: bytes) -> Page[T]:
            return mended(body, *get_args(endpoint.returns))

        start = 1 if page is None else page
        name, operation = INTOUCH.name, endpoint.operation
        return Paginator(
            fetch, start, vendor=name, operation=operation, mend=mend, query=query, owner=self
        )


def _page(reply: Envelope[Any]) -> Page[Any]:
    return Page(
        items=reply.data,
        number=reply.current_page,
        total=reply.total if type(reply.total) is int else _count(reply.total),
        last=reply.current_page >= reply.last_page,
    )


def _count(total: Any) -> int | None:
    try:
        count: int | None = codec.from_reply(total, int | None)
    except ValueError:
        return None
    return count


def mended(body: bytes, cls: type[T]) -> Page[T]:
    """The page in *body*, with those of its items that are no *cls* set aside.

    Raises:
        DecodeError: it is no page.
    """
    found = codec.split_list(body, "data")
    if found is None:
        raise DecodeError("answered with something that is no page of a list")
    page = _page(codec.decode(found[0], Envelope[Any]))
    items: list[T] = []
    spoiled: list[InvalidItem] = []
    for raw in found[1]:
        try:
            items.append(codec.decode(raw, cls))
        except DecodeError as bad:
            spoiled.append(InvalidItem(raw=raw, reason=bad.message))
    return msgspec.structs.replace(page, items=items, spoiled=spoiled)
