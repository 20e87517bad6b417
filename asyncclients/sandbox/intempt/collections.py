"""Collection data: list, get, delete, insert, and the link for a CSV upload.

Insert and upload link share method and path; the Content-Type tells them apart.
Answers carry `_links` with `https://api.intempt.com`, as in the manual: a client
that follows them leaves the sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import Reply, SandboxRequest, as_array, as_object

from .rows import body_of, refused, store, store_file

if TYPE_CHECKING:
    from asyncclients.sandbox.storage import StorageState

    from .state import Collection, IntemptState, Row

HOST = "https://api.intempt.com"


def collection_of(state: IntemptState, call: SandboxRequest) -> Collection:
    """The collection whose id the path names."""
    for collection in state.collections.values():
        if str(collection.id) == call.ids[1]:
            return collection
    raise refused(404, "Not Found", "No such collection")


def shown(state: IntemptState, item: Row) -> Row:
    """*item* as it is answered."""
    numbers = {name: state.shown_id(int(str(item[name]))) for name in ("collId", "id")}
    href = f"{HOST}/v1/{state.org}/collections/{item['collId']}/data/{item['id']}"
    return {**item, **numbers, "_links": {"self": {"href": href}}}


def hal(state: IntemptState, call: SandboxRequest, rel: str, items: list[Row]) -> Reply:
    """A list of *items*: HAL under *rel*, without `_embedded` when empty, or a bare array."""
    if state.wire_form == "array":
        return Reply.json(200, items)
    links = {"self": {"href": f"{HOST}{call.path}"}}
    embedded = {"_embedded": {rel: items}} if items else {}
    return Reply.json(200, {**embedded, "_links": links})


def list_items(state: IntemptState, call: SandboxRequest) -> Reply:
    items = collection_of(state, call).items.values()
    return hal(state, call, "dataItemList", [shown(state, item) for item in items])


def _found(state: IntemptState, call: SandboxRequest) -> tuple[Collection, str]:
    collection = collection_of(state, call)
    for key, item in collection.items.items():
        if str(item["id"]) == call.ids[2]:
            return collection, key
    raise refused(404, "Not Found", "No such data item")


def get_item(state: IntemptState, call: SandboxRequest) -> Reply:
    collection, key = _found(state, call)
    item = shown(state, collection.items[key])
    return Reply.json(200, [item] if state.wire_form == "array" else item)


def delete_item(state: IntemptState, call: SandboxRequest) -> Reply:
    collection, key = _found(state, call)
    return Reply.json(200, shown(state, collection.items.pop(key)))


def insert(state: IntemptState, call: SandboxRequest) -> Reply:
    collection, row = collection_of(state, call), body_of(call)
    return _created(state, [store(state, collection, row, call.time)], single=True)


def insert_many(state: IntemptState, call: SandboxRequest) -> Reply:
    if call.ids[1] != str(state.source_id):
        raise refused(404, "Not Found", "No such source")
    rows: list[tuple[Collection, Row]] = []
    for name, values in body_of(call).items():
        collection, items = state.collections.get(name), as_array(values)
        if collection is None or items is None:
            raise refused(400, "Bad Request", f"'{name}' is no collection with an array of rows")
        for value in items:
            row = as_object(value)
            if row is None:
                raise refused(400, "Bad Request", f"A row of '{name}' is not a JSON object")
            rows.append((collection, row))
    stored = [store(state, collection, row, call.time) for collection, row in rows]
    return _created(state, stored, single=False)


def _created(state: IntemptState, items: list[Row], *, single: bool) -> Reply:
    if state.insert_reply == "empty":
        return Reply(201)
    shapes = [shown(state, item) for item in items]
    return Reply.json(201, shapes[0] if single else {"_embedded": {"data": shapes}})


def upload_link(state: IntemptState, storage: StorageState, call: SandboxRequest) -> Reply:
    """307, with the URL to PUT the file to."""
    collection = collection_of(state, call)
    if call.body:
        raise refused(400, "Bad Request", "A request for an upload link has no body")
    name = f"{state.new_id(call.time)}.csv"

    def receive(file: bytes) -> None:
        store_file(state, collection, file, call.time)

    return Reply(307, headers={"Location": storage.presign(name, call.at, receive)})
