"""The mock of Digital Onboarding: OAuth2 client credentials, 10 requests per second and client.

No limit is published: 10 per second from a bucket of 10 is a guess. The token endpoint is not
limited. It implements client credentials (RFC 6749, section 4.4): client id and secret by HTTP
Basic or in the body (form or JSON), not both. In a query string they are revoked at once, as in
the manual. Errors are those of RFC 6749, section 5.2.

Contacts are inserted or updated by `unique_id`, one or a batch per request. `unique_id` defaults
to `email`; without both the server generates one, so a retry creates a second contact. The key of
an objective completes it; other unknown keys are kept. A batch with an invalid contact is
rejected as a whole.
"""

from __future__ import annotations

import base64
import binascii
import math
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl

from asyncclients.sandbox.limits import TokenBucket
from asyncclients.sandbox.vendor import (
    RejectedError,
    Reply,
    Route,
    SandboxRequest,
    Vendor,
    as_array,
    as_object,
)

from .state import DigitalOnboardingState, Row, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from asyncclients.sandbox.limits import ServerLimit


TEXTS = frozenset(
    [
        "unique_id",
        "name_title",
        "name_first",
        "name_last",
        "name_suffix",
        "address",
        "address2",
        "city",
        "state",
        "county",
        "country",
        "post_code",
        "timezone",
        "email",
        "phone_home",
        "phone_mobile",
        "phone_work",
    ]
)
FLAGS = frozenset({"unsubscribe_email", "unsubscribe_sms"})
READ_ONLY = frozenset({"id", "inserted_at", "updated_at"})
DONE = frozenset({"true", "t", "1", "y", "yes", "complete", "completed", "done"})


def rejection(status: int, errors: Mapping[str, object]) -> RejectedError:
    """A no in the form of Phoenix."""
    return RejectedError(Reply.json(status, {"errors": dict(errors)}))


def body_of(call: SandboxRequest) -> Row:
    """The JSON object in the body; RejectedError 400 when there is none."""
    try:
        body = as_object(call.json()) if call.media_type == "application/json" else None
    except ValueError:
        body = None
    if body is None:
        raise rejection(400, {"detail": "Bad Request"})
    return body


