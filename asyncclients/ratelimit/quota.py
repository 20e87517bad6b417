"""Quotas as vendors publish them, what a call takes of them, and the priority classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import msgspec

from asyncclients.arguments import is_seconds, shown
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.calendar import LONGEST, calendar_window, check_calendar

_ROUNDING = 1e-9
"""0.29 of 100 requests are 29, although the product is a little less."""
_FAR = 0.2
"""Part of a share by which rounding may change it without a word."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most *limit* requests in any *period* seconds.

    A request whose endpoint has a cost counts as that many.

    Attributes:
        limit: requests, at least 1.
        period: seconds.
        operations: patterns of the operations that it applies to, such as `events.*`, by the
            rules of `fnmatch` and case-sensitive; empty for all operations.
        unit: `hour`, `day` or `month` for a quota made by `calendar`, else empty.
        timezone: IANA name of the time zone of *unit*.

    Raises:
        ConfigurationError: if *limit* is not a whole number of at least 1, *period* is not a
            finite number of seconds above 0, or *operations* is not a sequence of patterns.
    """

    limit: int
    period: float
    operations: tuple[str, ...] = field(default=(), kw_only=True)
    unit: str = field(default="", kw_only=True)
    timezone: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if type(self.limit) is not int or self.limit < 1:
            raise ConfigurationError(
                f"a quota's limit must be a whole number of at least 1, not {shown(self.limit)}",
                advice="Give the requests per period, as in Quota(2, 1.0)",
            )
        if not is_seconds(self.period):
            raise ConfigurationError(
                "a quota's period must be a finite number of seconds above 0, "
                f"not {shown(self.period)}",
                advice="Give the period in seconds, as in Quota(100, 60.0)",
            )
        object.__setattr__(self, "operations", _patterns(self.operations))
        if self.unit or self.timezone:
            object.__setattr__(self, "timezone", check_calendar(self.unit, self.timezone))

    @classmethod
    def calendar(
        cls,
        limit: int,
        unit: Literal["hour", "day", "month"],
        timezone: str | tzinfo = "UTC",
        *,
        operations: Sequence[str] = (),
    ) -> Quota:
        """Return a quota of *limit* requests in each *unit* of the calendar of *timezone*.

        It resets at the full hour, at midnight or on the first of the month, and may be
        used up at once: only other quotas spread its calls. A day has 23 or 25 hours where
        daylight saving time starts or ends; an hour that a clock shows twice counts as two.

        Args:
            limit: requests, at least 1.
            unit: `hour`, `day` or `month`.
            timezone: an IANA name, as in `Europe/Berlin`, a `ZoneInfo` of such a name, or
                `datetime.UTC`.
            operations: as in the constructor.

        Raises:
            ConfigurationError: for an unknown unit or time zone; see also the constructor.
        """
        name = check_calendar(unit, timezone)
        return cls(limit, LONGEST[unit], operations=_patterns(operations), unit=unit, timezone=name)

    @property
    def rate(self) -> float:
        """Requests per second, on average."""
        return self.limit / self.period

    @property
    def group(self) -> str:
        """Name of the quotas of the same operations; empty for those of all operations."""
        return f"operations:{','.join(self.operations)}" if self.operations else ""

    def applies_to(self, operation: str) -> bool:
        """Return whether calls of *operation* count."""
        patterns = self.operations
        return not patterns or any(fnmatchcase(operation, pattern) for pattern in patterns)

    def window(self, at: float, skip: int = 0) -> tuple[float, float]:
        """Return start and end of the calendar window that contains *at*.

        All are seconds since 1970. With *skip*, the window that many further on. Only for a
        quota made by `calendar`.
        """
        return calendar_window(self.unit, self.timezone, at, skip)

    def __str__(self) -> str:
        names = f"{', '.join(self.operations)} " if self.operations else ""
        if self.unit:
            return f"{names}{self.limit} per {self.unit} ({self.timezone})"
        return f"{names}{self.limit} per {self.period:g} s"


def _patterns(operations: Any) -> tuple[str, ...]:
    problem = f"this one is {shown(cast('object', operations))}"
    if isinstance(operations, (list, tuple)):
        found = tuple(cast("Sequence[Any]", operations))
        wrong = [pattern for pattern in found if not isinstance(pattern, str) or not pattern]
        if not wrong:
            return found
        problem = f"this one holds {shown(wrong[0])}"
    raise ConfigurationError(
        f"a quota's operations must be a sequence of patterns; {problem}",
        advice="Write it as in Quota(100, 60.0, operations=('events.*',))",
    )


class Share(msgspec.Struct, frozen=True, cache_hash=True):
    """A part of every quota, above 0 and at most 1, that certain calls may take.

    *name* is the flow of these calls, or empty.
    """

    name: str
    fraction: float

    def of(self, quota: Quota) -> Quota:
        """Return the part of *quota*, rounded down to whole requests, at least one."""
        return replace(quota, limit=max(1, int(quota.limit * self.fraction + _ROUNDING)))

    def roundings(self, quotas: Iterable[Quota]) -> tuple[str, ...]:
        """Return the words for each of *quotas* of which this part is far from its fraction."""
        found: list[str] = []
        for quota in quotas:
            part, exact = self.of(quota), quota.limit * self.fraction
            if abs(part.limit - exact) > _FAR * exact:
                way = "up" if part.limit > exact else "down"
                found.append(f"{self} of {quota} is rounded {way} to {part}")
        return tuple(found)

    def __str__(self) -> str:
        return f"share {self.fraction:g}"


class Demand(msgspec.Struct, frozen=True, cache_hash=True):
    """The units that one call takes, at one instant, of each quota that applies to it.

    Attributes:
        operation: as in `contacts.create`; empty if no quota depends on it.
        share: the share of the quotas that it counts towards.
    """

    cost: int = 1
    operation: str = ""
    share: Share | None = None

    def quotas(self, quotas: Iterable[Quota]) -> tuple[tuple[str, Quota], ...]:
        """Return those of *quotas* that apply, and its share of them, each with its group.

        Group `""` has the quotas of all calls. Each other group has the quotas that only
        calls of certain operations or of one share take from.
        """
        found: dict[tuple[str, Quota], None] = {}
        for quota in quotas:
            if quota.applies_to(self.operation):
                found[quota.group, quota] = None
                if self.share is not None:
                    group = f"share:{self.share.fraction:g}:{self.share.name}"
                    found[f"{group} {quota.group}".rstrip(), self.share.of(quota)] = None
        return tuple(found)

    def describe(self, group: str, quotas: Iterable[Quota]) -> str:
        """Return the words for *group*, one of those that `quotas` returns for *quotas*."""
        names = " and ".join(str(quota) for name, quota in self.quotas(quotas) if name == group)
        return f"{self.share} ({names})" if group.startswith("share:") else f"quota {names}"


ONE = Demand()
"""One unit of the quotas that apply to every call."""


def check_quotas(quotas: Any, form: str = "quotas=[Quota(2, 1.0)]") -> tuple[Quota, ...]:
    """Return *quotas* as a tuple; *form* is source text of a valid value, for the advice.

    Raises:
        ConfigurationError: if *quotas* is not a sequence of `Quota`.
    """
    try:
        found: tuple[Any, ...] = tuple(quotas)
    except TypeError:
        problem = "is a single Quota" if type(quotas) is Quota else f"is {shown(quotas)}"
    else:
        wrong = [quota for quota in found if not isinstance(quota, Quota)]
        if not wrong:
            return found
        problem = f"holds {shown(wrong[0])}"
    raise ConfigurationError(
        f"quotas must be a sequence of Quota; this one {problem}", advice=f"Write it as in {form}"
    )


class Priority(IntEnum):
    """The class of a call: interactive calls go before background calls.

    While both wait, one grant in ten goes to background, so that it does not starve.
    """

    INTERACTIVE = 0
    BACKGROUND = 1


BACKGROUND_EVERY = 10
"""While interactive calls wait, one grant in this many goes to background.

It applies in the scheduler of a process, and in a limit store (`stores/quota_log.py`).
"""
