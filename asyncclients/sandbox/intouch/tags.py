"""Tags: a name each. Deleting one leaves it on the things that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import Reply, Route

from .listing import TAGS, page_of
from .rules import Field, checked, refused, text
from .state import IntouchState, Row, Table, stamp

if TYPE_CHECKING:
    from asyncclients.sandbox.vendor import SandboxRequest

FIELDS = {"name": Field(text(255), required=True)}


def found(table: Table, call: SandboxRequest) -> Row:
    """The row of *table* that the path of *call* names; RefusedError 404 when there is none."""
    row = table.get(call.ids[0])
    if row is None:
        raise refused(404, "The requested resource could not be found.")
    return row


def store(table: Table, call: SandboxRequest, row: Row) -> Row:
    """Put *row* with its new `updated_at` into *table*."""
    row = {**row, "updated_at": stamp(call.time)}
    table[str(row["uuid"])] = row
    return row


def remove(table: Table, call: SandboxRequest) -> Reply:
    """Delete the row that the path names."""
    del table[str(found(table, call)["uuid"])]
    return Reply(204)


def _list(state: IntouchState, call: SandboxRequest) -> Reply:
    return page_of(state.tags, TAGS, call)


def _create(state: IntouchState, call: SandboxRequest) -> Reply:
    values = checked(call, FIELDS)
    row: Row = {"uuid": state.new_uuid(), **values, "created_at": stamp(call.time)}
    return Reply.json(201, store(state.tags, call, row))


def _get(state: IntouchState, call: SandboxRequest) -> Reply:
    return Reply.json(200, found(state.tags, call))


def _update(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.tags, call)
    return Reply.json(200, store(state.tags, call, row | checked(call, FIELDS)))


def _delete(state: IntouchState, call: SandboxRequest) -> Reply:
    return remove(state.tags, call)


ROUTES: list[Route[IntouchState]] = [
    Route("GET", "/public/v1/tags", _list),
    Route("POST", "/public/v1/tags", _create),
    Route("GET", "/public/v1/tags/{uuid}", _get),
    Route("PUT", "/public/v1/tags/{uuid}", _update),
    Route("DELETE", "/public/v1/tags/{uuid}", _delete),
]
