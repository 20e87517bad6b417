"""The target of a sync: contacts by `unique_id`, created and updated in batches.

Manual: https://docs.digitalonboarding.com/docs/api. It describes no list of contacts and no way to
delete one. A create and an update are the same idempotent call.
"""

from __future__ import annotations

from asyncclients.core.vendor import sync_target_of
from asyncclients.vendors.digital_onboarding.client import Contacts
from asyncclients.vendors.digital_onboarding.models import Contact, NewContact


class ContactTarget:
    """Contacts, identified by their `unique_id`, which is also the vendor's id of them."""

    row_type = NewContact
    key_field = "unique_id"
    no_list = "the vendor's manual describes no list of contacts"
    no_delete = "the vendor's manual describes no way to delete a contact"

    def __init__(self, contacts: Contacts) -> None:
        self._contacts = contacts
        self.upsert_many = contacts.upsert_many

    async def create(self, row: NewContact) -> Contact:
        return await self._contacts.upsert(row)

    async def update(self, item_id: str, row: NewContact) -> Contact:  # noqa: ARG002 - as SyncTarget
        return await self._contacts.upsert(row)

    def item_id(self, item: Contact) -> str:
        return item.unique_id or ""

    key = item_id


sync_target_of.register(Contacts, ContactTarget)
