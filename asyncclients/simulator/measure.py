"""Figures of a run, from the instants at which calls arrived. Arithmetic only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def mean_fill(arrivals: Sequence[float], period: float, since: float, until: float) -> float:
    """How many arrivals the window of *period* seconds that ends now holds, on average.

    The average is over every instant from *since* to *until*.
    """
    held = (max(0.0, min(at + period, until) - max(at, since)) for at in arrivals)
    return sum(held) / (until - since)


def most_in_window(arrivals: Sequence[float], period: float) -> int:
    """The most arrivals in any half-open window of *period* seconds; *arrivals* ascend."""
    most = first = 0
    for index, at in enumerate(arrivals):
        while arrivals[first] <= at - period:
            first += 1
        most = max(most, index - first + 1)
    return most


def percentile(values: Sequence[float], share: float) -> float:
    """The value that *share* of *values* do not exceed (nearest rank); NaN for none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
