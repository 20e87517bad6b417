"""What Emma sends and takes, field for field.

Manual: https://api.myemma.com/api/external/touchpoints.html. Ids are integers
beyond 2**31. Times have no zone and are the account's own: none is ever guessed.
The manual's samples leave fields out here and there, so only what makes a thing
usable is required on the way in.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import msgspec

from asyncclients.core.codec import JsonObject, from_reply

_MARK = "@D:"


class Timestamp(datetime):
    """A datetime that travels as `@D:2025-11-24T10:23:10`, to the second.

    Read with or without the mark, since other parts of Emma leave it out.
    """

    @classmethod
    def from_wire(cls, value: Any) -> Self:
        """*value*, a text or a datetime, as a time."""
        if isinstance(value, datetime):
            return cls.of(value)
        if not isinstance(value, str):
            raise ValueError(f"expected a time, got {type(value).__name__}")
        return cls.fromisoformat(value.removeprefix(_MARK))

    @classmethod
    def of(cls, time: datetime) -> Self:
        """*time* as one that travels in this form."""
        return cls.fromisoformat(time.isoformat())

    def to_wire(self) -> str:
        """With the mark."""
        return _MARK + self.isoformat(timespec="seconds")


if TYPE_CHECKING:
    GivenTime: TypeAlias = datetime
else:
    GivenTime = Timestamp  # a caller gives any datetime; rows of a file may have the mark


class NewType(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a touchpoint type."""

    type_name: str
    display_name: str


class TouchpointType(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A kind of touchpoint."""

    touchpoint_type_id: int
    type_name: str
    display_name: str | None = None
    account_id: int | None = None
    created_at: Timestamp | None = None


class NewTouchpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A touchpoint to create. A field that is None is left out: there is nothing to clear yet.

    Attributes:
        email: the member's; this or `member_id` is required.
        member_id: the member's id.
        touchpoint_type_id: of an existing type; this or `type_name` is required.
        type_name: of an existing type.
        touchpoint_monetary_value: a number; the manual names no currency.
        mailing_id: the mailing it belongs to.
        touchpoint_timestamp: when it happened, in the account's time, to the second.
        attributes: free-form.

    Raises:
        ValueError: for a timestamp with a time zone, which Emma has no form for.
    """

    email: str | None = None
    member_id: int | None = None
    touchpoint_type_id: int | None = None
    type_name: str | None = None
    touchpoint_monetary_value: float | None = None
    mailing_id: int | None = None
    touchpoint_timestamp: GivenTime | None = None
    attributes: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        time = self.touchpoint_timestamp
        if not isinstance(time, datetime):
            return
        if time.tzinfo is not None:
            raise ValueError(
                "touchpoint_timestamp has a time zone, which Emma has no form for; "
                "give the account's own time, without one"
            )
        msgspec.structs.force_setattr(self, "touchpoint_timestamp", Timestamp.of(time))


class NewTouchpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a create: at most ten."""

    touchpoints: list[NewTouchpoint]


class Touchpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A touchpoint of a member.

    Attributes:
        touchpoint_id: told by a create alone; lists and `get` leave it and
            `attributes` out, so keep it where you may want to delete.
    """

    touchpoint_type_id: int
    member_id: int | None = None
    touchpoint_id: int | None = None
    touchpoint_timestamp: Timestamp | None = None
    touchpoint_monetary_value: float | None = None
    inserted_at: Timestamp | None = None
    mailing_id: int | None = None
    account_id: int | None = None
    attributes: JsonObject | None = None


class CreatedTouchpoints:
    """The readable touchpoints in the response to a create.

    One that is not readable is left out, so that the ids of the others are not lost.
    """

    def __init__(self, touchpoints: list[Touchpoint]) -> None:
        self.touchpoints = touchpoints

    @classmethod
    def from_wire(cls, value: Any) -> Self:
        """The touchpoints in *value*."""
        touchpoints: list[Touchpoint] = []
        for item in from_reply(value, list[Any]):
            with suppress(ValueError):
                touchpoints.append(from_reply(item, Touchpoint))
        return cls(touchpoints)
