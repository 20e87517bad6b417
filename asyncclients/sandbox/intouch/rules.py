"""The rules of Intouch's manual for the fields of a body, and its validation errors.

A rule returns the complaint about a value, or None. Complaints have the form of Laravel, whose
field names the manual shows: 422 with `{"message": ..., "errors": {field: [complaint, ...]}}`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from asyncclients.sandbox.vendor import (
    RejectedError,
    Reply,
    Row,
    SandboxRequest,
    as_array,
    as_object,
    rejection,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Rule: TypeAlias = "Callable[[object], str | None]"

_DASHED = re.compile(r"[\w-]+\Z")
# Deliberately plain: one @, a dotted domain, nothing that breaks a header.
_EMAIL = re.compile(r"[^@\s,;<>\"]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\Z")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a body: its rule, and whether it must have a value other than null."""

    rule: Rule
    required: bool = False


def text(longest: int) -> Rule:
    """A string of at most *longest* characters."""

    def rule(value: object) -> str | None:
        if not isinstance(value, str):
            return "must be a string."
        return f"must not be greater than {longest} characters." if len(value) > longest else None

    return rule


def alpha_dash(longest: int) -> Rule:
    """Letters, digits, dashes and underscores."""
    string = text(longest)

    def rule(value: object) -> str | None:
        complaint = string(value)
        if complaint is None and not _DASHED.match(str(value)):
            complaint = "must only contain letters, numbers, dashes and underscores."
        return complaint

    return rule


def one_of(values: Collection[str]) -> Rule:
    """One of *values*."""
    return lambda value: None if value in values else "is not one of the allowed values."


def uuid(value: object) -> str | None:
    """A string of 36 characters: a UUID of any version."""
    return None if isinstance(value, str) and len(value) == 36 else "must be 36 characters."


def email(value: object) -> str | None:
    """A plausible email address of at most 255 characters."""
    complaint = text(255)(value)
    if complaint is None and not _EMAIL.match(str(value)):
        complaint = "must be a valid email address."
    return complaint


def phone(value: object) -> str | None:
    """Ten digits, as text."""
    ten = isinstance(value, str) and len(value) == 10 and value.isascii() and value.isdigit()
    return None if ten else "must be 10 digits."


def objects(value: object) -> str | None:
    """An array of objects."""
    items = as_array(value)
    return None if items is not None and all(map(_is_object, items)) else "must be an array."


def object_or_empty(value: object) -> str | None:
    """An object, or `[]`, which PHP writes for an empty object."""
    return None if _is_object(value) or value == [] else "must be an object."


def custom_fields(value: object) -> str | None:
    """An object of dates and texts, whole numbers and nulls; or `[]`."""
    if not all(map(_is_custom, (as_object(value) or {}).values())):
        return "must have values that are dates, integers or strings."
    return object_or_empty(value)


def _is_custom(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, str | int | None) and not isinstance(value, bool)


def _is_object(value: object) -> bool:
    return as_object(value) is not None


def checked(call: SandboxRequest, fields: Mapping[str, Field], *, partial: bool = False) -> Row:
    """Return the known fields of the body of *call*; raises RejectedError for an invalid one.

    With *partial*, required fields may be absent. Unknown fields are ignored.
    """
    body = _body(call)
    errors: dict[str, list[str]] = {}
    for name, field in fields.items():
        complaint = _complaint(body, name, field, partial=partial)
        if complaint:
            errors[name] = [f"The {name.replace('_', ' ')} {complaint}"]
    if errors:
        raise invalid(errors)
    return {name: body[name] for name in fields if name in body}


def invalid(errors: Mapping[str, list[str]]) -> RejectedError:
    """Return the 422 with *errors*."""
    body = {"message": "The given data was invalid.", "errors": dict(errors)}
    return RejectedError(Reply.json(422, body))


def _complaint(body: Mapping[str, object], name: str, field: Field, *, partial: bool) -> str | None:
    if name not in body and partial:
        return None
    value = body.get(name)
    if value is None or value == "":
        return "field is required." if field.required else None
    return field.rule(value)


def _body(call: SandboxRequest) -> Row:
    body = call.json_object() if call.media_type == "application/json" else None
    if body is None:
        raise rejection(400, "The request body must be a JSON object.")
    return body
