"""Contacts: inserted or updated by `unique_id`, one or a batch in one call.

`unique_id` defaults to `email`; without both the server makes one up, so a
repeat makes a second contact. A top-level key that is an objective's completes
it. Other unknown keys are kept. A batch with a bad contact is refused whole.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import RefusedError, Reply, SandboxRequest, as_array, as_object

from .state import DigitalOnboardingState, Row, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def refused(status: int, errors: Mapping[str, object]) -> RefusedError:
    """A no in the form of Phoenix."""
    return RefusedError(Reply.json(status, {"errors": dict(errors)}))


def body_of(call: SandboxRequest) -> Row:
    """The JSON object in the body; RefusedError 400 when there is none."""
    try:
        body = as_object(call.json()) if call.media_type == "application/json" else None
    except ValueError:
        body = None
    if body is None:
        raise refused(400, {"detail": "Bad Request"})
    return body


def upsert(state: DigitalOnboardingState, call: SandboxRequest) -> Reply:
    """One contact, or a batch when the body has `contacts`."""
    body = body_of(call)
    if "contacts" in body:
        return _upsert_many(state, call, as_array(body["contacts"]))
    check(state, body)
    contact, new = save(state, call, body)
    return Reply.json(201 if new else 200, contact)


def _upsert_many(
    state: DigitalOnboardingState, call: SandboxRequest, items: list[object] | None
) -> Reply:
    contacts = [as_object(item) for item in items or []]
    if items is None or None in contacts:
        raise refused(422, {"contacts": ["must be an array of contacts"]})
    given = [contact for contact in contacts if contact is not None]
    for contact in given:
        check(state, contact)
    saved = [save(state, call, contact) for contact in given]
    return Reply.json(
        200,
        {
            "new_contacts": [contact for contact, new in saved if new],
            "existing_contacts": [contact for contact, new in saved if not new],
        },
    )


def check(state: DigitalOnboardingState, contact: Row) -> None:
    """RefusedError 422 when a field of *contact* has a wrong type or value."""
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
        raise refused(422, errors)


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


def save(state: DigitalOnboardingState, call: SandboxRequest, given: Row) -> tuple[Row, bool]:
    """Insert or update the contact *given*; the contact, and whether it is new."""
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
    """A journey for the contact, kept under its slug."""
    number, slug = state.new_uuid(), state.new_uuid()[:8]
    url = f"https://journeys.example.com/{slug}"
    journey: Row = {"id": number, "slug": slug, "web_client_url": url, "unique_id": unique_id}
    state.journeys[number] = journey | fields
    return journey
