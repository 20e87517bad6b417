"""Any text of a caller is sent exactly as given, or rejected."""

from __future__ import annotations

from typing import Final, get_args
from urllib.parse import unquote

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from asyncclients.core.codec import JsonObject
from asyncclients.core.endpoint import Endpoint, Request
from asyncclients.core.prepare import Method, PreparedRequest, prepare, raw_request
from asyncclients.errors import ConfigurationError

BASE: Final = "https://api.example.com/v1/"
POST: Final = Endpoint("things.make", "POST", "things", JsonObject, idempotent=False)
TEXT: Final = st.text(st.characters(max_codepoint=0x2FF) | st.characters())
NAME: Final = st.text(st.sampled_from("abcX-_ :\r\n\x00\u00e9")) | TEXT


@given(NAME, TEXT)
@example("X-A", "a\r\nX-Evil: 1")
@example("X-A\r\nX-Evil", "1")
@example("X-A", "\x00")
@example("X-A", "\ud800")
@example("", "a")
def test_header_is_sent_exactly_or_rejected(name: str, value: str) -> None:
    """Accepted text adds exactly one header, of that name and value, without control characters."""
    request: Request[JsonObject] = POST.request(body={})
    try:
        sent = dict(prepare(BASE, request, {name: value}).headers)
    except (ValueError, ConfigurationError):
        return
    plain = dict(prepare(BASE, request, None).headers)
    assert sent[name] == value
    assert sent.keys() - plain.keys() <= {name}
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set(" :\r\n")
    assert not any(ord(c) < 0x20 and c != "\t" for c in value)
    assert value.encode() or not value


@given(TEXT | st.text(st.sampled_from("./%2eEfFab:?#\\@ ")))
@example("a/../../admin")
@example("%2e%2e/admin")
@example("//evil.example/")
@example("https://evil.example/")
@example("a\\..\\b")
@example("a%0d%0aX: 1")
def test_path_stays_below_the_base_or_is_rejected(path: str) -> None:
    """An accepted path is on the same host, without dots, query or fragment."""
    try:
        url = free_wire("GET", path).url
    except ValueError:
        return
    assert str(url.origin()) == "https://api.example.com"
    assert url.raw_path.startswith("/v1/")
    assert not {".", ".."} & set(unquote(url.raw_path).split("/"))
    assert (url.raw_query_string, url.raw_fragment, url.user) == ("", "", None)
    assert str(url).isascii()
    assert unquote(url.raw_path) == unquote("/v1/" + path.removeprefix("/"))


@given(TEXT)
@example("GET /evil HTTP/1.1\r\n")
def test_method_is_known_or_rejected(method: str) -> None:
    """Any other method is rejected."""
    try:
        sent = free_wire(method, "things").method
    except ValueError:
        return
    assert sent in get_args(Method)


@given(TEXT)
def test_json_text_is_sent_exactly_or_rejected(text: str) -> None:
    """Text arrives as given; text without a form in UTF-8 is rejected."""
    try:
        body = prepare(BASE, POST.request(body={"text": text}), None).body
    except (ValueError, ConfigurationError):
        assert any(0xD800 <= ord(c) <= 0xDFFF for c in text)
        return
    assert isinstance(body, bytes)
    assert msgspec.json.decode(body) == {"text": text}


def free_wire(method: str, path: str) -> PreparedRequest:
    """What `client.request(method, path)` puts on the wire."""
    request: Request[None] = raw_request(
        method,
        path,
        params=None,
        json=None,
        form=None,
        headers=None,
        returns=None,
        idempotent=None,
        cost=1,
    )
    return prepare(BASE, request, None)
