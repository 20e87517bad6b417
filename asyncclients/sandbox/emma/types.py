"""Touchpoint types: two names each, `type_name` unique. Deleting one deletes its touchpoints."""

from __future__ import annotations

from asyncclients.sandbox.vendor import RefusedError, Reply, Route, SandboxRequest, as_object

from .state import EmmaState, Row, stamp


def refused(status: int, message: str) -> RefusedError:
    """A no with *message*."""
    return RefusedError(Reply.json(status, {"error": message}))


def body_of(call: SandboxRequest) -> Row:
    """The JSON object in the body; RefusedError 400 when there is none."""
    try:
        body = as_object(call.json()) if call.media_type == "application/json" else None
    except ValueError:
        body = None
    if body is None:
        raise refused(400, "The body must be a JSON object")
    return body


def number_of(text: str) -> int | None:
    """The id that a part of a path means."""
    return int(text) if text.isascii() and text.isdigit() else None


def deleted(state: EmmaState) -> Reply:
    """The answer to a DELETE, in the form on order."""
    if state.delete_reply == "true":
        return Reply.json(200, value=True)
    return Reply(200 if state.delete_reply == "empty" else 204)


def _found(state: EmmaState, call: SandboxRequest) -> Row:
    row = state.types.get(number_of(call.ids[1]) or 0)
    if row is None:
        raise refused(404, "No touchpoint type with that ID")
    return row


def _names(state: EmmaState, call: SandboxRequest, own: Row | None = None) -> Row:
    body = body_of(call)
    names: Row = {name: body.get(name) for name in ("display_name", "type_name")}
    if not all(isinstance(value, str) and value for value in names.values()):
        raise refused(400, "type_name and display_name are required")
    for row in state.types.values():
        if row["type_name"] == names["type_name"] and row is not own:
            raise refused(400, "The touchpoint type already exists")
    return names


def _create(state: EmmaState, call: SandboxRequest) -> Reply:
    row: Row = {"account_id": state.account_id, "created_at": stamp(call.time)}
    row |= _names(state, call)
    row["touchpoint_type_id"] = number = state.new_id()
    state.types[number] = row
    return Reply.json(200, state.shown(row))


def _list(state: EmmaState, call: SandboxRequest) -> Reply:
    del call
    return Reply.json(200, [state.shown(row) for row in state.types.values()])


def _get(state: EmmaState, call: SandboxRequest) -> Reply:
    return Reply.json(200, state.shown(_found(state, call)))


def _update(state: EmmaState, call: SandboxRequest) -> Reply:
    row = _found(state, call)
    row.update(_names(state, call, row))
    return Reply.json(200, state.shown(row))


def _delete(state: EmmaState, call: SandboxRequest) -> Reply:
    number = _found(state, call)["touchpoint_type_id"]
    for key in [k for k, t in state.touchpoints.items() if t["touchpoint_type_id"] == number]:
        del state.touchpoints[key]
    del state.types[int(call.ids[1])]
    return deleted(state)


ROUTES: list[Route[EmmaState]] = [
    Route("POST", "/{account_id}/touchpoints", _create),
    Route("GET", "/{account_id}/touchpoints", _list),
    Route("GET", "/{account_id}/touchpoints/{touchpoint_type_id}", _get),
    Route("PUT", "/{account_id}/touchpoints/{touchpoint_type_id}", _update),
    Route("DELETE", "/{account_id}/touchpoints/{touchpoint_type_id}", _delete),
]