def upsert(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    """One contact, or a batch when the body has `contacts`."""
    body = body_of(call)
    if "contacts" in body:
        return _upsert_many(state, call, as_array(body["contacts"]))
    check_contact(state, body)
    contact, new = save_contact(state, call, body)
    return Reply.json(201 if new else 200, contact)


def _upsert_many(
    state: DigitalOnboardingState, call: SandboxRequest, items: list[object] | None
) -> Reply:
    contacts = [as_object(item) for item in items or []]
    if items is None or None in contacts:
        raise rejection(422, {"contacts": ["must be an array of contacts"]})
    given = [contact for contact in contacts if contact is not None]
    for contact in given:
        check_contact(state, contact)
    saved = [save_contact(state, call, contact) for contact in given]
    return Reply.json(
        200,
        {
            "new_contacts": [contact for contact, new in saved if new],
            "existing_contacts": [contact for contact, new in saved if not new],
        },
    )


def check_contact(state: DigitalOnboardingState, contact: Row) -> None:
    """Raise RejectedError (422) if a field of *contact* has a wrong type or value."""
    keys = {str(objective["key"]) for objective in state.objectives}
    errors: dict[str, object] = {}
    for name, value in contact.items():
        complaint = _complaint(name, value, keys) if value is not None else None
        if complaint:
            errors[name] = [complaint]
    template = _template_of(contact)
    if template is not None and all(row["id"] != template for row in state.templates):
        errors["journey"] = ["template does not exist"]
    if errors:
        raise rejection(422, errors)


def _complaint(name: str, value: object, objectives: set[str]) -> str | None:
    if name in TEXTS:
        return None if isinstance(value, str) else "must be a string"
    if name in FLAGS:
        return None if isinstance(value, bool) else "must be a boolean"
    if name in {"meta_public", "journey"}:
        return None if as_object(value) is not None else "must be an object"
    if name in objectives:
        return None if _completes(value) else "must be a time or a word for done"
    return None


def _completes(value: object) -> bool:
    if str(value).lower() in DONE:
        return True
    try:
        datetime.fromisoformat(str(value))
    except ValueError:
        return False
    return True


def _template_of(contact: Row) -> object:
    nested = as_object(contact.get("journey")) or {}
    return nested.get("template_id", contact.get("journey.template_id"))


def save_contact(
    state: DigitalOnboardingState, call: SandboxRequest, given: Row
) -> tuple[Row, bool]:
    """Insert or update the contact *given*; return it, and whether it is new."""
    unique_id = str(given.get("unique_id") or given.get("email") or state.new_uuid())
    old, now = state.contacts.get(unique_id), stamp(call.time)
    born: Row = {**dict.fromkeys(TEXTS), **dict.fromkeys(FLAGS, False), "meta_public": {}}
    born |= {"id": state.new_uuid(), "inserted_at": now}
    fields = {k: v for k, v in given.items() if k not in READ_ONLY and not k.startswith("journey")}
    contact = {**(old or born), **fields, "unique_id": unique_id, "updated_at": now}
    state.contacts[unique_id] = contact
    for objective in state.objectives:
        if given.get(str(objective["key"])) is not None:
            done = state.completions.setdefault(unique_id, {})
            done[str(objective["key"])] = given[str(objective["key"])]
    _have_journey(state, unique_id, _template_of(given))
    return contact, old is None


def _have_journey(state: DigitalOnboardingState, unique_id: str, template: object) -> None:
    wanted = (unique_id, template)
    known = {(journey["unique_id"], journey["template_id"]) for journey in state.journeys.values()}
    if template is not None and wanted not in known:
        start_journey(state, unique_id, {"template_id": template})


def start_journey(state: DigitalOnboardingState, unique_id: str, fields: Row) -> Row:
    """Create a journey for the contact."""
    number, slug = state.new_uuid(), state.new_uuid()[:8]
    url = f"https://journeys.example.com/{slug}"
    journey: Row = {"id": number, "slug": slug, "web_client_url": url, "unique_id": unique_id}
    state.journeys[number] = journey | fields
    return journey


def _token_error(status: int, error: str) -> RejectedError:
    login = {"WWW-Authenticate": 'Basic realm="oauth2"'} if status == 401 else {}
    return RejectedError(Reply.json(status, {"error": error}, login))


def revoke_if_in_query(state: DigitalOnboardingState, call: SandboxRequest) -> None:
    """Revoke a client whose id and secret are in the query string of *call*."""
    client_id = call.query.get("client_id", "")
    if client_id in state.clients and "client_secret" in call.query:
        state.revoke_client(client_id)


def grant_token(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    """Return a token for a client with a valid secret."""
    fields = _token_fields(call)
    client_id, secret = _login(call, fields)
    if not client_id or state.clients.get(client_id) != secret:
        raise _token_error(401, "invalid_client")
    if fields.get("grant_type") != "client_credentials":
        raise _token_error(400, "unsupported_grant_type")
    body: dict[str, object] = {"access_token": state.grant(client_id, call.at)}
    if state.expires_in is not None:
        body["expires_in"] = state.expires_in
    return Reply.json(200, body | {"token_type": "bearer"}, {"Cache-Control": "no-store"})


def _token_fields(call: SandboxRequest) -> Mapping[str, object]:
    try:
        if call.media_type == "application/json":
            return as_object(call.json()) or {}
        if call.media_type == "application/x-www-form-urlencoded":
            return dict(parse_qsl(call.body.decode()))
    except ValueError:
        pass
    raise _token_error(400, "invalid_request")


def _login(call: SandboxRequest, fields: Mapping[str, object]) -> tuple[str, str]:
    scheme, _, encoded = call.headers.get("Authorization", "").partition(" ")
    in_body = str(fields.get("client_id", "")), str(fields.get("client_secret", ""))
    if scheme.lower() != "basic":
        return in_body
    if in_body[1]:
        raise _token_error(400, "invalid_request")
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


TOKEN_PATH = ("oauth2", "token")


def _start_journey(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    template = next((t for t in state.templates if t["id"] == call.ids[0]), None)
    if template is None:
        raise rejection(404, {"detail": "Not Found"})
    body = body_of(call)
    contact = as_object(body.get("contact"))
    if contact is None:
        raise rejection(422, {"contact": ["can't be blank"]})
    check_contact(state, contact)
    saved, _ = save_contact(state, call, contact)
    name = body.get("name") or template["name"]
    fields: Row = {"template_id": template["id"], "owner_id": body.get("owner_id"), "name": name}
    journey = start_journey(state, str(saved["unique_id"]), fields)
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
    Route("POST", "/oauth2/token", grant_token),
    Route("POST", "/v1/contacts", upsert),
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
        revoke_if_in_query(self.state, call)
        if call.segments == TOKEN_PATH:
            return ""
        scheme, _, token = call.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise RejectedError(Reply.json(401, {"error": "unauthorized"}))
        owner = self.state.owner(token, call.at)
        if owner is None:
            raise RejectedError(self._rejection())
        return owner

    def _rejection(self) -> Reply:
        if self.state.rejection == "header":
            return Reply(401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if self.state.rejection == "unreadable":
            return Reply(401, b"<html>Unauthorized</html>", {"Content-Type": "text/html"})
        return Reply.json(401, {"error": "invalid_token"})

    def new_limit(self, limit: float, period: float) -> ServerLimit:
        return TokenBucket(limit, period)

    def rate_limited(self, limit: ServerLimit, now: float) -> Reply:
        wait = max(1, math.ceil(limit.reset_after(now)))
        headers = {"Retry-After": str(wait)}
        return Reply.json(429, {"errors": {"detail": "Too Many Requests"}}, headers)

    def error(self, status: int, message: str) -> Reply:
        return Reply.json(status, {"errors": {"detail": message}})
