"""The values of Totango: validation, encoding and decoding."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from asyncclients.core import codec
from asyncclients.errors import DecodeError
from asyncclients.vendors.totango import Event, NewTouchpoint, Touchpoint, TouchpointUpdate
from asyncclients.vendors.totango.models import (
    CREATED_FIELDS,
    NamedItem,
    read_created,
    read_events,
    read_names,
)

# The manual's own example, 1461110400000, is this instant.
EXAMPLE = datetime(2016, 4, 20, tzinfo=UTC)
EVENT = b"""{
    "id": "4a0c13edzfacez3038zbb46z85f97f04238f", "timestamp": 1578588991000, "type": "note",
    "account": {"id": "7987"}, "is_new": null,
    "note_content": {"text": " This is a touchpoint body\\n",
        "totango_user": {"user_name": "user@totango.com"}, "note_id": 47124},
    "properties": {"customers_visibility": false, "containsFormatting": "true",
        "meeting_type": "0af9272e-a055-441e-ae10-f4223a3e0ab8",
        "touchpoint_tags": ["450ea17a-0e76-418f-a4ec-8ae7b16b3b85"]}}"""


def created(reply: bytes) -> Touchpoint:
    """The touchpoint in the response to a create."""
    return codec.read(reply, Touchpoint, read_created, CREATED_FIELDS)


@pytest.mark.parametrize(
    "date",
    [EXAMPLE, EXAMPLE.astimezone(timezone(timedelta(hours=-5))), 1461110400000],
)
def test_create_date_is_sent_as_milliseconds(date: datetime | int) -> None:
    """An aware datetime in any zone, or milliseconds, become the same milliseconds."""
    touchpoint = NewTouchpoint(account_id="1", content="c", create_date=date)
    assert codec.to_plain(touchpoint)["create_date"] == 1461110400000


def test_create_date_keeps_milliseconds() -> None:
    """No millisecond is lost to floating point."""
    date = datetime(2033, 5, 18, 3, 33, 20, 1000, tzinfo=UTC)
    update = TouchpointUpdate(create_date=date)
    assert codec.to_plain(update) == {"create_date": 2_000_000_000_001}


def test_create_date_without_zone_is_rejected() -> None:
    """A naive datetime is a `ValueError` with advice, in both structs."""
    naive = EXAMPLE.replace(tzinfo=None)
    with pytest.raises(ValueError, match="aware datetime"):
        NewTouchpoint(account_id="1", content="c", create_date=naive)
    with pytest.raises(ValueError, match="aware datetime"):
        TouchpointUpdate(create_date=naive)


def test_fields_travel_under_the_vendors_names() -> None:
    """Names are Totango's, ids of participants become objects, objects stay as they are."""
    touchpoint = NewTouchpoint(
        account_id="0000",
        content="c",
        touchpoint_type="t",
        touchpoint_tags=["a", "b"],
        participant_list=["u1", {"userid": "u2"}],
        subject=None,
    )
    assert codec.to_plain(touchpoint) == {
        "account_id": "0000",
        "content": "c",
        "touchpointType": "t",
        "touchpoint_tags": ["a", "b"],
        "participantList": [{"userId": "u1"}, {"userid": "u2"}],
        "subject": None,
    }


@pytest.mark.parametrize(
    "reply",
    [
        b'{"note": {"id": 47124, "text": "c"}}',
        b'{"note": {"id": "47124"}}',
        b'{"note": {"note_id": 47124}}',
        b'{"note_id": 47124}',
        b'{"note_id": "47124", "more": 1}',
    ],
)
def test_created_touchpoint_has_its_note_id(reply: bytes) -> None:
    """The id is text, from a number or a text, at the top or nested in `note`."""
    touchpoint = created(reply)
    assert isinstance(touchpoint.note_id, str)
    assert touchpoint.note_id == "47124"


@pytest.mark.parametrize(
    "reply", [b"", b"\n", b"{}", b"[]", b"null", b'{"note": {}}', b'{"note": []}']
)
def test_created_touchpoint_may_lack_its_note_id(reply: bytes) -> None:
    """A create whose response has no note id is a success with `note_id=None`."""
    assert (created(reply).note_id, created(reply).event_id) == (None, None)


@pytest.mark.parametrize("reply", [b'{"job": "/jobs/1"}', b'{"ok": true}', b"7"])
def test_created_touchpoint_is_no_other_object(reply: bytes) -> None:
    """A response with none of the fields of a touchpoint or an event is a `DecodeError`."""
    with pytest.raises(DecodeError):
        created(reply)


