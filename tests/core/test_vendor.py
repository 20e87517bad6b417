"""The description of a vendor, and the meaning of a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from multidict import CIMultiDict

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import (
    ResponseKind,
    Vendor,
    classify_response,
    field_errors,
    standard_advice,
)
from tests.support.fake_vendor import TOY


def reply(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, CIMultiDict(headers or {}), body)


@pytest.mark.parametrize(
    ("response", "meaning"),
    [
        (reply(429), ResponseKind.RATE_LIMITED),
        (reply(429, b'{"message":"Too Many Requests"}'), ResponseKind.RATE_LIMITED),
        (reply(429, b'{"message":"Limit Exceeded"}'), ResponseKind.QUOTA_EXHAUSTED),
        (reply(429, b"Limit Exceeded"), ResponseKind.QUOTA_EXHAUSTED),
        (reply(429, b'{"message": "limit exceeded."}'), ResponseKind.QUOTA_EXHAUSTED),
        (reply(429, b'{"message": "Monthly Limit Exceeded"}'), ResponseKind.QUOTA_EXHAUSTED),
        (reply(429, b'{"error": "Quota exceeded"}'), ResponseKind.QUOTA_EXHAUSTED),
        (reply(429, b"<h1>Limit Exceeded</h1>"), ResponseKind.QUOTA_EXHAUSTED),
        (reply(429, b"Limit Exceeded", {"Retry-After": "soon"}), ResponseKind.QUOTA_EXHAUSTED),
        (reply(429, b"Limit Exceeded", {"Retry-After": "5"}), ResponseKind.RATE_LIMITED),
        (reply(429, b'{"message":"Concurrency Limit Exceeded"}'), ResponseKind.RATE_LIMITED),
        (reply(429, b"Concurrent Request Limit Exceeded"), ResponseKind.RATE_LIMITED),
        (reply(429, b"Limit Exceeded: 5 concurrent requests"), ResponseKind.RATE_LIMITED),
        (reply(429, b"Rate Limit Exceeded"), ResponseKind.RATE_LIMITED),
        (reply(429, b'{"message":"API Rate Limit Exceeded"}'), ResponseKind.RATE_LIMITED),
        (reply(429, b"RateLimit Exceeded"), ResponseKind.RATE_LIMITED),
        (reply(429, b"Rate-Limit Exceeded"), ResponseKind.RATE_LIMITED),
        (reply(302), ResponseKind.FAILURE),
        (reply(404), ResponseKind.FAILURE),
        (reply(500, b"Limit Exceeded"), ResponseKind.FAILURE),
    ],
)
def test_classify_response_by_status(response: Response, meaning: ResponseKind) -> None:
    """2xx is a success, 429 rate-limited or an exhausted quota, everything else a failure."""
    assert classify_response(response) is meaning


def test_common_status_has_advice() -> None:
    """Each common status has its advice."""
    for status in (401, 403, 404, 409, 422, 429):
        assert standard_advice(reply(status))


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b'{"errors": {"email": ["taken"]}}', {"email": ["taken"]}),
        (b'{"errors": ["a"]}', ["a"]),
        (b'{"errors": "a"}', None),
        (b'{"message": "no"}', None),
        (b"[]", None),
        (b"<html>", None),
    ],
)
def test_field_errors(body: bytes, errors: Any) -> None:
    """The vendor's messages by field, if there are any."""
    assert field_errors(body) == errors


def test_request_id_is_bounded() -> None:
    """The request id is the first header of the list that is present, at most 100 characters."""
    vendor = Vendor(name="x", base_url="https://x", quotas=(), manual="https://x", environment={})
    long = CIMultiDict({"X-Amzn-RequestId": "a" * 500})
    assert vendor.request_id(long) == "a" * 100
    assert vendor.request_id(CIMultiDict[str]()) is None


def test_request_id_escapes_invalid_bytes() -> None:
    """A byte of the request id that is not UTF-8 is escaped."""
    found = TOY.request_id({"x-request-id": b"r-\xff\xc3\xa4".decode(errors="surrogateescape")})
    assert found == "r-\\udcffä"
