"""Each operation's request, held against the manual's text, and its samples read back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from msgspec import UNSET
from yarl import URL

from asyncclients import IntouchClient, SessionPool
from asyncclients.core.endpoint import Endpoint
from asyncclients.vendors.intouch import (
    Contact,
    ContactUpdate,
    Hierarchy,
    HierarchyUpdate,
    NewContact,
    NewHierarchy,
    Record,
    Tag,
    client,
)

BASE = "https://api.intouchinsight.com/public/v1"
KEY = "ii_654GTHdzbURNO734jgdBpvSe0S6pXIgtX3ZLVxHLu"  # the manual's own
ID = "11b01b44-ba2e-11e5-875c-0a5a4bfb150c"
PARENT = "77b01b44-ba2e-11e5-875c-0a5a4bfb150c"
TIMES = {"created_at": "2021-05-11T11:52:47+00:00", "updated_at": "2021-08-11T11:52:47+00:00"}
TAG: dict[str, Any] = {"uuid": ID, "name": "Customer Satisfaction", **TIMES}
NODE: dict[str, Any] = {
    "uuid": PARENT,
    "name": "Intouch Insight Ottawa Office",
    "client_code": "145DR5",
    "type": "location",
    "parent_uuid": PARENT,
    "location": {"city": "Ottawa"},
    "attributes": [],
    "tags": [],
    **TIMES,
}
CONTACT: dict[str, Any] = {
    "uuid": ID,
    "first_name": "John",
    "last_name": "Doe",
    "email": "johh.doe@example.com",
    "phone_number": "5555555555",
    "language": "en_US",
    "status": "subscribed",
    "deliverable": True,
    **TIMES,
    "contact_lists": [],
    "custom_fields": [],
}
BOOK = {"book_category": "Fiction", "book_sold_to_id": 34532, "book_sold_date": "2021-09-22"}
RECORD: dict[str, Any] = {"meta": [], "data": BOOK}


def page(*data: Any) -> dict[str, Any]:
    """One page, as "Pagination" in the manual shows it."""
    return {
        "sort_by": "name",
        "order": "asc",
        "per_page": 25,
        "current_page": 1,
        "last_page": 1,
        "total": len(data),
        "from": 1 if data else None,
        "to": len(data) if data else None,
        "data": list(data),
    }


class Answer(ClientResponse):
    """A response that has no stream writer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"stream_writer": Mock(), **kwargs})


@dataclass(frozen=True)
class Case:
    """A call, with its expected request (the query sorted by name) and result."""

    call: Callable[[IntouchClient], Awaitable[Any]]
    method: str
    path: str
    body: Any = None
    reply: Any = None
    status: int = 200


