"""The targets of a sync: contacts by email, nodes by `client_code`, tags by name.

Manual: https://docs.api.intouchinsight.com. `search` of a list is free text, so what it finds is
compared with the key. Emails are unique among active contacts; the manual does not call names and
client codes unique.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TypeVar

from asyncclients.core.codec import from_plain, to_plain
from asyncclients.core.sync_target import sync_target_of
from asyncclients.paging import Paginator
from asyncclients.vendors.intouch.client import Contacts, Hierarchies, Tags
from asyncclients.vendors.intouch.models import (
    Contact,
    ContactUpdate,
    Hierarchy,
    HierarchyUpdate,
    NewContact,
    NewHierarchy,
    NewTag,
    Tag,
)

T = TypeVar("T")


class ContactTarget:
    """Contacts, identified by their email."""

    row_type = NewContact
    key_field = "email"

    def __init__(self, contacts: Contacts) -> None:
        self.resource = contacts

    async def create(self, row: NewContact) -> Contact:
        """Create a contact."""
        return await self.resource.create(row)

    async def update(self, item_id: str, row: NewContact) -> Contact:
        """Set the fields of *row*."""
        update = from_plain(to_plain(row), ContactUpdate)
        return await self.resource.update(item_id, update)

    async def delete(self, item_id: str) -> None:
        """Delete a contact."""
        await self.resource.delete(item_id)

    def list(self) -> Paginator[Contact]:
        """Return all contacts, oldest first."""
        return self.resource.list(sort_by="created_at")

    async def find(self, key: str) -> Contact | None:
        """Return the contact with the email *key*, in whatever case; None if there is none."""
        email = key.strip().casefold()
        async for found in self.resource.list(search=key):
            if found.email.strip().casefold() == email:
                return found
        return None

    def item_id(self, item: Contact) -> str:
        """Return the uuid."""
        return item.uuid

    def key(self, item: Contact) -> str:
        """Return the email."""
        return item.email


class HierarchyTarget:
    """Nodes, identified by their `client_code`.

    The `parent_uuid` of a row may be the `client_code` of another row or of a known node.
    """

    row_type = NewHierarchy
    key_field = "client_code"
    parent_field = "parent_uuid"

    def __init__(self, hierarchies: Hierarchies) -> None:
        self.resource = hierarchies

    async def create(self, row: NewHierarchy) -> Hierarchy:
        """Create a node."""
        return await self.resource.create(row)

    async def update(self, item_id: str, row: NewHierarchy) -> Hierarchy:
        """Set the fields of *row*."""
        update = from_plain(to_plain(row), HierarchyUpdate)
        return await self.resource.update(item_id, update)

    async def delete(self, item_id: str) -> None:
        """Delete a node."""
        await self.resource.delete(item_id)

    def list(self) -> Paginator[Hierarchy]:
        """Return all nodes, oldest first."""
        return self.resource.list(sort_by="created_at")

    async def find(self, key: str) -> Hierarchy | None:
        """Return the node with the `client_code` *key*; None if there is none."""
        return await _find(self.resource.list(search=key), "client_code", key)

    def item_id(self, item: Hierarchy) -> str:
        """Return the uuid."""
        return item.uuid

    def key(self, item: Hierarchy) -> str:
        """Return the `client_code`; empty for the root, which is no row of an input."""
        return (item.client_code or "") if item.parent_uuid else ""

    def parent(self, item: Hierarchy) -> str | None:
        """Return the uuid of the parent; None for the root."""
        return item.parent_uuid


class TagTarget:
    """Tags, identified by their name: a tag has no other field."""

    row_type = NewTag
    key_field = "name"

    def __init__(self, tags: Tags) -> None:
        self.resource = tags

    async def create(self, row: NewTag) -> Tag:
        """Create a tag."""
        return await self.resource.create(row.name)

    async def update(self, item_id: str, row: NewTag) -> Tag:
        """Rename a tag."""
        return await self.resource.update(item_id, row.name)

    async def delete(self, item_id: str) -> None:
        """Delete a tag; things that have it keep it."""
        await self.resource.delete(item_id)

    def list(self) -> Paginator[Tag]:
        """Return all tags, oldest first."""
        return self.resource.list(sort_by="created_at")

    async def find(self, key: str) -> Tag | None:
        """Return the tag with the name *key*; None if there is none."""
        return await _find(self.resource.list(search=key), "name", key)

    def item_id(self, item: Tag) -> str:
        """Return the uuid."""
        return item.uuid

    def key(self, item: Tag) -> str:
        """Return the name."""
        return item.name


async def _find(items: AsyncIterable[T], field: str, value: str) -> T | None:
    async for item in items:
        if getattr(item, field) == value:
            return item
    return None


sync_target_of.register(Contacts, ContactTarget)
sync_target_of.register(Hierarchies, HierarchyTarget)
sync_target_of.register(Tags, TagTarget)
