"""The body of a touchpoint: form or JSON in, checked fields out.

The manual's samples are forms, and "JSON format is supported". In a form, lists
come with bracketed indexes, `touchpoint_tags[0]=...`. A breach is a 400 with a
message. Stricter than anything known: a `create_date` too small to be in
milliseconds is refused, as is an id that the catalogues do not list.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from asyncclients.sandbox.vendor import RefusedError, Reply, SandboxRequest, as_array, as_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import Row, TotangoState

LONGEST_CONTENT = 12_000
_INDEXED = re.compile(r"(\w+)\[\d*\](?:\[(\w+)\])?\Z")
_EARLIEST_MS = 10**11  # March 1973; a number below it was meant in seconds


def refused(status: int, message: str) -> RefusedError:
    """A no with *message*."""
    return RefusedError(Reply.json(status, {"message": message}))


def fields_of(call: SandboxRequest) -> Row:
    """The fields of the body; RefusedError when it is neither form nor JSON object."""
    if call.media_type == "application/json":
        try:
            body = as_object(call.json())
        except ValueError:
            body = None
        if body is None:
            raise refused(400, "The body is not a JSON object")
        return body
    if call.media_type == "application/x-www-form-urlencoded":
        return _form(call.body)
    raise refused(415, "Send a form or JSON")


def _form(body: bytes) -> Row:
    fields: Row = {}
    for name, value in parse_qsl(body.decode(), keep_blank_values=True):
        indexed = _INDEXED.match(name)
        if indexed is None:
            fields[name] = _plain(name, value)
            continue
        items = as_array(fields.setdefault(indexed[1], []))
        if items is None:
            raise refused(400, f"{indexed[1]} comes both as one value and as a list")
        items.append({indexed[2]: value} if indexed[2] else value)
    return fields


def _plain(name: str, value: str) -> object:
    if name == "create_date" and value.lstrip("-").isdigit():
        return int(value)
    if name == "disable_sync" and value in {"true", "false"}:
        return value == "true"
    return value


def check(state: TotangoState, fields: Row, *, required: tuple[str, ...]) -> None:
    """RefusedError 400 when a field breaks its rule or a *required* one is missing."""
    for name in required:
        if not fields.get(name):
            raise refused(400, f"{name} is required")
    for name, rule in _RULES.items():
        if fields.get(name) is not None and not rule(state, fields[name]):
            raise refused(400, f"{name} is not valid")
    account = fields.get("account_id")
    if account is not None and state.accounts is not None and account not in state.accounts:
        raise refused(400, "Account not found")


def _text(state: TotangoState, value: object) -> bool:
    del state
    return isinstance(value, str)


def _content(state: TotangoState, value: object) -> bool:
    del state
    return isinstance(value, str) and len(value) <= LONGEST_CONTENT


def _date(state: TotangoState, value: object) -> bool:
    del state
    return isinstance(value, int) and not isinstance(value, bool) and value >= _EARLIEST_MS


def _people(state: TotangoState, value: object) -> bool:
    del state
    people = [as_object(person) for person in as_array(value) or [None]]
    return all(person is not None and {"userId", "userid"} & person.keys() for person in people)


def _tags(state: TotangoState, value: object) -> bool:
    tags = as_array(value)
    return tags is not None and all(tag in state.touchpoint_tags for tag in tags)


_RULES: dict[str, Callable[[TotangoState, object], bool]] = {
    "account_id": _text,
    "content": _content,
    "activity_type_id": lambda state, value: value in state.activity_types,
    "created_by": _text,
    "create_date": _date,
    "disable_sync": lambda _, value: isinstance(value, bool),
    "touchpointType": lambda state, value: value in state.touchpoint_types,
    "touchpoint_tags": _tags,
    "participantList": _people,
    "subject": _text,
}
