"""The client of Intouch against the sandbox with its limit, in virtual time."""

from __future__ import annotations

import asyncio
from uuid import uuid1

import pytest

from asyncclients import (
    ConfigurationError,
    IntouchClient,
    NotFoundError,
    OutcomeUnknownError,
    SessionPool,
    UnprocessableEntityError,
)
from asyncclients.sandbox import Sandbox, drop, status
from asyncclients.vendors.intouch import (
    ContactUpdate,
    HierarchyUpdate,
    NewContact,
    NewHierarchy,
)

pytestmark = pytest.mark.virtual_time


async def test_tags(intouch: IntouchClient, sandbox: Sandbox) -> None:
    """Tags are created, read, renamed, listed and deleted; a second deletion finds nothing."""
    tag = await intouch.tags.create("a")
    assert (await intouch.tags.update(tag.uuid, "b")).name == "b"
    assert (await intouch.tags.get(tag.uuid)).name == "b"
    assert [found.name async for found in intouch.tags.list()] == ["b"]
    await intouch.tags.delete(tag.uuid)
    assert sandbox.state("intouch").tags == {}
    with pytest.raises(NotFoundError):
        await intouch.tags.delete(tag.uuid)


async def test_hierarchies(intouch: IntouchClient, sandbox: Sandbox) -> None:
    """A node is created under the root, moved and deleted; its parent must exist."""
    root = sandbox.state("intouch").root_uuid
    new = NewHierarchy(name="Ottawa", type="generic", parent_uuid=root)
    one, two = await intouch.hierarchies.create(new), await intouch.hierarchies.create(new)
    assert one.client_code
    moved = await intouch.hierarchies.update(two.uuid, HierarchyUpdate(parent_uuid=one.uuid))
    assert moved.parent_uuid == one.uuid
    assert (await intouch.hierarchies.get(two.uuid)) == moved
    assert {n.uuid async for n in intouch.hierarchies.list(search="Ottawa")} == {one.uuid, two.uuid}
    await intouch.hierarchies.delete(two.uuid)
    orphan = NewHierarchy(name="x", type="generic", parent_uuid=str(uuid1()))
    with pytest.raises(UnprocessableEntityError) as caught:
        await intouch.hierarchies.create(orphan)
    assert isinstance(caught.value.errors, dict)
    assert "parent_uuid" in caught.value.errors


async def test_contacts(intouch: IntouchClient) -> None:
    """Contacts are created, read, changed, unsubscribed, subscribed, deleted; emails are unique."""
    new = NewContact(email="a@example.com", first_name="A", custom_fields={"visits": 3})
    contact = await intouch.contacts.create(new)
    assert (contact.custom_fields, contact.last_name) == ({"visits": 3}, None)
    changed = await intouch.contacts.update(contact.uuid, ContactUpdate(first_name=None))
    assert (changed.first_name, changed.email) == (None, "a@example.com")
    assert (await intouch.contacts.unsubscribe(contact.uuid)).status == "unsubscribed"
    assert (await intouch.contacts.subscribe(contact.uuid)).status == "subscribed"
    assert (await intouch.contacts.get(contact.uuid)).email == "a@example.com"
    with pytest.raises(UnprocessableEntityError) as caught:
        await intouch.contacts.create(new)
    assert caught.value.errors == {"email": ["The email has already been taken."]}
    await intouch.contacts.delete(contact.uuid)
    assert await intouch.contacts.list().first() is None


async def test_external_programs(intouch: IntouchClient) -> None:
    """A record is added, and then replaced under the id in its meta."""
    program = str(uuid1())
    record = await intouch.external_programs.add_record(program, {"book_name": "The Shining"})
    document = record.meta["document_id"]
    again = await intouch.external_programs.update_record(program, document, {"book_name": "It"})
    assert (again.data, again.meta["document_id"]) == ({"book_name": "It"}, document)


