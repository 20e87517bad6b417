"""Quotas as vendors publish them, and the priority classes of calls."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from asyncclients.arguments import is_seconds, shown
from asyncclients.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Quota:
    """At most *limit* requests in any *period* seconds.

    Attributes:
        limit: requests, at least 1.
        period: seconds.

    Raises:
        ConfigurationError: if *limit* is not a whole number of at least 1, or
            *period* is not a finite number of seconds above 0.
    """

    limit: int
    period: float

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

    @property
    def rate(self) -> float:
        """Requests per second, on average."""
        return self.limit / self.period

    def __str__(self) -> str:
        return f"{self.limit} per {self.period:g} s"


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
    """The class of a call, which decides its place in the queue.

    Interactive calls go before background calls. While both wait, one grant in ten goes
    to background, so that it does not starve.
    """

    INTERACTIVE = 0
    BACKGROUND = 1
