"""Pages of a table: sorted, searched, and wrapped as the manual shows.

Page and limit count from 1; 25 is the default and the most. A page beyond the
last is empty, its `from` and `to` null; an empty collection has one page.
The sorted rows are kept until the table changes: a walk through 11,000 rows
sorts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import Reply

from .rules import invalid

if TYPE_CHECKING:
    from asyncclients.sandbox.vendor import SandboxRequest

    from .state import Row, Table

PER_PAGE = 25


@dataclass(frozen=True, slots=True)
class Listing:
    """How one collection is listed: what it sorts by (the first unasked) and searches in."""

    sort_by: tuple[str, ...]
    searched: tuple[str, ...]


TAGS = Listing(("name", "created_at", "updated_at"), ("name",))
HIERARCHIES = Listing(("name", "created_at", "updated_at", "client_code"), ("name", "client_code"))
CONTACTS = Listing(
    (
        "created_at",
        "email",
        "first_name",
        "last_name",
        "phone_number",
        "language",
        "status",
        "updated_at",
    ),
    ("email", "first_name", "last_name", "phone_number"),
)


def page_of(table: Table, listing: Listing, call: SandboxRequest) -> Reply:
    """The page of *table* that *call* asks for; RefusedError when it asks wrongly."""
    errors: dict[str, list[str]] = {}
    sort_by = _choice(call, "sort_by", listing.sort_by, errors)
    order = _choice(call, "order", ("asc", "desc"), errors)
    limit = _number(call, "limit", PER_PAGE, PER_PAGE, errors)
    page = _number(call, "page", 1, None, errors)
    if errors:
        raise invalid(errors)
    rows = _sorted(table, listing, (sort_by, order, call.query.get("search", "")))
    return Reply.json(
        200, {"sort_by": sort_by, "order": order, **_envelope(rows, page=page, limit=limit)}
    )


def _envelope(rows: list[Row], *, page: int, limit: int) -> dict[str, object]:
    start = (page - 1) * limit
    data = rows[start : start + limit]
    return {
        "per_page": limit,
        "current_page": page,
        "last_page": max(1, -(-len(rows) // limit)),
        "total": len(rows),
        "from": start + 1 if data else None,
        "to": start + len(data) if data else None,
        "data": data,
    }


def _sorted(table: Table, listing: Listing, key: tuple[str, str, str]) -> list[Row]:
    sort_by, order, search = key

    def build() -> list[Row]:
        rows = [row for row in table.values() if _found(row, listing.searched, search)]
        # Nulls come first, as MySQL sorts; equal values keep their order of creation.
        rows.sort(
            key=lambda row: (row[sort_by] is not None, str(row[sort_by])), reverse=order == "desc"
        )
        return rows

    return table.view(key, build)


def _found(row: Row, fields: tuple[str, ...], search: str) -> bool:
    wanted = search.casefold()
    return not wanted or any(wanted in str(row[field] or "").casefold() for field in fields)


def _choice(
    call: SandboxRequest, name: str, allowed: tuple[str, ...], errors: dict[str, list[str]]
) -> str:
    value = call.query.get(name, allowed[0])
    if value not in allowed:
        errors[name] = [f"The selected {name} is invalid."]
    return value


def _number(
    call: SandboxRequest, name: str, default: int, most: int | None, errors: dict[str, list[str]]
) -> int:
    value = call.query.get(name, str(default))
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if number < 1:
        errors[name] = [f"The {name} must be an integer of at least 1."]
    elif most is not None and number > most:
        errors[name] = [f"The {name} must not be greater than {most}."]
    return number
