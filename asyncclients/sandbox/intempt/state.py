"""The data of the mock of Intempt, with its 64-bit ids.

Ids are snowflakes above 2**53, as in the manual's samples: milliseconds since
2019-08-28T14:03:26Z, shifted by 22 bits, plus a sequence number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

Row: TypeAlias = dict[str, object]
WireForm: TypeAlias = Literal["hal", "array"]
InsertReply: TypeAlias = Literal["empty", "item"]

_ZERO = datetime(2019, 8, 28, 14, 3, 26, tzinfo=UTC)


@dataclass(slots=True)
class Collection:
    """A table: `items` by the primary key as text.

    `fields` are the fields of the schema, None for any; an insert drops other fields.
    """

    id: int
    name: str
    source_id: int
    primary_key: str
    fields: frozenset[str] | None = None
    items: dict[str, Row] = field(default_factory=dict[str, Row])


@dataclass(slots=True)
class Profile:
    """A user: one master id, and the data of the profiles merged into it."""

    master_id: int
    profile_ids: list[int]
    source_id: int
    segmentation_id: int
    identifiers: Row = field(default_factory=dict[str, object])
    matched_events: list[str] = field(default_factory=list[str])
    seen_at: datetime = _ZERO


class IntemptState:
    """One Intempt organization: collections by name, profiles, one source.

    `wire_form` is the form of lists: HAL, without `_embedded` if the list is empty, or a bare
    "array" as in the manual's text (a single item is then an array of one). With `ids_as_text`,
    ids are strings. `insert_reply` is the body of a 201: empty, or the stored item. `unread` are
    the collections of uploaded files without readable rows.
    """

    def __init__(self) -> None:
        self.org = "sandbox-org"
        self.keys: set[str] = set()
        self.wire_form: WireForm = "hal"
        self.insert_reply: InsertReply = "empty"
        self.ids_as_text = False
        self.unread: list[str] = []
        self._last_id = 0
        born = datetime(2026, 1, 1, tzinfo=UTC)
        self.source_id = self.new_id(born)
        self.collections: dict[str, Collection] = {}
        self.profiles: list[Profile] = []
        self.add_collection("bookings", "id", {"id", "dateFrom", "dateTo", "guestId", "roomId"})
        self.add_collection("profile", "visitorId")
        self.add_profile({"visitorId": "194jso4nfja"}, ["newtestevent"])

    def new_id(self, time: datetime) -> int:
        """Return a new id for *time*."""
        milliseconds = (time - _ZERO) // timedelta(milliseconds=1)
        self._last_id = max(milliseconds << 22, self._last_id + 1)
        return self._last_id

    def add_collection(
        self, name: str, primary_key: str, fields: set[str] | None = None
    ) -> Collection:
        """Add a collection to the source."""
        schema = None if fields is None else frozenset(fields)
        number = self.new_id(_ZERO)
        self.collections[name] = Collection(number, name, self.source_id, primary_key, schema)
        return self.collections[name]

    def add_profile(self, identifiers: Row, matched_events: list[str]) -> Profile:
        """Add a user with two profiles, identified by *identifiers*."""
        born = datetime(2026, 1, 1, tzinfo=UTC)
        master, first, second, segmentation = (self.new_id(born) for _ in range(4))
        profile = Profile(master, [first, second], self.source_id, segmentation)
        profile.identifiers, profile.matched_events = identifiers, matched_events
        profile.seen_at = born
        self.profiles.append(profile)
        return profile

    def shown_id(self, number: int) -> int | str:
        """Return *number* as in responses."""
        return str(number) if self.ids_as_text else number


def stamp(time: datetime) -> str:
    """Return *time* to the millisecond, with `+00:00`."""
    return time.isoformat(timespec="milliseconds")
