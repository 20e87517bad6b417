"""The mock Intouch against its manual, over HTTP with plain aiohttp."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.intouch import Table

from .conftest import read

if TYPE_CHECKING:
    from _collections_abc import dict_values
    from collections.abc import AsyncIterator

    import aiohttp

    from asyncclients.sandbox.vendor import Row

    from .conftest import Open

CONTACT = {
    "first_name": "John",
    "last_name": "Doe",
    "email": "john.doe@example.com",
    "phone_number": "5555555555",
    "language": "en_US",
    "contact_lists": [{"name": "All"}],
    "custom_fields": {"since": "2021-09-22"},
}
NODE = {"name": "Ottawa Office", "type": "location"}
PROGRAM = "11b01b44-ba2e-11e5-875c-0a5a4bfb150c"
STRANGER = "00000000-ba2e-11e5-875c-0a5a4bfb150c"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox({"intouch": (1000, 1.0)}) as opened:
        yield opened


@pytest.fixture
async def intouch(connect: Open) -> aiohttp.ClientSession:
    return await connect("intouch")


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, body: object = None
) -> tuple[int, Any]:
    """Status and decoded body of one call."""
    return await read(session.request(method, path, json=body))


async def test_tag_lifecycle(intouch: aiohttp.ClientSession) -> None:
    """Create 201, get, update, delete 204 without body, then 404."""
    status, tag = await ask(intouch, "POST", "tags", {"name": "Satisfaction"})
    assert status == 201
    assert tag.keys() == {"uuid", "name", "created_at", "updated_at"}
    path = f"tags/{tag['uuid']}"
    assert await ask(intouch, "GET", path) == (200, tag)
    status, updated = await ask(intouch, "PUT", path, {"name": "Other"})
    assert (status, updated["name"], updated["created_at"]) == (200, "Other", tag["created_at"])
    assert await ask(intouch, "DELETE", path) == (204, None)
    assert (await ask(intouch, "GET", path))[0] == 404
    assert (await ask(intouch, "DELETE", path))[0] == 404


async def test_ids_and_times_have_the_form_of_the_manual(intouch: aiohttp.ClientSession) -> None:
    """Ids are UUIDs of version 1, as in all samples; times end in +00:00."""
    _, tag = await ask(intouch, "POST", "tags", {"name": "x"})
    assert uuid.UUID(tag["uuid"]).version == 1
    assert tag["created_at"].endswith("+00:00")
    assert datetime.fromisoformat(tag["created_at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("tags", {}, "name"),
        ("tags", {"name": None}, "name"),
        ("tags", {"name": ""}, "name"),
        ("tags", {"name": "x" * 256}, "name"),
        ("tags", {"name": 5}, "name"),
        ("contacts", {**CONTACT, "email": None}, "email"),
        ("contacts", {**CONTACT, "email": "nobody"}, "email"),
        ("contacts", {**CONTACT, "email": "john@localhost"}, "email"),
        ("contacts", {**CONTACT, "email": "x" * 255 + "@example.com"}, "email"),
        ("contacts", {**CONTACT, "first_name": "x" * 101}, "first_name"),
        ("contacts", {**CONTACT, "phone_number": "555-555-55"}, "phone_number"),
        ("contacts", {**CONTACT, "phone_number": "555555555"}, "phone_number"),
        ("contacts", {**CONTACT, "phone_number": 5555555555}, "phone_number"),
        ("contacts", {**CONTACT, "language": "en_GB"}, "language"),
        ("contacts", {**CONTACT, "contact_lists": "All"}, "contact_lists"),
        ("contacts", {**CONTACT, "contact_lists": ["All"]}, "contact_lists"),
        ("contacts", {**CONTACT, "custom_fields": "x"}, "custom_fields"),
        ("hierarchies", {**NODE, "type": "Location"}, "type"),
        ("hierarchies", {**NODE, "client_code": "a b"}, "client_code"),
        ("hierarchies", {**NODE, "parent_uuid": "short"}, "parent_uuid"),
        ("hierarchies", {**NODE, "parent_uuid": STRANGER}, "parent_uuid"),
        ("hierarchies", {**NODE, "parent_uuid": None}, "parent_uuid"),
        (f"external-programs/{PROGRAM}/records", {}, "data"),
    ],
)
async def test_invalid_field_is_named(
    sandbox: Sandbox, intouch: aiohttp.ClientSession, path: str, body: dict[str, Any], field: str
) -> None:
    """A 422 with the invalid field and its messages; nothing is stored."""
    if path == "hierarchies":
        body = {"parent_uuid": sandbox.state("intouch").root_uuid, **body}
    status, told = await ask(intouch, "POST", path, body)
    assert status == 422
    assert told["errors"].keys() == {field}
    assert all(isinstance(complaint, str) for complaint in told["errors"][field])
    assert isinstance(told["message"], str)
    state = sandbox.state("intouch")
    assert (len(state.tags), len(state.contacts), len(state.hierarchies)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [(b"{", "application/json"), (b"[]", "application/json"), (b"name=x", "text/plain")],
)
async def test_body_that_is_no_json_object_is_a_400(
    intouch: aiohttp.ClientSession, body: bytes, media_type: str
) -> None:
    """Broken JSON, an array, and another media type are bad requests."""
    headers = {"Content-Type": media_type}
    async with intouch.post("tags", data=body, headers=headers) as response:
        assert response.status == 400


async def test_key_is_required(connect: Open) -> None:
    """No key: 401 with the manual's text. A wrong key: 403."""
    without, wrong = await connect("intouch", {}), await connect("intouch", {"X-API-KEY": "ii_x"})
    assert await ask(without, "GET", "tags") == (401, {"message": "Missing Authentication Token"})
    assert (await ask(wrong, "GET", "tags"))[0] == 403


