"""The data of the mock of Emma, and its time format."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

Row: TypeAlias = dict[str, object]
TimeForm: TypeAlias = Literal["@D", "iso"]
DeleteReply: TypeAlias = Literal["true", "empty", "no content"]

_TIME = re.compile(r"(?:@D:)?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\Z")


class EmmaState:
    """One Emma account.

    `members` are emails by member id; `types` and `touchpoints` are rows by id, with times
    without `@D:`. `time_form` is the format of times in responses: with `@D:`, or plain "iso".
    `delete_reply` is the response to a DELETE: the body "true", an "empty" body with 200, or 204
    ("no content").
    """

    def __init__(self, random: Random) -> None:
        self.account_id = random.randrange(10**6, 10**7)
        self.keys: dict[str, str] = {}
        self.types: dict[int, Row] = {}
        self.touchpoints: dict[int, Row] = {}
        self.members: dict[int, str] = {}
        self.time_form: TimeForm = "@D"
        self.delete_reply: DeleteReply = "true"
        # Emma's ids have passed 2**31.
        self._last_id = 2**31 + random.randrange(10**6)

    def new_id(self) -> int:
        """Return a new id."""
        self._last_id += 1
        return self._last_id

    def add_member(self, email: str) -> int:
        """Return the id of the member with *email*, adding it if it is new."""
        for member_id, known in self.members.items():
            if known.lower() == email.lower():
                return member_id
        member_id = self.new_id()
        self.members[member_id] = email
        return member_id

    def shown(self, row: Row, *hidden: str) -> Row:
        """Return *row* as in responses, without the *hidden* fields."""
        mark = "@D:" if self.time_form == "@D" else ""
        times = {"created_at", "inserted_at", "touchpoint_timestamp"}
        return {
            name: f"{mark}{value}" if name in times else value
            for name, value in row.items()
            if name not in hidden
        }


def stamp(time: datetime) -> str:
    """Return *time* without its zone, to the second."""
    return time.replace(tzinfo=None).isoformat(timespec="seconds")


def read_time(value: object) -> str | None:
    """Return the time in *value*, with or without `@D:`, or None if it is invalid."""
    found = _TIME.match(value) if isinstance(value, str) else None
    return found[1] if found else None
