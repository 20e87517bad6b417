"""The pretend Totango: 100 requests in each minute of its clock, per token.

Each answer tells what is left: RateLimit-Limit, -Remaining, and -Reset in
seconds until the counter is set back. A 429 declares JSON and is bare text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.exchange import Call, RefusedError, Reply
from asyncclients.sandbox.limits import FixedWindow
from asyncclients.sandbox.vendor import Vendor

from .state import TotangoState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit


class Totango(Vendor[TotangoState]):
    """Totango Touchpoints API, 7 operations."""

    name: ClassVar[str] = "totango"
    quota: ClassVar[tuple[float, float] | None] = (100, 60.0)

    def __init__(self, random: Random) -> None:
        del random
        super().__init__(TotangoState(), [])

    def issue(self, random: Random) -> dict[str, str]:
        token = f"{random.getrandbits(160):040x}"
        self.state.tokens.add(token)
        return {"TOTANGO_APP_TOKEN": token}

    def credential(self, call: Call) -> str:
        token = call.headers.get("app-token", "")
        if token not in self.state.tokens:
            raise RefusedError(self.complaint(401, "Unauthorized"))
        return token

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return FixedWindow(limit, period)

    def limit_headers(self, limit: ServerLimit, now: float) -> Mapping[str, str]:
        ends = limit.window_ends_after if isinstance(limit, FixedWindow) else limit.reset_after
        return {
            "RateLimit-Limit": str(int(limit.limit)),
            "RateLimit-Remaining": str(limit.remaining(now)),
            "RateLimit-Reset": str(math.ceil(ends(now))),
        }

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        del limit, now
        return Reply(429, b"Too many requests", {"Content-Type": "application/json"})
