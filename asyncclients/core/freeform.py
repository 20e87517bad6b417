"""Requests that have no method yet: `client.request(...)`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote, unquote

import msgspec

from asyncclients.arguments import check_headers, check_mapping, check_type, shown
from asyncclients.core.endpoint import Endpoint, Request
from asyncclients.errors import ConfigurationError

T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH"]
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
_SAFE = frozenset({"GET", "PUT", "DELETE"})
"""Methods that RFC 9110 §9.2.2 calls idempotent."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|https?:", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
) -> Request[T]:
    """The request that `client.request` sends; see there."""
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
    may_repeat = verb in _SAFE if idempotent is None else idempotent
    endpoint: Endpoint[T] = Endpoint(
        "request",
        verb,
        check_path(path),
        cast("type[T]", type(None) if returns is None else returns),
        idempotent=may_repeat,
        encoding="json" if form is None else "form",
    )
    body = json if form is None else form
    return Request(
        endpoint=endpoint,
        path=endpoint.path,
        params=params,
        body=body,
        idempotent=may_repeat,
        headers=headers,
    )


def _is_decodable(returns: Any) -> bool:
    """True if a response can be decoded as *returns*: known before anything is sent."""
    try:
        _decoder(returns)
    except (TypeError, NameError, AttributeError):
        return False
    return True


@lru_cache(maxsize=128)
def _decoder(returns: Any) -> object:
    return msgspec.json.Decoder(returns)


def check_path(path: Any) -> str:
    """*path* relative to the base.

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
