"""The mock of Emma: 180 requests per minute and key, rejected with **403**.

The login is HTTP Basic with public and private key. A wrong key is a 401, and an unknown account a
403 without the text "Rate Limit Exceeded": only the text distinguishes the two kinds of 403.

A create takes at most ten touchpoints and stores all or none: the manual does not specify the
effect of an invalid item among valid ones. An unknown email becomes a member. Lists and single
touchpoints have no `touchpoint_id` and `attributes`, as in the manual's samples: only the
response to a create has the ids. Deleting a touchpoint type deletes its touchpoints.
"""

from __future__ import annotations

from datetime import datetime
from random import Random
from typing import Annotated, Any

from msgspec import Meta

from .vendor import Reply, Route, Row, SandboxRequest, Vendor, as_rows

MOST = 10
_TOUCHPOINT_TYPES = {
    "touchpoint_timestamp": Annotated[
        str, Meta(pattern=r"\A(@D:)?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\Z")
    ],
    "touchpoint_monetary_value": float,
    "attributes": dict[str, Any],
    "mailing_id": int,
    "member_id": int,
}
_HIDDEN = ("touchpoint_id", "attributes")

_TYPES = "/{account_id}/touchpoints"
_TYPE = f"{_TYPES}/{{touchpoint_type_id}}"
_MEMBERS = f"{_TYPES}/members"
_TOUCHPOINT = f"{_MEMBERS}/touchpoints/{{touchpoint_id}}"


