"""The mock of Intouch: 2 requests per second and key.

Login and rate limit respond as Amazon's API Gateway does, with the header and texts that the manual
shows: without a key "Missing Authentication Token", and a 429 without Retry-After.

* Lists: page and limit count from 1; limit is 25 by default and at most. A page beyond the last
  is empty with null `from` and `to`; an empty collection has one page. Sorted rows are cached
  until the table changes, so a walk through 11,000 rows sorts once.
* Tags: deleting one does not remove it from the objects that use it.
* Hierarchies: one tree; a node moves with its subtree when `parent_uuid` changes. The manual does
  not specify the deletion of the root or of a node with children: both are rejected.
* Contacts: unique emails. An empty `custom_fields` is sent as `[]`.
* External programs: any valid uuid is an existing program; records have any structure. An empty
  `data` or `meta` is sent as `[]`. `document_id` is in the `meta` of the response to a create.
"""

from __future__ import annotations

import string
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from asyncclients.sandbox.vendor import (
    Reply,
    Route,
    Row,
    SandboxRequest,
    Vendor,
    as_object,
    rejection,
)

from .rules import (
    Field,
    alpha_dash,
    checked,
    custom_fields,
    email,
    invalid,
    object_or_empty,
    objects,
    one_of,
    phone,
    text,
    uuid,
)
from .state import IntouchState, Table, contact_row, stamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

PER_PAGE = 25


@dataclass(frozen=True, slots=True)
class Listing:
    """The sort fields of a list, the first of them by default, and its search fields."""

    sort_by: tuple[str, ...]
    searched: tuple[str, ...]


TAGS = Listing(("name", "created_at", "updated_at"), ("name",))
HIERARCHIES = Listing(("name", "created_at", "updated_at", "client_code"), ("name", "client_code"))
CONTACTS = Listing(
    (
        "created_at",
        "email",
        "first_name",
        "last_name",
        "phone_number",
        "language",
        "status",
        "updated_at",
    ),
    ("email", "first_name", "last_name", "phone_number"),
)


def page_of(table: Table, listing: Listing, call: SandboxRequest) -> Reply:
    """Return the requested page of *table*; raises RejectedError for invalid parameters."""
    errors: dict[str, list[str]] = {}
    sort_by = _choice(call, "sort_by", listing.sort_by, errors)
    order = _choice(call, "order", ("asc", "desc"), errors)
    limit = _number(call, "limit", PER_PAGE, PER_PAGE, errors)
    page = _number(call, "page", 1, None, errors)
    if errors:
        raise invalid(errors)
    rows = _sorted(table, listing, (sort_by, order, call.query.get("search", "")))
    return Reply.json(
        200, {"sort_by": sort_by, "order": order, **_envelope(rows, page=page, limit=limit)}
    )


