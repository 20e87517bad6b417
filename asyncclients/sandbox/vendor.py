"""The base of every mock vendor: requests and replies, routes, and the class `Vendor`.

A vendor is data and synchronous functions: a `SandboxRequest` goes in and a `Reply` comes out.
It does not see sockets, faults or the request log, which are the business of `VendorServer`. A
rule anywhere in a vendor rejects a request by raising `RejectedError` with the complete reply.

Route patterns are written as in the vendors' manuals, `/tags/{uuid}`: a name in braces matches
any non-empty segment. Segments are compared after decoding, so an id with `%2F` is one segment.
One trailing slash is ignored; a doubled slash is another, unknown path. Routes are tried in
order, so a literal goes before a placeholder.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Generic, TypeAlias, TypeVar, cast
from urllib.parse import unquote

from .limits import FixedWindow, SlidingLog, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from random import Random

    from multidict import CIMultiDictProxy, MultiDictProxy

    from .limits import ServerLimit

S = TypeVar("S")

Row: TypeAlias = dict[str, object]
"""A row of a vendor's data: a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """A request with a checked credential and its body.

    `at` is the loop time of its arrival, `time` the same instant on the vendor's wall clock.
    `segments` are the decoded parts of the path, `ids` those at the route's placeholders.
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
    ids: tuple[str, ...] = ()

    @property
    def media_type(self) -> str:
        """Return the Content-Type without parameters in lower case, empty if absent."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def json_object(self) -> Row | None:
        """Return the JSON object in the body, None if it is anything else."""
        try:
            return as_object(cast("object", json.loads(self.body)))
        except ValueError:
            return None

    def basic_login(self) -> tuple[str, str]:
        """Return user and password of HTTP Basic, empty if absent or invalid."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return "", ""
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password


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


def rejection(status: int, message: str) -> RejectedError:
    """Return an error response with *message*, in the form that most vendors use."""
    return RejectedError(Reply.json(status, {"message": message}))


def as_object(value: object) -> Row | None:
    """Return *value* if it is a JSON object, else None."""
    return cast("Row", value) if isinstance(value, dict) else None


def as_array(value: object) -> list[object] | None:
    """Return *value* if it is a JSON array, else None."""
    return cast("list[object]", value) if isinstance(value, list) else None


def segments_of(raw_path: str) -> tuple[str, ...]:
    """Return the decoded segments of *raw_path*, ignoring the leading and one trailing slash."""
    parts = raw_path.split("/")[1:]
    if parts and not parts[-1]:
        parts.pop()
    return tuple(unquote(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Route(Generic[S]):
    """One operation: *handler* serves *methods* (separated by spaces) on *pattern*."""

    methods: str
    pattern: str
    handler: Callable[[S, SandboxRequest], Reply]

    def match(self, segments: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the values of the placeholders, None if *segments* are another path."""
        pattern = segments_of(self.pattern)
        if len(pattern) != len(segments):
            return None
        ids: list[str] = []
        for word, segment in zip(pattern, segments, strict=True):
            if word.startswith("{") and segment:
                ids.append(segment)
            elif word != segment:
                return None
        return tuple(ids)


class Vendor(ABC, Generic[S]):
    """A mock vendor with its state.

    `quota` is the limit in its manual, (requests, seconds), or None; `limit_model` counts as this
    vendor does. `over_limit` is the response to a request that exceeds the limit; with
    `has_retry_after`, it has a `Retry-After` in whole seconds. `prefix` is the path of the base URL.
    """

    name: ClassVar[str]
    prefix: ClassVar[str] = "/"
    quota: ClassVar[tuple[float, float] | None]
    limit_model: ClassVar[type[SlidingLog | FixedWindow | TokenBucket]] = SlidingLog
    over_limit: ClassVar[Reply]
    has_retry_after: ClassVar[bool] = False

    def __init__(self, state: S, routes: Sequence[Route[S]]) -> None:
        self.state = state
        self._routes = routes

    @abstractmethod
    def issue(self, random: Random) -> dict[str, str]:
        """Create a credential; return it as the environment variables of a client."""

    def listens_at(self, urls: Mapping[str, str]) -> None:
        """Receive the base URL of each vendor, when all of them listen."""
        del urls

    @abstractmethod
    def credential(self, call: SandboxRequest) -> str:
        """Return the key of the quota that *call* uses, empty for none.

        Raises RejectedError if *call* has no valid credential.
        """

    def rate_limited(self, limit: ServerLimit, now: float) -> Reply:
        """Return the response to a request that exceeds the limit."""
        if not self.has_retry_after:
            return self.over_limit
        wait = max(1, math.ceil(limit.reset_after(now)))
        return replace(
            self.over_limit, headers={**self.over_limit.headers, "Retry-After": str(wait)}
        )

    def limit_headers(self, limit: ServerLimit, now: float) -> Mapping[str, str]:
        """Return the headers about the limit, for every response."""
        del limit, now
        return {}

    def error(self, status: int, message: str) -> Reply:
        """Return this vendor's response for an error *status*."""
        return rejection(status, message).reply

    def answer(self, call: SandboxRequest) -> Reply:
        """Execute *call* and return the response."""
        is_known = False
        for route in self._routes:
            ids = route.match(call.segments)
            is_known |= ids is not None
            if ids is not None and call.method in route.methods.split():
                try:
                    return route.handler(self.state, replace(call, ids=ids))
                except RejectedError as rejected:
                    return rejected.reply
        return self.error(405, "Method Not Allowed") if is_known else self.error(404, "Not Found")
