"""The mock of Intouch: 2 requests per second and key.

Login and rate limit respond as Amazon's API Gateway does, with the header and texts that the manual
shows: without a key "Missing Authentication Token", and a 429 without Retry-After. An invalid field
is a 422 in the form of Laravel, whose field names the manual shows. Times are ISO 8601 to the
second with `+00:00`. The manual calls ids "Version 4" but shows 29 of version 1, so they are of
version 1 here.

* Lists: page and limit count from 1; limit is 25 by default and at most. A page beyond the last
  is empty with null `from` and `to`; an empty collection has one page.
* Tags: deleting one does not remove it from the objects that use it.
* Hierarchies: one tree; a node moves with its subtree when `parent_uuid` changes. The manual does
  not specify the deletion of the root or of a node with children: both are rejected.
* Contacts: unique emails. An empty `custom_fields` is sent as `[]`, as PHP writes an empty object.
* External programs: any valid uuid is an existing program; records have any structure. An empty
  `data` or `meta` is sent as `[]`. `document_id` is in the `meta` of the response to a create.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Annotated, Any, Literal

from msgspec import Meta

from .vendor import RejectedError, Reply, Route, Row, SandboxRequest, Vendor, as_object, complaints

PER_PAGE = 25
_BORN = datetime(2026, 1, 1, tzinfo=UTC)

_LANGUAGES = """
    en sq eu_ES bn_BD bg ca_ES zh-Hant zh-Hans hr_HR cs_CZ da_DK nl_NL en_US et_EE fi_FI fr_CA fr_FR
    de_DE el_GR hi_IN hu_HU is_IS id_ID it_IT ja_JP ko_KR lv_LV lt_LT ms_MY no_NO pl_PL pt pt_BR
    pt_PT pa_IN ro_RO ru_RU sr_RS sk_SK sl_SI es es_ES es_US sw sv_SE tl_PH th_TH tr_TR uk_UA vi_VN
"""


def _one_of(*patterns: str, rule: str = "is invalid.") -> Any:
    return Annotated[str, Meta(pattern=rf"\A(?:{'|'.join(patterns)})\Z", description=rule)]


def _text(longest: int, pattern: str = "", rule: str = "") -> Any:
    rule = rule or f"must be a string of at most {longest} characters."
    return Annotated[str, Meta(max_length=longest, pattern=pattern, description=rule)]


_UUID = Annotated[str, Meta(min_length=36, max_length=36, description="must be 36 characters.")]
_LIST = list[dict[str, Any]]
_NOTHING = Annotated[list[Any], Meta(max_length=0)]
"""`[]`, which PHP writes for an empty object."""
_WHOLE = Annotated[float, Meta(multiple_of=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The rows of one list: types of their fields, and how the list is sorted and searched.

    A *required* field must have a value other than null. The first of *sort_by* is the default.
    """

    fields: Mapping[str, Any]
    required: tuple[str, ...]
    sort_by: tuple[str, ...]
    searched: tuple[str, ...]


_TIMES = ("created_at", "updated_at")
KINDS = {
    "tags": Kind(
        fields={"name": _text(255)},
        required=("name",),
        sort_by=("name", *_TIMES),
        searched=("name",),
    ),
    "hierarchies": Kind(
        fields={
            "name": _text(255),
            "client_code": _text(
                255, r"\A[\w-]+\Z", "must be at most 255 letters, numbers, dashes and underscores."
            ),
            "type": Literal["location", "generic"],
            "parent_uuid": _UUID,
            "location": dict[str, Any] | _NOTHING,
            "attributes": _LIST,
            "tags": _LIST,
        },
        required=("name", "type", "parent_uuid"),
        sort_by=("name", *_TIMES, "client_code"),
        searched=("name", "client_code"),
    ),
    "contacts": Kind(
        fields={
            "first_name": _text(100),
            "last_name": _text(100),
            # Deliberately plain: one @, a dotted domain, nothing that breaks a header.
            "email": _text(
                255,
                r"\A[^@\s,;<>\"]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\Z",
                "must be a valid email address.",
            ),
            "phone_number": _text(10, r"\A[0-9]{10}\Z", "must be 10 digits."),
            "language": _one_of(*_LANGUAGES.split(), rule="is not one of the allowed values."),
            "contact_lists": _LIST,
            "custom_fields": dict[str, str | int | _WHOLE | None] | _NOTHING,
        },
        required=("email",),
        sort_by=(
            *("created_at", "email", "first_name", "last_name", "phone_number", "language"),
            *("status", "updated_at"),
        ),
        searched=("email", "first_name", "last_name", "phone_number"),
    ),
}
_QUERY = {
    "order": _one_of("asc", "desc"),
    "page": _one_of("[1-9][0-9]{0,8}", rule="must be an integer of at least 1."),
    "limit": _one_of("[1-9]|1[0-9]|2[0-5]", rule=f"must be an integer from 1 to {PER_PAGE}."),
}
RECORD = {"data": dict[str, Any] | _NOTHING, "meta": dict[str, Any] | _NOTHING}

