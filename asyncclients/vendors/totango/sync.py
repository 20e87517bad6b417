"""The target of a sync: touchpoints, identified by any column of the input.

Manual: https://support.totango.com/hc/en-us/articles/115000597266-Touchpoints-API. Totango does not
store a key of the caller, so a sync remembers the touchpoint of each key: its note id, its account,
and its event id if the response to the create has it. Touchpoints can only be listed by account,
and not found by a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from asyncclients.core.codec import encode, from_plain, to_plain
from asyncclients.core.vendor import sync_target_of
from asyncclients.errors import AsyncClientsError
from asyncclients.vendors.totango.client import Touchpoints
from asyncclients.vendors.totango.models import Event, NewTouchpoint, TouchpointUpdate


class TouchpointIds(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The ids of a touchpoint; an `item_id` is this as JSON.

    `event_id` is None if the response to the create did not have it.
    """

    note_id: str
    account_id: str
    event_id: str | None = None


class TouchpointTarget:
    """Touchpoints; the key is any column of the input."""

    row_type = NewTouchpoint
    no_list = "the vendor lists touchpoints only by account"

    def __init__(self, touchpoints: Touchpoints) -> None:
        self._touchpoints = touchpoints

    async def create(self, row: NewTouchpoint) -> TouchpointIds | None:
        """Create a touchpoint; None if neither the response nor the account shows its id."""
        created = await self._touchpoints.create(row)
        if created.note_id is not None:
            return TouchpointIds(created.note_id, row.account_id, created.event_id)
        events: Sequence[Event] = ()
        with suppress(AsyncClientsError):  # it is created, whatever happens now
            events = await self._touchpoints.list(row.account_id)
        for event in sorted(events, key=lambda event: event.timestamp or 0, reverse=True):
            note = event.note_content
            if note is not None and note.text == row.content and note.note_id is not None:
                return TouchpointIds(note.note_id, row.account_id, event.id)
        return None

    async def update(self, item_id: str, row: NewTouchpoint) -> None:
        ids = _ids(item_id)
        event = {} if ids.event_id is None else {"event_id": ids.event_id}
        update = from_plain({**to_plain(row), **event}, TouchpointUpdate)
        await self._touchpoints.update(ids.note_id, update)

    async def delete(self, item_id: str) -> None:
        """Delete a touchpoint; an unknown event id costs a second request."""
        ids = _ids(item_id)
        await self._touchpoints.delete(ids.note_id, ids.event_id, ids.account_id)

    def item_id(self, item: TouchpointIds | None) -> str:
        return "" if item is None else encode(item).decode()

    def key(self, item: TouchpointIds | None) -> str:  # noqa: ARG002 - as SyncTarget
        """Return an empty text: Totango does not store the key."""
        return ""


def _ids(item_id: str) -> TouchpointIds:
    return msgspec.json.decode(item_id, type=TouchpointIds)


sync_target_of.register(Touchpoints, TouchpointTarget)
