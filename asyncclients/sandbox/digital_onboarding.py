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

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any
from urllib.parse import parse_qsl

from .limits import TokenBucket
from .vendor import (
    RejectedError,
    Reply,
    Route,
    Row,
    SandboxRequest,
    Vendor,
    as_object,
    as_rows,
    complaints,
)

_OBJECTIVES = ("debit-card-activation", "direct-deposit", "online-banking", "estatements")
_TEXTS = """
    unique_id name_title name_first name_last name_suffix email phone_home phone_mobile phone_work
    address address2 city state county country post_code timezone
"""
_FLAGS = ("unsubscribe_email", "unsubscribe_sms")
_TYPES = {
    **dict.fromkeys(_TEXTS.split(), str),
    **dict.fromkeys(_FLAGS, bool),
    "meta_public": dict[str, Any],
    "journey": dict[str, Any],
}
_READ_ONLY = frozenset({"id", "inserted_at", "updated_at"})
_DONE = frozenset({"true", "t", "1", "y", "yes", "complete", "completed", "done"})


@dataclass(frozen=True, slots=True)
class Token:
    """An access token of a client, valid until `expires_at` of loop time."""

    client_id: str
    expires_at: float


class DigitalOnboarding(Vendor):
    """Digital Onboarding API v1, on one team.

    `clients` are secrets by client id; one that arrives in a query string moves to `revoked`
    permanently. A token is valid for `lifetime` seconds, independently of `expires_in`, the value
    in the response (None to omit it). `token_requests` counts the granted tokens.
    """

    name = "digital_onboarding"
    quota = (10, 1.0)
    limit_model = TokenBucket
    has_retry_after = True

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.clients: dict[str, str] = {}
        self.revoked: set[str] = set()
        self.tokens: dict[str, Token] = {}
        self.token_requests = 0
        self.lifetime = 3600.0
        self.expires_in: object = 3600
        self.contacts: dict[str, Row] = {}
        self.journeys: dict[str, Row] = {}
        self.templates: list[Row] = [
            {"id": self.new_uuid(), "name": name} for name in ("Welcome", "Mobile Banking")
        ]
        self.objectives: list[Row] = [
            {"id": self.new_uuid(), "key": key, "name": key.replace("-", " "), "team_id": None}
            for key in _OBJECTIVES
        ]

    def error(self, status: int, message: str) -> Reply:
        return Reply.json(status, {"errors": {"detail": message}})

    def _invalid(self, errors: Mapping[str, str]) -> RejectedError:
        """Return the 422 with *errors*, in the form of Phoenix."""
        listed = {name: [complaint] for name, complaint in errors.items()}
        return RejectedError(Reply.json(422, {"errors": listed}))

    # --- Tokens -----------------------------------------------------------------------

    def issue(self) -> dict[str, str]:
        client_id = f"{self.random.getrandbits(64):016x}"
        secret = self.clients[client_id] = f"{self.random.getrandbits(160):040x}"
        return {
            "DIGITAL_ONBOARDING_CLIENT_ID": client_id,
            "DIGITAL_ONBOARDING_CLIENT_SECRET": secret,
        }

    def credential(self, call: SandboxRequest) -> str:
        client_id = call.query.get("client_id", "")
        if client_id in self.clients and "client_secret" in call.query:
            self.revoke_client(client_id)
        if call.segments == ("oauth2", "token"):
            return ""
        scheme, token = call.authorization
        if scheme != "bearer":
            raise RejectedError(Reply.json(401, {"error": "unauthorized"}))
        held = self.tokens.get(token)
        if held is None or call.at >= held.expires_at:
            raise RejectedError(Reply.json(401, {"error": "invalid_token"}))
        return held.client_id

    def revoke_tokens(self) -> None:
        """Revoke all tokens, also for requests that are in flight."""
        self.tokens.clear()

    def revoke_client(self, client_id: str) -> None:
        """Revoke *client_id* with its secret and tokens."""
        self.clients.pop(client_id, None)
        self.revoked.add(client_id)
        self.tokens = {t: h for t, h in self.tokens.items() if h.client_id != client_id}

    @Route("POST", "/oauth2/token")
    def grant(self, call: SandboxRequest) -> Reply:
        fields: Mapping[str, object] | None = None
        if call.media_type == "application/json":
            fields = call.json_object()
        elif call.media_type == "application/x-www-form-urlencoded":
            fields = dict(parse_qsl(call.body.decode(errors="replace")))
        is_basic = call.authorization[0] == "basic"
        if fields is None or (is_basic and "client_secret" in fields):
            raise _token_error(400, "invalid_request")
        in_body = str(fields.get("client_id", "")), str(fields.get("client_secret", ""))
        client_id, secret = call.basic_login() if is_basic else in_body
        if not client_id or self.clients.get(client_id) != secret:
            raise _token_error(401, "invalid_client")
        if fields.get("grant_type") != "client_credentials":
            raise _token_error(400, "unsupported_grant_type")
        self.tokens = {t: held for t, held in self.tokens.items() if held.expires_at > call.at}
        token = f"{self.random.getrandbits(256):064x}"
        self.tokens[token] = Token(client_id, call.at + self.lifetime)
        self.token_requests += 1
        body: Row = {"access_token": token, "token_type": "bearer"}
        if self.expires_in is not None:
            body["expires_in"] = self.expires_in
        return Reply.json(200, body, {"Cache-Control": "no-store"})

    # --- Contacts ---------------------------------------------------------------------

    @Route("POST", "/v1/contacts")
    def upsert(self, call: SandboxRequest) -> Reply:
        """Store one contact, or a batch if the body has `contacts`."""
        body = self.body_of(call)
        if "contacts" not in body:
            self._check(body)
            contact, is_new = self._save(call, body)
            return Reply.json(201 if is_new else 200, contact)
        given = as_rows(body["contacts"])
        if given is None:
            raise self._invalid({"contacts": "must be an array of contacts"})
        for contact in given:
            self._check(contact)
        saved = [self._save(call, contact) for contact in given]
        lists = {
            "new_contacts": [contact for contact, is_new in saved if is_new],
            "existing_contacts": [contact for contact, is_new in saved if not is_new],
        }
        return Reply.json(200, lists)

    def _check(self, contact: Row) -> None:
        """Raise RejectedError (422) if a field of *contact* has a wrong type or value."""
        errors = complaints(contact, _TYPES)
        for key in [str(objective["key"]) for objective in self.objectives]:
            if not (contact.get(key) is None or _completes(contact[key])):
                errors[key] = "must be a time or a word for done"
        template = _template_of(contact)
        if template is not None and all(row["id"] != template for row in self.templates):
            errors["journey"] = "template does not exist"
        if errors:
            raise self._invalid(errors)

    def _save(self, call: SandboxRequest, given: Row) -> tuple[Row, bool]:
        """Insert or update the contact *given*; return it, and whether it is new."""
        unique_id = str(given.get("unique_id") or given.get("email") or self.new_uuid())
        old, now = self.contacts.get(unique_id), _stamp(call.time)
        born: Row = {**dict.fromkeys(_TEXTS.split()), **dict.fromkeys(_FLAGS, False)}
        born |= {"meta_public": {}, "id": self.new_uuid(), "inserted_at": now}
        fields = {
            k: v for k, v in given.items() if k not in _READ_ONLY and not k.startswith("journey")
        }
        contact = {**(old or born), **fields, "unique_id": unique_id, "updated_at": now}
        self.contacts[unique_id] = contact
        template = _template_of(given)
        known = {(each["unique_id"], each["template_id"]) for each in self.journeys.values()}
        if template is not None and (unique_id, template) not in known:
            self._start(unique_id, {"template_id": template})
        return contact, old is None

    # --- Journeys ---------------------------------------------------------------------

    @Route("POST", "/v1/templates/{template_id}/journeys")
    def start_journey(self, call: SandboxRequest) -> Reply:
        template = next((t for t in self.templates if t["id"] == call.ids[0]), None)
        if template is None:
            raise self.rejected(404, "Not Found")
        body = self.body_of(call)
        contact = as_object(body.get("contact"))
        if contact is None:
            raise self._invalid({"contact": "can't be blank"})
        self._check(contact)
        saved, _ = self._save(call, contact)
        name = body.get("name") or template["name"]
        fields: Row = {
            "template_id": template["id"],
            "owner_id": body.get("owner_id"),
            "name": name,
        }
        return Reply.json(201, self._start(str(saved["unique_id"]), fields))

    def _start(self, unique_id: str, fields: Row) -> Row:
        """Create a journey for the contact; return what the response has of it."""
        number, slug = self.new_uuid(), self.new_uuid()[:8]
        url = f"https://journeys.example.com/{slug}"
        shown: Row = {"id": number, "slug": slug, "web_client_url": url}
        self.journeys[number] = {**shown, "unique_id": unique_id, **fields}
        return shown

    @Route("GET", "/v1/templates")
    def list_templates(self, _call: SandboxRequest) -> Reply:
        return Reply.json(200, {"templates": self.templates})

    @Route("GET", "/v1/objectives")
    def list_objectives(self, _call: SandboxRequest) -> Reply:
        return Reply.json(200, {"objectives": self.objectives})


def _token_error(status: int, error: str) -> RejectedError:
    login = {"WWW-Authenticate": 'Basic realm="oauth2"'} if status == 401 else {}
    return RejectedError(Reply.json(status, {"error": error}, login))


def _completes(value: object) -> bool:
    if str(value).lower() in _DONE:
        return True
    try:
        datetime.fromisoformat(str(value))
    except ValueError:
        return False
    return True


def _template_of(contact: Row) -> object:
    nested = as_object(contact.get("journey")) or {}
    return nested.get("template_id", contact.get("journey.template_id"))


def _stamp(time: datetime) -> str:
    return f"{time.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
