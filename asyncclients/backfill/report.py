"""Counts and reports of a run: `Report` at its end, `Progress` once a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import msgspec

from asyncclients.core.events import Callback
from asyncclients.core.options import OutgoingRequest
from asyncclients.ratelimit.quota import Quota

_PROGRESS_INTERVAL = 1.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run.

    Attributes:
        done: rows delivered or items written, in the whole job.
        failed: rows rejected by the vendor or the row type, or items that cannot be
            decoded, in the whole job.
        unknown: rows that may or may not have been executed, in the whole job.
        skipped: rows dropped by `map` or by `unknown="drop"`, or repeated items, in the
            whole job.
        requests: HTTP requests sent by this run.
        rejected: requests of this run that were rate-limited.
        seconds: duration of this run.
        quota_use: requests divided by what the quota allowed between the first and the
            last request of this run, one full window at the start included; 0 if no
            quota is known.
        total: number of items according to the vendor; pulls only.
        unverified: what could not be verified about a pull, in words; empty if the
            vendor's count confirms that the file is its complete list.
        failures: path of the file of failed rows or items; None without any.
    """

    done: int = 0
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    requests: int = 0
    rejected: int = 0
    seconds: float = 0.0
    quota_use: float = 0.0
    total: int | None = None
    unverified: tuple[str, ...] = ()
    failures: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a run in progress, passed to `progress=` about once a second.

    Attributes:
        done: as in `Report`, for the whole job.
        failed: as in `Report`.
        unknown: as in `Report`.
        skipped: as in `Report`.
        rate: rows or items per second in this run.
        quota_use: as in `Report`.
        eta: seconds to the end, None if unknown.
        waiting: seconds since the last usable response during an outage, else 0.
    """

    done: int
    failed: int
    unknown: int
    skipped: int
    rate: float
    quota_use: float
    eta: float | None
    waiting: float = 0.0


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of requests.

    Attributes:
        requests: sent.
        rejected: rate-limited by the vendor.
        quotas: quotas of each scope that was used, by the scope's one-way name.
    """

    requests: int = 0
    rejected: int = 0
    quotas: dict[str, tuple[Quota, ...]] = {}

    def plus(self, other: RequestCounts) -> RequestCounts:
        """Return the sum of both."""
        return RequestCounts(
            requests=self.requests + other.requests,
            rejected=self.rejected + other.rejected,
            quotas={**self.quotas, **other.quotas},
        )

    def since(self, before: RequestCounts) -> RequestCounts:
        """Return the difference to the earlier counts *before*."""
        return RequestCounts(
            requests=self.requests - before.requests,
            rejected=self.rejected - before.rejected,
            quotas=self.quotas,
        )

    def quota_use(self, span: float) -> float:
        """Return the share of the quota used in *span* seconds plus one window; 0 if unknown."""
        allowed = [
            min(quota.limit * (1 + span / quota.period) for quota in quotas)
            for quotas in self.quotas.values()
            if quotas
        ]
        return self.requests / sum(allowed) if allowed else 0.0


class RequestCounter:
    """Send hook that counts the requests of one run; other hooks of the run forward to it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._first_at = self._last_at = self._started_at
        self._scopes: dict[str, tuple[Quota, ...]] = {}
        self.requests = 0
        self.rejected = 0

    def before_send(self, request: OutgoingRequest) -> None:
        """Count *request*."""
        self._last_at = self._loop.time()
        if not self.requests:
            self._first_at = self._last_at
        self.requests += 1
        self._scopes[request.scope] = request.quotas

    def on_rate_limited(self) -> None:
        """Count a rate-limited request."""
        self.rejected += 1

    @property
    def seconds(self) -> float:
        """Seconds since the run started."""
        return self._loop.time() - self._started_at

    @property
    def counts(self) -> RequestCounts:
        """The counts so far."""
        return RequestCounts(
            requests=self.requests, rejected=self.rejected, quotas={**self._scopes}
        )

    @property
    def quota_use(self) -> float:
        """Share of the quota used between the first and the last request; 0 if unknown."""
        return self.counts.quota_use(self._last_at - self._first_at)


@asynccontextmanager
async def reporting_progress(
    progress: Callable[[], Progress], report: Callable[[Progress], None] | None
) -> AsyncGenerator[None]:
    """Call *report* with the result of *progress* every second and at the end of the block."""
    if report is None:
        yield
        return
    callback = Callback(report)
    task = asyncio.create_task(_report_progress(progress, callback))
    try:
        yield
    finally:
        task.cancel()
        callback(progress())


async def _report_progress(progress: Callable[[], Progress], callback: Callback[Progress]) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_INTERVAL)
        callback(progress())
