"""The data types of Intouch, under the vendor's field names.

Manual: https://docs.api.intouchinsight.com. Objects whose fields the manual does not show
(`location`, `attributes`, `tags`, `contact_lists`, `meta`) are free-form. Ids are text: the
manual specifies version 4 UUIDs, but all its samples are version 1.
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
    """The envelope of a page ("Pagination" in the manual), without the fields that we do not need.

    `total` may have any type: it is only informative.
    """

    data: list[T]
    current_page: int
    last_page: int
    total: Any = None


class Tag(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A label for data and hierarchies."""

    uuid: str
    name: str
    created_at: datetime | None = None
    updated_at: datetime | None = None


class NewTag(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a tag; `name` has at most 255 characters."""

    name: str


class NewHierarchy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node to create.

    Attributes:
        name: at most 255 characters.
        type: `location` nodes have an address, `generic` nodes do not.
        parent_uuid: the parent node.
        client_code: your own id, at most 255 letters, digits, dashes and underscores; generated
            by the vendor if omitted.
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
    """Fields of a node to change; omitted fields are not sent. `parent_uuid` moves the node."""

    name: str | UnsetType = UNSET
    type: Literal["location", "generic"] | UnsetType = UNSET
    parent_uuid: str | UnsetType = UNSET
    client_code: str | None | UnsetType = UNSET
    location: dict[str, Any] | None | UnsetType = UNSET
    attributes: list[dict[str, Any]] | None | UnsetType = UNSET
    tags: list[dict[str, Any]] | None | UnsetType = UNSET


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node of the tree of locations; a response may have any `type`."""

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
        email: at most 255 characters, deliverable, unique among active contacts.
        first_name: at most 100 characters.
        last_name: at most 100 characters.
        phone_number: exactly 10 digits.
        language: one of the 50 codes in the manual.
        contact_lists: lists to add it to, free-form objects.
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
    """Fields of a contact to change; omitted fields are not sent."""

    email: str | UnsetType = UNSET
    first_name: str | None | UnsetType = UNSET
    last_name: str | None | UnsetType = UNSET
    phone_number: str | None | UnsetType = UNSET
    language: str | None | UnsetType = UNSET
    contact_lists: list[dict[str, Any]] | None | UnsetType = UNSET
    custom_fields: dict[str, Any] | None | UnsetType = UNSET


class Contact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A contact; `status` is any text, such as `subscribed`."""

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
    """Body of a record; the keys of `data` are the program's field names."""

    data: dict[str, Any]
    meta: dict[str, Any] | UnsetType = UNSET


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record of an external program, with the vendor's metadata.

    The manual describes `meta` and `data` as objects but shows lists: both are accepted, and
    an empty list is read as an empty object.
    """

    meta: Any = msgspec.field(default_factory=JsonObject)
    data: Any = msgspec.field(default_factory=JsonObject)

    def __post_init__(self) -> None:
        for name in ("meta", "data"):
            if not getattr(self, name):
                msgspec.structs.force_setattr(self, name, {})