NEW_CONTACT = NewContact(
    email="johh.doe@example.com",
    first_name="John",
    last_name=None,
    phone_number="5555555555",
    custom_fields={"joined": "2021-05-11", "visits": 3},
)
CASES: dict[str, Case] = {
    "tags.list": Case(
        lambda c: c.tags.list(
            sort_by="name", order="desc", search="a b&c", page=1, limit=25
        ).first(),
        "GET",
        "/tags?limit=25&order=desc&page=1&search=a+b%26c&sort_by=name",
        reply=page(TAG),
    ),
    "tags.create": Case(
        lambda c: c.tags.create("Customer Satisfaction"),
        "POST",
        "/tags",
        {"name": "Customer Satisfaction"},
        TAG,
        201,
    ),
    "tags.get": Case(lambda c: c.tags.get(ID), "GET", f"/tags/{ID}", reply=TAG),
    "tags.update": Case(lambda c: c.tags.update(ID, "x"), "PUT", f"/tags/{ID}", {"name": "x"}, TAG),
    "tags.delete": Case(lambda c: c.tags.delete(ID), "DELETE", f"/tags/{ID}", status=204),
    "hierarchies.list": Case(
        lambda c: c.hierarchies.list(sort_by="client_code").first(),
        "GET",
        "/hierarchies?page=1&sort_by=client_code",
        reply=page(NODE),
    ),
    "hierarchies.create": Case(
        lambda c: c.hierarchies.create(
            NewHierarchy(name="Office", type="location", parent_uuid=PARENT, location=None)
        ),
        "POST",
        "/hierarchies",
        {"name": "Office", "type": "location", "parent_uuid": PARENT, "location": None},
        NODE,
        201,
    ),
    "hierarchies.get": Case(
        lambda c: c.hierarchies.get(PARENT), "GET", f"/hierarchies/{PARENT}", reply=NODE
    ),
    "hierarchies.update": Case(
        lambda c: c.hierarchies.update(PARENT, HierarchyUpdate(client_code=None)),
        "PUT",
        f"/hierarchies/{PARENT}",
        {"client_code": None},
        NODE,
    ),
    "hierarchies.delete": Case(
        lambda c: c.hierarchies.delete(PARENT), "DELETE", f"/hierarchies/{PARENT}", status=204
    ),
    "contacts.list": Case(
        lambda c: c.contacts.list(sort_by="created_at", page=3).first(),
        "GET",
        "/contacts?page=3&sort_by=created_at",
        reply={**page(CONTACT), "current_page": 3, "last_page": 3},
    ),
    "contacts.create": Case(
        lambda c: c.contacts.create(NEW_CONTACT),
        "POST",
        "/contacts",
        {
            "email": "johh.doe@example.com",
            "first_name": "John",
            "last_name": None,
            "phone_number": "5555555555",
            "custom_fields": {"joined": "2021-05-11", "visits": 3},
        },
        CONTACT,
        201,
    ),
    "contacts.get": Case(lambda c: c.contacts.get(ID), "GET", f"/contacts/{ID}", reply=CONTACT),
    "contacts.update": Case(
        lambda c: c.contacts.update(ID, ContactUpdate(language="en_US")),
        "PUT",
        f"/contacts/{ID}",
        {"language": "en_US"},
        CONTACT,
    ),
    "contacts.delete": Case(
        lambda c: c.contacts.delete(ID), "DELETE", f"/contacts/{ID}", status=204
    ),
    "contacts.subscribe": Case(
        lambda c: c.contacts.subscribe(ID), "PUT", f"/contacts/{ID}/subscribe", reply=CONTACT
    ),
    "contacts.unsubscribe": Case(
        lambda c: c.contacts.unsubscribe(ID), "PUT", f"/contacts/{ID}/unsubscribe", reply=CONTACT
    ),
    "external_programs.add_record": Case(
        lambda c: c.external_programs.add_record(ID, BOOK),
        "POST",
        f"/external-programs/{ID}/records",
        {"data": BOOK},
        RECORD,
        201,
    ),
    "external_programs.update_record": Case(
        lambda c: c.external_programs.update_record(ID, PARENT, BOOK, {"a": 1}),
        "PUT",
        f"/external-programs/{ID}/records/{PARENT}",
        {"data": BOOK, "meta": {"a": 1}},
        RECORD,
    ),
}


async def sent(case: Case) -> tuple[Any, Any, Any]:
    """Return method, URL and arguments of the one request of *case*, and its result."""
    vendor: Any
    with aioresponses() as vendor:
        body = b"" if case.reply is None else msgspec.json.encode(case.reply)
        vendor.add(
            BASE + case.path, case.method, status=case.status, body=body, response_class=Answer
        )
        async with SessionPool() as pool:
            result = await case.call(IntouchClient(pool, api_key=KEY))
        ((address, (request,)),) = vendor.requests.items()
    return address, request, result


@pytest.mark.parametrize("name", CASES)
async def test_request_matches_the_manual(name: str) -> None:
    """Method, path, query and body are those of the manual; UNSET is left out, None is null."""
    case = CASES[name]
    address, request, _ = await sent(case)
    assert address == (case.method, URL(BASE + case.path, encoded=True))
    headers, data = request.kwargs.get("headers", {}), request.kwargs.get("data")
    assert headers.get("Content-Type") == (None if case.body is None else "application/json")
    assert (None if data is None else msgspec.json.decode(data)) == case.body


def table() -> dict[str, Endpoint[Any]]:
    """The endpoints, by operation."""
    found: list[Endpoint[Any]] = [v for v in vars(client).values() if isinstance(v, Endpoint)]
    return {endpoint.operation: endpoint for endpoint in found}


