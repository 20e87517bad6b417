"""The pretend Digital Onboarding: OAuth2 client credentials, then 10 requests a second.

Nothing is published on its limit: 10 a second and client from a bucket of 10 is
a guess. The token endpoint counts against nobody.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from asyncclients.sandbox.limits import TokenBucket
from asyncclients.sandbox.vendor import (
    RefusedError,
    Reply,
    Route,
    SandboxRequest,
    Vendor,
    as_object,
)

from . import contacts, tokens
from .state import DigitalOnboardingState, Row

if TYPE_CHECKING:
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit

TOKEN_PATH = ("oauth2", "token")


def _start_journey(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    template = next((t for t in state.templates if t["id"] == call.ids[0]), None)
    if template is None:
        raise contacts.refused(404, {"detail": "Not Found"})
    body = contacts.body_of(call)
    contact = as_object(body.get("contact"))
    if contact is None:
        raise contacts.refused(422, {"contact": ["can't be blank"]})
    contacts.check(state, contact)
    saved, _ = contacts.save(state, call, contact)
    name = body.get("name") or template["name"]
    fields: Row = {"template_id": template["id"], "owner_id": body.get("owner_id"), "name": name}
    journey = contacts.start_journey(state, str(saved["unique_id"]), fields)
    told = ("id", "slug", "web_client_url")
    return Reply.json(201, {key: journey[key] for key in told})


def _listed(state: DigitalOnboardingState, name: str, rows: list[Row]) -> Reply:
    return Reply.json(200, rows if state.wire_form == "array" else {name: rows})


def _templates(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    del call
    return _listed(state, "templates", state.templates)


def _objectives(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    del call
    return _listed(state, "objectives", state.objectives)


ROUTES: list[Route[DigitalOnboardingState]] = [
    Route("POST", "/oauth2/token", tokens.grant),
    Route("POST", "/v1/contacts", contacts.upsert),
    Route("POST", "/v1/templates/{template_id}/journeys", _start_journey),
    Route("GET", "/v1/templates", _templates),
    Route("GET", "/v1/objectives", _objectives),
]


class DigitalOnboarding(Vendor[DigitalOnboardingState]):
    """Digital Onboarding API v1, 6 operations."""

    name: ClassVar[str] = "digital_onboarding"
    quota: ClassVar[tuple[float, float] | None] = (10, 1.0)

    def __init__(self, random: Random) -> None:
        super().__init__(DigitalOnboardingState(random), ROUTES)

    def issue(self, random: Random) -> dict[str, str]:
        client_id, secret = f"{random.getrandbits(64):016x}", f"{random.getrandbits(160):040x}"
        self.state.clients[client_id] = secret
        return {
            "DIGITAL_ONBOARDING_CLIENT_ID": client_id,
            "DIGITAL_ONBOARDING_CLIENT_SECRET": secret,
        }

    def credential(self, call: SandboxRequest) -> str:
        tokens.revoke_if_shown(self.state, call)
        if call.segments == TOKEN_PATH:
            return ""
        scheme, _, token = call.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise RefusedError(Reply.json(401, {"error": "unauthorized"}))
        owner = self.state.owner(token, call.at)
        if owner is None:
            raise RefusedError(self._rejection())
        return owner

    def _rejection(self) -> Reply:
        if self.state.rejection == "header":
            return Reply(401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if self.state.rejection == "unreadable":
            return Reply(401, b"<html>Unauthorized</html>", {"Content-Type": "text/html"})
        return Reply.json(401, {"error": "invalid_token"})

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return TokenBucket(limit, period)

    def refusal(self, limit: ServerLimit, now: float) -> Reply:
        wait = max(1, math.ceil(limit.reset_after(now)))
        headers = {"Retry-After": str(wait)}
        return Reply.json(429, {"errors": {"detail": "Too Many Requests"}}, headers)

    def complaint(self, status: int, message: str) -> Reply:
        return Reply.json(status, {"errors": {"detail": message}})