class Emma(Vendor):
    """Emma (MyEmma) touchpoints, on one account.

    `members` are emails by member id; `types` and `touchpoints` are rows by id.
    """

    name = "emma"
    quota = (180, 60.0)

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.account_id = random.randrange(10**6, 10**7)
        self.keys: dict[str, str] = {}
        self.types: dict[int, Row] = {}
        self.touchpoints: dict[int, Row] = {}
        self.members: dict[int, str] = {}
        # Emma's ids have passed 2**31.
        self._last_id = 2**31 + random.randrange(10**6)

    def issue(self) -> dict[str, str]:
        public, private = (f"{self.random.getrandbits(80):020x}" for _ in range(2))
        self.keys[public] = private
        return {
            "EMMA_ACCOUNT_ID": str(self.account_id),
            "EMMA_PUBLIC_KEY": public,
            "EMMA_PRIVATE_KEY": private,
        }

    def credential(self, call: SandboxRequest) -> str:
        public, private = call.basic_login()
        if not public or self.keys.get(public) != private:
            raise self.rejected(401, "Invalid API key")
        if call.segments[:1] != (str(self.account_id),):
            raise self.rejected(403, "Forbidden")
        return public

    def over_limit(self) -> Reply:
        return self.error(403, "Rate Limit Exceeded")

    def error(self, status: int, message: str) -> Reply:
        return Reply.json(status, {"error": message})

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

    # --- Touchpoints, whose paths also match those of the types -----------------------

    @Route("POST", _MEMBERS)
    def create_touchpoints(self, call: SandboxRequest) -> Reply:
        items = as_rows(self.body_of(call).get("touchpoints"))
        if not items:
            raise self.rejected(400, "No touchpoints provided")
        if len(items) > MOST:
            raise self.rejected(400, f"At most {MOST} touchpoints can be created at once")
        checked = [self._checked(item) for item in items]
        return Reply.json(200, [self._stored(call, item) for item in checked])

    def _checked(self, item: Row) -> Row:
        self.check_types(item, _TOUCHPOINT_TYPES)
        member_id, email = item.get("member_id"), item.get("email")
        if member_id is None and not (isinstance(email, str) and "@" in email):
            raise self.rejected(400, "member_id or email is required")
        if member_id is not None and member_id not in self.members:
            raise self.rejected(400, "No member with that ID")
        return {**item, "touchpoint_type_id": self._type_id(item)}

    def _type_id(self, item: Row) -> object:
        number, name = item.get("touchpoint_type_id"), item.get("type_name")
        if number is not None and number in self.types:
            return number
        for row in self.types.values():
            if number is None and name is not None and row["type_name"] == name:
                return row["touchpoint_type_id"]
        raise self.rejected(400, "An existing touchpoint_type_id or type_name is required")

    def _stored(self, call: SandboxRequest, item: Row) -> Row:
        now = _stamp(call.time)
        member_id = item.get("member_id") or self.add_member(str(item["email"]))
        number = self.new_id()
        self.touchpoints[number] = {
            "account_id": self.account_id,
            "attributes": item.get("attributes"),
            "touchpoint_timestamp": _marked(str(item.get("touchpoint_timestamp") or now)),
            "touchpoint_id": number,
            "touchpoint_type_id": item["touchpoint_type_id"],
            "touchpoint_monetary_value": item.get("touchpoint_monetary_value"),
            "inserted_at": now,
            "mailing_id": item.get("mailing_id"),
            "member_id": member_id,
        }
        return self.touchpoints[number]

    @Route("GET", f"{_MEMBERS}/{{member_id}}")
    def list_touchpoints(self, call: SandboxRequest) -> Reply:
        number = self._id_in(call, self.members)
        rows = [row for row in self.touchpoints.values() if row["member_id"] == number]
        return Reply.json(200, [_shown(row) for row in rows])

    @Route("GET", _TOUCHPOINT)
    def get_touchpoint(self, call: SandboxRequest) -> Reply:
        return Reply.json(200, _shown(self.touchpoints[self._id_in(call, self.touchpoints)]))

    @Route("DELETE", _TOUCHPOINT)
    def delete_touchpoint(self, call: SandboxRequest) -> Reply:
        del self.touchpoints[self._id_in(call, self.touchpoints)]
        return Reply.json(200, value=True)

    # --- Touchpoint types -------------------------------------------------------------

    @Route("POST", _TYPES)
    def create_type(self, call: SandboxRequest) -> Reply:
        row: Row = {"account_id": self.account_id, "created_at": _stamp(call.time)}
        row |= self._type_names(call)
        row["touchpoint_type_id"] = number = self.new_id()
        self.types[number] = row
        return Reply.json(200, row)

    @Route("GET", _TYPES)
    def list_types(self, _call: SandboxRequest) -> Reply:
        return Reply.json(200, [*self.types.values()])

    @Route("GET", _TYPE)
    def get_type(self, call: SandboxRequest) -> Reply:
        return Reply.json(200, self.types[self._id_in(call, self.types)])

    @Route("PUT", _TYPE)
    def update_type(self, call: SandboxRequest) -> Reply:
        row = self.types[self._id_in(call, self.types)]
        row.update(self._type_names(call, row))
        return Reply.json(200, row)

    @Route("DELETE", _TYPE)
    def delete_type(self, call: SandboxRequest) -> Reply:
        number = self._id_in(call, self.types)
        for key in [k for k, t in self.touchpoints.items() if t["touchpoint_type_id"] == number]:
            del self.touchpoints[key]
        del self.types[number]
        return Reply.json(200, value=True)

    def _type_names(self, call: SandboxRequest, own: Row | None = None) -> Row:
        body = self.body_of(call)
        names: Row = {name: body.get(name) for name in ("display_name", "type_name")}
        if not all(isinstance(value, str) and value for value in names.values()):
            raise self.rejected(400, "type_name and display_name are required")
        for row in self.types.values():
            if row["type_name"] == names["type_name"] and row is not own:
                raise self.rejected(400, "The touchpoint type already exists")
        return names

    # --- Both -------------------------------------------------------------------------

    def _id_in(self, call: SandboxRequest, known: dict[int, Any]) -> int:
        """Return the id at the end of the path; raises RejectedError (404) if it is unknown."""
        last = call.ids[-1]
        if not (last.isascii() and last.isdigit() and int(last) in known):
            raise self.rejected(404, "Not Found")
        return int(last)


def _shown(touchpoint: Row) -> Row:
    return {name: value for name, value in touchpoint.items() if name not in _HIDDEN}


def _stamp(time: datetime) -> str:
    return _marked(time.replace(tzinfo=None).isoformat(timespec="seconds"))


def _marked(time: str) -> str:
    return f"@D:{time.removeprefix('@D:')}"