_ROWS = tuple(f"/public/v1/{name}" for name in KINDS)
_ROW = tuple(f"{path}/{{uuid}}" for path in _ROWS)
_CONTACT = "/public/v1/contacts/{uuid}"
_RECORDS = "/public/v1/external-programs/{program_uuid}/records"


class Table(dict[str, Row]):
    """Rows by uuid, in the order of their creation.

    `lists` has sorted rows, so that a walk through 11,000 rows sorts once. They are kept until a
    row is set or deleted; to change a row, set a new one. *unique* names a field with a
    case-insensitive index.
    """

    def __init__(self, unique: str = "") -> None:
        super().__init__()
        self.lists: dict[object, list[Row]] = {}
        self._unique = unique
        self._index: dict[str, str] = {}

    def __setitem__(self, key: str, row: Row) -> None:
        self._changes(key)
        super().__setitem__(key, row)
        if self._unique:
            self._index[str(row[self._unique]).lower()] = key

    def __delitem__(self, key: str) -> None:
        self._changes(key)
        super().__delitem__(key)

    def owner(self, value: str) -> str | None:
        """Return the uuid of the row with *value* in the unique field, or None."""
        return self._index.get(value.lower())

    def _changes(self, key: str) -> None:
        self.lists.clear()
        if self._unique and key in self:
            self._index.pop(str(self[key][self._unique]).lower(), None)


