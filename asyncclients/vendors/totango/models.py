"""The data types of Totango, under the vendor's field names in snake_case.

Manual: https://support.totango.com/hc/en-us/articles/115000597266-Touchpoints-API.
Account ids are text, since `0000` is one. Note ids may be numbers or text in responses, and are
text here. The manual shows no response to a create, update or delete.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from asyncclients.core.codec import ExactId, JsonObject, from_reply, json_object
from asyncclients.core.constraints import Constraint, text
from asyncclients.core.endpoint import Fields

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_AccountId = Annotated[
    str,
    Constraint(
        "the account's id, not empty",
        "account_id: The account's ID in Totango",
        Annotated[str, Meta(min_length=1)],
    ),
]
LONGEST_CONTENT = 12_288
"""Characters; the manual's "12K" may also mean 12,000."""
_Content = Annotated[
    str, text(LONGEST_CONTENT, "The content of the touchpoint. Up to 12K characters")
]


class TouchpointFields(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """The optional fields of a touchpoint.

    Attributes:
        activity_type_id: id of the flow, from `activity_types.list()`.
        created_by: email of the author. Totango may show the owner of the token instead
            (the manual has both).
        create_date: time of the touchpoint, by default now: an aware datetime (stored as
            milliseconds) or milliseconds since 1970 in UTC.
        disable_sync: True if Totango should not pass it on to Salesforce and others.
        touchpoint_type: id from `touchpoint_types.list()`; so are `touchpoint_tags`.
        participant_list: ids of Totango users; objects are sent unchanged.
        user_id: the author, for services that do not know `created_by`; in the manual's samples
            but not in its list of fields.

    Raises:
        ValueError: `create_date` has no time zone.
    """

    activity_type_id: str | None | UnsetType = UNSET
    created_by: str | None | UnsetType = UNSET
    create_date: datetime | int | None | UnsetType = UNSET
    disable_sync: bool | None | UnsetType = UNSET
    touchpoint_type: str | None | UnsetType = msgspec.field(default=UNSET, name="touchpointType")
    touchpoint_tags: list[str] | None | UnsetType = UNSET
    participant_list: list[str | dict[str, Any]] | None | UnsetType = msgspec.field(
        default=UNSET, name="participantList"
    )
    subject: str | None | UnsetType = UNSET
    user_id: str | None | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.create_date, datetime):
            date = _milliseconds(self.create_date)
            msgspec.structs.force_setattr(self, "create_date", date)
        if isinstance(self.participant_list, list):
            people = [_participant(person) for person in self.participant_list]
            msgspec.structs.force_setattr(self, "participant_list", people)


def _milliseconds(time: datetime) -> int:
    if time.tzinfo is None:
        raise ValueError(
            "create_date has no time zone; give an aware datetime, or milliseconds since 1970"
        )
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _participant(person: str | dict[str, Any]) -> dict[str, Any]:
    # The manual has `userId` in its text and `userid` in its sample; an object is sent unchanged.
    return {"userId": person} if isinstance(person, str) else person


class NewTouchpoint(TouchpointFields, frozen=True, kw_only=True, omit_defaults=True):
    """A touchpoint to create, with a text of at most 12,000 characters as `content`.

    For the optional fields see `TouchpointFields`.
    """

    account_id: _AccountId
    content: _Content


