"""The base of every mock vendor: requests and replies, routes, and the class `Vendor`.

A vendor is data and synchronous methods: a `SandboxRequest` goes in and a `Reply` comes out.
It does not see sockets, faults or the request log, which are the business of `VendorServer`. A
rule anywhere in a vendor rejects a request by raising `RejectedError` with the complete reply.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import Any, ClassVar, TypeAlias, cast
from urllib.parse import unquote

import msgspec
from multidict import CIMultiDictProxy, MultiDictProxy

from .limits import FixedWindow, ServerLimit, SlidingLog, TokenBucket

Row: TypeAlias = dict[str, object]
"""A row of a vendor's data: a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """A request to a mock vendor.

    `at` is the loop time at which its head arrived, `time` the same instant on the vendor's wall
    clock. `credential` is the key, token owner or account that it counted against, empty if none.
    `rejected` is True if the rate limit rejected it. `segments` are the decoded parts of the path,
    `ids` those at the placeholders of the vendor's route.

    In the log of requests, `body` is its first 64 KiB, and `status` that of the response, None if
    the connection was dropped or left open. Nothing is redacted: a sandbox only has credentials
    that it created.
    """

    method: str
    path: str
    segments: tuple[str, ...]
    query: MultiDictProxy[str]
    headers: CIMultiDictProxy[str]
    at: float
    time: datetime
    body: bytes = b""
    credential: str = ""
    rejected: bool = False
    status: int | None = None
    ids: tuple[str, ...] = ()

    @property
    def media_type(self) -> str:
        """Return the Content-Type without parameters in lower case, empty if absent."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def authorization(self) -> tuple[str, str]:
        """Return the scheme of the Authorization header, in lower case, and what follows it."""
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower(), value

    def json_object(self) -> Row | None:
        """Return the JSON object in the body, None if it is anything else."""
        try:
            return as_object(cast("object", json.loads(self.body)))
        except ValueError:
            return None

    def basic_login(self) -> tuple[str, str]:
        """Return user and password of HTTP Basic, empty if absent or invalid."""
        scheme, token = self.authorization
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return (user, password) if scheme == "basic" else ("", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: status, body and headers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def json(cls, status: int, value: object, headers: Mapping[str, str] | None = None) -> Reply:
        """Return a response with *value* as compact JSON."""
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})


class RejectedError(Exception):
    """A vendor rejects a request with `reply`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def as_object(value: object) -> Row | None:
    """Return *value* if it is a JSON object, else None."""
    return cast("Row", value) if isinstance(value, dict) else None


def as_array(value: object) -> list[object] | None:
    """Return *value* if it is a JSON array, else None."""
    return cast("list[object]", value) if isinstance(value, list) else None


def as_rows(value: object) -> list[Row] | None:
    """Return *value* if it is a JSON array of objects, else None."""
    items = as_array(value)
    is_rows = items is not None and all(isinstance(item, dict) for item in items)
    return cast("list[Row]", items) if is_rows else None


def complaints(row: Row, types: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each field of *row* that is not null and not of its type.

    That is the `description` of the type, if it has one.
    """
    found: dict[str, str] = {}
    for name, kind in types.items():
        if row.get(name) is not None:
            try:
                msgspec.convert(row[name], kind)
            except msgspec.ValidationError as error:
                rules: tuple[Any, ...] = getattr(kind, "__metadata__", ())
                texts = [str(rule.description) for rule in rules if rule.description]
                found[name] = texts[0] if texts else f"is not valid: {error}"
    return found


def segments_of(raw_path: str) -> tuple[str, ...]:
    """Return the decoded segments of *raw_path*, ignoring the leading and one trailing slash."""
    parts = raw_path.split("/")[1:]
    if parts and not parts[-1]:
        parts.pop()
    return tuple(unquote(part) for part in parts)


