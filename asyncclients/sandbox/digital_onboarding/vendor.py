"""The pretend Digital Onboarding: OAuth2 client credentials, then 10 requests a second.

Nothing is published on its limit: 10 a second and client from a bucket of 10 is
a guess. The token endpoint counts against nobody.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.exchange import Call, RefusedError, Reply
from asyncclients.sandbox.limits import TokenBucket
from asyncclients.sandbox.vendor import Vendor

from .state import DigitalOnboardingState

if TYPE_CHECKING:
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit

TOKEN_PATH = ("oauth2", "token")


class DigitalOnboarding(Vendor[DigitalOnboardingState]):
    """Digital Onboarding API v1, 6 operations."""

    name: ClassVar[str] = "digital_onboarding"
    quota: ClassVar[tuple[float, float] | None] = (10, 1.0)

    def __init__(self, random: Random) -> None:
        del random
        super().__init__(DigitalOnboardingState(), [])

    def issue(self, random: Random) -> dict[str, str]:
        client_id, secret = f"{random.getrandbits(64):016x}", f"{random.getrandbits(160):040x}"
        self.state.clients[client_id] = secret
        return {
            "DIGITAL_ONBOARDING_CLIENT_ID": client_id,
            "DIGITAL_ONBOARDING_CLIENT_SECRET": secret,
        }

    def credential(self, call: Call) -> str:
        if call.segments == TOKEN_PATH:
            return ""
        scheme, _, token = call.headers.get("Authorization", "").partition(" ")
        owner = self.state.tokens.get(token)
        if scheme.lower() != "bearer" or owner is None:
            raise RefusedError(Reply.json(401, {"error": "invalid_token"}))
        return owner

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return TokenBucket(limit, period)

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        wait = max(1, math.ceil(limit.reset_after(now)))
        headers = {"Retry-After": str(wait)}
        return Reply.json(429, {"errors": {"detail": "Too Many Requests"}}, headers)
