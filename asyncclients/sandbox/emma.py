"""The mock of Emma: 180 requests per minute and key, rejected with **403**.

The login is HTTP Basic with public and private key. A wrong key is a 401, and an unknown account a
403 without the text "Rate Limit Exceeded": only the text distinguishes the two kinds of 403.

A create takes at most ten touchpoints and stores all or none: the manual does not specify the
effect of an invalid item among valid ones. An unknown email becomes a member. Lists and single
touchpoints have no `touchpoint_id` and `attributes`, as in the manual's samples: only the
response to a create has the ids. Deleting a touchpoint type deletes its touchpoints.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

from .vendor import RejectedError, Reply, Route, Row, SandboxRequest, Vendor, as_array, as_object

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

TimeForm: TypeAlias = Literal["@D", "iso"]
DeleteReply: TypeAlias = Literal["true", "empty", "no content"]

_TIME = re.compile(r"(?:@D:)?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\Z")


class EmmaState:
    """One Emma account.

    `members` are emails by member id; `types` and `touchpoints` are rows by id, with times
    without `@D:`. `time_form` is the format of times in responses: with `@D:`, or plain "iso".
    `delete_reply` is the response to a DELETE: the body "true", an "empty" body with 200, or 204
    ("no content").
    """

    def __init__(self, random: Random) -> None:
        self.account_id = random.randrange(10**6, 10**7)
        self.keys: dict[str, str] = {}
        self.types: dict[int, Row] = {}
        self.touchpoints: dict[int, Row] = {}
        self.members: dict[int, str] = {}
        self.time_form: TimeForm = "@D"
        self.delete_reply: DeleteReply = "true"
        # Emma's ids have passed 2**31.
        self._last_id = 2**31 + random.randrange(10**6)

    def new_id(self) -> int:
        """Return a new id."""
        self._last_id += 1
        return self._last_id

    def add_member(self, email: str) -> int:
        """Return the id of the member with *email*, adding it if it is new."""
        for member_id, known in self.members.items():
            if known.lower() == email.lower():
                return member_id
        member_id = self.new_id()
        self.members[member_id] = email
        return member_id

    def shown(self, row: Row, *hidden: str) -> Row:
        """Return *row* as in responses, without the *hidden* fields."""
        mark = "@D:" if self.time_form == "@D" else ""
        times = {"created_at", "inserted_at", "touchpoint_timestamp"}
        return {
            name: f"{mark}{value}" if name in times else value
            for name, value in row.items()
            if name not in hidden
        }


def stamp(time: datetime) -> str:
    """Return *time* without its zone, to the second."""
    return time.replace(tzinfo=None).isoformat(timespec="seconds")


def read_time(value: object) -> str | None:
    """Return the time in *value*, with or without `@D:`, or None if it is invalid."""
    found = _TIME.match(value) if isinstance(value, str) else None
    return found[1] if found else None


def rejection(status: int, message: str) -> RejectedError:
    """Return an error response with *message*."""
    return RejectedError(Reply.json(status, {"error": message}))


def body_of(call: SandboxRequest) -> Row:
    """Return the JSON object in the body; raises RejectedError (400) if there is none."""
    body = call.json_object() if call.media_type == "application/json" else None
    if body is None:
        raise rejection(400, "The body must be a JSON object")
    return body


def number_of(text: str) -> int | None:
    """Return *text* as an id, or None."""
    return int(text) if text.isascii() and text.isdigit() else None


def deleted(state: EmmaState) -> Reply:
    """Return the response to a DELETE, in the form of `state.delete_reply`."""
    if state.delete_reply == "true":
        return Reply.json(200, value=True)
    return Reply(200 if state.delete_reply == "empty" else 204)


def _found_type(state: EmmaState, call: SandboxRequest) -> Row:
    row = state.types.get(number_of(call.ids[1]) or 0)
    if row is None:
        raise rejection(404, "No touchpoint type with that ID")
    return row


def _type_names(state: EmmaState, call: SandboxRequest, own: Row | None = None) -> Row:
    body = body_of(call)
    names: Row = {name: body.get(name) for name in ("display_name", "type_name")}
    if not all(isinstance(value, str) and value for value in names.values()):
        raise rejection(400, "type_name and display_name are required")
    for row in state.types.values():
        if row["type_name"] == names["type_name"] and row is not own:
            raise rejection(400, "The touchpoint type already exists")
    return names


def _create_type(state: EmmaState, call: SandboxRequest) -> Reply:
    row: Row = {"account_id": state.account_id, "created_at": stamp(call.time)}
    row |= _type_names(state, call)
    row["touchpoint_type_id"] = number = state.new_id()
    state.types[number] = row
    return Reply.json(200, state.shown(row))


def _list_types(state: EmmaState, _call: SandboxRequest) -> Reply:
    return Reply.json(200, [state.shown(row) for row in state.types.values()])


def _update_type(state: EmmaState, call: SandboxRequest) -> Reply:
    row = _found_type(state, call)
    row.update(_type_names(state, call, row))
    return Reply.json(200, state.shown(row))


def _delete_type(state: EmmaState, call: SandboxRequest) -> Reply:
    number = _found_type(state, call)["touchpoint_type_id"]
    for key in [k for k, t in state.touchpoints.items() if t["touchpoint_type_id"] == number]:
        del state.touchpoints[key]
    del state.types[int(call.ids[1])]
    return deleted(state)


_TYPE = "/{account_id}/touchpoints/{touchpoint_type_id}"
TYPE_ROUTES: list[Route[EmmaState]] = [
    Route("POST", "/{account_id}/touchpoints", _create_type),
    Route("GET", "/{account_id}/touchpoints", _list_types),
    Route("GET", _TYPE, lambda s, call: Reply.json(200, s.shown(_found_type(s, call)))),
    Route("PUT", _TYPE, _update_type),
    Route("DELETE", _TYPE, _delete_type),
]


MOST = 10


def _create_touchpoints(state: EmmaState, call: SandboxRequest) -> Reply:
    items = as_array(body_of(call).get("touchpoints"))
    if not items:
        raise rejection(400, "No touchpoints provided")
    if len(items) > MOST:
        raise rejection(400, f"At most {MOST} touchpoints can be created at once")
    checked = [_checked(state, as_object(item)) for item in items]
    rows = [_stored(state, call, item) for item in checked]
    return Reply.json(200, [state.shown(row) for row in rows])


def _checked(state: EmmaState, item: Row | None) -> Row:
    if item is None:
        raise rejection(400, "A touchpoint must be a JSON object")
    timestamp = item.get("touchpoint_timestamp")
    if timestamp is not None and read_time(timestamp) is None:
        raise rejection(400, "touchpoint_timestamp is not a datetime")
    value = item.get("touchpoint_monetary_value")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise rejection(400, "touchpoint_monetary_value is not a number")
    if item.get("attributes") is not None and as_object(item["attributes"]) is None:
        raise rejection(400, "attributes is not a JSON object")
    if not isinstance(item.get("mailing_id", 0), int | None):
        raise rejection(400, "mailing_id is not an integer")
    _check_member(state, item)
    return {**item, "touchpoint_type_id": _type_id(state, item)}


def _check_member(state: EmmaState, item: Row) -> None:
    member_id, email = item.get("member_id"), item.get("email")
    if member_id is None and not (isinstance(email, str) and "@" in email):
        raise rejection(400, "member_id or email is required")
    if member_id is not None and member_id not in state.members:
        raise rejection(400, "No member with that ID")


def _type_id(state: EmmaState, item: Row) -> object:
    number, name = item.get("touchpoint_type_id"), item.get("type_name")
    if number is not None and number in state.types:
        return number
    for row in state.types.values():
        if number is None and name is not None and row["type_name"] == name:
            return row["touchpoint_type_id"]
    raise rejection(400, "An existing touchpoint_type_id or type_name is required")


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


def _list_touchpoints(state: EmmaState, call: SandboxRequest) -> Reply:
    member_id = number_of(call.ids[1])
    if member_id not in state.members:
        raise rejection(404, "No member with that ID")
    rows = [row for row in state.touchpoints.values() if row["member_id"] == member_id]
    return Reply.json(200, [state.shown(row, "touchpoint_id", "attributes") for row in rows])


def _found_touchpoint(state: EmmaState, call: SandboxRequest) -> Row:
    row = state.touchpoints.get(number_of(call.ids[1]) or 0)
    if row is None:
        raise rejection(404, "No touchpoint with that ID")
    return row


def _get_touchpoint(state: EmmaState, call: SandboxRequest) -> Reply:
    row = _found_touchpoint(state, call)
    return Reply.json(200, state.shown(row, "touchpoint_id", "attributes"))


def _delete_touchpoint(state: EmmaState, call: SandboxRequest) -> Reply:
    _found_touchpoint(state, call)
    del state.touchpoints[int(call.ids[1])]
    return deleted(state)


_MEMBERS = "/{account_id}/touchpoints/members"
# These precede the routes of types: `/touchpoints/members` is not a type's id.
TOUCHPOINT_ROUTES: list[Route[EmmaState]] = [
    Route("POST", _MEMBERS, _create_touchpoints),
    Route("GET", f"{_MEMBERS}/{{member_id}}", _list_touchpoints),
    Route("GET", f"{_MEMBERS}/touchpoints/{{touchpoint_id}}", _get_touchpoint),
    Route("DELETE", f"{_MEMBERS}/touchpoints/{{touchpoint_id}}", _delete_touchpoint),
]


class Emma(Vendor[EmmaState]):
    """Emma (MyEmma) touchpoints, 9 operations."""

    name = "emma"
    quota = (180, 60.0)
    over_limit = rejection(403, "Rate Limit Exceeded").reply

    def __init__(self, random: Random) -> None:
        super().__init__(EmmaState(random), [*TOUCHPOINT_ROUTES, *TYPE_ROUTES])

    def issue(self, random: Random) -> dict[str, str]:
        public, private = (f"{random.getrandbits(80):020x}" for _ in range(2))
        self.state.keys[public] = private
        return {
            "EMMA_ACCOUNT_ID": str(self.state.account_id),
            "EMMA_PUBLIC_KEY": public,
            "EMMA_PRIVATE_KEY": private,
        }

    def credential(self, call: SandboxRequest) -> str:
        public, private = call.basic_login()
        if not public or self.state.keys.get(public) != private:
            raise rejection(401, "Invalid API key")
        if call.segments[:1] != (str(self.state.account_id),):
            raise rejection(403, "Forbidden")
        return public

    def error(self, status: int, message: str) -> Reply:
        return rejection(status, message).reply
