"""The data types of Intempt, under the vendor's field names in snake_case.

Manual: https://dev.intempt.com. Ids are 64-bit numbers in some responses and text in others;
here they are text, with every digit. Lists are HAL
(https://datatracker.ietf.org/doc/html/draft-kelly-json-hal): in `_embedded`, which is absent
if the list is empty. Links are never followed: even the manual's samples point to other hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

import msgspec

from asyncclients.core.codec import ExactId, JsonObject, from_reply, json_object, read
from asyncclients.core.endpoint import Response
from asyncclients.errors import DecodeError

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


DATA_FIELDS = frozenset({"id", "data", "_embedded"})


def read_items(value: Any) -> list[DataItem]:
    """Return the rows in *value*."""
    items: list[DataItem] = from_reply(listed(value), list[DataItem])
    return items


def read_item(value: Any) -> DataItem:
    """Return the one row in *value*: the manual describes an array but shows an object."""
    items = read_items(value)
    if len(items) != 1:
        raise ValueError(f"expected one item, got {len(items)}")
    return items[0]


def read_segmentations(value: Any) -> list[Segmentation]:
    """Return the segmentations in *value*."""
    segmentations: list[Segmentation] = from_reply(listed(value), list[Segmentation])
    return segmentations


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


def readable_items(reply: Response | None) -> list[DataItem]:
    """Return the rows in *reply*; none if it has another body or none.

    For inserts and deletions: the manual does not describe their responses, so their success
    depends on the status alone.
    """
    with suppress(DecodeError):
        return [] if reply is None else read(reply.body, list[DataItem], read_items)
    return []
