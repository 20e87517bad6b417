"""The endpoint table of Intouch.

Manual: https://docs.api.intouchinsight.com. The manual prints few paths and
methods; those it leaves out are marked `documented=False` and follow the pattern
of those it prints.
"""

from __future__ import annotations

from types import NoneType

from asyncclients.core.endpoint import Endpoint
from asyncclients.vendors.intouch.models import Contact, Envelope, Hierarchy, Record, Tag

_DUPLICATE = "a second request creates a duplicate"
_KEYED = "email is unique, so a second request fails with 422, although the first succeeded"
_STATE = "sets the same state"


LIST_TAGS = Endpoint("tags.list", "GET", "tags", Envelope[Tag], idempotent=True)
CREATE_TAG = Endpoint(
    "tags.create",
    "POST",
    "tags",
    Tag,
    idempotent=False,
    idempotency_note=_DUPLICATE,
    documented=False,
)
GET_TAG = Endpoint("tags.get", "GET", "tags/{uuid}", Tag, idempotent=True, documented=False)
UPDATE_TAG = Endpoint("tags.update", "PUT", "tags/{uuid}", Tag, idempotent=True, documented=False)
DELETE_TAG = Endpoint(
    "tags.delete", "DELETE", "tags/{uuid}", NoneType, idempotent=True, documented=False
)

LIST_HIERARCHIES = Endpoint(
    "hierarchies.list", "GET", "hierarchies", Envelope[Hierarchy], idempotent=True
)
CREATE_HIERARCHY = Endpoint(
    "hierarchies.create",
    "POST",
    "hierarchies",
    Hierarchy,
    idempotent=False,
    idempotency_note=_DUPLICATE,
    documented=False,
)
GET_HIERARCHY = Endpoint(
    "hierarchies.get", "GET", "hierarchies/{uuid}", Hierarchy, idempotent=True, documented=False
)
UPDATE_HIERARCHY = Endpoint(
    "hierarchies.update", "PUT", "hierarchies/{uuid}", Hierarchy, idempotent=True, documented=False
)
DELETE_HIERARCHY = Endpoint(
    "hierarchies.delete",
    "DELETE",
    "hierarchies/{uuid}",
    NoneType,
    idempotent=True,
    documented=False,
)

LIST_CONTACTS = Endpoint(
    "contacts.list", "GET", "contacts", Envelope[Contact], idempotent=True, documented=False
)
CREATE_CONTACT = Endpoint(
    "contacts.create",
    "POST",
    "contacts",
    Contact,
    idempotent=False,
    idempotency_note=_KEYED,
    documented=False,
)
GET_CONTACT = Endpoint(
    "contacts.get", "GET", "contacts/{uuid}", Contact, idempotent=True, documented=False
)
UPDATE_CONTACT = Endpoint(
    "contacts.update", "PUT", "contacts/{uuid}", Contact, idempotent=True, documented=False
)
DELETE_CONTACT = Endpoint(
    "contacts.delete", "DELETE", "contacts/{uuid}", NoneType, idempotent=True, documented=False
)
SUBSCRIBE_CONTACT = Endpoint(
    "contacts.subscribe",
    "PUT",
    "contacts/{uuid}/subscribe",
    Contact,
    idempotent=True,
    idempotency_note=_STATE,
    documented=False,
)
UNSUBSCRIBE_CONTACT = Endpoint(
    "contacts.unsubscribe",
    "PUT",
    "contacts/{uuid}/unsubscribe",
    Contact,
    idempotent=True,
    idempotency_note=_STATE,
    documented=False,
)

ADD_RECORD = Endpoint(
    "external_programs.add_record",
    "POST",
    "external-programs/{program_uuid}/records",
    Record,
    idempotent=False,
    idempotency_note=_DUPLICATE,
)
UPDATE_RECORD = Endpoint(
    "external_programs.update_record",
    "PUT",
    "external-programs/{program_uuid}/records/{document_id}",
    Record,
    idempotent=True,
    documented=False,
)