def test_every_operation_has_a_case() -> None:
    """Each operation is compared with the manual."""
    assert CASES.keys() == table().keys(), "add a case to this file"


def test_idempotent_operations() -> None:
    """All operations are idempotent except four, which create or hide something each time."""
    assert {endpoint.operation for endpoint in table().values() if not endpoint.idempotent} == {
        "tags.create",
        "hierarchies.create",
        "contacts.create",
        "external_programs.add_record",
    }
    assert all(
        endpoint.idempotency_note for endpoint in table().values() if not endpoint.idempotent
    )


async def test_samples_of_the_manual_are_decoded() -> None:
    """The samples of the manual are decoded: names, times with zones, `[]` as an empty object."""
    stamp, later = (
        datetime(2021, 5, 11, 11, 52, 47, tzinfo=UTC),
        datetime(2021, 8, 11, 11, 52, 47, tzinfo=UTC),
    )
    _, _, tag = await sent(CASES["tags.get"])
    assert tag == Tag(uuid=ID, name="Customer Satisfaction", created_at=stamp, updated_at=later)
    _, _, node = await sent(CASES["hierarchies.get"])
    assert isinstance(node, Hierarchy)
    assert (node.type, node.client_code, node.location) == (
        "location",
        "145DR5",
        {"city": "Ottawa"},
    )
    _, _, contact = await sent(CASES["contacts.list"])
    assert isinstance(contact, Contact)
    assert (contact.email, contact.deliverable, contact.custom_fields) == (
        "johh.doe@example.com",
        True,
        {},
    )
    _, _, record = await sent(CASES["external_programs.add_record"])
    assert isinstance(record, Record)
    assert (record.meta, record.data) == ({}, BOOK)


@pytest.mark.parametrize(
    ("reply", "meta", "data"),
    [
        ({"meta": [{"a": 1}], "data": [1, 2]}, [{"a": 1}], [1, 2]),
        ({"meta": {"document_id": "d"}, "data": {"a": [1]}}, {"document_id": "d"}, {"a": [1]}),
        ({"meta": [], "data": []}, {}, {}),
        ({"meta": None}, {}, {}),
        ({}, {}, {}),
    ],
)
async def test_record_has_objects_or_lists(reply: Any, meta: Any, data: Any) -> None:
    """A record may have objects or lists; an empty list is an empty object."""
    for name in ("external_programs.add_record", "external_programs.update_record"):
        _, _, record = await sent(replace(CASES[name], reply=reply))
        assert (record.meta, record.data) == (meta, data)


async def test_deletions_take_any_success() -> None:
    """A 204 and a 200 with or without a body complete a deletion."""
    for status, reply in ((204, None), (200, None), (200, {"deleted": True})):
        case = CASES["tags.delete"]
        answer = Case(case.call, case.method, case.path, reply=reply, status=status)
        assert (await sent(answer))[2] is None


async def test_new_fields_and_open_words_are_read() -> None:
    """A status, type or field that the manual does not list is accepted."""
    reply: dict[str, Any] = {**CONTACT, "status": "bounced", "new": {"a": [1]}}
    case = CASES["contacts.get"]
    _, _, contact = await sent(Case(case.call, case.method, case.path, reply=reply))
    assert contact.status == "bounced"


async def test_meta_is_left_out_when_not_given() -> None:
    """`update_record` without meta sends data only."""
    case = CASES["external_programs.update_record"]
    without = Case(
        lambda c: c.external_programs.update_record(ID, PARENT, BOOK),
        case.method,
        case.path,
        reply=RECORD,
    )
    _, request, _ = await sent(without)
    assert msgspec.json.decode(request.kwargs["data"]) == {"data": BOOK}


def test_unset_leaves_a_field_out_and_none_sends_null() -> None:
    """UNSET leaves a field out, None sends null."""
    assert msgspec.json.encode(NewContact(email="a")) == b'{"email":"a"}'
    assert msgspec.json.encode(ContactUpdate(last_name=None)) == b'{"last_name":null}'
    assert msgspec.json.encode(ContactUpdate(email=UNSET)) == b"{}"
