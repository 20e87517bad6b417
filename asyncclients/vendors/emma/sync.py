"""The target of a sync: touchpoint types by `type_name`.

Manual: https://api.myemma.com/api/external/touchpoints.html. The list is not paged. Deleting a type
also deletes all its touchpoints.
"""

from __future__ import annotations

from asyncclients.core.vendor import sync_target_of
from asyncclients.paging import Page, Paginator
from asyncclients.vendors.emma.client import LIST_TYPES, TouchpointTypes
from asyncclients.vendors.emma.models import NewType, TouchpointType
from asyncclients.vendors.emma.vendor import EMMA


class TypeTarget:
    """Touchpoint types, identified by their `type_name`; see `SyncTarget` for its methods."""

    row_type = NewType
    key_field = "type_name"

    def __init__(self, types: TouchpointTypes) -> None:
        self._types = types

    async def create(self, row: NewType) -> TouchpointType:
        return await self._types.create(row.type_name, row.display_name)

    async def update(self, item_id: str, row: NewType) -> TouchpointType:
        return await self._types.update(int(item_id), row.type_name, row.display_name)

    async def delete(self, item_id: str) -> None:
        """Delete a type and all its touchpoints."""
        await self._types.delete(int(item_id))

    def list(self) -> Paginator[TouchpointType]:
        """Return all types, as one page."""

        async def fetch(number: int) -> Page[TouchpointType]:
            return Page(items=await self._types.list(), number=number, last=True)

        return Paginator(fetch, vendor=EMMA.name, operation=LIST_TYPES.operation)

    async def find(self, key: str) -> TouchpointType | None:
        for found in await self._types.list():
            if found.type_name == key:
                return found
        return None

    def item_id(self, item: TouchpointType) -> str:
        return str(item.touchpoint_type_id)

    def key(self, item: TouchpointType) -> str:
        return item.type_name


sync_target_of.register(TouchpointTypes, TypeTarget)
