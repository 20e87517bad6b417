"""The data of the mock of Digital Onboarding, including tokens."""

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
    """An access token of a client, valid until `expires_at` of loop time."""

    client_id: str
    expires_at: float


class DigitalOnboardingState:
    """One Digital Onboarding team.

    `clients` are secrets by client id; one that arrives in a query string moves to `revoked`
    permanently. A token is valid for `lifetime` seconds, independently of `expires_in`, the value
    in the response (None to omit it). `token_requests` counts the granted tokens. `rejection` is
    the place of `invalid_token` in a 401: the "body", the WWW-Authenticate "header", or none
    ("unreadable"). `wire_form` is "wrapped" if templates and objectives are in an object.
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
        """Return a new UUID of version 4."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def grant(self, client_id: str, now: float) -> str:
        """Return a new token for *client_id*."""
        for token in [t for t, held in self.tokens.items() if held.expires_at <= now]:
            del self.tokens[token]
        token = f"{self._random.getrandbits(256):064x}"
        self.tokens[token] = Token(client_id, now + self.lifetime)
        self.token_requests += 1
        return token

    def owner(self, token: str, now: float) -> str | None:
        """Return the client of *token*, or None if it has expired or is unknown."""
        held = self.tokens.get(token)
        return held.client_id if held and now < held.expires_at else None

    def revoke_tokens(self) -> None:
        """Revoke all tokens, also for requests that are in flight."""
        self.tokens.clear()

    def revoke_client(self, client_id: str) -> None:
        """Revoke *client_id* with its secret and tokens."""
        self.clients.pop(client_id, None)
        self.revoked.add(client_id)
        self.tokens = {t: h for t, h in self.tokens.items() if h.client_id != client_id}


def stamp(time: datetime) -> str:
    """Return *time* in ISO 8601 with Z."""
    return f"{time.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
