"""The result of a check of `asyncclients doctor`."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One line of the report of `doctor`.

    Attributes:
        what: name of the check.
        found: the result.
        good: whether it is as it should be; None if it is only informative.
        advice: what to do, or empty.
    """

    what: str
    found: str
    good: bool | None
    advice: str = ""
