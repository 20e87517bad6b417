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

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import parse_qsl

from .limits import TokenBucket
from .vendor import RejectedError, Reply, Route, Row, SandboxRequest, Vendor, as_array, as_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

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


_TEXTS = """
    unique_id name_title name_first name_last name_suffix email phone_home phone_mobile phone_work
    address address2 city state county country post_code timezone
"""
TEXTS = frozenset(_TEXTS.split())
FLAGS = frozenset({"unsubscribe_email", "unsubscribe_sms"})
READ_ONLY = frozenset({"id", "inserted_at", "updated_at"})
DONE = frozenset({"true", "t", "1", "y", "yes", "complete", "completed", "done"})


def rejection(status: int, errors: Mapping[str, object]) -> RejectedError:
    """Return an error response in the form of Phoenix."""
    return RejectedError(Reply.json(status, {"errors": dict(errors)}))


def body_of(call: SandboxRequest) -> Row:
    """Return the JSON object in the body; raises RejectedError (400) if there is none."""
    body = call.json_object() if call.media_type == "application/json" else None
    if body is None:
        raise rejection(400, {"detail": "Bad Request"})
    return body


def upsert(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    """Store one contact, or a batch if the body has `contacts`."""
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
    new_contacts = [contact for contact, new in saved if new]
    existing_contacts = [contact for contact, new in saved if not new]
    return Reply.json(200, {"new_contacts": new_contacts, "existing_contacts": existing_contacts})


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
    fields: Mapping[str, object] | None = None
    if call.media_type == "application/json":
        fields = call.json_object()
    elif call.media_type == "application/x-www-form-urlencoded":
        fields = dict(parse_qsl(call.body.decode(errors="replace")))
    if fields is None:
        raise _token_error(400, "invalid_request")
    return fields


def _login(call: SandboxRequest, fields: Mapping[str, object]) -> tuple[str, str]:
    scheme = call.headers.get("Authorization", "").partition(" ")[0]
    in_body = str(fields.get("client_id", "")), str(fields.get("client_secret", ""))
    if scheme.lower() != "basic":
        return in_body
    if in_body[1]:
        raise _token_error(400, "invalid_request")
    return call.basic_login()


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


ROUTES: list[Route[DigitalOnboardingState]] = [
    Route("POST", "/oauth2/token", grant_token),
    Route("POST", "/v1/contacts", upsert),
    Route("POST", "/v1/templates/{template_id}/journeys", _start_journey),
    Route("GET", "/v1/templates", lambda state, _: _listed(state, "templates", state.templates)),
    Route("GET", "/v1/objectives", lambda state, _: _listed(state, "objectives", state.objectives)),
]


class DigitalOnboarding(Vendor[DigitalOnboardingState]):
    """Digital Onboarding API v1, 6 operations."""

    name = "digital_onboarding"
    quota = (10, 1.0)
    limit_model = TokenBucket
    over_limit = rejection(429, {"detail": "Too Many Requests"}).reply
    has_retry_after = True

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

    def error(self, status: int, message: str) -> Reply:
        return rejection(status, {"detail": message}).reply
