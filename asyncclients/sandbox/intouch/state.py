"""The data of the mock of Intouch, with its ids and times.

The manual calls ids "Version 4" but shows 29 of version 1, so they are of version 1 here. Times
are ISO 8601 to the second with `+00:00`.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from asyncclients.sandbox.vendor import Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


T = TypeVar("T")

_BORN = datetime(2026, 1, 1, tzinfo=UTC)


class Table(dict[str, Row]):
    """Rows by uuid, in the order of their creation.

    Values computed from the rows are cached until a row is set or deleted; to change a row, set
    a new one. *unique* names a field with a case-insensitive index.
    """

    def __init__(self, unique: str | None = None) -> None:
        super().__init__()
        self._unique = unique
        self._index: dict[str, str] = {}
        self._views: dict[object, object] = {}

    def __setitem__(self, key: str, row: Row) -> None:
        self._unindex(key)
        super().__setitem__(key, row)
        if self._unique:
            self._index[str(row[self._unique]).lower()] = key
        self._views.clear()

    def __delitem__(self, key: str) -> None:
        self._unindex(key)
        super().__delitem__(key)
        self._views.clear()

    def owner(self, value: str) -> str | None:
        """Return the uuid of the row with *value* in the unique field, or None."""
        return self._index.get(value.lower())

    def view(self, key: object, build: Callable[[], T]) -> T:
        """Return the result of *build*, cached until a row changes."""
        if key not in self._views:
            if len(self._views) >= 32:
                self._views.clear()
            self._views[key] = build()
        return self._views[key]  # type: ignore[return-value]  # *key* names what *build* returns

    def _unindex(self, key: str) -> None:
        if self._unique and key in self:
            self._index.pop(str(self[key][self._unique]).lower(), None)


class IntouchState:
    """The tables of one Intouch account; `root_uuid` is the root of its hierarchy."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._node = random.getrandbits(47) | 1 << 40
        self._ticks = random.getrandbits(56)
        self.keys: set[str] = set()
        self.tags = Table()
        self.hierarchies = Table()
        self.contacts = Table(unique="email")
        self.records: dict[str, dict[str, Row]] = {}
        root: Row = {"name": "Organization", "client_code": self.new_code(), "type": "generic"}
        root |= {"parent_uuid": None, "attributes": [], "tags": []}
        self.root_uuid = self._add(self.hierarchies, root, 0.0)

    def new_uuid(self) -> str:
        """Return a new UUID of version 1."""
        self._ticks += self._random.randrange(1, 1000)
        low, mid, high = self._ticks & 0xFFFFFFFF, self._ticks >> 32 & 0xFFFF, self._ticks >> 48
        fields = (low, mid, high & 0x0FFF, 0x87, 0x5C, self._node)
        return str(uuid.UUID(fields=fields, version=1))

    def new_code(self) -> str:
        """Return a client code for a node that was created without one."""
        return f"{self._random.getrandbits(40):010X}"

    def grow(self, *, tags: int = 0, contacts: int = 0, every: float = 0.0) -> None:
        """Add this many generated rows, as if they existed before, *every* seconds apart."""
        for number in range(tags):
            row: Row = {"name": f"Tag {len(self.tags):05}"}
            self._add(self.tags, row, every * (tags - number))
        for number in range(contacts):
            person = f"person.{len(self.contacts):05}@example.com"
            self._add(self.contacts, contact_row({"email": person}), every * (contacts - number))

    def _add(self, table: Table, row: Row, age: float) -> str:
        key = self.new_uuid()
        born = stamp(_BORN - timedelta(seconds=age))
        table[key] = {"uuid": key, **row, "created_at": born, "updated_at": born}
        return key


def contact_row(values: Row) -> Row:
    """Return a contact as Intouch stores it, from the fields of a request."""
    optional = ("first_name", "last_name", "phone_number", "language")
    return {
        **{name: values.get(name) for name in optional},
        "email": values["email"],
        "status": "subscribed",
        "deliverable": True,
        "contact_lists": values.get("contact_lists") or [],
        "custom_fields": values.get("custom_fields") or [],
    }


def stamp(time: datetime) -> str:
    """Return *time* in Intouch's format."""
    return time.isoformat(timespec="seconds")
