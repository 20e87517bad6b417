"""Touchpoints of members: at most ten a call, all of them stored or none.

The manual does not say what a bad item among good ones does; here it refuses
the call. An email nobody has becomes a member. Lists and single touchpoints
come without `touchpoint_id` and `attributes`, as in the manual's samples: only
the reply to a create tells the ids.
"""

from __future__ import annotations

from asyncclients.sandbox.vendor import Reply, Route, SandboxRequest, as_array, as_object

from .state import EmmaState, Row, read_time, stamp
from .types import body_of, deleted, number_of, refused

MOST = 10


def _create(state: EmmaState, call: SandboxRequest) -> Reply:
    items = as_array(body_of(call).get("touchpoints"))
    if not items:
        raise refused(400, "No touchpoints provided")
    if len(items) > MOST:
        raise refused(400, f"At most {MOST} touchpoints can be created at once")
    checked = [_checked(state, as_object(item)) for item in items]
    rows = [_stored(state, call, item) for item in checked]
    return Reply.json(200, [state.shown(row) for row in rows])


def _checked(state: EmmaState, item: Row | None) -> Row:
    if item is None:
        raise refused(400, "A touchpoint must be a JSON object")
    timestamp = item.get("touchpoint_timestamp")
    if timestamp is not None and read_time(timestamp) is None:
        raise refused(400, "touchpoint_timestamp is not a datetime")
    value = item.get("touchpoint_monetary_value")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise refused(400, "touchpoint_monetary_value is not a number")
    if item.get("attributes") is not None and as_object(item["attributes"]) is None:
        raise refused(400, "attributes is not a JSON object")
    if not isinstance(item.get("mailing_id", 0), int | None):
        raise refused(400, "mailing_id is not an integer")
    _check_member(state, item)
    return {**item, "touchpoint_type_id": _type_id(state, item)}


def _check_member(state: EmmaState, item: Row) -> None:
    member_id, email = item.get("member_id"), item.get("email")
    if member_id is None and not (isinstance(email, str) and "@" in email):
        raise refused(400, "member_id or email is required")
    if member_id is not None and member_id not in state.members:
        raise refused(400, "No member with that ID")


def _type_id(state: EmmaState, item: Row) -> object:
    number, name = item.get("touchpoint_type_id"), item.get("type_name")
    if number is not None and number in state.types:
        return number
    for row in state.types.values():
        if number is None and name is not None and row["type_name"] == name:
            return row["touchpoint_type_id"]
    raise refused(400, "An existing touchpoint_type_id or type_name is required")


def _stored(state: EmmaState, call: SandboxRequest, item: Row) -> Row:
    now = stamp(call.time)
    member_id = item.get("member_id") or state.add_member(str(item["email"]))
    number = state.new_id()
    state.touchpoints[number] = {
        "account_id": state.account_id,
        "attributes": item.get("attributes"),
        "touchpoint_timestamp": read_time(item.get("touchpoint_timestamp")) or now,
        "touchpoint_id": number,
        "touchpoint_type_id": item["touchpoint_type_id"],
        "touchpoint_monetary_value": item.get("touchpoint_monetary_value"),
        "inserted_at": now,
        "mailing_id": item.get("mailing_id"),
        "member_id": member_id,
    }
    return state.touchpoints[number]


def _list(state: EmmaState, call: SandboxRequest) -> Reply:
    member_id = number_of(call.ids[1])
    if member_id not in state.members:
        raise refused(404, "No member with that ID")
    rows = [row for row in state.touchpoints.values() if row["member_id"] == member_id]
    return Reply.json(200, [state.shown(row, "touchpoint_id", "attributes") for row in rows])


def _found(state: EmmaState, call: SandboxRequest) -> Row:
    row = state.touchpoints.get(number_of(call.ids[1]) or 0)
    if row is None:
        raise refused(404, "No touchpoint with that ID")
    return row


def _get(state: EmmaState, call: SandboxRequest) -> Reply:
    return Reply.json(200, state.shown(_found(state, call), "touchpoint_id", "attributes"))


def _delete(state: EmmaState, call: SandboxRequest) -> Reply:
    _found(state, call)
    del state.touchpoints[int(call.ids[1])]
    return deleted(state)


# Before the routes of the types: `/touchpoints/members` must not read as a type's id.
ROUTES: list[Route[EmmaState]] = [
    Route("POST", "/{account_id}/touchpoints/members", _create),
    Route("GET", "/{account_id}/touchpoints/members/{member_id}", _list),
    Route("GET", "/{account_id}/touchpoints/members/touchpoints/{touchpoint_id}", _get),
    Route("DELETE", "/{account_id}/touchpoints/members/touchpoints/{touchpoint_id}", _delete),
]
