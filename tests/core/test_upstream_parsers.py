"""Behaviour of msgspec, yarl and the standard library that we rely on or work around.

Each test states their own behaviour first and ours beside it.
"""

from __future__ import annotations

from email.utils import mktime_tz, parsedate_tz
from typing import Any

import msgspec
import pytest
from multidict import CIMultiDict
from yarl import URL

from asyncclients.core import codec
from asyncclients.core.endpoint import expand
from asyncclients.errors import DecodeError
from asyncclients.ratelimit.headers import retry_after_seconds


@pytest.mark.parametrize(
    ("body", "raised"),
    [(b'"\xff"', UnicodeDecodeError), (b"[" * 100_000, RecursionError)],
    ids=["no UTF-8", "too deep"],
)
def test_msgspec_raises_more_than_its_own_errors(body: bytes, raised: type[Exception]) -> None:
    """Upstream: two failures to decode are no `MsgspecError`. Ours: `DecodeError`, like all."""
    with pytest.raises(raised) as theirs:
        msgspec.json.decode(body)
    assert not isinstance(theirs.value, msgspec.MsgspecError)
    with pytest.raises(DecodeError):
        codec.decode(body, Any)


@pytest.mark.parametrize(
    "body",
    [b"\xef\xbb\xbf{}", b"NaN", b'"\\ud800"', b"1e999", b"9" * 5000],
    ids=["byte order mark", "NaN", "half a character", "infinite", "5,000 digits"],
)
def test_msgspec_rejects_infinity_and_surrogates(body: bytes) -> None:
    """Relied upon: no infinite number, no half of a character gets into a struct."""
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(body)
    if body.startswith(b"\xef\xbb\xbf"):
        assert codec.decode(body, Any) == {}, "the mark is skipped"
        return
    with pytest.raises(DecodeError):
        codec.decode(body, Any)


def test_msgspec_takes_the_last_of_two_fields() -> None:
    """Upstream: of a name that comes twice the last value counts, as in the standard library."""
    assert msgspec.json.decode(b'{"a": 1, "a": 2}') == {"a": 2}
    assert codec.decode(b'{"a": 1, "a": 2}', dict[str, int]) == {"a": 2}


def test_yarl_resolves_dots_and_slashes_of_an_id() -> None:
    """Upstream: `/` with an id changes the path. Ours: an id is one segment, or rejected.

    With `encoded=True` the URL is sent unchanged.
    """
    base = URL("https://example.com/v1/things")
    assert (base / "..").path == "/v1/"
    assert (base / "a/b").path == "/v1/things/a/b"
    with pytest.raises(ValueError, match=r"\.\."):
        expand("things/{id}", {"id": ".."})
    path = expand("things/{id}", {"id": "a/b?c#d"})
    assert path == "things/a%2Fb%3Fc%23d"
    assert URL(f"https://example.com/v1/{path}", encoded=True).raw_path == f"/v1/{path}"


@pytest.mark.parametrize("text", ["inf", "nan", "-5", "\uff11\uff12"])
def test_python_reads_numbers_that_are_no_seconds(text: str) -> None:
    """Upstream: `float` accepts them. Ours: such a `Retry-After` counts as missing."""
    assert isinstance(float(text), float)
    assert retry_after_seconds(CIMultiDict({"Retry-After": text})) is None


@pytest.mark.parametrize("text", ["Tue, 99 Oct 2026 10:00:00 GMT", "Tue, 06 Oct 2026 10:00 +9999"])
def test_python_reads_dates_that_there_are_not(text: str) -> None:
    """Upstream: `email.utils` accepts them. Ours: such a `Retry-After` counts as missing."""
    parsed = parsedate_tz(text)
    assert parsed is not None
    assert mktime_tz(parsed) > 0
    headers = CIMultiDict({"Retry-After": text, "Date": "Tue, 06 Oct 2026 09:00:00 GMT"})
    assert retry_after_seconds(headers) is None
