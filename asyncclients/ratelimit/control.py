"""The pause and the quotas that an operator sets for all processes that share a limit store."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec

from asyncclients.ratelimit.quota import Quota


class OperatorPause(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is sent until the pause ends.

    Attributes:
        at: when it was set, in seconds since 1970.
        until: when it ends, in seconds since 1970.
        by: its author.
    """

    at: float
    until: float
    by: str

    def __str__(self) -> str:
        return f"paused by {self.by} since {clock_time(self.at)}, until {clock_time(self.until)}"


class OperatorQuotas(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas in place of those that the processes have configured.

    Attributes:
        at: when they were set, in seconds since 1970.
        by: their author.
        quotas: each is a number of requests in any period; all of them apply.
    """

    at: float
    by: str
    quotas: tuple[Quota, ...]

    def __str__(self) -> str:
        shown = " and ".join(map(str, self.quotas))
        return f"quotas set to {shown} by {self.by} at {clock_time(self.at)}"


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """The pause and the quotas that an operator has set for a scope.

    Attributes:
        pause: nothing is sent until it ends; None for no pause.
        quotas: in place of the configured ones; None if those apply.
    """

    pause: OperatorPause | None = None
    quotas: OperatorQuotas | None = None

    @property
    def set_quotas(self) -> tuple[Quota, ...]:
        """The quotas that are set; none if the configured ones apply."""
        return () if self.quotas is None else self.quotas.quotas

    def in_force(self, configured: tuple[Quota, ...]) -> tuple[Quota, ...]:
        """Return the quotas that apply where *configured* are configured.

        Quotas of some operations and of calendar windows are not replaced.
        """
        if self.quotas is None:
            return configured
        kept = (quota for quota in configured if quota.operations or quota.unit)
        return (*self.quotas.quotas, *kept)


NO_CONTROL = Control()


def span_text(seconds: float) -> str:
    """Return a duration of *seconds* in words, as in `7 h 30 min`."""
    if seconds == math.inf:
        return "an unknown time"
    if seconds < 120.0:
        return f"{seconds:.3g} s"
    days, minutes = divmod(round(seconds / 60), 24 * 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def clock_time(at: float) -> str:
    """Return *at*, in seconds since 1970, as text in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
