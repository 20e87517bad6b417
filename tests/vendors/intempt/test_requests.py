"""Each operation's request and reply, held against the manual's own samples."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from asyncclients import DecodeError, IntemptClient, SessionPool
from asyncclients.core.codec import ExactId, JsonObject
from asyncclients.vendors.intempt import DataItem, EventMatches, Segmentation, ServiceInfo
from tests.support.byte_server import answers, byte_server, http

COLLECTION, ITEM = "19554189106348032", "24663674875432960"
DATA = f"/v1/your-org/collections/{COLLECTION}/data"

# Replies as the manual prints them, links included.
INFO = """{"service": "metadata", "version": "v1", "status": "ok", "_links": {
  "sources": {"href": "https://api.intempt.com/v1/playground/sources/"},
  "collections": {"href": "https://api.intempt.com/v1/playground/collections/"}}}"""
ONE = """{"collId": 19554189106348032, "id": 24663674875432960,
  "data": {"id": 4, "bookingDate": -1, "guestId": 2, "roomId": 10}, "matches": [],
  "_links": {"self": {"href": "https://api.intempt.com/v1/intempt-test/collections/1/data/2"}}}"""
LIST = f"""{{"_embedded": {{"dataItemList": [{ONE}, {ONE}]}},
  "_links": {{"self": {{"href": "http://localhost:8081/v1/your-org/collections/1/data"}}}}}}"""
MATCHES = """{"masterId": "182233620328374272",
  "profileIds": [182233618306719744, 182233618306719715, 182233618306771518],
  "matchedEvents": ["newtestevent"], "lastUpdated": "2021-01-13T09:09:52.207+00:00",
  "_links": {"self": {"href": "http://api.intempt.com/v1/org-name/events/matches"}}}"""
LATEST = """{"_embedded": {"segmentations": [{"id": "200382528132874240",
  "masterId": "200382140847620096", "profileIds": ["200382140415606784"],
  "created": "2021-03-03T12:52:03.723+00:00",
  "_links": {"self": {"href": "https://api.intempt.com/v1/org-name/segmentations/1"}}}]},
  "_links": {"self": {"href": "https://api.intempt.com/v1/org-name/segmentations"}}}"""

ROW = DataItem(
    id=ExactId(ITEM),
    coll_id=ExactId(COLLECTION),
    data=JsonObject(id=4, bookingDate=-1, guestId=2, roomId=10),
)
MATCHED = EventMatches(
    master_id=ExactId("182233620328374272"),
    profile_ids=[
        ExactId("182233618306719744"),
        ExactId("182233618306719715"),
        ExactId("182233618306771518"),
    ],
    matched_events=["newtestevent"],
    last_updated=datetime(2021, 1, 13, 9, 9, 52, 207_000, UTC),
)
SEGMENTED = Segmentation(
    id=ExactId("200382528132874240"),
    master_id=ExactId("200382140847620096"),
    profile_ids=[ExactId("200382140415606784")],
    created=datetime(2021, 3, 3, 12, 52, 3, 723_000, UTC),
)


Call = Callable[[IntemptClient], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    call: Call
    method: str
    target: str
    reply: bytes
    result: Any
    body: Any = None


INSERTED = {"visitorId": "194jso4nfja-fanjs-1584", "identifier": "yaroslav@intempt.com"}
MANY = {"profile": [INSERTED, INSERTED]}

CASES: dict[str, Case] = {
    "info": Case(
        lambda c: c.info(),
        "GET",
        "/",
        http(body=INFO.encode()),
        ServiceInfo(service="metadata", version="v1", status="ok"),
    ),
    "get_item": Case(
        lambda c: c.collections.get_item(COLLECTION, ITEM),
        "GET",
        f"{DATA}/{ITEM}",
        http(body=ONE.encode()),
        ROW,
    ),
    "get_item, the array of the manual's text": Case(
        lambda c: c.collections.get_item(COLLECTION, ITEM),
        "GET",
        f"{DATA}/{ITEM}",
        http(body=f"[{ONE}]".encode()),
        ROW,
    ),
    "delete_item": Case(
        lambda c: c.collections.delete_item(COLLECTION, ITEM),
        "DELETE",
        f"{DATA}/{ITEM}",
        http(body=ONE.encode()),
        ROW,
    ),
    "delete_item, nothing said": Case(
        lambda c: c.collections.delete_item(COLLECTION, ITEM),
        "DELETE",
        f"{DATA}/{ITEM}",
        http(204, b"", {"Content-Length": "0"}),
        None,
    ),
    "delete_item, the collection of the manual's text": Case(
        lambda c: c.collections.delete_item(COLLECTION, ITEM),
        "DELETE",
        f"{DATA}/{ITEM}",
        http(body=b'{"name": "bookings"}'),
        None,
    ),
    "list_items": Case(
        lambda c: c.collections.list_items(COLLECTION),
        "GET",
        DATA,
        http(body=LIST.encode()),
        [ROW, ROW],
    ),
    "list_items, none": Case(
        lambda c: c.collections.list_items(COLLECTION),
        "GET",
        DATA,
        http(body=b'{"_links": {"self": {"href": "https://api.intempt.com/"}}}'),
        [],
    ),
    "insert": Case(
        lambda c: c.collections.insert(COLLECTION, INSERTED),
        "POST",
        DATA,
        http(201, b""),
        None,
        INSERTED,
    ),
    "insert, shown": Case(
        lambda c: c.collections.insert(COLLECTION, {"price": {"double": 3.14}}),
        "POST",
        DATA,
        http(201, ONE.encode()),
        ROW,
        {"price": {"double": 3.14}},
    ),
    "sources.insert": Case(
        lambda c: c.sources.insert("77", MANY),
        "POST",
        "/v1/your-org/sources/77/data",
        http(201, b""),
        [],
        MANY,
    ),
    "sources.insert, shown": Case(
        lambda c: c.sources.insert("77", {"a": (), "b": ({"x": None},)}),
        "POST",
        "/v1/your-org/sources/77/data",
        http(201, f'{{"_embedded": {{"data": [{ONE}]}}}}'.encode()),
        [ROW],
        {"a": [], "b": [{"x": None}]},
    ),
    "events.matches, by profile": Case(
        lambda c: c.events.matches(profile_id="182233618306719744"),
        "GET",
        "/v1/your-org/events/matches?profileId=182233618306719744",
        http(body=MATCHES.encode()),
        MATCHED,
    ),
    "events.matches, by master": Case(
        lambda c: c.events.matches(master_id="18&=x"),
        "GET",
        "/v1/your-org/events/matches?masterId=18%26%3Dx",
        http(body=MATCHES.encode()),
        MATCHED,
    ),
    "segmentations.latest, by profile": Case(
        lambda c: c.segmentations.latest(profile_id="1"),
        "GET",
        "/v1/your-org/segmentations/latest?profileId=1",
        http(body=LATEST.encode()),
        [SEGMENTED],
    ),
    "segmentations.latest, by master": Case(
        lambda c: c.segmentations.latest(master_id="2"),
        "GET",
        "/v1/your-org/segmentations/latest?masterId=2",
        http(body=LATEST.encode()),
        [SEGMENTED],
    ),
    "segmentations.latest, by source and profile": Case(
        lambda c: c.segmentations.latest(source_id="3", profile={"visitorId": "a b/ü"}),
        "GET",
        "/v1/your-org/segmentations/latest?sourceId=3"
        "&profile=%7B%22visitorId%22%3A%22a+b%2F%C3%BC%22%7D",
        http(body=LATEST.encode()),
        [SEGMENTED],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_request_and_reply_match_the_manual(pool: SessionPool, case: Case) -> None:
    """Method, target, login, type, body and result are those of the manual."""
    async with byte_server(answers(case.reply)) as server:
        client = IntemptClient(pool, api_key="k3y", org="your-org", base_url=server.url)
        result = await case.call(client)
    assert len(server.arrived) == 1  # no link was followed
    request = server.arrived[0]
    assert (request.method, request.target) == (case.method, case.target)
    assert request.headers["authorization"] == "ApiKey k3y"
    assert request.headers.get("content-type") == ("application/json" if case.body else None)
    assert (json.loads(request.body) if request.body else None) == case.body
    assert result == case.result


TEXT: Any = '{"a": 1}'
A_ROW: Any = {"id": 4}
NONSENSE: list[Call] = [
    lambda c: c.events.matches(),
    lambda c: c.events.matches(profile_id="1", master_id="2"),
    lambda c: c.events.matches(profile_id=""),
    lambda c: c.segmentations.latest(),
    lambda c: c.segmentations.latest(profile_id="1", master_id="2"),
    lambda c: c.segmentations.latest(profile_id="1", source_id="2", profile={}),
    lambda c: c.segmentations.latest(source_id="2"),
    lambda c: c.segmentations.latest(profile={"a": 1}),
    lambda c: c.segmentations.latest(source_id="2", profile=TEXT),
    lambda c: c.sources.insert("1", {"bookings": A_ROW}),
    lambda c: c.sources.insert("1", {"bookings": TEXT}),
    lambda c: c.collections.get_item("", "1"),
    lambda c: c.collections.get_item("1", ".."),
    lambda c: c.collections.list_items("a\nb"),
]


@pytest.mark.parametrize("call", NONSENSE)
async def test_invalid_arguments_are_rejected_before_sending(pool: SessionPool, call: Call) -> None:
    """Several or no ids of a user, rows that are not a list, and ids that change the path are rejected."""
    async with byte_server(answers(http())) as server:
        client = IntemptClient(pool, api_key="k3y", org="your-org", base_url=server.url)
        with pytest.raises(ValueError, match=r"\w"):
            await call(client)
    assert server.arrived == []


@pytest.mark.parametrize(
    "reply",
    [
        b'{"message": "welcome"}',
        b'{"_embedded": {"a": [], "b": []}}',
        b'{"_embedded": {"a": 7}}',
        b'{"_embedded": 7}',
        b'"text"',
        b'[{"id": 1.5}]',
        b'[{"id": true}]',
        b"[7]",
        b"<html>",
        b"",
    ],
)
async def test_reply_without_list_is_a_decode_error(pool: SessionPool, reply: bytes) -> None:
    """A response that is no form of a list is a `DecodeError` that names the call."""
    async with byte_server(answers(http(body=reply))) as server:
        client = IntemptClient(pool, api_key="k3y", org="your-org", base_url=server.url)
        with pytest.raises(DecodeError) as caught:
            await client.collections.list_items(COLLECTION)
    assert (caught.value.operation, caught.value.status) == ("collections.list_items", 200)


@pytest.mark.parametrize("reply", [b"[]", b'{"_links": {}}'])
async def test_get_item_without_item_is_a_decode_error(pool: SessionPool, reply: bytes) -> None:
    """A 200 without an item is a `DecodeError`, not an `IndexError`."""
    async with byte_server(answers(http(body=reply))) as server:
        client = IntemptClient(pool, api_key="k3y", org="your-org", base_url=server.url)
        with pytest.raises(DecodeError):
            await client.collections.get_item(COLLECTION, ITEM)


@pytest.mark.parametrize("wire", ["9223372036854775807", '"9223372036854775807"', "1" + "0" * 30])
async def test_ids_keep_every_digit(pool: SessionPool, wire: str) -> None:
    """An id above 2**53 or 64 bits, or a text, becomes a `str` with the same digits."""
    async with byte_server(answers(http(body=f'[{{"id": {wire}}}]'.encode()))) as server:
        client = IntemptClient(pool, api_key="k3y", org="your-org", base_url=server.url)
        items = await client.collections.list_items(COLLECTION)
    assert isinstance(items[0].id, str)
    assert items[0].id == wire.strip('"')
