"""Rows into collections: by JSON, one or many, or as the lines of an uploaded file.

A row whose primary key is known overwrites the row that has it and keeps its id.
What becomes of a row without a value for it the manual does not say: here it is
stored anew each time, so that a repeated insert shows. Fields that the schema
lacks are dropped in silence. Of an uploaded file the first line names the fields, and all values are
text. What is wrong with a file, nobody is told: S3 has accepted it by then.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import RefusedError, Reply, SandboxRequest, as_object

if TYPE_CHECKING:
    from datetime import datetime

    from .state import Collection, IntemptState, Row


def refused(status: int, error: str, message: str) -> RefusedError:
    """A no in the form of Spring Boot."""
    return RefusedError(Reply.json(status, {"status": status, "error": error, "message": message}))


def body_of(call: SandboxRequest) -> Row:
    """The JSON object in the body; RefusedError when there is none."""
    # The manual's samples send JSON with `curl --data-raw`, which calls it a form.
    if call.media_type not in {"application/json", "application/x-www-form-urlencoded"}:
        raise refused(415, "Unsupported Media Type", f"'{call.media_type}' is not supported")
    try:
        body = as_object(call.json())
    except ValueError:
        body = None
    if body is None:
        raise refused(400, "Bad Request", "The body is not a JSON object")
    return body


def store(state: IntemptState, collection: Collection, row: Row, time: datetime) -> Row:
    """Insert or overwrite *row*; the item as stored."""
    known = row if collection.fields is None else _only(row, collection.fields)
    given = row.get(collection.primary_key)
    key = "" if given is None else str(given)
    old = collection.items.get(key) if key else None
    number = old["id"] if old else state.new_id(time)
    key = key or f"without a key: {number}"
    item: Row = {"collId": collection.id, "id": number, "data": known, "matches": []}
    collection.items[key] = item
    return item


def store_file(state: IntemptState, collection: Collection, file: bytes, time: datetime) -> None:
    """Insert the lines of an uploaded CSV file; note it as unread where that fails."""
    try:
        lines = csv.DictReader(io.StringIO(file.decode("utf-8-sig"), newline=""), strict=True)
        rows: list[Row] = [dict(line) for line in lines]
    except (UnicodeDecodeError, csv.Error):
        state.unread.append(collection.name)
        return
    for row in rows:
        store(state, collection, row, time)


def _only(row: Row, fields: frozenset[str]) -> Row:
    return {name: value for name, value in row.items() if name in fields}
