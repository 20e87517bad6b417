"""The mock of Totango: 100 requests per minute and token, counted in fixed windows of its clock.

Each response has RateLimit-Limit, -Remaining, and -Reset in seconds until the counter is reset. A
429 declares JSON but is plain text. The response to a create has the note's id only; the event's
id is in the list of events.

Bodies are forms, as in the manual's samples, or JSON, which "is supported". Lists in a form have
bracketed indexes, `touchpoint_tags[0]=...`. An invalid field is a 400 with a message. Stricter
than any known rule: a `create_date` too small to be in milliseconds is rejected, and so is an
id that is not in the catalogues.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from random import Random
from typing import Annotated, Any
from urllib.parse import parse_qsl

from msgspec import Meta

from .limits import FixedWindow, ServerLimit
from .vendor import Reply, Route, Row, SandboxRequest, Vendor, as_array, as_object

_TYPES = ("Inbound Call", "Outbound Call", "Email", "Web Meeting")
_TAGS = ("Escalation", "Renewal", "Training")
_ACTIVITIES = {
    "escalation": "Escalation",
    "renewal": "Renewal",
    "support": "Support",
    "disabled_1576166402106": "Old flow",
}
_FIELDS = {
    "account_id": str,
    "content": Annotated[str, Meta(max_length=12_000)],
    "activity_type_id": str,
    "created_by": str,
    # From March 1973 on; a number below it was meant in seconds.
    "create_date": Annotated[int, Meta(ge=10**11)],
    "disable_sync": bool,
    "touchpointType": str,
    "touchpoint_tags": list[str],
    "participantList": list[dict[str, Any]],
    "subject": str,
}
_INDEXED = re.compile(r"(\w+)\[\d*\](?:\[(\w+)\])?\Z")
_NOTE = "/api/v3/touchpoints/{note_id}"


class Totango(Vendor):
    """Totango Touchpoints API, on one account.

    `touchpoints` are the notes by `note_id`, with `event_id` and the fields sent; `other_events`
    are tasks and alerts by account, set by a test. Any account exists. Lists of types and tags are
    arrays of objects, as in reality; the manual describes maps. It does not show the response to
    a create.
    """

    name = "totango"
    quota = (100, 60.0)
    limit_model = FixedWindow

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.tokens: set[str] = set()
        self.touchpoints: dict[int, Row] = {}
        self.other_events: dict[str, list[Row]] = {}
        self.touchpoint_types = {self.new_uuid(): name for name in _TYPES}
        self.touchpoint_tags = {self.new_uuid(): name for name in _TAGS}
        self.activity_types = {key: _activity(key, name) for key, name in _ACTIVITIES.items()}
        self._last_note = random.randrange(40_000, 50_000)

    def issue(self) -> dict[str, str]:
        token = f"{self.random.getrandbits(160):040x}"
        self.tokens.add(token)
        return {"TOTANGO_APP_TOKEN": token}

    def credential(self, call: SandboxRequest) -> str:
        token = call.headers.get("app-token", "")
        if token not in self.tokens:
            raise self.rejected(401, "Unauthorized")
        return token

    def over_limit(self) -> Reply:
        return Reply(429, b"Too many requests", {"Content-Type": "application/json"})

    def limit_headers(self, limit: ServerLimit, now: float, *, rejected: bool) -> Mapping[str, str]:
        del rejected
        ends = limit.window_ends_after if isinstance(limit, FixedWindow) else limit.reset_after
        return {
            "RateLimit-Limit": str(int(limit.limit)),
            "RateLimit-Remaining": str(limit.remaining(now)),
            "RateLimit-Reset": str(math.ceil(ends(now))),
        }

    def body_of(self, call: SandboxRequest) -> Row:
        if call.media_type != "application/x-www-form-urlencoded":
            return super().body_of(call)
        fields: Row = {}
        for name, value in parse_qsl(call.body.decode(), keep_blank_values=True):
            indexed = _INDEXED.match(name)
            if indexed is None:
                fields[name] = _plain(name, value)
                continue
            items = as_array(fields.setdefault(indexed[1], []))
            if items is None:
                raise self.rejected(400, f"{indexed[1]} comes both as one value and as a list")
            items.append({indexed[2]: value} if indexed[2] else value)
        return fields

    @Route("POST", "/api/v3/touchpoints/")
    def create(self, call: SandboxRequest) -> Reply:
        fields = self.body_of(call)
        for name in ("account_id", "content"):
            if not fields.get(name):
                raise self.rejected(400, f"{name} is required")
        self._check(fields)
        fields.setdefault("create_date", int(call.time.timestamp() * 1000))
        self._last_note += 1
        # Hexadecimal digits with z between the groups, as in the manual.
        event_id = self.new_uuid().replace("-", "z")
        note = {**fields, "note_id": self._last_note, "event_id": event_id}
        self.touchpoints[self._last_note] = note
        return _written(note)

    @Route("PUT", _NOTE)
    def update(self, call: SandboxRequest) -> Reply:
        note, fields = self._note(call), self.body_of(call)
        self._check(fields)
        for name in ("note_id", "event_id", "account_id"):
            if name in fields and str(fields.pop(name)) != str(note[name]):
                raise self.rejected(400, f"{name} does not belong to this touchpoint")
        note.update(fields)
        return _written(note)

    @Route("DELETE", _NOTE)
    def delete(self, call: SandboxRequest) -> Reply:
        note = self._note(call)
        event_id = self.body_of(call).get("event_id")
        if event_id is None:
            raise self.rejected(400, "event_id is required")
        if event_id != note["event_id"]:
            raise self.rejected(400, "event_id does not belong to this touchpoint")
        del self.touchpoints[int(call.ids[0])]
        return Reply.json(200, {})

    @Route("GET", "/api/v2/events/")
    def events(self, call: SandboxRequest) -> Reply:
        account = call.query.get("account_id")
        if not account:
            raise self.rejected(400, "account_id is required")
        notes = [note for note in self.touchpoints.values() if note["account_id"] == account]
        return Reply.json(200, [*map(_event, notes), *self.other_events.get(account, [])])

    @Route("GET", "/api/v3/touchpoint-types/")
    def list_types(self, _call: SandboxRequest) -> Reply:
        return _named(self.touchpoint_types)

    @Route("GET", "/api/v3/touchpoint-tags/")
    def list_tags(self, _call: SandboxRequest) -> Reply:
        return _named(self.touchpoint_tags)

    @Route("GET", "/api/v3/activity-types/")
    def list_activity_types(self, _call: SandboxRequest) -> Reply:
        return Reply.json(200, self.activity_types)

    def _check(self, fields: Row) -> None:
        """Raise RejectedError (400) if a field is invalid."""
        self.check_types(fields, _FIELDS)
        people = as_array(fields.get("participantList")) or []
        if not all({"userId", "userid"} & (as_object(person) or {}).keys() for person in people):
            raise self.rejected(400, "participantList is not valid: a participant has a userId")
        for name, known in (
            ("activity_type_id", self.activity_types),
            ("touchpointType", self.touchpoint_types),
            ("touchpoint_tags", self.touchpoint_tags),
        ):
            given = fields.get(name)
            ids = [given] if (listed := as_array(given)) is None else listed
            if not known.keys() >= {*ids} - {None}:
                raise self.rejected(400, f"{name} is not valid: the id is unknown")

    def _note(self, call: SandboxRequest) -> Row:
        number = call.ids[0]
        note = self.touchpoints.get(int(number)) if number.isascii() and number.isdigit() else None
        if note is None:
            raise self.rejected(404, "Touchpoint not found")
        return note


def _written(note: Row) -> Reply:
    return Reply.json(200, {"note": {"id": note["note_id"], "text": note["content"]}})


def _named(names: Mapping[str, str]) -> Reply:
    return Reply.json(200, [{"id": key, "display_name": name} for key, name in names.items()])


def _activity(key: str, name: str) -> Row:
    return {
        "activity_type_id": key,
        "display_name": name,
        "num_of_activities_assign_to": 0,
        "icon_class": "icon-dollar",
        "system_type": True,
        "default_type": False,
        "disabled": key.startswith("disabled"),
    }


def _plain(name: str, value: str) -> object:
    if name == "create_date" and value.lstrip("-").isdigit():
        return int(value)
    if name == "disable_sync" and value in {"true", "false"}:
        return value == "true"
    return value


def _event(note: Row) -> Row:
    return {
        "id": note["event_id"],
        "timestamp": note["create_date"],
        "type": "note",
        "account": {"id": note["account_id"]},
        "is_new": None,
        "note_content": {
            "text": note["content"],
            "totango_user": {
                "user_name": note.get("created_by") or note.get("user_id", "user@example.com")
            },
            "note_id": note["note_id"],
        },
        "properties": {
            "customers_visibility": False,
            "activity_type_id": note.get("activity_type_id"),
            "containsFormatting": "true",
            "subject": note.get("subject", ""),
            "meeting_type": note.get("touchpointType"),
            "touchpoint_tags": note.get("touchpoint_tags", []),
        },
    }
