"""One call of every operation of every vendor, through the public clients.

Keys are the names of endpoints, `vendor.resource.method`. A call first creates the objects
that it needs, so the last request that arrives is its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from asyncclients.vendors import digital_onboarding, emma, intouch, totango

Call = Callable[[Any, Any], Awaitable[Any]]
"""A function of the client and the state of its sandbox vendor."""


INPUT_STRUCTS: Final = [
    intouch.NewContact,
    intouch.ContactUpdate,
    intouch.NewHierarchy,
    intouch.HierarchyUpdate,
    totango.NewTouchpoint,
    totango.TouchpointUpdate,
    emma.NewTouchpoint,
    digital_onboarding.NewContact,
]
"""The structs that users fill in for creates and updates."""
_PROGRAM = "b1a8c7e0-5d3f-11ee-8c99-0242ac120002"


# --- Prerequisites ---------------------------------------------------


async def _tag(client: Any) -> str:
    return str((await client.tags.create("gold")).uuid)


def _node(state: Any) -> intouch.NewHierarchy:
    return intouch.NewHierarchy(name="Shop", type="location", parent_uuid=state.root_uuid)


async def _shop(client: Any, state: Any) -> str:
    return str((await client.hierarchies.create(_node(state))).uuid)


async def _person(client: Any) -> str:
    return str((await client.contacts.create(intouch.NewContact(email="a@example.com"))).uuid)


async def _document(client: Any) -> str:
    record = await client.external_programs.add_record(_PROGRAM, {"a": 1})
    return str(record.meta["document_id"])


async def _note(client: Any) -> totango.Touchpoint:
    touchpoint = totango.NewTouchpoint(account_id="0000", content="called")
    made: totango.Touchpoint = await client.touchpoints.create(touchpoint)
    return made


async def _event_id(client: Any, note_id: str | None) -> str:
    events = await client.touchpoints.list("0000")
    return next(str(event.id) for event in events if event.note_content.note_id == note_id)


async def _row(client: Any, state: Any) -> tuple[str, str]:
    collection = str(state.add_collection("rooms", "id").id)
    await client.collections.insert(collection, {"id": 7})
    (item,) = await client.collections.list_items(collection)
    return collection, item.id


async def _kind(client: Any) -> int:
    return int((await client.touchpoint_types.create("visit", "Visit")).touchpoint_type_id)


async def _visit(client: Any, state: Any) -> emma.Touchpoint:
    await _kind(client)
    member_id = state.add_member("a@example.com")
    visit = emma.NewTouchpoint(member_id=member_id, type_name="visit")
    made: emma.Touchpoint
    (made,) = await client.touchpoints.create([visit])
    return made


# --- The calls --------------------------------------------------------------------


async def _delete_touchpoint(client: Any, _: Any) -> None:
    note = await _note(client)
    await client.touchpoints.delete(note.note_id, await _event_id(client, note.note_id))


async def _update_touchpoint(client: Any, _: Any) -> Any:
    note = await _note(client)
    event_id = await _event_id(client, note.note_id)
    change = totango.TouchpointUpdate(account_id="0000", event_id=event_id, content="met")
    return await client.touchpoints.update(note.note_id, change)


async def _insert(client: Any, state: Any) -> Any:
    collection = str(state.add_collection("rooms", "id").id)
    return await client.collections.insert(collection, {"id": 1})


async def _upload(client: Any, state: Any) -> Any:
    collection = str(state.add_collection("rooms", "id").id)
    return await client.collections.upload_csv(collection, b"id,name\n1,blue\n")


_ADA = digital_onboarding.NewContact(email="ada@example.com")

INTOUCH: dict[str, Call] = {
    "tags.list": lambda c, _: c.tags.list(sort_by="name").first(),
    "tags.create": lambda c, _: _tag(c),
    "tags.get": lambda c, _: _then(_tag(c), c.tags.get),
    "tags.update": lambda c, _: _then(_tag(c), lambda uuid: c.tags.update(uuid, "silver")),
    "tags.delete": lambda c, _: _then(_tag(c), c.tags.delete),
    "hierarchies.list": lambda c, _: c.hierarchies.list().first(),
    "hierarchies.create": _shop,
    "hierarchies.get": lambda c, s: c.hierarchies.get(s.root_uuid),
    "hierarchies.update": lambda c, s: _then(
        _shop(c, s),
        lambda uuid: c.hierarchies.update(
            uuid, intouch.HierarchyUpdate(name="Store", type="location", parent_uuid=s.root_uuid)
        ),
    ),
    "hierarchies.delete": lambda c, s: _then(_shop(c, s), c.hierarchies.delete),
    "contacts.list": lambda c, _: c.contacts.list().first(),
    "contacts.create": lambda c, _: _person(c),
    "contacts.get": lambda c, _: _then(_person(c), c.contacts.get),
    "contacts.update": lambda c, _: _then(
        _person(c),
        lambda uuid: c.contacts.update(uuid, intouch.ContactUpdate(email="b@example.com")),
    ),
    "contacts.delete": lambda c, _: _then(_person(c), c.contacts.delete),
    "contacts.subscribe": lambda c, _: _then(_person(c), c.contacts.subscribe),
    "contacts.unsubscribe": lambda c, _: _then(_person(c), c.contacts.unsubscribe),
    "external_programs.add_record": lambda c, _: _document(c),
    "external_programs.update_record": lambda c, _: _then(
        _document(c), lambda d: c.external_programs.update_record(_PROGRAM, d, {"a": 2})
    ),
}
TOTANGO: dict[str, Call] = {
    "touchpoints.create": lambda c, _: _note(c),
    "touchpoints.update": _update_touchpoint,
    "touchpoints.delete": _delete_touchpoint,
    "touchpoints.list": lambda c, _: c.touchpoints.list("0000"),
    "events.list": lambda c, _: c.events.list("0000"),
    "touchpoint_types.list": lambda c, _: c.touchpoint_types.list(),
    "touchpoint_tags.list": lambda c, _: c.touchpoint_tags.list(),
    "activity_types.list": lambda c, _: c.activity_types.list(),
}
INTEMPT: dict[str, Call] = {
    "info": lambda c, _: c.info(),
    "collections.get_item": lambda c, s: _then(_row(c, s), lambda at: c.collections.get_item(*at)),
    "collections.delete_item": lambda c, s: _then(
        _row(c, s), lambda at: c.collections.delete_item(*at)
    ),
    "collections.list_items": lambda c, s: c.collections.list_items(s.collections["bookings"].id),
    "collections.insert": _insert,
    "collections.upload_csv": _upload,
    "sources.insert": lambda c, s: c.sources.insert(s.source_id, {"bookings": [{"id": 1}]}),
    "events.matches": lambda c, s: c.events.matches(master_id=s.profiles[0].master_id),
    "segmentations.latest": lambda c, s: c.segmentations.latest(
        profile_id=s.profiles[0].profile_ids[0]
    ),
}
EMMA: dict[str, Call] = {
    "touchpoint_types.create": lambda c, _: _kind(c),
    "touchpoint_types.list": lambda c, _: c.touchpoint_types.list(),
    "touchpoint_types.get": lambda c, _: _then(_kind(c), c.touchpoint_types.get),
    "touchpoint_types.update": lambda c, _: _then(
        _kind(c), lambda kind: c.touchpoint_types.update(kind, "call", "Call")
    ),
    "touchpoint_types.delete": lambda c, _: _then(_kind(c), c.touchpoint_types.delete),
    "touchpoints.create": _visit,
    "touchpoints.list": lambda c, s: c.touchpoints.list(s.add_member("a@example.com")),
    "touchpoints.get": lambda c, s: _then(
        _visit(c, s), lambda visit: c.touchpoints.get(visit.touchpoint_id)
    ),
    "touchpoints.delete": lambda c, s: _then(
        _visit(c, s), lambda visit: c.touchpoints.delete(visit.touchpoint_id)
    ),
}
DIGITAL_ONBOARDING: dict[str, Call] = {
    "contacts.upsert": lambda c, _: c.contacts.upsert(_ADA),
    "contacts.upsert_many": lambda c, _: c.contacts.upsert_many([_ADA]),
    "journeys.create": lambda c, s: c.journeys.create(s.templates[0]["id"], _ADA),
    "templates.list": lambda c, _: c.templates.list(),
    "objectives.list": lambda c, _: c.objectives.list(),
}
CALLS: dict[str, dict[str, Call]] = {
    "intouch": INTOUCH,
    "totango": TOTANGO,
    "intempt": INTEMPT,
    "emma": EMMA,
    "digital_onboarding": DIGITAL_ONBOARDING,
}


async def _then(first: Awaitable[Any], then: Callable[[Any], Awaitable[Any]]) -> Any:
    return await then(await first)
