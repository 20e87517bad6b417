"""The target of a sync: what it must provide, and how its rows and items are compared.

| compared             | how                                                                     |
|----------------------|-------------------------------------------------------------------------|
| two keys             | without case and surrounding white space                                |
| a row with itself    | all fields that are sent, as they are sent                              |
| a row with an item   | the fields of the row; empty values are equal to missing ones, and      |
|                      | numbers to their text                                                   |

Digests have 64 bits: among a million keys, two different ones have the same digest with a
probability of 3 in 100 million, and are then rejected as duplicates.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol, cast, runtime_checkable

import msgspec

from asyncclients.backfill.files.source import Row
from asyncclients.backfill.rows import row_type_of
from asyncclients.backfill.state.stored_rows import encode_rows
from asyncclients.backfill.state.sync_state import Item
from asyncclients.core.call import config_of
from asyncclients.core.codec import to_plain
from asyncclients.core.endpoint import endpoint_of
from asyncclients.core.vendor import sync_target_of
from asyncclients.errors import ConfigurationError
from asyncclients.paging import Paginator

Shape = dict[str, Any]
"""Names of fields; the value is the shape of an object inside, or empty."""

_REQUIRED = ("create", "update", "item_id", "key")


@runtime_checkable
class SyncTarget(Protocol):
    """A collection of items that a sync can keep in agreement with a file.

    Optional methods, for what the vendor can do:

    * `async delete(item_id)`: for `on_missing="delete"`; an item that is gone is a success, or
      raises `NotFoundError`.
    * `list() -> Paginator`: all items, for `adopt=True`.
    * `async find(key) -> item | None`: looks up a create whose response was lost.
    """

    async def create(self, row: Any, /) -> Any:
        """Create an item and return it. Called once per row, or again after a lost response
        only if `find` does not find the item. It should send one request.
        """
        ...

    async def update(self, item_id: str, row: Any, /) -> Any:
        """Set the fields of an item. It may be called again after a lost response; raises
        `NotFoundError` if the item is gone, which is then created again.
        """
        ...

    def item_id(self, item: Any, /) -> str:
        """Return the vendor's id of an item; an empty text if it is not known."""
        ...

    def key(self, item: Any, /) -> str:
        """Return the key of an item."""
        ...


class Target:
    """The abilities of the target of a sync.

    Attributes:
        subject: the object with its methods; *given* is the argument of the user.
        key: name of the field or column that identifies a row.
        batch: rows per call if it can create and update several at once, else 0.
        is_operation: its methods call operations of our clients and nothing else.
    """

    def __init__(self, given: Any, key: str | None) -> None:
        subject: Any = sync_target_of(given)
        self.subject = subject
        self.given = given
        self.is_operation = subject is not given
        self.name = _name_of(given)
        _check_methods(subject, self.name)
        own: str | None = getattr(subject, "key_field", None)
        if key is None and own is None:
            raise ConfigurationError(
                f"a sync with {self.name} needs key=",
                advice="Name the column that identifies a row, as in key='id'",
            )
        if own is not None and key not in (None, own):
            raise ConfigurationError(
                f"{self.name} are identified by {own!r}, not by {key!r}",
                advice=f"Give key={own!r}; map= renames a column of the input to it",
            )
        self.key = cast("str", own or key)
        self.row_type: type[Any] | None = getattr(subject, "row_type", None) or row_type_of(
            subject.create
        )
        many = getattr(subject, "upsert_many", None)
        endpoint = endpoint_of(many) if many is not None else None
        self.batch = endpoint.max_batch_size if endpoint else 0
        self.parent_field: str | None = getattr(subject, "parent_field", None)

    def has(self, method: str) -> bool:
        """Return whether the target has the optional *method*."""
        return callable(getattr(self.subject, method, None))

    def check(self, *, adopt: bool, delete: bool) -> None:
        """Raise `ConfigurationError` if the target cannot do what is asked for."""
        asked = [("list", "adopt=True")] if adopt else []
        asked += [("delete", 'on_missing="delete"')] if delete else []
        for method, what in asked:
            if self.has(method):
                continue
            reason = getattr(self.subject, f"no_{method}", f"it has no method {method}")
            raise ConfigurationError(
                f"{self.name} cannot be used with {what}: {reason}", advice=f"Leave {what} out"
            )

    def list(self) -> Paginator[Any]:
        """Return the vendor's list."""
        found = self.subject.list()
        if not isinstance(found, Paginator):
            if inspect.iscoroutine(found):
                found.close()
            raise ConfigurationError(f"{self.name}.list must return a Paginator, not {found!r}")
        return cast("Paginator[object]", found)

    def key_of(self, item: Any) -> str:
        """Return the key of *item*, empty if it has none."""
        return key_text(self.subject.key(item))

    def as_listed(self, row: Any) -> int:
        """Return the digest that an item equal to *row* has when it is listed."""
        return _listed_digest(self.fields(row), None)

    def fields(self, value: Any) -> dict[str, Any]:
        """Return the fields of a row or an item that are compared, in wire form.

        A value that has no fields gives none, and is equal to nothing.
        """
        try:
            plain = to_plain(value)
        except (TypeError, ValueError, msgspec.MsgspecError):
            return {}
        if not isinstance(plain, dict):
            return {}
        fields = cast("dict[str, Any]", plain)
        left_out = (self.key, self.parent_field)
        return {name: field for name, field in fields.items() if name not in left_out}

    def listed(self, item: Any, shape: Shape) -> Item:
        """Return the facts to remember of *item*, a listed one, with a digest of *shape*."""
        parent = self.subject.parent(item) if self.parent_field is not None else None
        item_id = str(self.subject.item_id(item)) or None
        return Item(item_id, None, _listed_digest(self.fields(item), shape), parent)


