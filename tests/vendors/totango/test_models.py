"""Totango's values: what is accepted, how it travels, what is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from asyncclients.core import codec
from asyncclients.errors import DecodeError
from asyncclients.vendors.totango import Event, NewTouchpoint, Touchpoint, TouchpointUpdate
from asyncclients.vendors.totango.models import NamedItems

# The manual's own example, 1461110400000, is this instant.
EXAMPLE = datetime(2016, 4, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    "date",
    [EXAMPLE, EXAMPLE.astimezone(timezone(timedelta(hours=-5))), 1461110400000],
)
def test_a_create_date_travels_as_milliseconds(date: datetime | int) -> None:
    """An aware datetime in any zone, or milliseconds, become the same milliseconds."""
    touchpoint = NewTouchpoint(account_id="1", content="c", create_date=date)
    assert codec.to_plain(touchpoint)["create_date"] == 1461110400000


def test_a_create_date_keeps_its_milliseconds_exactly() -> None:
    """No rounding through floating point: the last millisecond arrives."""
    date = datetime(2033, 5, 18, 3, 33, 20, 1000, tzinfo=UTC)
    update = TouchpointUpdate(create_date=date)
    assert codec.to_plain(update) == {"create_date": 2_000_000_000_001}


def test_a_create_date_without_zone_is_refused() -> None:
    """A naive datetime is a ValueError that says what to give instead, in both structs."""
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
def test_a_created_touchpoint_has_its_note_id(reply: bytes) -> None:
    """The id is text, from a number or a text, at the top or nested in `note`."""
    touchpoint: Touchpoint = codec.decode(reply, Touchpoint)
    assert isinstance(touchpoint.note_id, str)
    assert touchpoint.note_id == "47124"


@pytest.mark.parametrize("reply", [b"{}", b'{"note": {}}', b'{"note_id": true}', b"[]", b""])
def test_a_reply_without_note_id_is_a_decode_error(reply: bytes) -> None:
    """A touchpoint without id is never made up."""
    with pytest.raises(DecodeError):
        codec.decode(reply, Touchpoint)


def test_the_manuals_event_is_read() -> None:
    """The sample of the manual decodes, with its ids as text and its time aware."""
    body = b"""{
        "id": "4a0c13edzfacez3038zbb46z85f97f04238f", "timestamp": 1578588991000, "type": "note",
        "account": {"id": "7987"}, "is_new": null,
        "note_content": {"text": " This is a touchpoint body\\n",
            "totango_user": {"user_name": "user@totango.com"}, "note_id": 47124},
        "properties": {"customers_visibility": false, "containsFormatting": "true",
            "meeting_type": "0af9272e-a055-441e-ae10-f4223a3e0ab8",
            "touchpoint_tags": ["450ea17a-0e76-418f-a4ec-8ae7b16b3b85"]}}"""
    event: Event = codec.decode(body, Event)
    assert event.id == "4a0c13edzfacez3038zbb46z85f97f04238f"
    assert event.account is not None
    assert event.account.id == "7987"
    assert event.note_content is not None
    assert event.note_content.note_id == "47124"
    assert event.occurred_at == datetime(2020, 1, 9, 16, 56, 31, tzinfo=UTC)
    assert event.properties is not None
    assert event.properties["containsFormatting"] == "true"


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
    """Array of objects, map id -> name, map id -> object: the same ids and names, in order."""
    items: NamedItems = codec.decode(reply, NamedItems)
    assert [(item.id, item.display_name) for item in items] == [("a", "A"), ("2", "")]


@pytest.mark.parametrize("reply", [b"[]", b"{}"])
def test_no_items_are_an_empty_list(reply: bytes) -> None:
    """Either empty form is a list without items."""
    assert codec.decode(reply, NamedItems) == []


@pytest.mark.parametrize(
    "reply", [b'"x"', b"3", b"null", b'["a"]', b'[{"display_name": "A"}]', b'{"data": [1]}']
)
def test_other_forms_of_items_are_a_decode_error(reply: bytes) -> None:
    """What has no id, or is no list of items, ends in DecodeError and nothing else."""
    with pytest.raises(DecodeError):
        codec.decode(reply, NamedItems)


def test_all_that_an_item_came_with_is_kept() -> None:
    """Fields beyond id and name, such as `disabled`, are in `fields`."""
    wire: dict[str, Any] = {"old": {"display_name": "Old", "disabled": True}}
    items: NamedItems = codec.decode(codec.encode(wire), NamedItems)
    assert items[0].fields == {"display_name": "Old", "disabled": True}
