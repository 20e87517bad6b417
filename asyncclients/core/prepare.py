"""From a `Request` to what is sent: URL, headers and body, without the credential."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from types import NoneType
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote, quote_plus, unquote

import msgspec
from msgspec import UNSET
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from asyncclients.arguments import check_headers, check_mapping, check_type, shown
from asyncclients.core import codec
from asyncclients.core.endpoint import IDEMPOTENT, Endpoint, Request
from asyncclients.errors import ConfigurationError

T = TypeVar("T")

JSON = "application/json"
GET_HEADERS = CIMultiDictProxy(CIMultiDict({"Accept": JSON}))
"""The headers of a GET or DELETE without a body and headers of its own."""
_BARE_HEADERS = CIMultiDictProxy(CIMultiDict({"Accept": JSON}))
"""Those of another method. Without a content type, aiohttp must be told to add none."""
_JSON_HEADERS = CIMultiDictProxy(CIMultiDict({"Accept": JSON, "Content-Type": JSON}))
_FORM_HEADERS = CIMultiDictProxy(
    CIMultiDict({"Accept": JSON, "Content-Type": "application/x-www-form-urlencoded"})
)

_BODYLESS = ("GET", "DELETE")
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*\Z").match
_quoted_name = lru_cache(maxsize=1024)(quote_plus)

Body = bytes | AsyncIterable[bytes] | None


class PreparedRequest(msgspec.Struct, frozen=True, gc=False):
    """An encoded request without its credential."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: Body = None

    def __repr__(self) -> str:
        return f"<PreparedRequest {self.method} {self.url.origin()}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


def prepare(
    base_url: str, request: Request[Any], headers: Mapping[str, str] | None
) -> PreparedRequest:
    """Encode *request* for *base_url*; *headers* are the client's own.

    Raises:
        ConfigurationError: for a header that HTTP cannot carry.
        ValueError: for a parameter or body that cannot be encoded.
    """
    method, body = request.endpoint.method, None
    query = encode_query(request.params) if request.params else ""
    url = _url(base_url, request.path, query)
    fields: Mapping[str, str] = GET_HEADERS if method in _BODYLESS else _BARE_HEADERS
    if (given := request.body) is not None:
        given = given.to_wire() if hasattr(given, "to_wire") else given
        if request.endpoint.encoding == "json":
            body, fields = codec.encode(given), _JSON_HEADERS
        else:
            body, fields = encode_form(given), _FORM_HEADERS
    if headers or request.headers:
        fields = CIMultiDict(fields)
        for extra in (headers, request.headers):
            if extra:
                check_headers(extra)
                fields.update(extra)
    return PreparedRequest(method, url, fields, body)


@lru_cache(maxsize=128)  # all creates of a push have the same URL
def _url(base_url: str, path: str, query: str = "") -> URL:
    """Return the URL. Pages differ in their queries only: the rest is parsed once."""
    if not query:
        return URL(base_url + path.lstrip("/"), encoded=True)
    url = _url(base_url, path)
    return URL.build(
        scheme=url.scheme,
        authority=url.raw_authority,
        path=url.raw_path,
        query_string=query,
        encoded=True,
    )


# --- Queries and forms ---------------------------------------------------------


def encode_form(body: Any) -> bytes:
    """Return the flat object *body* as `application/x-www-form-urlencoded`.

    Raises:
        ValueError: for lists and objects inside, which no vendor documents.
    """
    return "&".join(_form_fields(codec.to_plain(body))).encode()


def encode_query(params: Mapping[str, Any]) -> str:
    """Return *params* as a query string without `?`; lists repeat the name, None is left out.

    Raises:
        ValueError: for objects and lists inside, which no vendor documents.
    """
    pairs: list[str] = []
    for name, value in params.items():
        if value is None or value is UNSET:
            continue
        if type(value) is not int:  # digits need no quoting
            if isinstance(value, (list, tuple)):
                several = [{name: each} for each in cast("Sequence[Any]", value)]
                pairs.extend(pair for pair in map(encode_query, several) if pair)
                continue
            value = _quoted(_flat(name, value))
        pairs.append(f"{_quoted_name(name)}={value}")
    return "&".join(pairs)


def _form_fields(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if value is not None and value is not UNSET:
            yield f"{_quoted_name(name)}={_quoted(_flat(name, value))}"


def _quoted(text: str) -> str:
    return text if _PLAIN(text) else quote_plus(text)


def _flat(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{name} is {value}, which no vendor documents; leave it out")
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"{name} has no form as a flat field: {type(value).__name__}")


# --- client.request(...) ------------------------------------------------------

Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH"]
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|https?:", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


RAW_OPERATION = "request"
"""The operation of calls by `client.request`."""


def raw_request(
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None,
    json: Any,
    form: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None,
    returns: type[T] | None,
    idempotent: bool | None,
    cost: int = 1,
) -> Request[T]:
    """Return the request of `client.request`, which documents the arguments."""
    check_mapping("params", params)
    check_mapping("form", form)
    if headers is not None:
        check_headers(headers)
    check_type("idempotent", idempotent, (bool, NoneType), "idempotent=True")
    if not _is_decodable(returns):
        raise ConfigurationError(
            f"response_type must be a type that msgspec can decode, not {shown(returns)}",
            advice="Write it as in response_type=dict or response_type=list[Item]",
        )
    if json is not None and form is not None:
        raise ValueError("give json= or form=, not both")
    verb = cast("Method", str(method).upper())
    if verb not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, not {shown(method)}")
    may_retry = verb in IDEMPOTENT if idempotent is None else idempotent
    endpoint: Endpoint[T] = Endpoint(
        RAW_OPERATION,
        verb,
        check_path(path),
        cast("type[T]", type(None) if returns is None else returns),
        idempotent=may_retry,
        encoding="json" if form is None else "form",
        cost=cost,
    )
    return Request(
        endpoint=endpoint,
        path=endpoint.path,
        params=params,
        body=json if form is None else form,
        idempotent=may_retry,
        headers=headers,
    )


def _is_decodable(returns: Any) -> bool:
    """Return True if a response can be decoded as *returns*; checked before anything is sent."""
    try:
        codec.decoder(returns)
    except (TypeError, NameError, AttributeError):
        return False
    return True


def check_path(path: Any) -> str:
    """Return *path*, relative to the base URL and encoded.

    Raises:
        ValueError: for a URL, `//host`, dot segments, a query or control characters.
    """
    if not isinstance(path, str):
        raise ValueError(f"path must be text, as in 'contacts/1', not {shown(path)}")
    bare = path.removeprefix("/")
    # A colon elsewhere is part of a name, as in `contacts:search`.
    if bare.startswith("/") or _SCHEME.match(bare) or "\\" in bare:
        raise ValueError(f"path must be relative to the base, not {path!r}")
    if any(segment in (".", "..") for segment in re.split(r"[/\\]", unquote(bare))):
        raise ValueError(f"path must not hold dot segments: {path!r}")
    if any(c.isspace() or not c.isprintable() or c in "?#" for c in bare):
        raise ValueError(
            f"path must not hold a query (use params=), fragment, space or control: {path!r}"
        )
    if _CONTROL.search(unquote(bare)):
        raise ValueError(f"path must not hold encoded control characters: {path!r}")
    return quote(bare, safe="/%:@!$&'()*+,;=~")
