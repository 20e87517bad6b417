"""A vendor as data: where requests may go, what an answer means."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from asyncclients.core.endpoint import Response
from asyncclients.core.vendor import (
    Meaning,
    Vendor,
    check_base_url,
    field_errors,
    is_loopback,
    standard_advice,
    standard_meaning,
)
from asyncclients.errors import ConfigurationError
from tests.fakes import CANARY


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://api.example.com", "https://api.example.com/"),
        ("https://api.example.com/v1/", "https://api.example.com/v1/"),
        ("https://api.example.com:8443/v1", "https://api.example.com:8443/v1/"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80/"),
        ("http://127.9.9.9/x", "http://127.9.9.9/x/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        ("http://localhost/", "http://localhost/"),
        ("https://10.0.0.1/", "https://10.0.0.1/"),
    ],
)
def test_a_base_url_that_is_good(url: str, checked: str) -> None:
    """Https anywhere, http to this very machine; exactly one slash at its end."""
    assert check_base_url(url) == checked


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/",
        "http://10.0.0.1/",
        "http://localhost.example.com/",
        "http://127.0.0.1.example.com/",
        "http://2130706433/",
        "ftp://api.example.com/",
        "//api.example.com/",
        "api.example.com",
        "https://",
        "https:///path",
        "https://api.example.com:99999/",
        "https://[::1",
        "https://user:ii_Canary@api.example.com/",
        "https://ii_Canary@api.example.com/",
        f"https://api.example.com/?key={CANARY}",
        f"https://api.example.com/#{CANARY}",
        "https://api.example.com\\@evil.example/",
        "https://evil.example\\.example.com/",
        "https://api.example.com/\nHost: evil",
        "https://api.example.com/ ",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_base_url_that_is_refused(url: str) -> None:
    """With the name of where it came from and a remedy, and never quoted: it may hold a key."""
    with pytest.raises(ConfigurationError, match=r"^EMMA_BASE_URL ") as caught:
        check_base_url(url, "EMMA_BASE_URL")
    assert caught.value.advice
    assert "Canary" not in f"{caught.value!r} {caught.value}"


def test_loopback_is_this_machine_only() -> None:
    """Names and addresses that only look like it are not."""
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.168.0.1", "evil", ""))


def reply(status: int, body: bytes = b"") -> Response:
    return Response(status, CIMultiDict[str](), body)


@pytest.mark.parametrize(
    ("response", "meaning"),
    [
        (reply(200), Meaning.SUCCESS),
        (reply(204), Meaning.SUCCESS),
        (reply(429), Meaning.RATE_LIMITED),
        (reply(429, b'{"message":"Too Many Requests"}'), Meaning.RATE_LIMITED),
        (reply(429, b'{"message":"Limit Exceeded"}'), Meaning.QUOTA_SPENT),
        (reply(302), Meaning.FAILURE),
        (reply(404), Meaning.FAILURE),
        (reply(500, b"Limit Exceeded"), Meaning.FAILURE),
    ],
)
def test_what_an_answer_means(response: Response, meaning: Meaning) -> None:
    """2xx is success, 429 a refusal by rate unless it is a spent quota, all else a failure."""
    assert standard_meaning(response) is meaning


def test_each_usual_status_has_advice() -> None:
    """What to do next stands beside every status that people meet."""
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
    """The vendor's words per field, where there are any."""
    assert field_errors(body) == errors


def test_a_request_id_is_bounded() -> None:
    """The first header that has one, at most 100 characters of it."""
    vendor = Vendor(name="x", base_url="https://x", quotas=(), manual="https://x", environment={})
    long = CIMultiDict({"X-Amzn-RequestId": "a" * 500})
    assert vendor.request_id(long) == "a" * 100
    assert vendor.request_id(CIMultiDict[str]()) is None