def test_created_touchpoint_reads_event() -> None:
    """A response in the shape of an event has the event's id, and keeps all of its content."""
    touchpoint = created(EVENT)
    assert touchpoint.note_id is None
    assert touchpoint.event_id == "4a0c13edzfacez3038zbb46z85f97f04238f"
    assert touchpoint.note is not None
    assert touchpoint.note["note_content"]["note_id"] == 47124
    assert created(b'{"id": "e", "type": "note", "errors": ["not synced"]}').event_id == "e"


@pytest.mark.parametrize(
    "reply",
    [b'{"note_id": true}', b'"x"', b"3", b'{"error": "no"}', b'{"errors": {"a": ["b"]}, "x": 1}'],
)
def test_reply_that_is_no_touchpoint_is_a_decode_error(reply: bytes) -> None:
    """An error with status 200, and what is no object, never become a touchpoint."""
    with pytest.raises(DecodeError):
        created(reply)


def test_event_of_the_manual_is_decoded() -> None:
    """The sample of the manual decodes, with its ids as text and its time aware."""
    event: Event = codec.decode(EVENT, Event)
    assert event.id == "4a0c13edzfacez3038zbb46z85f97f04238f"
    assert event.account is not None
    assert event.account.id == "7987"
    assert event.note_content is not None
    assert event.note_content.note_id == "47124"
    assert event.occurred_at == datetime(2020, 1, 9, 16, 56, 31, tzinfo=UTC)
    assert event.properties is not None
    assert event.properties["containsFormatting"] == "true"


def test_events_keep_all_of_their_content() -> None:
    """Tasks have their content, and what no field takes is in `fields`, at every depth."""
    wire: list[dict[str, Any]] = [
        {"id": "t", "type": "task", "task_content": {"status": "open", "assignees": ["a"]}},
        {"id": 7, "type": "campaign_touch", "campaign_content": {"name": "May"}, "fields": [1]},
        {"id": "n", "type": "note", "timestamp": "1578588991000", "note_content": [],
         "account": {"id": 1, "display_name": "One"}, "properties": {"new": {"a": None}}},
    ]  # fmt: skip
    task, campaign, note = codec.read(codec.encode(wire), list[Event], read_events)
    assert task.task_content == {"status": "open", "assignees": ["a"]}
    assert campaign.id == "7"
    assert note.note_content is not None
    assert (note.timestamp, note.note_content.note_id) == (1578588991000, None)
    assert [event.fields for event in (task, campaign, note)] == wire


@pytest.mark.parametrize("reply", [b"3", b'"x"', b"[3]", b'[{"id": "a"}]', b'{"error": "no"}', b""])
def test_other_forms_of_events_are_a_decode_error(reply: bytes) -> None:
    """A value that is not a list of events raises `DecodeError`."""
    with pytest.raises(DecodeError):
        codec.read(reply, list[Event], read_events)


@pytest.mark.parametrize(
    "reply",
    [
        b'[{"id": "a", "display_name": "A", "used": true}, {"id": 2, "display_name": null}]',
        b'{"a": "A", "2": null}',
        b'{"a": {"id": "a", "display_name": "A"}, "2": {"display_name": ""}}',
        b'[{"activity_type_id": "a", "display_name": "A"}, {"activity_type_id": 2}]',
    ],
)
def test_named_items_are_read_from_every_form(reply: bytes) -> None:
    """An array of objects, and maps from id to name or object, have the same ids and names, in order."""
    items = codec.read(reply, list[NamedItem], read_names)
    assert [(item.id, item.display_name) for item in items] == [("a", "A"), ("2", "")]


@pytest.mark.parametrize("reply", [b"[]", b"{}"])
def test_empty_reply_is_an_empty_list(reply: bytes) -> None:
    """An empty array and an empty map are a list without items."""
    assert codec.read(reply, list[NamedItem], read_names) == []


@pytest.mark.parametrize(
    "reply",
    [
        b'"x"',
        b"3",
        b"null",
        b'["a"]',
        b'[{"display_name": "A"}]',
        b'{"data": [1]}',
        b'{"error": "no"}',
    ],
)
def test_other_forms_of_items_are_a_decode_error(reply: bytes) -> None:
    """An item without id, or a value that is not a list of items, raises `DecodeError`."""
    with pytest.raises(DecodeError):
        codec.read(reply, list[NamedItem], read_names)


def test_additional_fields_are_kept() -> None:
    """Fields beyond id and name, such as `disabled`, are in `fields`."""
    wire: dict[str, Any] = {"old": {"display_name": "Old", "disabled": True}}
    items = codec.read(codec.encode(wire), list[NamedItem], read_names)
    assert items[0].fields == {"display_name": "Old", "disabled": True}
