"""A quota as a vendor publishes it: so many requests in so many seconds.

Arithmetic only; nothing here reads a clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asyncclients.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Quota:
    """At most *limit* requests in any *period* seconds.

    Raises:
        ConfigurationError: if *limit* is not a whole number of at least 1, or
            *period* is not a finite number of seconds above 0.
    """

    limit: int
    period: float

    def __post_init__(self) -> None:
        if type(self.limit) is not int or self.limit < 1:
            raise ConfigurationError(
                f"a quota's limit must be a whole number of at least 1, not {self.limit!r}",
                advice="Give the requests per period, as in Quota(2, 1.0)",
            )
        if not (math.isfinite(self.period) and self.period > 0):
            raise ConfigurationError(
                f"a quota's period must be a finite number of seconds above 0, not {self.period!r}",
                advice="Give the period in seconds, as in Quota(100, 60.0)",
            )

    @property
    def rate(self) -> float:
        """Requests per second, on average."""
        return self.limit / self.period

    def __str__(self) -> str:
        return f"{self.limit} per {self.period:g} s"