class TouchpointUpdate(TouchpointFields, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of a touchpoint to change: those of `NewTouchpoint`, and the `event_id`."""

    account_id: _AccountId | UnsetType = UNSET
    event_id: str | UnsetType = UNSET
    content: _Content | UnsetType = UNSET


class Touchpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The ids of a touchpoint, which the response to a create may omit; `note` is the response."""

    note_id: ExactId | None = None
    event_id: ExactId | None = None
    note: JsonObject | None = None


CREATED_FIELDS = frozenset({"note_id", "event_id", "note", "id", "type", "note_content"})


def read_created(value: Any) -> Touchpoint:
    """Return the touchpoint in the response to a create, which the manual does not show.

    The note's id is seen in `note_id`, or in the object `note` as `id` or `note_id`. A body
    in the shape of an event has the event's id; an empty body and an empty object have none.

    Raises:
        ValueError: any other object, which may name a job that has yet to run.
    """
    reply = {} if value is None else json_object(value)
    if reply and not reply.keys() & CREATED_FIELDS:
        raise ValueError(f"expected one of {', '.join(sorted(CREATED_FIELDS))}")
    note = json_object(reply.get("note") or {})
    note_id = reply.get("note_id") or note.get("id") or note.get("note_id")
    is_event = bool(reply.keys() & {"type", "note_content"})
    event_id = reply.get("event_id") or (reply.get("id") if is_event else None)
    ids = {"note_id": note_id, "event_id": event_id}
    touchpoint: Touchpoint = from_reply({**ids, "note": note or reply or None}, Touchpoint)
    return touchpoint


class Account(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The account of an event."""

    id: ExactId


class Author(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The author of a touchpoint; `user_name` is an email address as registered in Totango."""

    user_name: str | None = None


class NoteContent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The text of a touchpoint."""

    text: str | None = None
    totango_user: Author | None = None
    note_id: ExactId | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entry of an account's timeline.

    Attributes:
        type: `note` for a touchpoint, also `task`, `alert` and others.
        timestamp: milliseconds since 1970.
        properties: free-form; holds `activity_type_id`, `subject`, `meeting_type` (the
            touchpoint type), `touchpoint_tags` and more. A property may be a boolean in one
            event and text in another.
        note_content, task_content, alert_content: of this type only; the last two are free-form.
        fields: the whole object as received, with the content of other types.
    """

    id: ExactId
    type: str
    timestamp: int | None = None
    account: Account | None = None
    is_new: Any = None
    note_content: NoteContent | None = None
    properties: JsonObject | None = None
    task_content: JsonObject | None = None
    alert_content: JsonObject | None = None
    fields: JsonObject = msgspec.field(default_factory=JsonObject)

    @property
    def occurred_at(self) -> datetime | None:
        """Return `timestamp` as an aware datetime."""
        if self.timestamp is None:
            return None
        return _EPOCH + timedelta(milliseconds=self.timestamp)


def read_events(value: Any) -> list[Event]:
    """Return the events in *value*, each with its whole object in `fields`."""
    entries = (json_object(entry) for entry in from_reply(value, list[Any]))
    return [from_reply({**entry, "fields": entry}, Event) for entry in entries]


class NamedItem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A touchpoint type, touchpoint tag or activity type (flow).

    `display_name` is empty if the vendor sent none; `fields` is the whole object as received,
    such as `disabled` of an activity type.
    """

    id: str
    display_name: str
    fields: dict[str, Any]


def read_names(value: Any) -> list[NamedItem]:
    """Return the items in *value*, which has any of the vendor's forms, in the vendor's order.

    The manual describes a map id -> name for types and tags, and shows a map id -> object for
    activity types. Actual responses have arrays of objects for types and tags
    (https://fivetran.com/docs/connectors/applications/totango/connector-schema).
    """
    if isinstance(value, list):
        return [_item(None, entry) for entry in cast("list[object]", value)]
    items = json_object(value)
    if items.keys() & {"error", "errors"}:
        raise ValueError("expected a list or a map of items, got an error")
    return [_item(key, entry) for key, entry in items.items()]


def _item(key: str | None, entry: object) -> NamedItem:
    fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {"display_name": entry}
    own_id: Any = fields.get("id", fields.get("activity_type_id")) if key is None else key
    name = fields.get("display_name")
    if not isinstance(name, str | None):
        raise ValueError(f"expected the name of an item, got {type(name).__name__}")
    return NamedItem(id=str(ExactId.from_wire(own_id)), display_name=name or "", fields=fields)
