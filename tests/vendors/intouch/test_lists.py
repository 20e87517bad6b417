"""Lists of Intouch, as Laravel and its gateways send them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncclients import DecodeError, IntouchClient, Quota, SessionPool
from asyncclients.vendors.intouch import Contact
from asyncclients.vendors.intouch.client import parse_leniently
from tests.support.byte_server import answers, byte_server, http

TAGS = [{"uuid": f"t{n}", "name": f"tag {n}"} for n in range(5)]


def page(number: Any, last: Any, data: Any, **more: Any) -> bytes:
    return http(
        body=json.dumps({"current_page": number, "last_page": last, "data": data, **more}).encode()
    )


async def listed(pool: SessionPool, *pages: bytes) -> tuple[list[str], list[int | None]]:
    """The ids of the items in *pages*, and the totals."""
    async with byte_server(answers(*pages)) as running:
        client = IntouchClient(pool, api_key="k", base_url=running.url, quotas=[Quota(500, 1.0)])
        found = [each async for each in client.tags.list().pages()]
    return [tag.uuid for each in found for tag in each.items], [each.total for each in found]


ODD_PAGES: dict[str, tuple[bytes, ...]] = {
    "text": (page("1", "2", TAGS[:3], total="5"), page("2", "2", TAGS[3:], total="5")),
    "whole floats": (page(1.0, 2.0, TAGS[:3], total=5.0), page(2, "2.0", TAGS[3:], total=5)),
    "object": (
        page(1, 2, {str(n): TAGS[n] for n in range(3)}, total=5),
        page(2, 2, {"3": TAGS[3], "4": TAGS[4]}, total=5),
    ),
    "null": (
        page(1, 3, None, total=5),
        page(2, 3, TAGS, total=5),
        page(3, 3, {}, total=5),
    ),
    "empty": (
        page(1, 4, TAGS[:2], total=5),
        page(2, 4, [], total=5),
        page(3, 4, TAGS[2:], total=5),
        page(4, 4, [], total=5),
    ),
}


@pytest.mark.parametrize("pages", ODD_PAGES.values(), ids=ODD_PAGES)
async def test_lists_are_read_in_any_form(pages: tuple[bytes, ...], pool: SessionPool) -> None:
    """All items are read with numbers as text or floats, `data` as an object or null, and empty pages."""
    uuids, totals = await listed(pool, *pages)
    assert uuids == [tag["uuid"] for tag in TAGS]
    assert set(totals) == {5}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"per_page": "25"},
        {"perPage": [], "from": "x", "to": {}, "sort_by": 7, "order": None},
        {"total": "many"},
        {"total": [5]},
        {"total": -0.5},
    ],
)
async def test_unneeded_fields_may_be_anything(more: dict[str, Any], pool: SessionPool) -> None:
    """Fields that are not needed to read a list may be missing, renamed or of another type."""
    uuids, totals = await listed(pool, page(1, 1, TAGS, **more))
    assert (len(uuids), totals) == (5, [None])


@pytest.mark.parametrize(
    "fields",
    [{"current_page": 1, "data": []}, {"last_page": 1, "data": []}, {"error": "no"}, {}],
)
async def test_needed_fields_must_be_there(fields: dict[str, Any], pool: SessionPool) -> None:
    """A page without its number, the last number or items is a DecodeError, not an empty list."""
    with pytest.raises(DecodeError):
        await listed(pool, http(body=json.dumps(fields).encode()))


@pytest.mark.parametrize("bad", ['"\\ud83d"', "\x01", "NaN", "007", "nope", "{a}", '[1, "]"]'])
def test_mended_keeps_the_other_items(bad: str) -> None:
    """An item that is no JSON, or no item, is set aside with its bytes; the others are kept."""
    good = '{"uuid": "%d", "email": "a@x.org", "custom_fields": []}'
    invalid = f'{{"uuid": "7", "email": {bad}}}'
    body = f'{{"current_page": "1", "last_page": 2, "data": [{good % 1}, {invalid}, {good % 2}]}}'
    page = parse_leniently(body.encode(), Contact)
    assert [contact.uuid for contact in page.items] == ["1", "2"]
    assert [each.raw for each in page.invalid_items] == [invalid.encode()]
    assert (page.number, page.last) == (1, False)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data": []}', b'{"data": [', b"[]"])
def test_mended_needs_a_page(body: bytes) -> None:
    """A body that is not a page of a list raises an error."""
    with pytest.raises(DecodeError):
        parse_leniently(body, Contact)
