"""The mock of Intempt: 10 requests per second and key, from a bucket of 10.

No limit is published: this limit, its 429 and the Spring Boot form of errors are guesses. The root
also responds without a key.

A row with a known primary key overwrites the row that has it and keeps its id. The manual does
not specify rows without a primary key: here each is stored as a new row, so that a repeated
insert is visible. Fields that are not in the schema are dropped silently. The first line of an uploaded
file has the field names, and all values are text. Errors in a file are not reported, since S3
has accepted it already.

Insert and upload link have the same method and path but another Content-Type. Responses have
`_links` to `https://api.intempt.com`, as in the manual: a client that follows them leaves the
sandbox. A user is identified by a profile id, a master id or, for segmentations, a source and
a JSON object of identifiers. `masterId` is always text; `profileIds` are numbers in one response
and text in the other, as in the manual.
"""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, ClassVar, cast

from asyncclients.sandbox.limits import TokenBucket
from asyncclients.sandbox.vendor import (
    RejectedError,
    Reply,
    Route,
    SandboxRequest,
    Vendor,
    as_array,
    as_object,
)

from .state import IntemptState, stamp

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit
    from asyncclients.sandbox.storage import StorageState

    from .state import Collection, Profile, Row


def rejection(status: int, error: str, message: str) -> RejectedError:
    """Return an error response in the form of Spring Boot."""
    return RejectedError(Reply.json(status, {"status": status, "error": error, "message": message}))


def body_of(call: SandboxRequest) -> Row:
    """Return the JSON object in the body; raises RejectedError if there is none."""
    # The manual's samples send JSON with `curl --data-raw`, which declares a form.
    if call.media_type not in {"application/json", "application/x-www-form-urlencoded"}:
        raise rejection(415, "Unsupported Media Type", f"'{call.media_type}' is not supported")
    try:
        body = as_object(call.json())
    except ValueError:
        body = None
    if body is None:
        raise rejection(400, "Bad Request", "The body is not a JSON object")
    return body


def store(state: IntemptState, collection: Collection, row: Row, time: datetime) -> Row:
    """Insert or overwrite *row*; return the stored item."""
    known = row if collection.fields is None else _only_fields(row, collection.fields)
    given = row.get(collection.primary_key)
    key = "" if given is None else str(given)
    old = collection.items.get(key) if key else None
    number = old["id"] if old else state.new_id(time)
    key = key or f"without a key: {number}"
    item: Row = {"collId": collection.id, "id": number, "data": known, "matches": []}
    collection.items[key] = item
    return item


def store_file(state: IntemptState, collection: Collection, file: bytes, time: datetime) -> None:
    """Insert the lines of an uploaded CSV file; add it to `unread` if it is invalid."""
    try:
        lines = csv.DictReader(io.StringIO(file.decode("utf-8-sig"), newline=""), strict=True)
        rows: list[Row] = [dict(line) for line in lines]
    except (UnicodeDecodeError, csv.Error):
        state.unread.append(collection.name)
        return
    for row in rows:
        store(state, collection, row, time)


def _only_fields(row: Row, fields: frozenset[str]) -> Row:
    return {name: value for name, value in row.items() if name in fields}


HOST = "https://api.intempt.com"


def collection_of(state: IntemptState, call: SandboxRequest) -> Collection:
    """Return the collection in the path of *call*."""
    for collection in state.collections.values():
        if str(collection.id) == call.ids[1]:
            return collection
    raise rejection(404, "Not Found", "No such collection")


def shown(state: IntemptState, item: Row) -> Row:
    """Return *item* as in responses."""
    numbers = {name: state.shown_id(int(str(item[name]))) for name in ("collId", "id")}
    href = f"{HOST}/v1/{state.org}/collections/{item['collId']}/data/{item['id']}"
    return {**item, **numbers, "_links": {"self": {"href": href}}}


def hal(state: IntemptState, call: SandboxRequest, rel: str, items: list[Row]) -> Reply:
    """Return a list of *items*: HAL with the name *rel*, or a bare array."""
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
    raise rejection(404, "Not Found", "No such data item")


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
        raise rejection(404, "Not Found", "No such source")
    rows: list[tuple[Collection, Row]] = []
    for name, values in body_of(call).items():
        collection, items = state.collections.get(name), as_array(values)
        if collection is None or items is None:
            raise rejection(400, "Bad Request", f"'{name}' is no collection with an array of rows")
        for value in items:
            row = as_object(value)
            if row is None:
                raise rejection(400, "Bad Request", f"A row of '{name}' is not a JSON object")
            rows.append((collection, row))
    stored = [store(state, collection, row, call.time) for collection, row in rows]
    return _created(state, stored, single=False)


def _created(state: IntemptState, items: list[Row], *, single: bool) -> Reply:
    if state.insert_reply == "empty":
        return Reply(201)
    shapes = [shown(state, item) for item in items]
    return Reply.json(201, shapes[0] if single else {"_embedded": {"data": shapes}})


