"""The addresses to which a client may send its credential."""

from __future__ import annotations

import pytest

from asyncclients.base_url import check_base_url, is_loopback
from asyncclients.errors import ConfigurationError
from tests.support.leaks import CANARY


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
def test_base_url_accepts_https_and_loopback(url: str, checked: str) -> None:
    """HTTPS anywhere, HTTP on this machine; exactly one slash at the end."""
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
def test_base_url_error_names_origin_and_remedy(url: str) -> None:
    """The error does not quote the address, which may contain a key."""
    with pytest.raises(ConfigurationError, match=r"^EMMA_BASE_URL ") as caught:
        check_base_url(url, "EMMA_BASE_URL")
    assert caught.value.advice
    assert "Canary" not in f"{caught.value!r} {caught.value}"


def test_loopback_is_this_machine_only() -> None:
    """Names and addresses that only resemble loopback are rejected."""
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.168.0.1", "evil", ""))