class Route:
    """Decorates the method of a `Vendor` that serves *methods* (separated by spaces).

    *patterns* are written as in the vendors' manuals, `/tags/{uuid}`: a name in braces matches any
    non-empty segment. Segments are compared after decoding, so an id with `%2F` is one segment.
    One trailing slash is ignored; a doubled slash is another, unknown path. Routes are tried in
    the order of the class, so a literal goes before a placeholder.
    """

    handler: Callable[[Any, SandboxRequest], Reply]

    def __init__(self, methods: str, *patterns: str) -> None:
        self.methods = methods.split()
        self._patterns = [segments_of(pattern) for pattern in patterns]

    def __call__(self, handler: Callable[[Any, SandboxRequest], Reply]) -> Route:
        self.handler = handler
        return self

    def match(self, segments: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the values of the placeholders, None if *segments* are another path."""
        for pattern in self._patterns:
            pairs = [*zip(pattern, segments, strict=False)]
            if len(pattern) == len(segments) and all(
                segment if word.startswith("{") else word == segment for word, segment in pairs
            ):
                return tuple(segment for word, segment in pairs if word.startswith("{"))
        return None


class Vendor:
    """A mock vendor: its data, its operations, which are its `Route`s, and its limit.

    `quota` is the limit in its manual, (requests, seconds), or None; `limit_model` counts as this
    vendor does. With `has_retry_after`, a response beyond the limit has a `Retry-After` in whole
    seconds. `prefix` is the path of the base URL, `url` the whole of it while the sandbox runs.
    """

    name: ClassVar[str]
    prefix: ClassVar[str] = "/"
    quota: ClassVar[tuple[float, float] | None]
    limit_model: ClassVar[type[SlidingLog | FixedWindow | TokenBucket]] = SlidingLog
    has_retry_after: ClassVar[bool] = False

    def __init__(self, random: Random) -> None:
        self.random = random
        self.url = ""
        self._routes = [each for each in vars(type(self)).values() if isinstance(each, Route)]

    def issue(self) -> dict[str, str]:
        """Create a credential; return it as the environment variables of a client."""
        return {}

    def credential(self, call: SandboxRequest) -> str:
        """Return the key of the quota that *call* uses, empty for none.

        Raises RejectedError if *call* has no valid credential.
        """
        del call
        return ""

    def limit_headers(self, limit: ServerLimit, now: float, *, rejected: bool) -> Mapping[str, str]:
        """Return the headers about the limit, for every response."""
        if not (rejected and self.has_retry_after):
            return {}
        return {"Retry-After": str(max(1, math.ceil(limit.reset_after(now))))}

    def over_limit(self) -> Reply:
        """Return the response to a request that exceeds the limit."""
        return self.error(429, "Too Many Requests")

    def error(self, status: int, message: str) -> Reply:
        """Return an error response, in this vendor's form."""
        return Reply.json(status, {"message": message})

    def rejected(self, status: int, message: str) -> RejectedError:
        """Return the exception that rejects a request with an error response."""
        return RejectedError(self.error(status, message))

    def body_of(self, call: SandboxRequest) -> Row:
        """Return the JSON object in the body; raises RejectedError (400) if there is none."""
        body = call.json_object() if call.media_type == "application/json" else None
        if body is None:
            raise self.rejected(400, "The body must be a JSON object")
        return body

    def check_types(self, row: Row, types: Mapping[str, Any]) -> None:
        """Raise RejectedError (400) for the first of the `complaints` about *row*."""
        if found := complaints(row, types):
            name, complaint = next(iter(found.items()))
            raise self.rejected(400, f"{name} {complaint}")

    def new_uuid(self, version: int = 4) -> str:
        """Return a new UUID."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=version))

    def answer(self, call: SandboxRequest) -> Reply:
        """Execute *call* and return the response."""
        is_known = False
        for route in self._routes:
            ids = route.match(call.segments)
            is_known |= ids is not None
            if ids is not None and call.method in route.methods:
                try:
                    return route.handler(self, replace(call, ids=ids))
                except RejectedError as rejected:
                    return rejected.reply
        return self.error(405, "Method Not Allowed") if is_known else self.error(404, "Not Found")
