"""The pretend Emma: 180 requests in any minute, per key; beyond it **403**.

The login is HTTP Basic, public key and private key. A wrong key is a 401 and a
strange account a 403 without the words "Rate Limit Exceeded": only the text
tells the two kinds of 403 apart.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.vendor import RefusedError, Reply, SandboxRequest, Vendor

from . import touchpoints, types
from .state import EmmaState

if TYPE_CHECKING:
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit


class Emma(Vendor[EmmaState]):
    """Emma (MyEmma) touchpoints, 9 operations."""

    name: ClassVar[str] = "emma"
    quota: ClassVar[tuple[float, float] | None] = (180, 60.0)

    def __init__(self, random: Random) -> None:
        super().__init__(EmmaState(random), [*touchpoints.ROUTES, *types.ROUTES])

    def issue(self, random: Random) -> dict[str, str]:
        public, private = (f"{random.getrandbits(80):020x}" for _ in range(2))
        self.state.keys[public] = private
        return {
            "EMMA_ACCOUNT_ID": str(self.state.account_id),
            "EMMA_PUBLIC_KEY": public,
            "EMMA_PRIVATE_KEY": private,
        }

    def credential(self, call: SandboxRequest) -> str:
        public, private = basic_login(call)
        if not public or self.state.keys.get(public) != private:
            raise RefusedError(self.complaint(401, "Invalid API key"))
        if call.segments[:1] != (str(self.state.account_id),):
            raise RefusedError(self.complaint(403, "Forbidden"))
        return public

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        del limit, now
        return self.complaint(403, "Rate Limit Exceeded")

    def complaint(self, status: int, message: str) -> Reply:
        return Reply.json(status, {"error": message})


def basic_login(call: SandboxRequest) -> tuple[str, str]:
    """User and password of HTTP Basic; empty when absent or unreadable."""
    scheme, _, token = call.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
