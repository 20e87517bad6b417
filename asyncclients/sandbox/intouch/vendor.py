"""The pretend Intouch: 2 requests in any second, per key.

Login and refusal speak as Amazon's API Gateway does, whose header and words the
manual shows: no key, "Missing Authentication Token"; a 429 without Retry-After.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.vendor import Reply, SandboxRequest, Vendor

from . import contacts, hierarchies, programs, tags
from .rules import refused
from .state import IntouchState

if TYPE_CHECKING:
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit


class Intouch(Vendor[IntouchState]):
    """Intouch Insight Customer Platform API 1.0.0, 19 operations."""

    name: ClassVar[str] = "intouch"
    prefix: ClassVar[str] = "/public/v1/"
    quota: ClassVar[tuple[float, float] | None] = (2, 1.0)

    def __init__(self, random: Random) -> None:
        routes = [*tags.ROUTES, *hierarchies.ROUTES, *contacts.ROUTES, *programs.ROUTES]
        super().__init__(IntouchState(random), routes)

    def issue(self, random: Random) -> dict[str, str]:
        key = "ii_" + "".join(random.choices(string.ascii_letters + string.digits, k=41))
        self.state.keys.add(key)
        return {"INTOUCH_API_KEY": key}

    def credential(self, call: SandboxRequest) -> str:
        key = call.headers.get("x-api-key")
        if key is None:
            raise refused(401, "Missing Authentication Token")
        if key not in self.state.keys:
            raise refused(403, "Forbidden")
        return key

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        del limit, now
        headers = {"x-amzn-ErrorType": "TooManyRequestsException"}
        return Reply.json(429, {"message": "Too Many Requests"}, headers)