def upload_link(state: IntemptState, storage: StorageState, call: SandboxRequest) -> Reply:
    """Return a 307 with the URL for a PUT of the file."""
    collection = collection_of(state, call)
    if call.body:
        raise rejection(400, "Bad Request", "A request for an upload link has no body")
    name = f"{state.new_id(call.time)}.csv"

    def receive(file: bytes) -> None:
        store_file(state, collection, file, call.time)

    return Reply(307, headers={"Location": storage.presign(name, call.at, receive)})


def _by_id(state: IntemptState, call: SandboxRequest) -> Profile | None:
    profile_id, master_id = call.query.get("profileId"), call.query.get("masterId")
    if (profile_id is None) == (master_id is None):
        raise rejection(400, "Bad Request", "Give masterId or profileId")
    for profile in state.profiles:
        if str(profile.master_id) == master_id or profile_id in {*map(str, profile.profile_ids)}:
            return profile
    return None


def _by_identifiers(state: IntemptState, call: SandboxRequest) -> Profile | None:
    try:
        wanted = as_object(cast("object", json.loads(call.query.get("profile", ""))))
    except ValueError:
        wanted = None
    if not wanted:
        raise rejection(400, "Bad Request", "profile must be a JSON object")
    for profile in state.profiles:
        in_source = str(profile.source_id) == call.query["sourceId"]
        if in_source and wanted.items() <= profile.identifiers.items():
            return profile
    return None


def matches(state: IntemptState, call: SandboxRequest) -> Reply:
    profile = _by_id(state, call)
    if profile is None:
        raise rejection(404, "Not Found", "No such user")
    body: Row = {
        "masterId": str(profile.master_id),
        "profileIds": [state.shown_id(number) for number in profile.profile_ids],
        "matchedEvents": profile.matched_events,
        "lastUpdated": stamp(profile.seen_at),
        "_links": {"self": {"href": f"{HOST.replace('https', 'http')}{call.path}"}},
    }
    return Reply.json(200, body)


def segmentations(state: IntemptState, call: SandboxRequest) -> Reply:
    find = _by_identifiers if "sourceId" in call.query else _by_id
    profile = find(state, call)
    return hal(state, call, "segmentations", [_segmentation(state, profile)] if profile else [])


def _segmentation(state: IntemptState, profile: Profile) -> Row:
    href = f"{HOST}/v1/{state.org}/segmentations/{profile.segmentation_id}"
    return {
        "id": str(profile.segmentation_id),
        "masterId": str(profile.master_id),
        "profileIds": [str(number) for number in profile.profile_ids],
        "created": stamp(profile.seen_at),
        "_links": {"self": {"href": href}},
    }


def _root(state: IntemptState, call: SandboxRequest) -> Reply:
    del call
    names = ("sources", "collections")
    links = {n: {"href": f"{HOST}/v1/{state.org}/{n}/"} for n in names}
    body = {"service": "metadata", "version": "v1", "status": "ok", "_links": links}
    return Reply.json(200, body)


class Intempt(Vendor[IntemptState]):
    """Intempt API, 9 operations; the tenth is the upload to `Storage`."""

    name: ClassVar[str] = "intempt"
    quota: ClassVar[tuple[float, float] | None] = (10, 1.0)

    def __init__(self, random: Random, storage: StorageState) -> None:
        del random

        def post(state: IntemptState, call: SandboxRequest) -> Reply:
            if call.media_type == "text/csv":
                return upload_link(state, storage, call)
            return insert(state, call)

        data = "/v1/{org}/collections/{id}/data"
        routes: list[Route[IntemptState]] = [
            Route("GET", "/", _root),
            Route("GET", data, list_items),
            Route("POST", data, post),
            Route("GET", f"{data}/{{item}}", get_item),
            Route("DELETE", f"{data}/{{item}}", delete_item),
            Route("POST", "/v1/{org}/sources/{id}/data", insert_many),
            Route("GET", "/v1/{org}/events/matches", matches),
            Route("GET", "/v1/{org}/segmentations/latest", segmentations),
        ]
        super().__init__(IntemptState(), routes)

    def issue(self, random: Random) -> dict[str, str]:
        key = f"{random.getrandbits(64):016x}.{random.getrandbits(128):032x}"
        self.state.keys.add(key)
        return {"INTEMPT_API_KEY": key, "INTEMPT_ORG": self.state.org}

    def credential(self, call: SandboxRequest) -> str:
        if not call.segments and "Authorization" not in call.headers:
            return ""
        scheme, _, key = call.headers.get("Authorization", "").partition(" ")
        if scheme != "ApiKey" or key not in self.state.keys:
            raise RejectedError(self.error(401, "Unauthorized"))
        if call.segments and call.segments[1:2] != (self.state.org,):
            raise RejectedError(self.error(403, "Forbidden"))
        return key

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return TokenBucket(limit, period)

    def rate_limited(self, limit: ServerLimit, now: float) -> Reply:
        wait = max(1, math.ceil(limit.reset_after(now)))
        reply = self.error(429, "Too Many Requests")
        return Reply(429, reply.body, {**reply.headers, "Retry-After": str(wait)})

    def error(self, status: int, message: str) -> Reply:
        return Reply.json(status, {"status": status, "error": message, "message": message})
