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
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from .limits import TokenBucket
from .vendor import RejectedError, Reply, Route, Row, SandboxRequest, Vendor, as_array, as_object

if TYPE_CHECKING:
    from random import Random

    from .storage import StorageState

WireForm: TypeAlias = Literal["hal", "array"]
InsertReply: TypeAlias = Literal["empty", "item"]

_ZERO = datetime(2019, 8, 28, 14, 3, 26, tzinfo=UTC)
"""Ids are snowflakes above 2**53, as in the manual's samples: milliseconds since this time,
shifted by 22 bits, plus a sequence number."""
_BORN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Collection:
    """A table: `items` by the primary key as text.

    `fields` are the fields of the schema, None for any; an insert drops other fields.
    """

    id: int
    name: str
    source_id: int
    primary_key: str
    fields: frozenset[str] | None = None
    items: dict[str, Row] = field(default_factory=dict[str, Row])


@dataclass(slots=True)
class Profile:
    """A user: one master id, and the data of the profiles merged into it."""

    master_id: int
    profile_ids: list[int]
    source_id: int
    segmentation_id: int
    identifiers: Row
    matched_events: list[str]


class IntemptState:
    """One Intempt organization: collections by name, profiles, one source.

    `wire_form` is the form of lists: HAL, without `_embedded` if the list is empty, or a bare
    "array" as in the manual's text (a single item is then an array of one). With `ids_as_text`,
    ids are strings. `insert_reply` is the body of a 201: empty, or the stored item. `unread` are
    the collections of uploaded files without readable rows.
    """

    def __init__(self) -> None:
        self.org = "sandbox-org"
        self.keys: set[str] = set()
        self.wire_form: WireForm = "hal"
        self.insert_reply: InsertReply = "empty"
        self.ids_as_text = False
        self.unread: list[str] = []
        self._last_id = 0
        self.source_id = self.new_id(_BORN)
        self.collections: dict[str, Collection] = {}
        self.profiles: list[Profile] = []
        self.add_collection("bookings", "id", {"id", "dateFrom", "dateTo", "guestId", "roomId"})
        self.add_collection("profile", "visitorId")
        self.add_profile({"visitorId": "194jso4nfja"}, ["newtestevent"])

    def new_id(self, time: datetime) -> int:
        """Return a new id for *time*."""
        milliseconds = (time - _ZERO) // timedelta(milliseconds=1)
        self._last_id = max(milliseconds << 22, self._last_id + 1)
        return self._last_id

    def add_collection(
        self, name: str, primary_key: str, fields: set[str] | None = None
    ) -> Collection:
        """Add a collection to the source."""
        schema = None if fields is None else frozenset(fields)
        number = self.new_id(_ZERO)
        self.collections[name] = Collection(number, name, self.source_id, primary_key, schema)
        return self.collections[name]

    def add_profile(self, identifiers: Row, matched_events: list[str]) -> Profile:
        """Add a user with two profiles, identified by *identifiers*."""
        master, first, second, segmentation = (self.new_id(_BORN) for _ in range(4))
        profile = Profile(
            master, [first, second], self.source_id, segmentation, identifiers, matched_events
        )
        self.profiles.append(profile)
        return profile

    def shown_id(self, number: int) -> int | str:
        """Return *number* as in responses."""
        return str(number) if self.ids_as_text else number


def stamp(time: datetime) -> str:
    """Return *time* to the millisecond, with `+00:00`."""
    return time.isoformat(timespec="milliseconds")


def rejection(status: int, error: str, message: str | None = None) -> RejectedError:
    """Return an error response in the form of Spring Boot."""
    body = {"status": status, "error": error, "message": message or error}
    return RejectedError(Reply.json(status, body))


def body_of(call: SandboxRequest) -> Row:
    """Return the JSON object in the body; raises RejectedError if there is none."""
    # The manual's samples send JSON with `curl --data-raw`, which declares a form.
    if call.media_type not in {"application/json", "application/x-www-form-urlencoded"}:
        raise rejection(415, "Unsupported Media Type", f"'{call.media_type}' is not supported")
    body = call.json_object()
    if body is None:
        raise rejection(400, "Bad Request", "The body is not a JSON object")
    return body


def store(state: IntemptState, collection: Collection, row: Row, time: datetime) -> Row:
    """Insert or overwrite *row*; return the stored item."""
    fields = row.keys() if collection.fields is None else collection.fields
    given = row.get(collection.primary_key)
    key = "" if given is None else str(given)
    old = collection.items.get(key) if key else None
    number = old["id"] if old else state.new_id(time)
    key = key or f"without a key: {number}"
    known = {name: value for name, value in row.items() if name in fields}
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
        "lastUpdated": stamp(_BORN),
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
        "created": stamp(_BORN),
        "_links": {"self": {"href": href}},
    }


def _root(state: IntemptState, _call: SandboxRequest) -> Reply:
    names = ("sources", "collections")
    links = {n: {"href": f"{HOST}/v1/{state.org}/{n}/"} for n in names}
    body = {"service": "metadata", "version": "v1", "status": "ok", "_links": links}
    return Reply.json(200, body)


class Intempt(Vendor[IntemptState]):
    """Intempt API, 9 operations; the tenth is the upload to `Storage`."""

    name = "intempt"
    quota = (10, 1.0)
    limit_model = TokenBucket
    over_limit = rejection(429, "Too Many Requests").reply
    has_retry_after = True

    def __init__(self, storage: StorageState) -> None:
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
            raise rejection(401, "Unauthorized")
        if call.segments and call.segments[1:2] != (self.state.org,):
            raise rejection(403, "Forbidden")
        return key

    def error(self, status: int, message: str) -> Reply:
        return rejection(status, message).reply
