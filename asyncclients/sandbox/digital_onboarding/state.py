"""What the pretend Digital Onboarding holds, tokens included."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

Row: TypeAlias = dict[str, object]
Rejection: TypeAlias = Literal["body", "header", "unreadable"]
WireForm: TypeAlias = Literal["wrapped", "array"]

_OBJECTIVES = ("debit-card-activation", "direct-deposit", "online-banking", "estatements")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token: whose it is, and until when it is good, in the loop's time."""

    client_id: str
    expires_at: float


class DigitalOnboardingState:
    """One Digital Onboarding team.

    `clients` are secrets by client id; one that arrives in a query string moves
    to `revoked` for good. A token lives `lifetime` seconds, whatever it says:
    `expires_in` is what the reply claims, None to leave it out. `token_requests`
    counts the tokens granted. `rejection` is where a 401 says `invalid_token`:
    in its "body", in the WWW-Authenticate "header", or nowhere ("unreadable").
    `wire_form` wraps templates and objectives in an object, or does not.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.clients: dict[str, str] = {}
        self.revoked: set[str] = set()
        self.tokens: dict[str, Token] = {}
        self.token_requests = 0
        self.lifetime = 3600.0
        self.expires_in: object = 3600
        self.rejection: Rejection = "body"
        self.wire_form: WireForm = "wrapped"
        self.contacts: dict[str, Row] = {}
        self.journeys: dict[str, Row] = {}
        self.completions: dict[str, dict[str, object]] = {}
        self.templates: list[Row] = [
            {"id": self.new_uuid(), "name": name} for name in ("Welcome", "Mobile Banking")
        ]
        self.objectives: list[Row] = [
            {"id": self.new_uuid(), "key": key, "name": key.replace("-", " "), "team_id": None}
            for key in _OBJECTIVES
        ]

    def new_uuid(self) -> str:
        """A fresh UUID of version 4."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def grant(self, client_id: str, now: float) -> str:
        """A new token for *client_id*."""
        for token in [t for t, held in self.tokens.items() if held.expires_at <= now]:
            del self.tokens[token]
        token = f"{self._random.getrandbits(256):064x}"
        self.tokens[token] = Token(client_id, now + self.lifetime)
        self.token_requests += 1
        return token

    def owner(self, token: str, now: float) -> str | None:
        """Whose *token* is; None when it has expired or never was."""
        held = self.tokens.get(token)
        return held.client_id if held and now < held.expires_at else None

    def revoke_tokens(self) -> None:
        """End every token at once, also for calls that are on their way."""
        self.tokens.clear()

    def revoke_client(self, client_id: str) -> None:
        """End *client_id*, its secret and its tokens."""
        self.clients.pop(client_id, None)
        self.revoked.add(client_id)
        self.tokens = {t: h for t, h in self.tokens.items() if h.client_id != client_id}


def stamp(time: datetime) -> str:
    """*time* in ISO 8601 with Z."""
    return f"{time.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
