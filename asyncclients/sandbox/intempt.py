"""The mock of Intempt: 10 requests per second and key, from a bucket of 10.

No limit is published: this limit, its 429 and the Spring Boot form of errors are guesses. The root
also responds without a key.

A row with a known primary key overwrites the row that has it and keeps its id. The manual does
not specify rows without a primary key: here each is stored as a new row, so that a repeated
insert is visible. Fields that are not in the schema are dropped silently. An insert has no body in
its response. The first line of an uploaded file has the field names, and all values are text.
Errors in a file are not reported, since S3 has accepted it already.

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
from http import HTTPStatus
from itertools import count, islice
from random import Random
from typing import cast

from .limits import TokenBucket
from .storage import Storage
from .vendor import Reply, Route, Row, SandboxRequest, Vendor, as_object, as_rows

HOST = "https://api.intempt.com"
_BORN = "2026-01-01T00:00:00.000+00:00"

_DATA = "/v1/{org}/collections/{id}/data"
_ITEM = f"{_DATA}/{{item}}"


@dataclass(slots=True)
class Collection:
    """A table: `items` by the primary key as text.

    `fields` are the fields of the schema, None for any; an insert drops other fields.
    """

    id: int
    name: str
    primary_key: str
    fields: set[str] | None = None
    items: dict[str, Row] = field(default_factory=dict[str, Row])


@dataclass(slots=True)
class Profile:
    """A user: one master id, and the data of the profiles merged into it."""

    master_id: int
    profile_ids: list[int]
    segmentation_id: int
    identifiers: Row
    matched_events: list[str]


class Intempt(Vendor):
    """Intempt API, on one organization, without the upload to `Storage`.

    It has collections by name, profiles and one source. Lists are HAL, without `_embedded` if the
    list is empty; the manual's text describes arrays.
    """

    name = "intempt"
    quota = (10, 1.0)
    limit_model = TokenBucket
    has_retry_after = True

    def __init__(self, random: Random, storage: Storage) -> None:
        super().__init__(random)
        self.org = "sandbox-org"
        self.keys: set[str] = set()
        self._storage = storage
        # Ids are above 2**53, as in the manual's samples.
        self._ids = count(2**59)
        self.source_id = next(self._ids)
        self.collections: dict[str, Collection] = {}
        self.add_collection("bookings", "id", {"id", "dateFrom", "dateTo", "guestId", "roomId"})
        self.add_collection("profile", "visitorId")
        master, first, second, segmentation = islice(self._ids, 4)
        identifiers: Row = {"visitorId": "194jso4nfja"}
        self.profiles = [
            Profile(master, [first, second], segmentation, identifiers, ["newtestevent"])
        ]

    def issue(self) -> dict[str, str]:
        key = f"{self.random.getrandbits(64):016x}.{self.random.getrandbits(128):032x}"
        self.keys.add(key)
        return {"INTEMPT_API_KEY": key, "INTEMPT_ORG": self.org}

    def credential(self, call: SandboxRequest) -> str:
        if not call.segments and "Authorization" not in call.headers:
            return ""
        scheme, key = call.authorization
        if scheme != "apikey" or key not in self.keys:
            raise self.rejected(401, "Unauthorized")
        if call.segments and call.segments[1:2] != (self.org,):
            raise self.rejected(403, "Forbidden")
        return key

    def error(self, status: int, message: str) -> Reply:
        body = {"status": status, "error": HTTPStatus(status).phrase, "message": message}
        return Reply.json(status, body)

    def add_collection(
        self, name: str, primary_key: str, fields: set[str] | None = None
    ) -> Collection:
        """Add a collection to the source."""
        self.collections[name] = Collection(next(self._ids), name, primary_key, fields)
        return self.collections[name]

    def body_of(self, call: SandboxRequest) -> Row:
        # The manual's samples send JSON with `curl --data-raw`, which declares a form.
        if call.media_type not in {"application/json", "application/x-www-form-urlencoded"}:
            raise self.rejected(415, f"The media type '{call.media_type}' is not supported")
        body = call.json_object()
        if body is None:
            raise self.rejected(400, "The body is not a JSON object")
        return body

    # --- Rows -------------------------------------------------------------------------

    @Route("GET", "/")
    def root(self, _call: SandboxRequest) -> Reply:
        names = ("sources", "collections")
        links = {n: {"href": f"{HOST}/v1/{self.org}/{n}/"} for n in names}
        body = {"service": "metadata", "version": "v1", "status": "ok", "_links": links}
        return Reply.json(200, body)

    @Route("GET", _DATA)
    def list_items(self, call: SandboxRequest) -> Reply:
        items = self._collection(call).items.values()
        return _list(call, "dataItemList", [self._shown(item) for item in items])

    @Route("GET", _ITEM)
    def get_item(self, call: SandboxRequest) -> Reply:
        collection, key = self._found(call)
        return Reply.json(200, self._shown(collection.items[key]))

    @Route("DELETE", _ITEM)
    def delete_item(self, call: SandboxRequest) -> Reply:
        collection, key = self._found(call)
        return Reply.json(200, self._shown(collection.items.pop(key)))

    @Route("POST", _DATA)
    def insert(self, call: SandboxRequest) -> Reply:
        collection = self._collection(call)
        if call.media_type == "text/csv":
            return self._upload_link(call, collection)
        self._store(collection, self.body_of(call))
        return Reply(201)

    @Route("POST", "/v1/{org}/sources/{id}/data")
    def insert_many(self, call: SandboxRequest) -> Reply:
        if call.ids[1] != str(self.source_id):
            raise self.rejected(404, "No such source")
        rows: list[tuple[Collection, Row]] = []
        for name, values in self.body_of(call).items():
            collection, items = self.collections.get(name), as_rows(values)
            if collection is None or items is None:
                raise self.rejected(400, f"'{name}' is no collection with an array of rows")
            rows += [(collection, row) for row in items]
        for collection, row in rows:
            self._store(collection, row)
        return Reply(201)

    def _upload_link(self, call: SandboxRequest, collection: Collection) -> Reply:
        """Return a 307 with the URL for a PUT of the file."""
        if call.body:
            raise self.rejected(400, "A request for an upload link has no body")

        def receive(file: bytes) -> None:
            try:
                lines = csv.DictReader(
                    io.StringIO(file.decode("utf-8-sig"), newline=""), strict=True
                )
                rows: list[Row] = [dict(line) for line in lines]
            except (UnicodeDecodeError, csv.Error):
                return
            for row in rows:
                self._store(collection, row)

        url = self._storage.presign(f"{next(self._ids)}.csv", call.at, receive)
        return Reply(307, headers={"Location": url})

    def _store(self, collection: Collection, row: Row) -> None:
        """Insert or overwrite *row*."""
        fields = row.keys() if collection.fields is None else collection.fields
        given = row.get(collection.primary_key)
        key = "" if given is None else str(given)
        old = collection.items.get(key) if key else None
        number = old["id"] if old else next(self._ids)
        known = {name: value for name, value in row.items() if name in fields}
        item: Row = {"collId": collection.id, "id": number, "data": known, "matches": []}
        collection.items[key or f"without a key: {number}"] = item

    def _collection(self, call: SandboxRequest) -> Collection:
        for collection in self.collections.values():
            if str(collection.id) == call.ids[1]:
                return collection
        raise self.rejected(404, "No such collection")

    def _found(self, call: SandboxRequest) -> tuple[Collection, str]:
        collection = self._collection(call)
        for key, item in collection.items.items():
            if str(item["id"]) == call.ids[2]:
                return collection, key
        raise self.rejected(404, "No such data item")

    def _shown(self, item: Row) -> Row:
        """Return *item* as in responses."""
        href = f"{HOST}/v1/{self.org}/collections/{item['collId']}/data/{item['id']}"
        return {**item, "_links": {"self": {"href": href}}}

    # --- Users ------------------------------------------------------------------------

    @Route("GET", "/v1/{org}/events/matches")
    def matches(self, call: SandboxRequest) -> Reply:
        profile = self._by_id(call)
        if profile is None:
            raise self.rejected(404, "No such user")
        body: Row = {
            "masterId": str(profile.master_id),
            "profileIds": profile.profile_ids,
            "matchedEvents": profile.matched_events,
            "lastUpdated": _BORN,
            "_links": {"self": {"href": f"{HOST.replace('https', 'http')}{call.path}"}},
        }
        return Reply.json(200, body)

    @Route("GET", "/v1/{org}/segmentations/latest")
    def segmentations(self, call: SandboxRequest) -> Reply:
        find = self._by_identifiers if "sourceId" in call.query else self._by_id
        profile = find(call)
        return _list(call, "segmentations", [self._segmentation(profile)] if profile else [])

    def _segmentation(self, profile: Profile) -> Row:
        href = f"{HOST}/v1/{self.org}/segmentations/{profile.segmentation_id}"
        return {
            "id": str(profile.segmentation_id),
            "masterId": str(profile.master_id),
            "profileIds": [str(number) for number in profile.profile_ids],
            "created": _BORN,
            "_links": {"self": {"href": href}},
        }

    def _by_id(self, call: SandboxRequest) -> Profile | None:
        profile_id, master_id = call.query.get("profileId"), call.query.get("masterId")
        if (profile_id is None) == (master_id is None):
            raise self.rejected(400, "Give masterId or profileId")
        for profile in self.profiles:
            if master_id == str(profile.master_id) or profile_id in {
                *map(str, profile.profile_ids)
            }:
                return profile
        return None

    def _by_identifiers(self, call: SandboxRequest) -> Profile | None:
        try:
            wanted = as_object(cast("object", json.loads(call.query.get("profile", ""))))
        except ValueError:
            wanted = None
        if not wanted:
            raise self.rejected(400, "profile must be a JSON object")
        for profile in self.profiles if call.query["sourceId"] == str(self.source_id) else ():
            if wanted.items() <= profile.identifiers.items():
                return profile
        return None


def _list(call: SandboxRequest, rel: str, items: list[Row]) -> Reply:
    """Return *items* as a HAL list with the name *rel*."""
    embedded = {"_embedded": {rel: items}} if items else {}
    return Reply.json(200, {**embedded, "_links": {"self": {"href": f"{HOST}{call.path}"}}})
