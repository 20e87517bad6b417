"""External programs: records of any structure, kept under a program's uuid.

Any well-formed uuid is a program that exists. An empty `data` or `meta` reads
`[]`. `document_id` comes from the `meta` of the reply that created the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import Reply, Route, as_object

from .rules import Field, checked, object_or_empty, refused, uuid
from .state import IntouchState, Row, stamp

if TYPE_CHECKING:
    from asyncclients.sandbox.vendor import SandboxRequest

FIELDS = {"data": Field(object_or_empty, required=True), "meta": Field(object_or_empty)}


def _program(call: SandboxRequest) -> str:
    if uuid(call.ids[0]):
        raise refused(404, "The requested resource could not be found.")
    return call.ids[0]


def _add(state: IntouchState, call: SandboxRequest) -> Reply:
    records = state.records.setdefault(_program(call), {})
    values = checked(call, {"data": FIELDS["data"]})
    document_id = state.new_uuid()
    meta: Row = {"document_id": document_id, "created_at": stamp(call.time)}
    records[document_id] = {"meta": meta, "data": values["data"] or []}
    return Reply.json(201, records[document_id])


def _update(state: IntouchState, call: SandboxRequest) -> Reply:
    records = state.records.get(_program(call), {})
    record = records.get(call.ids[1])
    if record is None:
        raise refused(404, "The requested resource could not be found.")
    values = checked(call, FIELDS)
    meta = {**(as_object(record["meta"]) or {}), **(as_object(values.get("meta")) or {})}
    meta |= {"document_id": call.ids[1], "updated_at": stamp(call.time)}
    records[call.ids[1]] = {"meta": meta, "data": values["data"] or []}
    return Reply.json(200, records[call.ids[1]])


ROUTES: list[Route[IntouchState]] = [
    Route("POST", "/public/v1/external-programs/{program_uuid}/records", _add),
    Route("PUT", "/public/v1/external-programs/{program_uuid}/records/{document_id}", _update),
]
