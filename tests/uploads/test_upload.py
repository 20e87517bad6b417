"""Upload links: which are followed, what is sent there, what is shown of them."""

from __future__ import annotations

import pytest

from asyncclients.secret import Secret, redact
from asyncclients.uploads import PresignedUrl, open_content

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
def test_upload_link_must_be_https_or_loopback(location: str, *, usable: bool) -> None:
    """A link to any other address is rejected."""
    assert PresignedUrl(Secret(location)).usable is usable


def test_upload_link_hides_its_query() -> None:
    """Neither its repr nor errors show any of the query."""
    link = PresignedUrl(Secret(f"https://bucket.example/a%20b.csv?{QUERY}"))
    assert repr(link) == "<PresignedUrl https://bucket.example/a%20b.csv>"
    assert (link.origin, link.path) == ("https://bucket.example", "/a%20b.csv")
    assert link.shown == "https://bucket.example/a%20b.csv"


def test_upload_error_redacts_the_signature() -> None:
    """Signature and credential, plain and encoded; common words stay readable."""
    link = PresignedUrl(Secret(f"https://bucket.example/b.csv?{QUERY}"))
    words = f"host AWS4-HMAC-SHA256 {SIGNATURE} AKIA7/2026/s3 AKIA7%2F2026%2Fs3 expired"
    shown = redact(words, link.secrets)
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
async def test_upload_sends_only_signed_headers(query: str, headers: dict[str, str]) -> None:
    """PUT, the unchanged address, its length; a content type if the signature covers one."""
    location = f"https://bucket.example/a%2Fb.csv?{query}"
    async with open_content(b"abc", None, None) as content:
        wire = PresignedUrl(Secret(location)).wire(content)
    assert (wire.method, str(wire.url)) == ("PUT", location.rstrip("?"))
    assert dict(wire.headers) == headers
    assert SIGNATURE not in repr(wire)
