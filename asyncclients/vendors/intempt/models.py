"""The data types of Intempt, under the vendor's field names in snake_case.

Manual: https://dev.intempt.com. Ids are 64-bit numbers in some responses and text in others;
here they are text, with every digit. Lists are HAL
(https://datatracker.ietf.org/doc/html/draft-kelly-json-hal): in `_embedded`, which is absent
if the list is empty. Links are never followed: even the manual's samples point to other hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Self, TypeVar, cast

import msgspec

from asyncclients.core.codec import ExactId, JsonObject, decode, from_reply, json_object
from asyncclients.core.endpoint import Response
from asyncclients.errors import DecodeError

T = TypeVar("T")

_AROUND_A_LIST = frozenset({"_links", "page"})
"""Fields that HAL puts beside `_embedded`: an empty list may have only these."""


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The description of the service at the API's root."""

    service: str | None = None
    version: str | None = None
    status: str | None = None


class DataItem(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A row of a collection: `data` has its fields, `id` is assigned by Intempt."""

    id: ExactId
    coll_id: ExactId | None = None
    data: JsonObject = msgspec.field(default_factory=JsonObject)
    matches: list[Any] = msgspec.field(default_factory=list[Any])


class EventMatches(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """The events that a user matched."""

    master_id: ExactId | None = None
    profile_ids: list[ExactId] = msgspec.field(default_factory=list[ExactId])
    matched_events: list[str] = msgspec.field(default_factory=list[str])
    last_updated: datetime | None = None


class Segmentation(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A segmentation of a user at one time."""

    id: ExactId
    master_id: ExactId | None = None
    profile_ids: list[ExactId] = msgspec.field(default_factory=list[ExactId])
    created: datetime | None = None


class WireList(list[T]):
    """A list of the type `form`, from any of its wire forms."""

    form: ClassVar[Any]

    @classmethod
    def from_wire(cls, value: Any) -> Self:
        """Return the items in *value*."""
        return cls(from_reply(listed(value), cls.form))


class DataItemList(WireList[DataItem]):
    """A list of rows."""

    form = list[DataItem]
    wire_fields = frozenset({"id", "data", "_embedded"})


class OneDataItem(DataItemList):
    """A list of exactly one row: the manual describes an array but shows an object."""

    @classmethod
    def from_wire(cls, value: Any) -> Self:
        """Return the row in *value*."""
        items = super().from_wire(value)
        if len(items) != 1:
            raise ValueError(f"expected one item, got {len(items)}")
        return items


class SegmentationList(WireList[Segmentation]):
    """A list of segmentations."""

    form = list[Segmentation]


def listed(value: Any) -> list[Any]:
    """Return the items in *value*: a HAL list of any name, a bare array, or one object.

    Raises:
        ValueError: *value* is none of these.
    """
    if isinstance(value, list):
        return [*cast("Sequence[Any]", value)]
    if not isinstance(value, dict):
        raise ValueError(f"expected a list, got {type(value).__name__}")
    fields = cast("dict[str, Any]", value)
    if "_embedded" in fields:
        return _only_list(fields["_embedded"])
    if "id" in fields:
        return [fields]
    if fields.keys() <= _AROUND_A_LIST:
        return []
    raise ValueError("expected a list, got an object of another kind")


def _only_list(embedded: Any) -> list[Any]:
    groups = [*json_object({} if embedded is None else embedded).values()]
    if len(groups) > 1:
        raise ValueError("expected one list under _embedded")
    items: list[Any] = from_reply(groups[0] or [], list[Any]) if groups else []
    return items


def readable_items(reply: Response | None) -> DataItemList:
    """Return the rows in *reply*; none if it has another body or none.

    For inserts and deletions: the manual does not describe their responses, so their success
    depends on the status alone.
    """
    if reply is None:
        return DataItemList()
    try:
        items: DataItemList = decode(reply.body, DataItemList)
    except DecodeError:
        return DataItemList()
    return items
