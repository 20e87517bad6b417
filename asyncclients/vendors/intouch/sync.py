"""The targets of a sync: contacts by email, nodes by `client_code`, tags by name.

Manual: https://docs.api.intouchinsight.com. `search` of a list is free text, so what it finds is
compared with the key. Emails are unique among active contacts; the manual does not call names and
client codes unique.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from asyncclients.core.codec import from_plain, to_plain
from asyncclients.core.vendor import sync_target_of
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

T = TypeVar("T", Contact, Hierarchy, Tag)


class ItemTarget(Generic[T]):
    """The operations that the targets of all resources share."""

    resource: Any

    async def delete(self, item_id: str) -> None:
        """Delete an item."""
        await self.resource.delete(item_id)

    def list(self) -> Paginator[T]:
        """Return all items, oldest first."""
        found: Paginator[T] = self.resource.list(sort_by="created_at")
        return found

    async def find(self, key: str) -> T | None:
        """Return the item with *key*; None if there is none."""
        found: Paginator[T] = self.resource.list(search=key)
        async for item in found:
            if self.has_key(item, key):
                return item
        return None

    def has_key(self, item: T, key: str) -> bool:
        """True if *key* is that of *item*."""
        return self.key(item) == key

    def item_id(self, item: T) -> str:
        """Return the uuid."""
        return item.uuid

    def key(self, item: T) -> str:
        """Return the field that identifies *item* in an input."""
        raise NotImplementedError


class ContactTarget(ItemTarget[Contact]):
    """Contacts, identified by their email, in whatever case."""

    row_type = NewContact
    key_field = "email"
    resource: Contacts

    def __init__(self, contacts: Contacts) -> None:
        self.resource = contacts

    async def create(self, row: NewContact) -> Contact:
        """Create a contact."""
        return await self.resource.create(row)

    async def update(self, item_id: str, row: NewContact) -> Contact:
        """Set the fields of *row*."""
        return await self.resource.update(item_id, from_plain(to_plain(row), ContactUpdate))

    def has_key(self, item: Contact, key: str) -> bool:
        """True if *key* is the email of *item*."""
        return item.email.strip().casefold() == key.strip().casefold()

    def key(self, item: Contact) -> str:
        """Return the email."""
        return item.email


class HierarchyTarget(ItemTarget[Hierarchy]):
    """Nodes, identified by their `client_code`.

    The `parent_uuid` of a row may be the `client_code` of another row or of a known node.
    """

    row_type = NewHierarchy
    key_field = "client_code"
    parent_field = "parent_uuid"
    resource: Hierarchies

    def __init__(self, hierarchies: Hierarchies) -> None:
        self.resource = hierarchies

    async def create(self, row: NewHierarchy) -> Hierarchy:
        """Create a node."""
        return await self.resource.create(row)

    async def update(self, item_id: str, row: NewHierarchy) -> Hierarchy:
        """Set the fields of *row*."""
        return await self.resource.update(item_id, from_plain(to_plain(row), HierarchyUpdate))

    def has_key(self, item: Hierarchy, key: str) -> bool:
        """True if *key* is the `client_code` of *item*."""
        return item.client_code == key

    def key(self, item: Hierarchy) -> str:
        """Return the `client_code`; empty for the root, which is no row of an input."""
        return (item.client_code or "") if item.parent_uuid else ""

    def parent(self, item: Hierarchy) -> str | None:
        """Return the uuid of the parent; None for the root."""
        return item.parent_uuid


class TagTarget(ItemTarget[Tag]):
    """Tags, identified by their name: a tag has no other field. Objects keep a deleted tag."""

    row_type = NewTag
    key_field = "name"
    resource: Tags

    def __init__(self, tags: Tags) -> None:
        self.resource = tags

    async def create(self, row: NewTag) -> Tag:
        """Create a tag."""
        return await self.resource.create(row.name)

    async def update(self, item_id: str, row: NewTag) -> Tag:
        """Rename a tag."""
        return await self.resource.update(item_id, row.name)

    def key(self, item: Tag) -> str:
        """Return the name."""
        return item.name


sync_target_of.register(Contacts, ContactTarget)
sync_target_of.register(Hierarchies, HierarchyTarget)
sync_target_of.register(Tags, TagTarget)
