"""One exchange as values: what a client asked, and what a vendor answers.

A vendor decides synchronously: a `Call` goes in, a `Reply` comes out, and
nothing here touches a socket. A rule deep inside a vendor says no by raising
`RefusedError` with the whole reply; the vendor's front turns it into the answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from multidict import CIMultiDictProxy, MultiDictProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """A request as it arrived, credential checked and body read.

    `at` is the loop's time at arrival, `time` the same instant on the vendor's
    wall clock; `segments` are the decoded parts of the path, `ids` those of
    them that the route names.
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
        """The Content-Type without its parameters, in lower case; empty when absent."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def json(self) -> object:
        """The body as JSON; ValueError when it is none."""
        return cast("object", json.loads(self.body))


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, body and headers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def json(cls, status: int, value: object, headers: Mapping[str, str] | None = None) -> Reply:
        """An answer with *value* as compact JSON."""
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})


class RefusedError(Exception):
    """A vendor says no; `reply` is how it says it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def as_object(value: object) -> dict[str, object] | None:
    """*value* as a JSON object, or None when it is something else."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def as_array(value: object) -> list[object] | None:
    """*value* as a JSON array, or None when it is something else."""
    return cast("list[object]", value) if isinstance(value, list) else None