def _envelope(rows: list[Row], *, page: int, limit: int) -> dict[str, object]:
    start = (page - 1) * limit
    data = rows[start : start + limit]
    return {
        "per_page": limit,
        "current_page": page,
        "last_page": max(1, -(-len(rows) // limit)),
        "total": len(rows),
        "from": start + 1 if data else None,
        "to": start + len(data) if data else None,
        "data": data,
    }


def _sorted(table: Table, listing: Listing, key: tuple[str, str, str]) -> list[Row]:
    sort_by, order, search = key

    def build() -> list[Row]:
        rows = [row for row in table.values() if _contains(row, listing.searched, search)]
        # Nulls come first, as MySQL sorts; equal values keep their order of creation.
        rows.sort(
            key=lambda row: (row[sort_by] is not None, str(row[sort_by])), reverse=order == "desc"
        )
        return rows

    return table.view(key, build)


def _contains(row: Row, fields: tuple[str, ...], search: str) -> bool:
    wanted = search.casefold()
    return not wanted or any(wanted in str(row[field] or "").casefold() for field in fields)


def _choice(
    call: SandboxRequest, name: str, allowed: tuple[str, ...], errors: dict[str, list[str]]
) -> str:
    value = call.query.get(name, allowed[0])
    if value not in allowed:
        errors[name] = [f"The selected {name} is invalid."]
    return value


def _number(
    call: SandboxRequest, name: str, default: int, most: int | None, errors: dict[str, list[str]]
) -> int:
    value = call.query.get(name, str(default))
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if number < 1:
        errors[name] = [f"The {name} must be an integer of at least 1."]
    elif most is not None and number > most:
        errors[name] = [f"The {name} must not be greater than {most}."]
    return number


TAG_FIELDS = {"name": Field(text(255), required=True)}


def found(table: Table, call: SandboxRequest) -> Row:
    """Return the row in the path of *call*; raises RejectedError (404) if it does not exist."""
    row = table.get(call.ids[0])
    if row is None:
        raise rejection(404, "The requested resource could not be found.")
    return row


def store(table: Table, call: SandboxRequest, row: Row) -> Row:
    """Store *row* in *table* with a new `updated_at`; return it."""
    row = {**row, "updated_at": stamp(call.time)}
    table[str(row["uuid"])] = row
    return row


Handler: TypeAlias = "Callable[[IntouchState, SandboxRequest], Reply]"


def routes_of(
    path: str,
    table: Callable[[IntouchState], Table],
    listing: Listing,
    *,
    create: Handler,
    update: Handler,
    check_delete: Callable[[IntouchState, Row], None] = lambda _state, _row: None,
) -> list[Route[IntouchState]]:
    """Return the five operations on the rows of *table* at *path*."""

    def delete(state: IntouchState, call: SandboxRequest) -> Reply:
        row = found(table(state), call)
        check_delete(state, row)
        del table(state)[str(row["uuid"])]
        return Reply(204)

    return [
        Route("GET", path, lambda state, call: page_of(table(state), listing, call)),
        Route("POST", path, create),
        Route("GET", f"{path}/{{uuid}}", lambda s, call: Reply.json(200, found(table(s), call))),
        Route("PUT", f"{path}/{{uuid}}", update),
        Route("DELETE", f"{path}/{{uuid}}", delete),
    ]


def _create_tag(state: IntouchState, call: SandboxRequest) -> Reply:
    values = checked(call, TAG_FIELDS)
    row: Row = {"uuid": state.new_uuid(), **values, "created_at": stamp(call.time)}
    return Reply.json(201, store(state.tags, call, row))


def _update_tag(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.tags, call)
    return Reply.json(200, store(state.tags, call, row | checked(call, TAG_FIELDS)))


TAG_ROUTES = routes_of(
    "/public/v1/tags", lambda state: state.tags, TAGS, create=_create_tag, update=_update_tag
)


NODE_FIELDS = {
    "name": Field(text(255), required=True),
    "client_code": Field(alpha_dash(255)),
    "type": Field(one_of(("location", "generic")), required=True),
    "parent_uuid": Field(uuid, required=True),
    "location": Field(object_or_empty),
    "attributes": Field(objects),
    "tags": Field(objects),
}


def _shaped(values: Row) -> Row:
    """Return a node as in responses: only nodes of type location have a `location`."""
    row = dict(values)
    location = as_object(row.pop("location", None))
    row["attributes"] = row.get("attributes") or []
    row["tags"] = row.get("tags") or []
    if row["type"] == "location":
        row["location"] = _placed(location) if location else []
    return row


def _placed(location: dict[str, object]) -> dict[str, object]:
    """Return *location* with coordinates that depend on it; Intouch looks up the real ones."""
    given = {name: location[name] for name in location if name not in {"latitude", "longitude"}}
    number = zlib.crc32(repr(sorted(given.items())).encode())
    latitude, longitude = number % 18_000 / 100 - 90, number // 18_000 % 36_000 / 100 - 180
    return {"latitude": latitude, "longitude": longitude, **location}


def _check_parent(state: IntouchState, values: Row, own_uuid: str | None = None) -> None:
    parent = values.get("parent_uuid")
    if parent is None:
        return
    if parent not in state.hierarchies:
        raise invalid({"parent_uuid": ["The selected parent uuid is invalid."]})
    while parent is not None:
        if parent == own_uuid:
            raise invalid({"parent_uuid": ["A node cannot move below itself."]})
        parent = state.hierarchies[str(parent)]["parent_uuid"]


def _create_node(state: IntouchState, call: SandboxRequest) -> Reply:
    values = checked(call, NODE_FIELDS)
    _check_parent(state, values)
    values["client_code"] = values.get("client_code") or state.new_code()
    row: Row = {"uuid": state.new_uuid(), **_shaped(values), "created_at": stamp(call.time)}
    return Reply.json(201, store(state.hierarchies, call, row))


def _update_node(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.hierarchies, call)
    values = checked(call, NODE_FIELDS, partial=True)
    _check_parent(state, values, str(row["uuid"]))
    values["client_code"] = values.get("client_code") or row["client_code"]
    return Reply.json(200, store(state.hierarchies, call, _shaped(row | values)))


def _check_delete(state: IntouchState, node: Row) -> None:
    own_uuid = node["uuid"]
    if own_uuid == state.root_uuid:
        raise invalid({"uuid": ["The root of the hierarchy cannot be deleted."]})
    if any(node["parent_uuid"] == own_uuid for node in state.hierarchies.values()):
        raise invalid({"uuid": ["A node that has children cannot be deleted."]})


NODE_ROUTES = routes_of(
    "/public/v1/hierarchies",
    lambda state: state.hierarchies,
    HIERARCHIES,
    create=_create_node,
    update=_update_node,
    check_delete=_check_delete,
)


_LANGUAGES = """
    en sq eu_ES bn_BD bg ca_ES zh-Hant zh-Hans hr_HR cs_CZ da_DK nl_NL en_US et_EE fi_FI
    fr_CA fr_FR de_DE el_GR hi_IN hu_HU is_IS id_ID it_IT ja_JP ko_KR lv_LV lt_LT ms_MY
    no_NO pl_PL pt pt_BR pt_PT pa_IN ro_RO ru_RU sr_RS sk_SK sl_SI es es_ES es_US sw
    sv_SE tl_PH th_TH tr_TR uk_UA vi_VN
"""

CONTACT_FIELDS = {
    "first_name": Field(text(100)),
    "last_name": Field(text(100)),
    "email": Field(email, required=True),
    "phone_number": Field(phone),
    "language": Field(one_of(frozenset(_LANGUAGES.split()))),
    "contact_lists": Field(objects),
    "custom_fields": Field(custom_fields),
}


def _check_unique(state: IntouchState, values: Row, own_uuid: str | None = None) -> None:
    address = values.get("email")
    if address is not None and state.contacts.owner(str(address)) not in {None, own_uuid}:
        raise invalid({"email": ["The email has already been taken."]})


def _create_contact(state: IntouchState, call: SandboxRequest) -> Reply:
    values = checked(call, CONTACT_FIELDS)
    _check_unique(state, values)
    row: Row = {"uuid": state.new_uuid(), **contact_row(values), "created_at": stamp(call.time)}
    return Reply.json(201, store(state.contacts, call, row))


def _update_contact(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.contacts, call)
    values = checked(call, CONTACT_FIELDS, partial=True)
    _check_unique(state, values, str(row["uuid"]))
    # A list or object set to null reads as an empty one.
    values |= {
        name: values[name] or [] for name in ("contact_lists", "custom_fields") & values.keys()
    }
    return Reply.json(200, store(state.contacts, call, row | values))


def _set_status(status: str) -> Handler:
    def handler(state: IntouchState, call: SandboxRequest) -> Reply:
        row = found(state.contacts, call) | {"status": status}
        return Reply.json(200, store(state.contacts, call, row))

    return handler


# The manual shows neither the paths of contacts nor the methods of the last two.
CONTACT_ROUTES: list[Route[IntouchState]] = [
    *routes_of(
        "/public/v1/contacts",
        lambda state: state.contacts,
        CONTACTS,
        create=_create_contact,
        update=_update_contact,
    ),
    Route("PUT POST", "/public/v1/contacts/{uuid}/subscribe", _set_status("subscribed")),
    Route("PUT POST", "/public/v1/contacts/{uuid}/unsubscribe", _set_status("unsubscribed")),
]


RECORD_FIELDS = {"data": Field(object_or_empty, required=True), "meta": Field(object_or_empty)}


def _program(call: SandboxRequest) -> str:
    if uuid(call.ids[0]):
        raise rejection(404, "The requested resource could not be found.")
    return call.ids[0]


def _add_record(state: IntouchState, call: SandboxRequest) -> Reply:
    records = state.records.setdefault(_program(call), {})
    values = checked(call, {"data": RECORD_FIELDS["data"]})
    document_id = state.new_uuid()
    meta: Row = {"document_id": document_id, "created_at": stamp(call.time)}
    records[document_id] = {"meta": meta, "data": values["data"] or []}
    return Reply.json(201, records[document_id])


def _update_record(state: IntouchState, call: SandboxRequest) -> Reply:
    records = state.records.get(_program(call), {})
    record = records.get(call.ids[1])
    if record is None:
        raise rejection(404, "The requested resource could not be found.")
    values = checked(call, RECORD_FIELDS)
    meta = {**(as_object(record["meta"]) or {}), **(as_object(values.get("meta")) or {})}
    meta |= {"document_id": call.ids[1], "updated_at": stamp(call.time)}
    records[call.ids[1]] = {"meta": meta, "data": values["data"] or []}
    return Reply.json(200, records[call.ids[1]])


_RECORDS = "/public/v1/external-programs/{program_uuid}/records"
RECORD_ROUTES: list[Route[IntouchState]] = [
    Route("POST", _RECORDS, _add_record),
    Route("PUT", f"{_RECORDS}/{{document_id}}", _update_record),
]


class Intouch(Vendor[IntouchState]):
    """Intouch Insight Customer Platform API 1.0.0, 19 operations."""

    name = "intouch"
    prefix = "/public/v1/"
    quota = (2, 1.0)
    over_limit = Reply.json(
        429, {"message": "Too Many Requests"}, {"x-amzn-ErrorType": "TooManyRequestsException"}
    )

    def __init__(self, random: Random) -> None:
        routes = [*TAG_ROUTES, *NODE_ROUTES, *CONTACT_ROUTES, *RECORD_ROUTES]
        super().__init__(IntouchState(random), routes)

    def issue(self, random: Random) -> dict[str, str]:
        key = "ii_" + "".join(random.choices(string.ascii_letters + string.digits, k=41))
        self.state.keys.add(key)
        return {"INTOUCH_API_KEY": key}

    def credential(self, call: SandboxRequest) -> str:
        key = call.headers.get("x-api-key")
        if key is None:
            raise rejection(401, "Missing Authentication Token")
        if key not in self.state.keys:
            raise rejection(403, "Forbidden")
        return key