def _name_of(given: Any) -> str:
    method = getattr(given, "create", None) or getattr(given, "upsert", None)
    endpoint, config = endpoint_of(method or given), config_of(given)
    if endpoint is None or config is None:
        return type(given).__qualname__
    return f"{config.vendor.name}.{endpoint.operation.rpartition('.')[0]}"


def _check_methods(subject: Any, name: str) -> None:
    missing = [each for each in _REQUIRED if not callable(getattr(subject, each, None))]
    if missing or isinstance(subject, type):
        raise ConfigurationError(
            f"{name} cannot be the target of a sync: it has no {', no '.join(missing)}",
            advice="Give a resource, as intouch.contacts (without a method), or an object with "
            "the methods of SyncTarget",
        )


# --- Keys and digests -----------------------------------------------------------------------


def key_text(value: Any) -> str:
    """Return the key *value* as text, empty if there is none."""
    return "" if value is None or value is msgspec.UNSET else str(value)


def key_digest(key: str) -> int:
    """Return the digest of *key*, without its case and surrounding white space; 0 if it is empty."""
    normal = key.strip().casefold().encode("utf-8", "surrogatepass")
    return _digest(normal) if normal else 0


def row_digests(rows: Sequence[Row]) -> list[int]:
    """Return the digest of each of *rows*, whose data is in the form that is sent."""
    lines = encode_rows(rows).split(b"\n")
    return [_digest(line) for line in lines[: len(rows)]]


def _digest(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), signed=True)


# --- Comparing a row with an item -------------------------------------------------------------


def shape_of(value: Any, shape: Shape) -> None:
    """Add the names of the fields of the row *value* to *shape*."""
    for name, field in value.items():
        inner = shape.setdefault(name, {})
        if isinstance(field, dict):
            shape_of(field, inner)


def _listed_digest(fields: dict[str, Any], shape: Shape | None) -> int:
    """Return a digest of the fields in *shape*, by default of all *fields*."""
    return _digest(msgspec.json.encode(_normal(fields, shape)))


def _normal(value: Any, shape: Shape | None) -> Any:
    """Return *value* with the fields of *shape* only, without empty ones, and scalars as text."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        fields = cast("Mapping[str, Any]", value)
        for name in sorted(fields):
            if shape is None or name in shape:
                kept = _normal(fields[name], None if shape is None else shape[name] or None)
                if kept is not None:
                    found[name] = kept
        return found or None
    if isinstance(value, list):
        return [_normal(each, None) for each in cast("list[object]", value)] or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value == "":
        return None
    return str(value)
