"""What a simulation found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncclients.ratelimit.quota import Quota
from asyncclients.simulator.measure import mean_fill, most_in_window, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one client against one server. Seconds and shares (0 to 1).

    Attributes:
        quota: the limit that the server enforces and the client knows.
        server: name of the server's model.
        latency: name of the latency model.
        workers: how many calls the backlog keeps wanting to have in flight.
        seconds: virtual length of the run.
        seed: what the run's chance was drawn from.
        calls: requests that arrived.
        refused: those that were answered with 429.
        refused_late: refused share of the calls in the last four fifths, *after learning*.
        quota_use: mean fill of the rolling window of admitted calls after warm-up.
        most_in_window: the most arrivals, refused ones included, in any window.
        wait_p50: median wait of an interactive call for its permit; NaN where there was none.
        wait_p99: the wait that 99 of 100 interactive calls did not exceed.
        wait_max: the longest.
        admitted_at: arrivals that were let in, ascending.
        refused_at: arrivals that were not, ascending.
    """

    quota: Quota
    server: str
    latency: str
    workers: int
    seconds: float
    seed: int
    calls: int
    refused: int
    refused_late: float
    quota_use: float
    most_in_window: int
    wait_p50: float
    wait_p99: float
    wait_max: float
    admitted_at: tuple[float, ...]
    refused_at: tuple[float, ...]

    @property
    def refused_share(self) -> float:
        """Refused calls of all calls."""
        return self.refused / self.calls if self.calls else 0.0


class Record:
    """What happens in a run, as it happens."""

    __slots__ = ("admitted_at", "refused_at", "waits")

    def __init__(self) -> None:
        self.admitted_at: list[float] = []
        self.refused_at: list[float] = []
        self.waits: list[float] = []

    def report(
        self,
        quota: Quota,
        server: str,
        latency: str,
        *,
        workers: int,
        seconds: float,
        seed: int,
    ) -> SimulationReport:
        """The figures of a run that has ended."""
        warm = min(max(2 * quota.period, 60.0), seconds / 2)
        arrivals = sorted((*self.admitted_at, *self.refused_at))
        return SimulationReport(
            quota=quota,
            server=server,
            latency=latency,
            workers=workers,
            seconds=seconds,
            seed=seed,
            calls=len(arrivals),
            refused=len(self.refused_at),
            refused_late=_share_after(seconds / 5, self.refused_at, arrivals),
            quota_use=mean_fill(self.admitted_at, quota.period, warm, seconds) / quota.limit,
            most_in_window=most_in_window(arrivals, quota.period),
            wait_p50=percentile(self.waits, 0.50),
            wait_p99=percentile(self.waits, 0.99),
            wait_max=max(self.waits, default=percentile((), 1)),
            admitted_at=tuple(self.admitted_at),
            refused_at=tuple(self.refused_at),
        )


def _share_after(instant: float, some: Sequence[float], of: Sequence[float]) -> float:
    late = sum(at >= instant for at in of)
    return sum(at >= instant for at in some) / late if late else 0.0
