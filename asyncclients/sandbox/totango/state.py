"""The data of the mock of Totango, with its initial catalogues."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from random import Random

Row: TypeAlias = dict[str, object]
WireForm: TypeAlias = Literal["array", "map", "objects"]
CreateForm: TypeAlias = Literal["note", "flat", "event", "object", "empty"]

_TYPES = ("Inbound Call", "Outbound Call", "Email", "Web Meeting")
_TAGS = ("Escalation", "Renewal", "Training")
_ACTIVITIES = {"escalation": "Escalation", "renewal": "Renewal", "support": "Support"}
_DISABLED = "disabled_1576166402106"


class TotangoState:
    """One Totango account.

    `touchpoints` are the notes by `note_id`, with `event_id` and the fields sent; `other_events`
    are tasks and alerts by account, set by a test. `accounts` are the existing accounts, None for
    any.

    `wire_form` is the form of lists of types and tags: an "array" of objects as in reality, a
    "map" id -> name as in the manual, or "objects", id -> object. `create_form` is the response
    to a create, which the manual does not show: {"note": {"id": number}} ("note"), {"note_id":
    text} ("flat"), the new "event", an empty "object", or an "empty" body.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.tokens: set[str] = set()
        self.accounts: set[str] | None = None
        self.wire_form: WireForm = "array"
        self.create_form: CreateForm = "note"
        self.touchpoints: dict[int, Row] = {}
        self.other_events: dict[str, list[Row]] = {}
        self.touchpoint_types = {self._uuid(): name for name in _TYPES}
        self.touchpoint_tags = {self._uuid(): name for name in _TAGS}
        self.activity_types = {key: _activity(key, name) for key, name in _ACTIVITIES.items()}
        self.activity_types[_DISABLED] = _activity(_DISABLED, "Old flow") | {"disabled": True}
        self._last_note = random.randrange(40_000, 50_000)

    def new_note_id(self) -> int:
        """Return the id of the next note."""
        self._last_note += 1
        return self._last_note

    def new_event_id(self) -> str:
        """Return an event id as in the manual: hexadecimal digits with z between the groups."""
        digits = f"{self._random.getrandbits(128):032x}"
        ends = (0, 8, 12, 16, 20, 32)
        return "z".join(digits[a:b] for a, b in pairwise(ends))

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))


def _activity(key: str, name: str) -> Row:
    return {
        "activity_type_id": key,
        "display_name": name,
        "num_of_activities_assign_to": 0,
        "icon_class": "icon-dollar",
        "system_type": True,
        "default_type": False,
        "disabled": False,
    }
