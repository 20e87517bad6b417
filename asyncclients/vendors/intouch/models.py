"""What Intouch sends and takes, field for field, under the vendor's names.

Manual: https://docs.api.intouchinsight.com. Objects whose fields the manual
does not show (`location`, `attributes`, `tags`, `contact_lists`, `meta`) are free-form.
Ids are text: the manual says version 4 UUIDs, and all its samples are version 1.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from asyncclients.core.codec import JsonObject

T = TypeVar("T")

Order = Literal["asc", "desc"]


class Envelope(msgspec.Struct, Generic[T], frozen=True, kw_only=True, gc=False):
    """One page, as the vendor wraps it ("Pagination" in the manual).

    Only the fields that are needed to read the list; `total` only informs, so it may be anything.
    """

    data: list[T]
    current_page: int
    last_page: int
    total: Any = None


class Tag(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A label that can be put on data and on hierarchies."""

    uuid: str
    name: str
    created_at: datetime | None = None
    updated_at: datetime | None = None


class NewTag(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a tag: *name* of at most 255 characters."""

    name: str


class NewHierarchy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node to create.

    Attributes:
        name: at most 255 characters.
        type: `location` nodes have an address, `generic` ones do not.
        parent_uuid: the node above it.
        client_code: your own id: letters, digits, dashes and underscores, at
            most 255; made by the vendor when left out.
        location: address data of a `location` node.
        attributes: free-form objects.
        tags: free-form objects.
    """

    name: str
    type: Literal["location", "generic"]
    parent_uuid: str
    client_code: str | None | UnsetType = UNSET
    location: dict[str, Any] | None | UnsetType = UNSET
    attributes: list[dict[str, Any]] | None | UnsetType = UNSET
    tags: list[dict[str, Any]] | None | UnsetType = UNSET


class HierarchyUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of a node to change; the manual shows no body, so what is left out stays out.

    A node is moved by giving it another `parent_uuid`.
    """

    name: str | UnsetType = UNSET
    type: Literal["location", "generic"] | UnsetType = UNSET
    parent_uuid: str | UnsetType = UNSET
    client_code: str | None | UnsetType = UNSET
    location: dict[str, Any] | None | UnsetType = UNSET
    attributes: list[dict[str, Any]] | None | UnsetType = UNSET
    tags: list[dict[str, Any]] | None | UnsetType = UNSET


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node of the tree of locations. `type` is an open word on the way in."""

    uuid: str
    name: str
    type: str
    parent_uuid: str | None = None
    client_code: str | None = None
    location: JsonObject | None = None
    attributes: list[Any] | None = None
    tags: list[Any] | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class NewContact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A contact to create.

    Attributes:
        email: at most 255 characters, unique among active contacts, and
            checked by the vendor to be sendable.
        first_name: at most 100 characters.
        last_name: at most 100 characters.
        phone_number: exactly 10 digits.
        language: one of the 50 codes in the manual.
        contact_lists: lists to put it on, free-form objects.
        custom_fields: "Field Column Name" -> date (YYYY-MM-DD), integer or text.
    """

    email: str
    first_name: str | None | UnsetType = UNSET
    last_name: str | None | UnsetType = UNSET
    phone_number: str | None | UnsetType = UNSET
    language: str | None | UnsetType = UNSET
    contact_lists: list[dict[str, Any]] | None | UnsetType = UNSET
    custom_fields: dict[str, Any] | None | UnsetType = UNSET


class ContactUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of a contact to change; what is left out stays out of the body."""

    email: str | UnsetType = UNSET
    first_name: str | None | UnsetType = UNSET
    last_name: str | None | UnsetType = UNSET
    phone_number: str | None | UnsetType = UNSET
    language: str | None | UnsetType = UNSET
    contact_lists: list[dict[str, Any]] | None | UnsetType = UNSET
    custom_fields: dict[str, Any] | None | UnsetType = UNSET


class Contact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A contact. `status` is an open word, such as `subscribed`."""

    uuid: str
    email: str
    first_name: str | None = None
    last_name: str | None = None
    phone_number: str | None = None
    language: str | None = None
    status: str | None = None
    deliverable: bool | None = None
    contact_lists: list[Any] | None = None
    custom_fields: JsonObject | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class NewRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a record; the keys of `data` are the program's own."""

    data: dict[str, Any]
    meta: dict[str, Any] | UnsetType = UNSET


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record of an external program, and what the vendor notes about it.

    The manual calls `meta` and `data` objects and shows lists, so each is either; an empty
    list is an empty object.
    """

    meta: Any = msgspec.field(default_factory=JsonObject)
    data: Any = msgspec.field(default_factory=JsonObject)

    def __post_init__(self) -> None:
        for name in ("meta", "data"):
            if not getattr(self, name):
                msgspec.structs.force_setattr(self, name, {})
