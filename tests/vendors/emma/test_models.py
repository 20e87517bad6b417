"""The values of Emma: times, touchpoints, and 403s because of the rate limit."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from asyncclients.core import codec
from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import ResponseKind
from asyncclients.errors import DecodeError
from asyncclients.vendors.emma import NewTouchpoint, Touchpoint, TouchpointType
from asyncclients.vendors.emma.models import Timestamp
from asyncclients.vendors.emma.vendor import EMMA

NAIVE = datetime(2025, 11, 24, 10, 23, 10)  # noqa: DTZ001  # Emma's times have no zone


@pytest.mark.parametrize(
    "text", ["@D:2025-11-24T10:23:10", "2025-11-24T10:23:10", "2025-11-24 10:23:10.000000"]
)
def test_times_are_read_in_every_form_and_written_with_the_mark(text: str) -> None:
    """Each form is read as the same naive datetime, which is sent as `@D:`."""
    body = f'{{"touchpoint_type_id": 300, "type_name": "v", "created_at": "{text}"}}'
    kind: TouchpointType = codec.decode(body.encode(), TouchpointType)
    assert isinstance(kind.created_at, datetime)
    assert kind.created_at == NAIVE
    assert codec.to_plain(kind)["created_at"] == "@D:2025-11-24T10:23:10"
    assert pickle.loads(pickle.dumps(kind)) == kind


@pytest.mark.parametrize("value", ["3", '""', '"@D:"', '"@D:tomorrow"', "[]"])
def test_invalid_time_is_a_decode_error(value: str) -> None:
    """A text that is not a time raises `DecodeError`, and no other error."""
    body = f'{{"touchpoint_type_id": 300, "inserted_at": {value}}}'
    with pytest.raises(DecodeError):
        codec.decode(body.encode(), Touchpoint)


def test_datetime_is_written_with_its_prefix() -> None:
    """A datetime of the caller is sent as `@D:` with whole seconds, in JSON and in plain values."""
    new = NewTouchpoint(touchpoint_timestamp=NAIVE.replace(microsecond=999_999))
    assert codec.to_plain(new) == {"touchpoint_timestamp": "@D:2025-11-24T10:23:10"}
    assert codec.encode(new) == b'{"touchpoint_timestamp":"@D:2025-11-24T10:23:10"}'


@pytest.mark.parametrize(
    "given",
    [
        "@D:2025-11-24T10:23:10",
        "2025-11-24T10:23:10",
        "2025-11-24 10:23:10",
        NAIVE,
        Timestamp.of(NAIVE),
    ],
)
def test_time_of_a_row_is_read_in_every_form(given: Any) -> None:
    """The time of a row in a file is read with and without `@D:`."""
    row = {"email": "a@example.com", "touchpoint_timestamp": given}
    for strict in (True, False):
        new: NewTouchpoint = codec.from_plain(row, NewTouchpoint, strict=strict)
        assert codec.to_plain(new)["touchpoint_timestamp"] == "@D:2025-11-24T10:23:10"


@pytest.mark.parametrize("given", ["tomorrow", "@D:", 3, "2025-11-24T10:23:10Z"])
def test_unreadable_time_of_a_row_is_rejected(given: Any) -> None:
    """A row whose time is unreadable or has a zone raises `ValueError`."""
    with pytest.raises(ValueError, match="time"):
        codec.from_plain({"touchpoint_timestamp": given}, NewTouchpoint)


def test_timestamp_with_zone_is_rejected() -> None:
    """A time with a zone is a `ValueError`: Emma has no form for it, and no zone is dropped silently."""
    with pytest.raises(ValueError, match="account's local time"):
        NewTouchpoint(touchpoint_timestamp=NAIVE.replace(tzinfo=UTC))


def test_touchpoint_of_the_manual_is_decoded() -> None:
    """A listed touchpoint has neither id nor attributes; a created one has both."""
    listed = b"""{"account_id": 100, "touchpoint_timestamp": "@D:2025-12-02T11:23:47",
        "touchpoint_type_id": 300, "touchpoint_monetary_value": 8.0,
        "inserted_at": "@D:2025-12-02T11:23:47", "mailing_id": null, "member_id": 444}"""
    touchpoint: Touchpoint = codec.decode(listed, Touchpoint)
    assert touchpoint.touchpoint_id is None
    assert touchpoint.attributes is None
    assert (touchpoint.touchpoint_type_id, touchpoint.member_id) == (300, 444)
    assert touchpoint.touchpoint_monetary_value == 8.0
    created = b'{"touchpoint_id": 2169469051, "touchpoint_type_id": 300, "attributes": []}'
    touchpoint = codec.decode(created, Touchpoint)
    assert touchpoint.touchpoint_id == 2169469051
    assert touchpoint.attributes == {}


@pytest.mark.parametrize(
    ("status", "body", "headers", "meaning"),
    [
        (403, b'{"error": "Rate Limit Exceeded"}', {}, ResponseKind.RATE_LIMITED),
        (403, b"Rate limit exceeded", {}, ResponseKind.RATE_LIMITED),
        (403, b"<html>RATE LIMIT EXCEEDED</html>", {}, ResponseKind.RATE_LIMITED),
        (403, b'{"error": "rate_limit_exceeded"}', {}, ResponseKind.RATE_LIMITED),
        (403, b"", {"Retry-After": "3"}, ResponseKind.RATE_LIMITED),
        (403, b'{"error": "Forbidden"}', {}, ResponseKind.FAILURE),
        (403, b"", {}, ResponseKind.FAILURE),
        (429, b"", {}, ResponseKind.RATE_LIMITED),
        (401, b"Rate Limit Exceeded", {}, ResponseKind.FAILURE),
    ],
)
def test_forbidden_is_rate_limited_by_text_or_header(
    status: int, body: bytes, headers: dict[str, str], meaning: ResponseKind
) -> None:
    """A 403 is rate-limited if its text mentions it or it has `Retry-After`; a 429 always is."""
    assert EMMA.classify(Response(status, headers, body)) is meaning
