"""The data types of Emma, under the vendor's field names.

Manual: https://api.myemma.com/api/external/touchpoints.html. Ids are integers beyond 2**31.
Times have no zone: they are local times of the account. Some of the manual's samples omit
fields, so only the fields that make a response usable are required.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias

import msgspec
from msgspec import Meta

from asyncclients.core.codec import JsonObject, from_reply
from asyncclients.core.constraints import AnyOf, Constraint
from asyncclients.core.endpoint import Body, Fields

_MARK = "@D:"


class Timestamp(datetime):
    """A datetime that is sent as `@D:2025-11-24T10:23:10`, to the second.

    The prefix is optional in responses, since other parts of Emma omit it.
    """

    @classmethod
    def from_wire(cls, value: Any) -> Self:
        """Return *value*, text or a datetime, as a timestamp."""
        if isinstance(value, datetime):
            return cls.of(value)
        if not isinstance(value, str):
            raise ValueError(f"expected a time, got {type(value).__name__}")
        return cls.fromisoformat(value.removeprefix(_MARK))

    @classmethod
    def of(cls, time: datetime) -> Self:
        """Return *time* as a `Timestamp`."""
        return cls.fromisoformat(time.isoformat())

    def to_wire(self) -> str:
        """Return the text with the prefix."""
        return _MARK + self.isoformat(timespec="seconds")


if TYPE_CHECKING:
    GivenTime: TypeAlias = datetime
else:
    GivenTime = Timestamp  # callers pass any datetime; rows of a file may have the prefix


def _required(quote: str) -> Constraint:
    return Constraint("a text that is not empty", quote, Annotated[str, Meta(min_length=1)])


class NewType(Body, frozen=True, kw_only=True):
    """Body of a touchpoint type."""

    type_name: Annotated[str, _required("Required. The type of the touchpoint.")]
    display_name: Annotated[
        str, _required("Required. A name for displaying the touchpoint in the UI.")
    ]


class TouchpointType(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A kind of touchpoint."""

    touchpoint_type_id: int
    type_name: str
    display_name: str | None = None
    account_id: int | None = None
    created_at: Timestamp | None = None


class NewTouchpoint(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """A touchpoint to create. Fields that are None are not sent.

    Attributes:
        email: the member's email; this or `member_id` is required.
        touchpoint_type_id: of an existing type; this or `type_name` is required.
        touchpoint_monetary_value: a number; the manual names no currency.
        touchpoint_timestamp: its time, in the account's time, to the second.

    Raises:
        ValueError: `touchpoint_timestamp` has a time zone, which Emma cannot represent.
    """

    constraints: ClassVar[tuple[AnyOf, ...]] = (
        AnyOf(("email", "member_id"), "Required if member_id is not present."),
        AnyOf(("touchpoint_type_id", "type_name"), "Required if type_name is not present."),
    )

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
                "touchpoint_timestamp has a time zone, which Emma cannot represent; "
                "give the account's local time, without one"
            )
        msgspec.structs.force_setattr(self, "touchpoint_timestamp", Timestamp.of(time))


class NewTouchpoints(Body, frozen=True, kw_only=True):
    """Body of a create: at most ten."""

    touchpoints: list[NewTouchpoint]


class Touchpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A touchpoint of a member.

    `touchpoint_id` and `attributes` are in the response to a create only: keep the id if you may
    want to delete the touchpoint.
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


def read_created(value: Any) -> list[Touchpoint]:
    """Return the touchpoints in the response to a create.

    Invalid ones are skipped, so that the ids of the others are not lost.
    """
    touchpoints: list[Touchpoint] = []
    for item in from_reply(value, list[Any]):
        with suppress(ValueError):
            touchpoints.append(from_reply(item, Touchpoint))
    return touchpoints
