"""The pretend Totango: 100 requests in each minute of its clock, per token.

Each answer tells what is left: RateLimit-Limit, -Remaining, and -Reset in
seconds until the counter is set back. A 429 declares JSON and is bare text.
A create tells the note's id alone; the event's id is in the list of events.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.limits import FixedWindow
from asyncclients.sandbox.vendor import RefusedError, Reply, Route, SandboxRequest, Vendor

from .fields import check, fields_of, refused
from .state import Row, TotangoState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit


def _note(state: TotangoState, call: SandboxRequest) -> Row:
    number = call.ids[0]
    note = state.touchpoints.get(int(number)) if number.isascii() and number.isdigit() else None
    if note is None:
        raise refused(404, "Touchpoint not found")
    return note


def _created(state: TotangoState, note: Row) -> Reply:
    number = note["note_id"]
    if state.create_form == "flat":
        return Reply.json(200, {"note_id": str(number)})
    if state.create_form == "event":
        return Reply.json(200, _event(note))
    if state.create_form in {"object", "empty"}:
        return Reply(200, b"{}" if state.create_form == "object" else b"")
    return Reply.json(200, {"note": {"id": number, "text": note["content"]}})


def _create(state: TotangoState, call: SandboxRequest) -> Reply:
    fields = fields_of(call)
    check(state, fields, required=("account_id", "content"))
    fields.setdefault("create_date", int(call.time.timestamp() * 1000))
    number = state.new_note_id()
    note = {**fields, "note_id": number, "event_id": state.new_event_id()}
    state.touchpoints[number] = note
    return _created(state, note)


def _update(state: TotangoState, call: SandboxRequest) -> Reply:
    note, fields = _note(state, call), fields_of(call)
    check(state, fields, required=())
    for name in ("note_id", "event_id", "account_id"):
        if name in fields and str(fields.pop(name)) != str(note[name]):
            raise refused(400, f"{name} does not belong to this touchpoint")
    note.update(fields)
    return _created(state, note)


def _delete(state: TotangoState, call: SandboxRequest) -> Reply:
    note = _note(state, call)
    event_id = fields_of(call).get("event_id")
    if event_id is None:
        raise refused(400, "event_id is required")
    if event_id != note["event_id"]:
        raise refused(400, "event_id does not belong to this touchpoint")
    del state.touchpoints[int(call.ids[0])]
    return Reply.json(200, {})


def _events(state: TotangoState, call: SandboxRequest) -> Reply:
    account = call.query.get("account_id")
    if not account:
        raise refused(400, "account_id is required")
    notes = [n for n in state.touchpoints.values() if n["account_id"] == account]
    return Reply.json(200, [*map(_event, notes), *state.other_events.get(account, [])])


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


def _named(state: TotangoState, names: Mapping[str, str]) -> Reply:
    if state.wire_form == "map":
        return Reply.json(200, names)
    objects = {key: {"id": key, "display_name": name} for key, name in names.items()}
    return Reply.json(200, objects if state.wire_form == "objects" else list(objects.values()))


def _types(state: TotangoState, call: SandboxRequest) -> Reply:
    del call
    return _named(state, state.touchpoint_types)


def _tags(state: TotangoState, call: SandboxRequest) -> Reply:
    del call
    return _named(state, state.touchpoint_tags)


def _activities(state: TotangoState, call: SandboxRequest) -> Reply:
    del call
    return Reply.json(200, state.activity_types)


ROUTES: list[Route[TotangoState]] = [
    Route("POST", "/api/v3/touchpoints/", _create),
    Route("PUT", "/api/v3/touchpoints/{note_id}", _update),
    Route("DELETE", "/api/v3/touchpoints/{note_id}", _delete),
    Route("GET", "/api/v2/events/", _events),
    Route("GET", "/api/v3/touchpoint-types/", _types),
    Route("GET", "/api/v3/touchpoint-tags/", _tags),
    Route("GET", "/api/v3/activity-types/", _activities),
]


class Totango(Vendor[TotangoState]):
    """Totango Touchpoints API, 7 operations."""

    name: ClassVar[str] = "totango"
    quota: ClassVar[tuple[float, float] | None] = (100, 60.0)

    def __init__(self, random: Random) -> None:
        super().__init__(TotangoState(random), ROUTES)

    def issue(self, random: Random) -> dict[str, str]:
        token = f"{random.getrandbits(160):040x}"
        self.state.tokens.add(token)
        return {"TOTANGO_APP_TOKEN": token}

    def credential(self, call: SandboxRequest) -> str:
        token = call.headers.get("app-token", "")
        if token not in self.state.tokens:
            raise RefusedError(self.complaint(401, "Unauthorized"))
        return token

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return FixedWindow(limit, period)

    def limit_headers(self, limit: ServerLimit, now: float) -> Mapping[str, str]:
        ends = limit.window_ends_after if isinstance(limit, FixedWindow) else limit.reset_after
        return {
            "RateLimit-Limit": str(int(limit.limit)),
            "RateLimit-Remaining": str(limit.remaining(now)),
            "RateLimit-Reset": str(math.ceil(ends(now))),
        }

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        del limit, now
        return Reply(429, b"Too many requests", {"Content-Type": "application/json"})
