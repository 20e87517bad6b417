"""Hierarchies: one tree. A node moves with its branch when `parent_uuid` changes.

The manual says nothing on deleting a node that has children, nor the root:
both are refused here, as neither can be undone.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import Reply, Route, as_object

from .listing import HIERARCHIES, page_of
from .rules import (
    Field,
    alpha_dash,
    checked,
    invalid,
    object_or_empty,
    objects,
    one_of,
    text,
    uuid,
)
from .state import IntouchState, Row, stamp
from .tags import found, remove, store

if TYPE_CHECKING:
    from asyncclients.sandbox.vendor import SandboxRequest

FIELDS = {
    "name": Field(text(255), required=True),
    "client_code": Field(alpha_dash(255)),
    "type": Field(one_of(("location", "generic")), required=True),
    "parent_uuid": Field(uuid, required=True),
    "location": Field(object_or_empty),
    "attributes": Field(objects),
    "tags": Field(objects),
}


def _shaped(values: Row) -> Row:
    """A node the way it is answered: `location` only where the type is location."""
    row = dict(values)
    location = as_object(row.pop("location", None))
    row["attributes"] = row.get("attributes") or []
    row["tags"] = row.get("tags") or []
    if row["type"] == "location":
        row["location"] = _placed(location) if location else []
    return row


def _placed(location: dict[str, object]) -> dict[str, object]:
    """*location* with the coordinates that Intouch would look up: made up, but always the same."""
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


def _list(state: IntouchState, call: SandboxRequest) -> Reply:
    return page_of(state.hierarchies, HIERARCHIES, call)


def _create(state: IntouchState, call: SandboxRequest) -> Reply:
    values = checked(call, FIELDS)
    _check_parent(state, values)
    values["client_code"] = values.get("client_code") or state.new_code()
    row: Row = {"uuid": state.new_uuid(), **_shaped(values), "created_at": stamp(call.time)}
    return Reply.json(201, store(state.hierarchies, call, row))


def _get(state: IntouchState, call: SandboxRequest) -> Reply:
    return Reply.json(200, found(state.hierarchies, call))


def _update(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.hierarchies, call)
    values = checked(call, FIELDS, partial=True)
    _check_parent(state, values, str(row["uuid"]))
    values["client_code"] = values.get("client_code") or row["client_code"]
    return Reply.json(200, store(state.hierarchies, call, _shaped(row | values)))


def _delete(state: IntouchState, call: SandboxRequest) -> Reply:
    own_uuid = found(state.hierarchies, call)["uuid"]
    if own_uuid == state.root_uuid:
        raise invalid({"uuid": ["The root of the hierarchy cannot be deleted."]})
    if any(node["parent_uuid"] == own_uuid for node in state.hierarchies.values()):
        raise invalid({"uuid": ["A node that has children cannot be deleted."]})
    return remove(state.hierarchies, call)


ROUTES: list[Route[IntouchState]] = [
    Route("GET", "/public/v1/hierarchies", _list),
    Route("POST", "/public/v1/hierarchies", _create),
    Route("GET", "/public/v1/hierarchies/{uuid}", _get),
    Route("PUT", "/public/v1/hierarchies/{uuid}", _update),
    Route("DELETE", "/public/v1/hierarchies/{uuid}", _delete),
]
