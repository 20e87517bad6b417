"""The pretend Intempt: 10 requests a second and key, from a bucket of 10.

Nothing is published on its limit: this is a guess, as are its 429 and the
Spring Boot form of its errors. The root answers without a key, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.limits import TokenBucket
from asyncclients.sandbox.vendor import RefusedError, Reply, Route, SandboxRequest, Vendor

from . import collections, people
from .state import IntemptState

if TYPE_CHECKING:
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit
    from asyncclients.sandbox.storage import StorageState


def _root(state: IntemptState, call: SandboxRequest) -> Reply:
    del call
    names = ("sources", "collections")
    links = {n: {"href": f"{collections.HOST}/v1/{state.org}/{n}/"} for n in names}
    body = {"service": "metadata", "version": "v1", "status": "ok", "_links": links}
    return Reply.json(200, body)


class Intempt(Vendor[IntemptState]):
    """Intempt API, 9 operations; the tenth is the upload to `Storage`."""

    name: ClassVar[str] = "intempt"
    quota: ClassVar[tuple[float, float] | None] = (10, 1.0)

    def __init__(self, random: Random, storage: StorageState) -> None:
        del random

        def post(state: IntemptState, call: SandboxRequest) -> Reply:
            if call.media_type == "text/csv":
                return collections.upload_link(state, storage, call)
            return collections.insert(state, call)

        data = "/v1/{org}/collections/{id}/data"
        routes: list[Route[IntemptState]] = [
            Route("GET", "/", _root),
            Route("GET", data, collections.list_items),
            Route("POST", data, post),
            Route("GET", f"{data}/{{item}}", collections.get_item),
            Route("DELETE", f"{data}/{{item}}", collections.delete_item),
            Route("POST", "/v1/{org}/sources/{id}/data", collections.insert_many),
            Route("GET", "/v1/{org}/events/matches", people.matches),
            Route("GET", "/v1/{org}/segmentations/latest", people.segmentations),
        ]
        super().__init__(IntemptState(), routes)

    def issue(self, random: Random) -> dict[str, str]:
        key = f"{random.getrandbits(64):016x}.{random.getrandbits(128):032x}"
        self.state.keys.add(key)
        return {"INTEMPT_API_KEY": key, "INTEMPT_ORG": self.state.org}

    def credential(self, call: SandboxRequest) -> str:
        if not call.segments and "Authorization" not in call.headers:
            return ""
        scheme, _, key = call.headers.get("Authorization", "").partition(" ")
        if scheme != "ApiKey" or key not in self.state.keys:
            raise RefusedError(self.complaint(401, "Unauthorized"))
        if call.segments and call.segments[1:2] != (self.state.org,):
            raise RefusedError(self.complaint(403, "Forbidden"))
        return key

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return TokenBucket(limit, period)

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        wait = max(1, math.ceil(limit.reset_after(now)))
        reply = self.complaint(429, "Too Many Requests")
        return Reply(429, reply.body, {**reply.headers, "Retry-After": str(wait)})

    def complaint(self, status: int, message: str) -> Reply:
        return Reply.json(status, {"status": status, "error": message, "message": message})
