"""The data types of Intouch, under the vendor's field names.

Manual: https://docs.api.intouchinsight.com. Objects whose fields the manual does not show
(`location`, `attributes`, `tags`, `contact_lists`, `meta`) are free-form. Ids are text: the
manual specifies version 4 UUIDs, but all its samples are version 1.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from asyncclients.core.codec import JsonObject, PhpObject, empty_array_as_object
from asyncclients.core.constraints import Constraint, choice, text
from asyncclients.core.endpoint import Body, Fields

T = TypeVar("T")

Order = Literal["asc", "desc"]

# The constraints of the manual. It treats an empty text in a field that may be null as null.
_LANGUAGES = """
    en sq eu_ES bn_BD bg ca_ES zh-Hant zh-Hans hr_HR cs_CZ da_DK nl_NL en_US et_EE fi_FI
    fr_CA fr_FR de_DE el_GR hi_IN hu_HU is_IS id_ID it_IT ja_JP ko_KR lv_LV lt_LT ms_MY
    no_NO pl_PL pt pt_BR pt_PT pa_IN ro_RO ru_RU sr_RS sk_SK sl_SI es es_ES es_US sw
    sv_SE tl_PH th_TH tr_TR uk_UA vi_VN
"""
_Name = Annotated[str, text(255, "required string <= 255 characters", least=1)]
_PersonName = Annotated[str, text(100, "string or null <= 100 characters")]
_ClientCode = Annotated[
    str,
    Constraint(
        "at most 255 letters, digits, dashes and underscores",
        "string or null <alpha_dash> <= 255 characters",
        # Letters outside ASCII may need combining marks, which `\w` does not match.
        Annotated[str, Meta(max_length=255, pattern=r"\A(?:[\w-]|[^\x00-\x7f])*\Z")],
    ),
]
_NodeType = Annotated[
    Literal["location", "generic"], choice(("location", "generic"), 'Enum: "location" "generic"')
]
_Parent = Annotated[
    str,
    Constraint(
        "a UUID of 36 characters",
        "string = 36 characters",
        Annotated[str, Meta(min_length=36, max_length=36)],
    ),
]
# Intouch itself decides which addresses are "sendable", when it saves the contact.
_Email = Annotated[str, text(255, "required string <= 255 characters", least=1)]
_Phone = Annotated[
    str,
    Constraint(
        "exactly 10 digits",
        "string or null = 10 characters, [...] validated to 10 digits",
        Annotated[str, Meta(pattern=r"\A(?:[0-9]{10})?\Z")],
    ),
]
_Language = Annotated[
    str,
    choice(
        ("", *_LANGUAGES.split()),
        "language code, which must be one of the following [...]",
        "one of the manual's 50 language codes, such as en_US",
    ),
]
_CustomFields = Annotated[
    dict[str, Any],
    Constraint(
        "an object whose values are texts, whole numbers or dates (YYYY-MM-DD)",
        "date -> YYYY-MM-DD date formatted values, number -> integer values, string -> string "
        "values",
        dict[str, str | int | None],
    ),
]
_Page = Annotated[
    int, Constraint("a number of at least 1", "integer >= 1", Annotated[int, Meta(ge=1)])
]
_Limit = Annotated[
    int,
    Constraint("a number from 1 to 25", "integer [ 1 .. 25 ]", Annotated[int, Meta(ge=1, le=25)]),
]
_Order = Annotated[Order, choice(("asc", "desc"), 'Enum: "asc" "desc"')]
_CONTACT_FIELDS = "email first_name last_name phone_number language status created_at updated_at"
_SORTED = "Not all properties can be sorted, each [endpoint] will define what type"


class ListQuery(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Query of any list."""

    sort_by: str | None = None
    order: _Order | None = None
    search: str | None = None
    page: _Page | None = None
    limit: _Limit | None = None


class TagQuery(ListQuery, frozen=True, kw_only=True, omit_defaults=True):
    """Query of `tags.list`."""

    sort_by: Annotated[str, choice(("name", "created_at", "updated_at"), _SORTED)] | None = None


class HierarchyQuery(ListQuery, frozen=True, kw_only=True, omit_defaults=True):
    """Query of `hierarchies.list`."""

    sort_by: (
        Annotated[str, choice(("name", "created_at", "updated_at", "client_code"), _SORTED)] | None
    ) = None


class ContactQuery(ListQuery, frozen=True, kw_only=True, omit_defaults=True):
    """Query of `contacts.list`."""

    sort_by: Annotated[str, choice(tuple(_CONTACT_FIELDS.split()), _SORTED)] | None = None


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


class NewTag(Body, frozen=True, kw_only=True):
    """Body of a tag; `name` has at most 255 characters."""

    name: _Name


class NewHierarchy(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """A node to create, below `parent_uuid`.

    Attributes:
        type: `location` nodes have an address, `generic` nodes do not.
        client_code: your own id, at most 255 letters, digits, dashes and underscores; generated
            by the vendor if omitted.
        location: address data of a `location` node.
    """

    name: _Name
    type: _NodeType
    parent_uuid: _Parent
    client_code: _ClientCode | None | UnsetType = UNSET
    location: dict[str, Any] | None | UnsetType = UNSET
    attributes: list[dict[str, Any]] | None | UnsetType = UNSET
    tags: list[dict[str, Any]] | None | UnsetType = UNSET


class HierarchyUpdate(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of a node to change; omitted fields are not sent. `parent_uuid` moves the node."""

    name: _Name | UnsetType = UNSET
    type: _NodeType | UnsetType = UNSET
    parent_uuid: _Parent | UnsetType = UNSET
    client_code: _ClientCode | None | UnsetType = UNSET
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
    location: PhpObject | None = None
    attributes: list[Any] | None = None
    tags: list[Any] | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    __post_init__ = empty_array_as_object("location")  # type: ignore[misc]  # no `def`


class NewContact(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """A contact to create.

    Attributes:
        email: at most 255 characters, deliverable, unique among active contacts.
        phone_number: exactly 10 digits.
        language: one of the 50 codes in the manual.
        contact_lists: lists to add it to, free-form objects.
        custom_fields: "Field Column Name" -> date (YYYY-MM-DD), integer or text.
    """

    email: _Email
    first_name: _PersonName | None | UnsetType = UNSET
    last_name: _PersonName | None | UnsetType = UNSET
    phone_number: _Phone | None | UnsetType = UNSET
    language: _Language | None | UnsetType = UNSET
    contact_lists: list[dict[str, Any]] | None | UnsetType = UNSET
    custom_fields: _CustomFields | None | UnsetType = UNSET


class ContactUpdate(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of a contact to change; omitted fields are not sent."""

    email: _Email | UnsetType = UNSET
    first_name: _PersonName | None | UnsetType = UNSET
    last_name: _PersonName | None | UnsetType = UNSET
    phone_number: _Phone | None | UnsetType = UNSET
    language: _Language | None | UnsetType = UNSET
    contact_lists: list[dict[str, Any]] | None | UnsetType = UNSET
    custom_fields: _CustomFields | None | UnsetType = UNSET


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
    custom_fields: PhpObject | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    __post_init__ = empty_array_as_object("custom_fields")  # type: ignore[misc]  # no `def`


class NewRecord(Body, frozen=True, kw_only=True, omit_defaults=True):
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