async def test_unknown_path_is_404_and_method_405(intouch: aiohttp.ClientSession) -> None:
    """A doubled prefix is an unknown path."""
    assert (await ask(intouch, "GET", "tag"))[0] == 404
    assert (await ask(intouch, "GET", "/public/v1/public/v1/tags"))[0] == 404
    assert (await ask(intouch, "PATCH", "tags"))[0] == 405


async def test_contact_lifecycle(intouch: aiohttp.ClientSession) -> None:
    """All fields come back; an update keeps the fields it omits; delete frees the email."""
    status, contact = await ask(intouch, "POST", "contacts", CONTACT)
    assert status == 201
    assert CONTACT.items() <= contact.items()
    assert (contact["status"], contact["deliverable"]) == ("subscribed", True)
    path = f"contacts/{contact['uuid']}"
    assert await ask(intouch, "GET", path) == (200, contact)
    status, updated = await ask(intouch, "PUT", path, {"last_name": "Roe", "custom_fields": None})
    assert status == 200
    assert (updated["first_name"], updated["last_name"]) == ("John", "Roe")
    assert updated["custom_fields"] == []
    assert await ask(intouch, "DELETE", path) == (204, None)
    assert (await ask(intouch, "POST", "contacts", CONTACT))[0] == 201


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_contact_unsubscribes_and_subscribes(
    intouch: aiohttp.ClientSession, method: str
) -> None:
    """By either method, the status changes and the response is the contact."""
    _, contact = await ask(intouch, "POST", "contacts", CONTACT)
    for verb, expected in (("unsubscribe", "unsubscribed"), ("subscribe", "subscribed")):
        status, told = await ask(intouch, method, f"contacts/{contact['uuid']}/{verb}")
        assert (status, told["status"], told["uuid"]) == (200, expected, contact["uuid"])
    assert (await ask(intouch, method, f"contacts/{STRANGER}/subscribe"))[0] == 404


async def test_email_is_unique(intouch: aiohttp.ClientSession) -> None:
    """A second contact with the email, in any case, is a 422; its owner may keep it."""
    _, first = await ask(intouch, "POST", "contacts", CONTACT)
    taken = {"email": "John.Doe@Example.com"}
    status, told = await ask(intouch, "POST", "contacts", taken)
    assert (status, told["errors"]) == (422, {"email": ["The email has already been taken."]})
    assert (await ask(intouch, "PUT", f"contacts/{first['uuid']}", taken))[0] == 200
    _, second = await ask(intouch, "POST", "contacts", {"email": "b@example.com"})
    assert (await ask(intouch, "PUT", f"contacts/{second['uuid']}", taken))[0] == 422


async def test_empty_object_is_an_array(intouch: aiohttp.ClientSession) -> None:
    """`[]` stands for an empty object, as in the manual's samples."""
    _, contact = await ask(intouch, "POST", "contacts", {"email": "a@example.com"})
    assert (contact["custom_fields"], contact["contact_lists"]) == ([], [])
    path = f"external-programs/{PROGRAM}/records"
    assert (await ask(intouch, "POST", path, {"data": {}}))[1]["data"] == []


async def test_hierarchy_stays_a_tree(sandbox: Sandbox, intouch: aiohttp.ClientSession) -> None:
    """Nodes are below the root and move with their parent, never below themselves."""
    root = sandbox.state("intouch").root_uuid
    make = {"name": "District", "type": "generic", "parent_uuid": root}
    status, district = await ask(intouch, "POST", "hierarchies", make)
    assert (status, "location" in district) == (201, False)
    assert district["client_code"]
    place = {**NODE, "parent_uuid": district["uuid"], "client_code": "145-DR_5"}
    _, office = await ask(intouch, "POST", "hierarchies", place | {"location": {"city": "Ottawa"}})
    assert office["client_code"] == "145-DR_5"
    assert office["location"].keys() == {"city", "latitude", "longitude"}
    below = {"parent_uuid": office["uuid"]}
    status, told = await ask(intouch, "PUT", f"hierarchies/{district['uuid']}", below)
    assert (status, told["errors"].keys()) == (422, {"parent_uuid"})
    assert (await ask(intouch, "DELETE", f"hierarchies/{district['uuid']}"))[0] == 422
    assert (await ask(intouch, "DELETE", f"hierarchies/{root}"))[0] == 422
    status, moved = await ask(
        intouch, "PUT", f"hierarchies/{office['uuid']}", {"parent_uuid": root}
    )
    assert (status, moved["parent_uuid"], moved["name"]) == (200, root, "Ottawa Office")
    assert await ask(intouch, "DELETE", f"hierarchies/{district['uuid']}") == (204, None)


