"""The figures of a simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from asyncclients.ratelimit.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Sequence


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one client against one server. Durations in seconds, shares from 0 to 1.

    Attributes:
        quota: the limit that the server enforces and the client knows.
        server: name of the server model.
        latency: name of the latency model.
        workers: the most calls of the backlog in flight.
        seconds: virtual length of the run.
        seed: seed of the random numbers.
        calls: requests that arrived.
        rejected: requests that were answered with 429.
        rejected_late: share of rejected calls in the last four fifths, *after learning*.
        quota_use: mean fill of the rolling window of accepted calls after warm-up.
        most_in_window: the most arrivals, rejected ones included, in any window.
        wait_p50: median wait of an interactive call for its permit; NaN without such calls.
        wait_p99: the wait that 99 of 100 interactive calls did not exceed.
        wait_max: the longest wait.
        accepted_at: instants of accepted arrivals, ascending.
        rejected_at: instants of rejected arrivals, ascending.
    """

    quota: Quota
    server: str
    latency: str
    workers: int
    seconds: float
    seed: int
    calls: int
    rejected: int
    rejected_late: float
    quota_use: float
    most_in_window: int
    wait_p50: float
    wait_p99: float
    wait_max: float
    accepted_at: tuple[float, ...]
    rejected_at: tuple[float, ...]

    @property
    def rejected_share(self) -> float:
        """Rejected calls as a share of all calls."""
        return self.rejected / self.calls if self.calls else 0.0


class Record:
    """The arrivals and waits of a run, recorded as they happen."""

    __slots__ = ("accepted_at", "rejected_at", "waits")

    def __init__(self) -> None:
        self.accepted_at: list[float] = []
        self.rejected_at: list[float] = []
        self.waits: list[float] = []

    def report(
        self, quota: Quota, server: str, latency: str, *, seconds: float, **settings: Any
    ) -> SimulationReport:
        """Return the figures of the finished run, with its *settings*: `workers` and `seed`."""
        warm = min(max(2 * quota.period, 60.0), seconds / 2)
        arrivals = sorted((*self.accepted_at, *self.rejected_at))
        late_rejections = sum(at >= seconds / 5 for at in self.rejected_at)
        return SimulationReport(
            quota=quota,
            server=server,
            latency=latency,
            seconds=seconds,
            **settings,
            calls=len(arrivals),
            rejected=len(self.rejected_at),
            rejected_late=late_rejections / max(1, sum(at >= seconds / 5 for at in arrivals)),
            quota_use=mean_fill(self.accepted_at, quota.period, warm, seconds) / quota.limit,
            most_in_window=most_in_window(arrivals, quota.period),
            wait_p50=percentile(self.waits, 0.50),
            wait_p99=percentile(self.waits, 0.99),
            wait_max=max(self.waits, default=percentile((), 1)),
            accepted_at=tuple(self.accepted_at),
            rejected_at=tuple(self.rejected_at),
        )


def mean_fill(arrivals: Sequence[float], period: float, since: float, until: float) -> float:
    """Return the mean number of arrivals in the window of *period* seconds that ends now.

    The mean is over every instant from *since* to *until*.
    """
    held = (max(0.0, min(at + period, until) - max(at, since)) for at in arrivals)
    return sum(held) / (until - since)


def most_in_window(arrivals: Sequence[float], period: float) -> int:
    """Return the most arrivals in any half-open window of *period* s; *arrivals* ascend."""
    most = first = 0
    for index, at in enumerate(arrivals):
        while arrivals[first] <= at - period:
            first += 1
        most = max(most, index - first + 1)
    return most


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* of *values* do not exceed (nearest rank); NaN for none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
