"""The data types of Digital Onboarding, under the vendor's field names.

Manual: https://docs.digitalonboarding.com/docs/api. A contact is an open object: it may have
custom keys, and keys that complete an objective, such as `debit-card-activation`. These are
in `extra` here and top-level keys on the wire.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from asyncclients.core.codec import ExactId, JsonObject, from_reply, json_object, to_plain
from asyncclients.core.endpoint import Body, Fields

Text = str | None | UnsetType


class NewContact(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """A contact to create or update. Omitted fields are not changed; None may clear a field.

    Attributes:
        unique_id: your own id of the contact, by default `email`. Without both, the vendor
            generates an id, and each call creates a new contact.
        meta_public: data for personalization. It is readable in the source of a journey's page,
            so it must not be confidential.
        journey_template_id: starts or updates a journey from this template.
        extra: further top-level keys. The key of an objective completes it at a time (ISO 8601)
            or, with `True` or `"done"`, at the time of the call:
            https://docs.digitalonboarding.com/docs/completing-objectives

    Raises:
        ValueError: *extra* has the key of a field, or of a batch.
    """

    unique_id: Text = UNSET
    name_title: Text = UNSET
    name_first: Text = UNSET
    name_last: Text = UNSET
    name_suffix: Text = UNSET
    address: Text = UNSET
    address2: Text = UNSET
    city: Text = UNSET
    state: Text = UNSET
    county: Text = UNSET
    country: Text = UNSET
    post_code: Text = UNSET
    timezone: Text = UNSET
    email: Text = UNSET
    phone_home: Text = UNSET
    phone_mobile: Text = UNSET
    phone_work: Text = UNSET
    unsubscribe_email: bool | None | UnsetType = UNSET
    unsubscribe_sms: bool | None | UnsetType = UNSET
    meta_public: dict[str, Any] | None | UnsetType = UNSET
    journey_template_id: str | UnsetType = UNSET
    extra: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        # The type of `extra` is checked when it is sent.
        extra: Any = self.extra
        if isinstance(extra, dict) and (taken := sorted(_NOT_EXTRA & extra.keys())):
            raise ValueError(f"extra must not hold {', '.join(taken)}: use the field of that name")

    @property
    def key(self) -> str | None:
        """Return the id by which the vendor finds the contact; None if it generates one."""
        return self.unique_id or self.email or None

    def to_wire(self) -> dict[str, Any]:
        """Return the contact as sent."""
        fields: dict[str, Any] = to_plain(self)
        extra, template = fields.pop("extra", {}), fields.pop("journey_template_id", None)
        if template is not None:
            fields["journey"] = {"template_id": template}
        fields.update(extra)
        return fields


class Contact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A contact; `extra` has the keys that are not fields."""

    id: ExactId | None = None
    unique_id: ExactId | None = None
    name_title: str | None = None
    name_first: str | None = None
    name_last: str | None = None
    name_suffix: str | None = None
    address: str | None = None
    address2: str | None = None
    city: str | None = None
    state: str | None = None
    county: str | None = None
    country: str | None = None
    post_code: str | None = None
    timezone: str | None = None
    email: str | None = None
    phone_home: str | None = None
    phone_mobile: str | None = None
    phone_work: str | None = None
    unsubscribe_email: bool | None = None
    unsubscribe_sms: bool | None = None
    meta_public: JsonObject | None = None
    journey_template_id: ExactId | None = None
    inserted_at: datetime | None = None
    updated_at: datetime | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class BatchResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The result of a batch.

    The manual shows no errors of single contacts, so a failed contact is only recognizable
    by its absence: see `unacknowledged`. `extra` has all other fields of the response, such
    as `errors`.
    """

    new_contacts: list[Contact]
    existing_contacts: list[Contact]
    extra: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def unacknowledged(self, sent: list[NewContact]) -> list[NewContact]:
        """Return the contacts in *sent* whose `unique_id` or `email` is not in the response.

        Contacts with neither cannot be compared and are not included.
        """
        received: set[str | None] = set()
        for contact in (*self.new_contacts, *self.existing_contacts):
            received |= {contact.unique_id, contact.email}
        return [contact for contact in sent if contact.key and contact.key not in received]


class Journey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A journey that was started; `web_client_url` is its address for the contact."""

    id: ExactId
    slug: str | None = None
    web_client_url: str | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A template of journeys."""

    id: ExactId
    name: str | None = None


class Objective(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An objective for contacts; `team_id` is None if it belongs to all teams."""

    key: str
    id: ExactId | None = None
    name: str | None = None
    team_id: ExactId | None = None


_READ_ONLY = {"id", "inserted_at", "updated_at"}
_NOT_EXTRA = {*NewContact.__struct_fields__, *_READ_ONLY, "journey", "contacts"}
_FIELDS = {*Contact.__struct_fields__} - {"extra", "journey_template_id"}


class NewContacts(Body, frozen=True, kw_only=True):
    """Body of a batch."""

    contacts: list[NewContact]

    def to_wire(self) -> dict[str, Any]:
        """Return the batch as sent."""
        return {"contacts": [contact.to_wire() for contact in self.contacts]}


class NewJourney(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a journey; the path has its template."""

    contact: NewContact
    owner_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET

    def to_wire(self) -> dict[str, Any]:
        """Return the journey as sent."""
        return {**to_plain(self), "contact": self.contact.to_wire()}


def read_contact(value: Any) -> Contact:
    """Return the contact in *value*, with unknown keys in `extra`."""
    given = json_object(value)
    fields = {name: given.pop(name) for name in _FIELDS & given.keys()}
    journey = given.get("journey")
    if isinstance(journey, dict) and journey.keys() == {"template_id"}:
        fields["journey_template_id"] = given.pop("journey")["template_id"]
    contact: Contact = from_reply(fields | {"extra": given}, Contact)
    return contact


def read_batch(value: Any) -> BatchResult:
    """Return the result of a batch in *value*; one of its two lists may be missing."""
    fields = json_object(value)
    if not fields.keys() & {"new_contacts", "existing_contacts"}:
        raise ValueError("expected new_contacts and existing_contacts")
    new, existing = (
        [read_contact(each) for each in from_reply(fields.pop(name, None) or [], list[Any])]
        for name in ("new_contacts", "existing_contacts")
    )
    return BatchResult(new_contacts=new, existing_contacts=existing, extra=fields)


def read_templates(value: Any) -> list[Template]:
    """Return the templates in *value*."""
    templates: list[Template] = from_reply(_listed(value, "templates"), list[Template])
    return templates


def read_objectives(value: Any) -> list[Objective]:
    """Return the objectives in *value*."""
    objectives: list[Objective] = from_reply(_listed(value, "objectives"), list[Objective])
    return objectives


def _listed(value: Any, name: str) -> Any:
    """Return the list in *value*: in an object under *name* as in the manual, or a bare array."""
    if not isinstance(value, dict):
        return value
    if name not in value:
        raise ValueError(f"expected {name}")
    return cast("dict[str, Any]", value)[name] or []