class Intouch(Vendor):
    """Intouch Insight Customer Platform API 1.0.0, on one account.

    `records` are those of each external program by document id; `root_uuid` is the root of the
    hierarchy.
    """

    name = "intouch"
    prefix = "/public/v1/"
    quota = (2, 1.0)

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.keys: set[str] = set()
        self.tags, self.hierarchies, self.contacts = Table(), Table(), Table(unique="email")
        self.records: dict[str, dict[str, Row]] = {}
        root: Row = {"name": "Organization", "client_code": self._new_code(), "type": "generic"}
        root |= {"parent_uuid": None, "attributes": [], "tags": []}
        self.root_uuid = self._add(self.hierarchies, root, 0.0)

    def issue(self) -> dict[str, str]:
        key = "ii_" + "".join(self.random.choices(string.ascii_letters + string.digits, k=41))
        self.keys.add(key)
        return {"INTOUCH_API_KEY": key}

    def credential(self, call: SandboxRequest) -> str:
        key = call.headers.get("x-api-key")
        if key is None:
            raise self.rejected(401, "Missing Authentication Token")
        if key not in self.keys:
            raise self.rejected(403, "Forbidden")
        return key

    def over_limit(self) -> Reply:
        headers = {"x-amzn-ErrorType": "TooManyRequestsException"}
        return Reply.json(429, {"message": "Too Many Requests"}, headers)

    def grow(self, *, tags: int = 0, contacts: int = 0, every: float = 0.0) -> None:
        """Add this many generated rows, as if they existed before, *every* seconds apart."""
        for number in range(tags):
            row: Row = {"name": f"Tag {len(self.tags):05}"}
            self._add(self.tags, row, every * (tags - number))
        for number in range(contacts):
            row = _contact({"email": f"person.{len(self.contacts):05}@example.com"})
            self._add(self.contacts, row, every * (contacts - number))

    def _add(self, table: Table, row: Row, age: float) -> str:
        key = self.new_uuid(version=1)
        born = _stamp(_BORN - timedelta(seconds=age))
        table[key] = {"uuid": key, **row, "created_at": born, "updated_at": born}
        return key

    def _new_code(self) -> str:
        return f"{self.random.getrandbits(40):010X}"

    # --- Tags, hierarchies and contacts -----------------------------------------------

    @Route("GET", *_ROWS)
    def list_rows(self, call: SandboxRequest) -> Reply:
        query, sorts = call.query, _kind(call).sort_by
        if errors := complaints({**query}, {**_QUERY, "sort_by": _one_of(*sorts)}):
            raise _invalid(errors)
        sort_by, order = query.get("sort_by", sorts[0]), query.get("order", "asc")
        page, limit = int(query.get("page", 1)), int(query.get("limit", PER_PAGE))
        rows = self._sorted(call, sort_by, order)
        start = (page - 1) * limit
        data = rows[start : start + limit]
        envelope = {
            "sort_by": sort_by,
            "order": order,
            "per_page": limit,
            "current_page": page,
            "last_page": max(1, -(-len(rows) // limit)),
            "total": len(rows),
            "from": start + 1 if data else None,
            "to": start + len(data) if data else None,
            "data": data,
        }
        return Reply.json(200, envelope)

    def _sorted(self, call: SandboxRequest, sort_by: str, order: str) -> list[Row]:
        table, searched = self._table(call), _kind(call).searched
        wanted = call.query.get("search", "").casefold()
        key = (sort_by, order, wanted)
        if key not in table.lists:
            table.lists[key] = [
                row
                for row in table.values()
                if not wanted or any(wanted in str(row[name] or "").casefold() for name in searched)
            ]
            # Nulls come first, as MySQL sorts; equal values keep their order of creation.
            table.lists[key].sort(
                key=lambda row: (row[sort_by] is not None, str(row[sort_by])),
                reverse=order == "desc",
            )
        return table.lists[key]

    @Route("POST", *_ROWS)
    def create(self, call: SandboxRequest) -> Reply:
        values = self._values(call, _kind(call).fields, _kind(call).required)
        row: Row = {"uuid": self.new_uuid(version=1), "created_at": _stamp(call.time)}
        return self._stored(call, 201, row, values)

    @Route("GET", *_ROW)
    def get(self, call: SandboxRequest) -> Reply:
        return Reply.json(200, self._found(call))

    @Route("PUT", *_ROW)
    def update(self, call: SandboxRequest) -> Reply:
        row, kind = self._found(call), _kind(call)
        is_partial = kind is not KINDS["tags"]
        values = self._values(call, kind.fields, kind.required, is_partial=is_partial)
        return self._stored(call, 200, row, values)

    @Route("DELETE", *_ROW)
    def delete(self, call: SandboxRequest) -> Reply:
        uuid = self._found(call)["uuid"]
        if uuid == self.root_uuid:
            raise _invalid({"uuid": "of the root of the hierarchy cannot be deleted."})
        if any(node["parent_uuid"] == uuid for node in self.hierarchies.values()):
            raise _invalid({"uuid": "of a node that has children cannot be deleted."})
        del self._table(call)[str(uuid)]
        return Reply(204)

    # The manual shows neither the paths of contacts nor the methods of these two.

    @Route("PUT POST", f"{_CONTACT}/subscribe")
    def subscribe(self, call: SandboxRequest) -> Reply:
        return self._stored(call, 200, self._found(call), {"status": "subscribed"})

    @Route("PUT POST", f"{_CONTACT}/unsubscribe")
    def unsubscribe(self, call: SandboxRequest) -> Reply:
        return self._stored(call, 200, self._found(call), {"status": "unsubscribed"})

    def _table(self, call: SandboxRequest) -> Table:
        table: Table = getattr(self, call.segments[2])
        return table

    def _found(self, call: SandboxRequest) -> Row:
        row = self._table(call).get(call.ids[0])
        if row is None:
            raise self._unknown()
        return row

    def _unknown(self) -> RejectedError:
        return self.rejected(404, "The requested resource could not be found.")

    def _values(
        self,
        call: SandboxRequest,
        fields: Mapping[str, Any],
        required: tuple[str, ...],
        *,
        is_partial: bool = False,
    ) -> Row:
        """Return the known fields of the body; raises RejectedError (422) for an invalid one.

        With *is_partial*, required fields may be absent. Unknown fields are ignored.
        """
        body = self.body_of(call)
        errors = complaints({n: value for n, value in body.items() if value != ""}, fields)
        for name in required:
            if body.get(name) in (None, "") and not (is_partial and name not in body):
                errors[name] = "field is required."
        if errors:
            raise _invalid(errors)
        return {name: body[name] for name in fields if name in body}

    def _stored(self, call: SandboxRequest, status: int, row: Row, values: Row) -> Reply:
        """Store *row* with *values* and a new `updated_at`; respond with it."""
        table, uuid, stored = self._table(call), str(row["uuid"]), row | values
        if table is self.hierarchies:
            self._check_parent(values, uuid)
            code = values.get("client_code") or row.get("client_code") or self._new_code()
            stored = _node(stored | {"client_code": code})
        elif table is self.contacts:
            if table.owner(str(values.get("email"))) not in {None, uuid}:
                raise _invalid({"email": "has already been taken."})
            stored = _contact(stored)
        table[uuid] = stored | {"updated_at": _stamp(call.time)}
        return Reply.json(status, table[uuid])

    def _check_parent(self, values: Row, own_uuid: str) -> None:
        parent = values.get("parent_uuid")
        if parent is not None and parent not in self.hierarchies:
            raise _invalid({"parent_uuid": "is invalid."})
        while parent is not None:
            if parent == own_uuid:
                raise _invalid({"parent_uuid": "must not be below the node itself."})
            parent = self.hierarchies[str(parent)]["parent_uuid"]

    # --- External programs ------------------------------------------------------------

    @Route("POST", _RECORDS)
    def add_record(self, call: SandboxRequest) -> Reply:
        records = self.records.setdefault(self._program(call), {})
        values = self._values(call, {"data": RECORD["data"]}, ("data",))
        document_id = self.new_uuid(version=1)
        meta: Row = {"document_id": document_id, "created_at": _stamp(call.time)}
        records[document_id] = {"meta": meta, "data": values["data"] or []}
        return Reply.json(201, records[document_id])

    @Route("PUT", f"{_RECORDS}/{{document_id}}")
    def update_record(self, call: SandboxRequest) -> Reply:
        records, document_id = self.records.get(self._program(call), {}), call.ids[1]
        record = records.get(document_id)
        if record is None:
            raise self._unknown()
        values = self._values(call, RECORD, ("data",))
        meta = {**(as_object(record["meta"]) or {}), **(as_object(values.get("meta")) or {})}
        meta |= {"document_id": document_id, "updated_at": _stamp(call.time)}
        records[document_id] = {"meta": meta, "data": values["data"] or []}
        return Reply.json(200, records[document_id])

    def _program(self, call: SandboxRequest) -> str:
        if complaints({"uuid": call.ids[0]}, {"uuid": _UUID}):
            raise self._unknown()
        return call.ids[0]


def _kind(call: SandboxRequest) -> Kind:
    return KINDS[call.segments[2]]


def _stamp(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _invalid(errors: Mapping[str, str]) -> RejectedError:
    """Return the 422 with *errors*: field -> what is wrong with it."""
    listed = {name: [f"The {name.replace('_', ' ')} {what}"] for name, what in errors.items()}
    body = {"message": "The given data was invalid.", "errors": listed}
    return RejectedError(Reply.json(422, body))


def _contact(row: Row) -> Row:
    """Return *row* with the fields of a contact; an absent list or object is an empty one."""
    blank = dict.fromkeys(("first_name", "last_name", "phone_number", "language"))
    lists: Row = {name: row.get(name) or [] for name in ("contact_lists", "custom_fields")}
    return {**blank, "status": "subscribed", "deliverable": True, **row, **lists}


def _node(row: Row) -> Row:
    """Return *row* as in responses: only nodes of type location have a `location`."""
    given = as_object(row.get("location"))
    node = {name: value for name, value in row.items() if name != "location"}
    node |= {name: row.get(name) or [] for name in ("attributes", "tags")}
    if row["type"] == "location":
        # Intouch looks up the coordinates.
        node["location"] = {"latitude": 45.42, "longitude": -75.69, **given} if given else []
    return node
