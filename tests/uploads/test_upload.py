"""Upload links: which are followed, what is sent there, what is shown of them."""

from __future__ import annotations

import pytest

from asyncclients.secret import Secret, cut
from asyncclients.uploads.content import open_content
from asyncclients.uploads.upload import Link

SIGNATURE = "5d1f0c1e9a7b"
QUERY = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA7%2F2026%2Fs3&X-Amz-Expires=900"
    f"&X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNATURE}"
)


@pytest.mark.parametrize(
    ("location", "usable"),
    [
        (f"https://bucket.s3.amazonaws.com/a/b.csv?{QUERY}", True),
        ("https://bucket.s3.amazonaws.com:8443/b.csv", True),
        (f"http://127.0.0.1:9000/b.csv?{QUERY}", True),
        ("http://[::1]:9000/b.csv", True),
        ("http://localhost/b.csv", True),
        (f"http://bucket.s3.amazonaws.com/b.csv?{QUERY}", False),
        (f"https://user:pass@bucket.s3.amazonaws.com/b.csv?{QUERY}", False),
        ("ftp://127.0.0.1/b.csv", False),
        ("file:///etc/passwd", False),
        ("//bucket.s3.amazonaws.com/b.csv", False),
        ("/uploads/b.csv", False),
        ("https://", False),
        ("https://host:port/", False),
        ("https://[::1/", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_a_file_goes_to_https_or_to_this_machine(location: str, *, usable: bool) -> None:
    """Everything else is no place for somebody's data."""
    assert Link(Secret(location)).usable is usable


def test_a_link_shows_host_and_path_alone() -> None:
    """Neither repr nor what errors show of it has any of the query."""
    link = Link(Secret(f"https://bucket.example/a%20b.csv?{QUERY}"))
    assert repr(link) == "<Link https://bucket.example/a%20b.csv>"
    assert (link.origin, link.path) == ("https://bucket.example", "/a%20b.csv")
    assert link.shown == "https://bucket.example/a%20b.csv"


def test_what_the_storage_echoes_of_a_link_is_cut() -> None:
    """Signature and credential, plain and encoded; words that say nothing stay readable."""
    link = Link(Secret(f"https://bucket.example/b.csv?{QUERY}"))
    words = f"host AWS4-HMAC-SHA256 {SIGNATURE} AKIA7/2026/s3 AKIA7%2F2026%2Fs3 expired"
    shown = cut(words, link.secrets)
    assert shown == "host AWS4-HMAC-SHA256 [credential] [credential] [credential] expired"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (QUERY, {"Content-Length": "3"}),
        ("", {"Content-Length": "3"}),
        (
            QUERY.replace("=host", "=content-type%3Bhost"),
            {"Content-Length": "3", "Content-Type": "text/csv"},
        ),
    ],
)
async def test_only_what_was_signed_is_sent(query: str, headers: dict[str, str]) -> None:
    """PUT, the address as it came, its length; a content type where the signature covers one."""
    location = f"https://bucket.example/a%2Fb.csv?{query}"
    async with open_content(b"abc", None, None) as content:
        wire = Link(Secret(location)).wire(content)
    assert (wire.method, str(wire.url)) == ("PUT", location.rstrip("?"))
    assert dict(wire.headers) == headers
    assert SIGNATURE not in repr(wire)
