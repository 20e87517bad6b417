"""The pretend Intempt: 10 requests a second and key, from a bucket of 10.

Nothing is published on its limit: this is a guess, as are its 429 and the
Spring Boot form of its errors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.exchange import Call, RefusedError, Reply
from asyncclients.sandbox.limits import TokenBucket
from asyncclients.sandbox.vendor import Vendor

from .state import IntemptState

if TYPE_CHECKING:
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit
    from asyncclients.sandbox.storage import StorageState


class Intempt(Vendor[IntemptState]):
    """Intempt API, 9 operations; the tenth is the upload to `Storage`."""

    name: ClassVar[str] = "intempt"
    quota: ClassVar[tuple[float, float] | None] = (10, 1.0)

    def __init__(self, random: Random, storage: StorageState) -> None:
        del random, storage
        super().__init__(IntemptState(), [])

    def issue(self, random: Random) -> dict[str, str]:
        key = f"{random.getrandbits(64):016x}.{random.getrandbits(128):032x}"
        self.state.keys.add(key)
        return {"INTEMPT_API_KEY": key, "INTEMPT_ORG": self.state.org}

    def credential(self, call: Call) -> str:
        scheme, _, key = call.headers.get("Authorization", "").partition(" ")
        if scheme != "ApiKey" or key not in self.state.keys:
            raise RefusedError(self.complaint(401, "Unauthorized"))
        return key

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return TokenBucket(limit, period)

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        wait = max(1, math.ceil(limit.reset_after(now)))
        body = {"status": 429, "error": "Too Many Requests", "message": "Rate limit exceeded"}
        return Reply.json(429, body, {"Retry-After": str(wait)})
