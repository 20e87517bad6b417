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
import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import parse_qsl

from .limits import FixedWindow
from .vendor import Reply, Route, Row, SandboxRequest, Vendor, as_array, as_object, rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from .limits import ServerLimit

WireForm: TypeAlias = Literal["array", "map", "objects"]
CreateForm: TypeAlias = Literal["note", "flat", "event", "object", "empty"]

_TYPES = ("Inbound Call", "Outbound Call", "Email", "Web Meeting")
_TAGS = ("Escalation", "Renewal", "Training")
_ACTIVITIES = {"escalation": "Escalation", "renewal": "Renewal", "support": "Support"}
_DISABLED = "disabled_1576166402106"


class TotangoState:
    """One Totango account.

    `touchpoints` are the notes by `note_id`, with `event_id` and the fields sent; `other_events`
    are tasks and alerts by account, set by a test. `accounts` are the existing accounts, None for
    any.

    `wire_form` is the form of lists of types and tags: an "array" of objects as in reality, a
    "map" id -> name as in the manual, or "objects", id -> object. `create_form` is the response
    to a create, which the manual does not show: {"note": {"id": number}} ("note"), {"note_id":
    text} ("flat"), the new "event", an empty "object", or an "empty" body.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.tokens: set[str] = set()
        self.accounts: set[str] | None = None
        self.wire_form: WireForm = "array"
        self.create_form: CreateForm = "note"
        self.touchpoints: dict[int, Row] = {}
        self.other_events: dict[str, list[Row]] = {}
        self.touchpoint_types = {self._uuid(): name for name in _TYPES}
        self.touchpoint_tags = {self._uuid(): name for name in _TAGS}
        self.activity_types = {key: _activity(key, name) for key, name in _ACTIVITIES.items()}
        self.activity_types[_DISABLED] = _activity(_DISABLED, "Old flow") | {"disabled": True}
        self._last_note = random.randrange(40_000, 50_000)

    def new_note_id(self) -> int:
        """Return the id of the next note."""
        self._last_note += 1
        return self._last_note

    def new_event_id(self) -> str:
        """Return an event id as in the manual: hexadecimal digits with z between the groups."""
        digits = f"{self._random.getrandbits(128):032x}"
        ends = (0, 8, 12, 16, 20, 32)
        return "z".join(digits[a:b] for a, b in pairwise(ends))

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))


def _activity(key: str, name: str) -> Row:
    return {
        "activity_type_id": key,
        "display_name": name,
        "num_of_activities_assign_to": 0,
        "icon_class": "icon-dollar",
        "system_type": True,
        "default_type": False,
        "disabled": False,
    }


LONGEST_CONTENT = 12_000
_INDEXED = re.compile(r"(\w+)\[\d*\](?:\[(\w+)\])?\Z")
_EARLIEST_MS = 10**11  # March 1973; a number below it was meant in seconds


def fields_of(call: SandboxRequest) -> Row:
    """Return the fields of the body; raises RejectedError unless it is a form or JSON object."""
    if call.media_type == "application/json":
        body = call.json_object()
        if body is None:
            raise rejection(400, "The body is not a JSON object")
        return body
    if call.media_type == "application/x-www-form-urlencoded":
        return _form(call.body)
    raise rejection(415, "Send a form or JSON")


def _form(body: bytes) -> Row:
    fields: Row = {}
    for name, value in parse_qsl(body.decode(), keep_blank_values=True):
        indexed = _INDEXED.match(name)
        if indexed is None:
            fields[name] = _plain(name, value)
            continue
        items = as_array(fields.setdefault(indexed[1], []))
        if items is None:
            raise rejection(400, f"{indexed[1]} comes both as one value and as a list")
        items.append({indexed[2]: value} if indexed[2] else value)
    return fields


def _plain(name: str, value: str) -> object:
    if name == "create_date" and value.lstrip("-").isdigit():
        return int(value)
    if name == "disable_sync" and value in {"true", "false"}:
        return value == "true"
    return value


def check_fields(state: TotangoState, fields: Row, *, required: tuple[str, ...]) -> None:
    """Raise RejectedError (400) if a field is invalid or a *required* one is missing."""
    for name in required:
        if not fields.get(name):
            raise rejection(400, f"{name} is required")
    for name, rule in _RULES.items():
        if fields.get(name) is not None and not rule(state, fields[name]):
            raise rejection(400, f"{name} is not valid")
    account = fields.get("account_id")
    if account is not None and state.accounts is not None and account not in state.accounts:
        raise rejection(400, "Account not found")


def _is_text(_state: TotangoState, value: object) -> bool:
    return isinstance(value, str)


def _is_content(_state: TotangoState, value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_CONTENT


def _is_date(_state: TotangoState, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= _EARLIEST_MS


def _are_people(_state: TotangoState, value: object) -> bool:
    people = [as_object(person) for person in as_array(value) or [None]]
    return all(person is not None and {"userId", "userid"} & person.keys() for person in people)


def _are_tags(state: TotangoState, value: object) -> bool:
    tags = as_array(value)
    return tags is not None and all(tag in state.touchpoint_tags for tag in tags)


_RULES: dict[str, Callable[[TotangoState, object], bool]] = {
    "account_id": _is_text,
    "content": _is_content,
    "activity_type_id": lambda state, value: value in state.activity_types,
    "created_by": _is_text,
    "create_date": _is_date,
    "disable_sync": lambda _, value: isinstance(value, bool),
    "touchpointType": lambda state, value: value in state.touchpoint_types,
    "touchpoint_tags": _are_tags,
    "participantList": _are_people,
    "subject": _is_text,
}


def _note(state: TotangoState, call: SandboxRequest) -> Row:
    number = call.ids[0]
    note = state.touchpoints.get(int(number)) if number.isascii() and number.isdigit() else None
    if note is None:
        raise rejection(404, "Touchpoint not found")
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
    check_fields(state, fields, required=("account_id", "content"))
    fields.setdefault("create_date", int(call.time.timestamp() * 1000))
    number = state.new_note_id()
    note = {**fields, "note_id": number, "event_id": state.new_event_id()}
    state.touchpoints[number] = note
    return _created(state, note)


def _update(state: TotangoState, call: SandboxRequest) -> Reply:
    note, fields = _note(state, call), fields_of(call)
    check_fields(state, fields, required=())
    for name in ("note_id", "event_id", "account_id"):
        if name in fields and str(fields.pop(name)) != str(note[name]):
            raise rejection(400, f"{name} does not belong to this touchpoint")
    note.update(fields)
    return _created(state, note)


def _delete(state: TotangoState, call: SandboxRequest) -> Reply:
    note = _note(state, call)
    event_id = fields_of(call).get("event_id")
    if event_id is None:
        raise rejection(400, "event_id is required")
    if event_id != note["event_id"]:
        raise rejection(400, "event_id does not belong to this touchpoint")
    del state.touchpoints[int(call.ids[0])]
    return Reply.json(200, {})


def _events(state: TotangoState, call: SandboxRequest) -> Reply:
    account = call.query.get("account_id")
    if not account:
        raise rejection(400, "account_id is required")
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


ROUTES: list[Route[TotangoState]] = [
    Route("POST", "/api/v3/touchpoints/", _create),
    Route("PUT", "/api/v3/touchpoints/{note_id}", _update),
    Route("DELETE", "/api/v3/touchpoints/{note_id}", _delete),
    Route("GET", "/api/v2/events/", _events),
    Route(
        "GET", "/api/v3/touchpoint-types/", lambda state, _: _named(state, state.touchpoint_types)
    ),
    Route("GET", "/api/v3/touchpoint-tags/", lambda state, _: _named(state, state.touchpoint_tags)),
    Route("GET", "/api/v3/activity-types/", lambda state, _: Reply.json(200, state.activity_types)),
]


class Totango(Vendor[TotangoState]):
    """Totango Touchpoints API, 7 operations."""

    name = "totango"
    quota = (100, 60.0)
    limit_model = FixedWindow
    over_limit = Reply(429, b"Too many requests", {"Content-Type": "application/json"})

    def __init__(self, random: Random) -> None:
        super().__init__(TotangoState(random), ROUTES)

    def issue(self, random: Random) -> dict[str, str]:
        token = f"{random.getrandbits(160):040x}"
        self.state.tokens.add(token)
        return {"TOTANGO_APP_TOKEN": token}

    def credential(self, call: SandboxRequest) -> str:
        token = call.headers.get("app-token", "")
        if token not in self.state.tokens:
            raise rejection(401, "Unauthorized")
        return token

    def limit_headers(self, limit: ServerLimit, now: float) -> Mapping[str, str]:
        ends = limit.window_ends_after if isinstance(limit, FixedWindow) else limit.reset_after
        return {
            "RateLimit-Limit": str(int(limit.limit)),
            "RateLimit-Remaining": str(limit.remaining(now)),
            "RateLimit-Reset": str(math.ceil(ends(now))),
        }