async def test_pages(intouch: IntouchClient, sandbox: Sandbox) -> None:
    """Sixty contacts are listed in three pages by three requests, each item once, in order."""
    state = sandbox.state("intouch")
    tags = [await intouch.tags.create(f"tag {n:02}") for n in range(60)]
    before = len(sandbox.requests("intouch"))
    listed = [tag async for tag in intouch.tags.list(sort_by="name")]
    assert [tag.uuid for tag in listed] == [tag.uuid for tag in tags] == list(state.tags)
    assert len(sandbox.requests("intouch")) - before == 3
    pages = [page async for page in intouch.tags.list(limit=20).pages()]
    assert [(page.number, len(page.items), page.total, page.last) for page in pages] == [
        (1, 20, 60, False),
        (2, 20, 60, False),
        (3, 20, 60, True),
    ]
    assert [tag.name async for tag in intouch.tags.list(page=3, order="desc")] == [
        f"tag {n:02}" for n in range(9, -1, -1)
    ]


async def test_lists_are_sorted_newest_first(intouch: IntouchClient, sandbox: Sandbox) -> None:
    """A list sorts itself by a time, with the same search, and names a field that is no time."""
    state = sandbox.state("intouch")
    state.grow(contacts=40, every=60.0)
    contacts = intouch.contacts.list(search="person", sort_by="email")
    assert contacts.newest_first is not None
    listed = [contact.uuid async for contact in contacts.newest_first("updated_at")]
    assert listed == [*reversed(state.contacts)]
    searches = {dict(call.query)["search"] for call in sandbox.requests("intouch")}
    assert searches == {"person"}
    with pytest.raises(ConfigurationError, match="by no time 'email'"):
        contacts.newest_first("email")


async def test_quota_is_used_and_kept(intouch: IntouchClient, sandbox: Sandbox) -> None:
    """A hundred calls at once at 2 per second: no 429, and little of the quota is unused."""
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(intouch.tags.create(f"{n}") for n in range(100)))
    assert sandbox.rejected("intouch") == 0
    assert asyncio.get_running_loop().time() - began <= 52.0
    assert intouch.stats().sent == 100


async def test_clients_of_one_key_share_the_quota(sandbox: Sandbox) -> None:
    """Two separate clients of one key cause no 429."""
    async with SessionPool() as pool:
        one, two = (IntouchClient.from_env(pool, sandbox.environ) for _ in range(2))
        await asyncio.gather(*(client.tags.create("x") for client in (one, two) * 10))
    assert sandbox.rejected("intouch") == 0


async def test_lost_create_is_not_retried(intouch: IntouchClient, sandbox: Sandbox) -> None:
    """A create whose response was lost is sent once, and raises `OutcomeUnknownError`."""
    sandbox.fail("intouch", drop(committed=True))
    with pytest.raises(OutcomeUnknownError, match="look at the vendor's side"):
        await intouch.tags.create("once")
    assert len(sandbox.state("intouch").tags) == 1
    sandbox.fail("intouch", status(502, committed=True))
    with pytest.raises(OutcomeUnknownError):
        await intouch.tags.create("twice")
    assert len(sandbox.state("intouch").tags) == 2


async def test_not_found_after_lost_delete_is_success(
    intouch: IntouchClient, sandbox: Sandbox
) -> None:
    """A DELETE whose response was lost is done if the retry returns 404."""
    tag = await intouch.tags.create("a")
    sandbox.fail("intouch", drop(committed=True))
    await intouch.tags.delete(tag.uuid)
    assert [arrival.status for arrival in sandbox.requests("intouch")][-2:] == [None, 404]


async def test_lost_update_is_retried(intouch: IntouchClient, sandbox: Sandbox) -> None:
    """A PUT whose response was lost is retried."""
    tag = await intouch.tags.create("a")
    sandbox.fail("intouch", drop(committed=True))
    assert (await intouch.tags.update(tag.uuid, "b")).name == "b"
