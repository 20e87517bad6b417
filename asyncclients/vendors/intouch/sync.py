"""The targets of a sync: contacts by email, nodes by `client_code`, tags by name.

Manual: https://docs.api.intouchinsight.com. `search` of a list is free text, so what it finds is
compared with the key. Emails are unique among active contacts; the manual does not call names and
client codes unique.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

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
)


class ItemTarget:
    """The items of *resource*, identified by `key_field`; see `SyncTarget` for its methods."""

    row_type: ClassVar[type[msgspec.Struct]]
    update_type: ClassVar[type[msgspec.Struct]]
    key_field: ClassVar[str]

    def __init__(self, resource: Any) -> None:
        self.resource = resource

    async def create(self, row: Any) -> Any:
        return await self.resource.create(row)

    async def update(self, item_id: str, row: Any) -> Any:
        fields = from_plain(to_plain(row), self.update_type)
        return await self.resource.update(item_id, fields)

    async def delete(self, item_id: str) -> None:
        await self.resource.delete(item_id)

    def list(self) -> Paginator[Any]:
        """Return all items, oldest first."""
        found: Paginator[Any] = self.resource.list(sort_by="created_at")
        return found

    async def find(self, key: str) -> Any:
        async for item in self.resource.list(search=key):
            if self.has_key(item, key):
                return item
        return None

    def has_key(self, item: Any, key: str) -> bool:
        """Return True if *key* is that of *item*."""
        return bool(getattr(item, self.key_field) == key)

    def item_id(self, item: Any) -> str:
        return str(item.uuid)

    def key(self, item: Any) -> str:
        return str(getattr(item, self.key_field))


class ContactTarget(ItemTarget):
    """Contacts, identified by their email, in whatever case."""

    row_type, update_type, key_field = NewContact, ContactUpdate, "email"

    def has_key(self, item: Contact, key: str) -> bool:
        return item.email.strip().casefold() == key.strip().casefold()


class HierarchyTarget(ItemTarget):
    """Nodes, identified by their `client_code`.

    The `parent_uuid` of a row may be the `client_code` of another row or of a known node.
    """

    row_type, update_type, key_field = NewHierarchy, HierarchyUpdate, "client_code"
    parent_field = "parent_uuid"

    def key(self, item: Hierarchy) -> str:
        """Return the `client_code`; empty for the root, which is no row of an input."""
        return (item.client_code or "") if item.parent_uuid else ""

    def parent(self, item: Hierarchy) -> str | None:
        """Return the uuid of the parent; None for the root."""
        return item.parent_uuid


class TagTarget(ItemTarget):
    """Tags, identified by their name: a tag has no other field. Objects keep a deleted tag."""

    row_type, key_field = NewTag, "name"

    async def create(self, row: NewTag) -> Any:
        return await self.resource.create(row.name)

    async def update(self, item_id: str, row: NewTag) -> Any:
        return await self.resource.update(item_id, row.name)


sync_target_of.register(Contacts, ContactTarget)
sync_target_of.register(Hierarchies, HierarchyTarget)
sync_target_of.register(Tags, TagTarget)