async def test_record_is_added_and_replaced(intouch: aiohttp.ClientSession) -> None:
    """`document_id` in the create's `meta` names the record to replace."""
    path = f"external-programs/{PROGRAM}/records"
    status, record = await ask(intouch, "POST", path, {"data": {"book": "The Shining"}})
    assert (status, record["data"]) == (201, {"book": "The Shining"})
    document = record["meta"]["document_id"]
    body = {"meta": {"source": "till"}, "data": {"book": "It"}}
    status, replaced = await ask(intouch, "PUT", f"{path}/{document}", body)
    assert (status, replaced["data"], replaced["meta"]["source"]) == (200, {"book": "It"}, "till")
    assert replaced["meta"]["document_id"] == document
    assert (await ask(intouch, "PUT", f"{path}/{STRANGER}", body))[0] == 404


async def test_pages_have_the_form_of_the_manual(
    sandbox: Sandbox, intouch: aiohttp.ClientSession
) -> None:
    """31 tags are pages of 25 and 6; beyond them, and without any, from and to are null."""
    _, empty = await ask(intouch, "GET", "tags")
    assert (empty["last_page"], empty["total"], empty["from"], empty["data"]) == (1, 0, None, [])
    sandbox.state("intouch").grow(tags=31)
    _, first = await ask(intouch, "GET", "tags")
    data = first.pop("data")
    assert first == {
        "sort_by": "name",
        "order": "asc",
        "per_page": 25,
        "current_page": 1,
        "last_page": 2,
        "total": 31,
        "from": 1,
        "to": 25,
    }
    _, second = await ask(intouch, "GET", "tags?page=2")
    assert (second["from"], second["to"], len(second["data"])) == (26, 31, 6)
    assert not {row["uuid"] for row in data} & {row["uuid"] for row in second["data"]}
    _, third = await ask(intouch, "GET", "tags?page=3")
    assert (third["data"], third["from"], third["to"], third["last_page"]) == ([], None, None, 2)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("tags?limit=26", "limit"),
        ("tags?limit=0", "limit"),
        ("tags?page=0", "page"),
        ("tags?page=x", "page"),
        ("tags?order=up", "order"),
        ("tags?sort_by=client_code", "sort_by"),
        ("contacts?sort_by=name", "sort_by"),
        ("hierarchies?sort_by=email", "sort_by"),
    ],
)
async def test_invalid_query_is_a_422(
    intouch: aiohttp.ClientSession, query: str, field: str
) -> None:
    """Limits, pages, orders and sort fields outside the manual's are named."""
    status, told = await ask(intouch, "GET", query)
    assert (status, told["errors"].keys()) == (422, {field})


async def test_lists_sort_and_search(intouch: aiohttp.ClientSession) -> None:
    """Sorted by any listed field both ways, searched in names, and current after a change."""
    for name in ("Beta", "Alpha", "Gamma"):
        _, last = await ask(intouch, "POST", "tags", {"name": name})

    async def names(query: str) -> list[str]:
        return [row["name"] for row in (await ask(intouch, "GET", query))[1]["data"]]

    assert await names("tags?sort_by=name") == ["Alpha", "Beta", "Gamma"]
    assert await names("tags?sort_by=name&order=desc") == ["Gamma", "Beta", "Alpha"]
    assert await names("tags?sort_by=created_at") == ["Beta", "Alpha", "Gamma"]
    assert await names("tags?search=ALPH") == ["Alpha"]
    await ask(intouch, "DELETE", f"tags/{last['uuid']}")
    assert await names("tags?sort_by=name") == ["Alpha", "Beta"]


class CountingTable(Table):
    """Counts how often somebody goes through all rows."""

    walks = 0

    def values(self) -> dict_values[str, Row]:
        self.walks += 1
        return super().values()


async def test_listing_many_pages_sorts_once(
    sandbox: Sandbox, intouch: aiohttp.ClientSession
) -> None:
    """Pages of an unchanged table come from one sorted list; a change makes a new one."""
    state = sandbox.state("intouch")
    state.tags = table = CountingTable()
    state.grow(tags=100)
    for page in range(1, 5):
        assert len((await ask(intouch, "GET", f"tags?page={page}"))[1]["data"]) == 25
    assert table.walks == 1
    state.grow(tags=1)
    assert len((await ask(intouch, "GET", "tags?page=5"))[1]["data"]) == 1
    assert table.walks == 2
