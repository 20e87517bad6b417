"""What a run says: a report at its end, progress on the way. Frozen values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import msgspec

from asyncclients.core.endpoint import OutgoingRequest
from asyncclients.core.events import Callback
from asyncclients.ratelimit.quota import Quota


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has come to.

    Attributes:
        done: rows delivered, or items written; of the whole job so far.
        failed: rows the vendor or the row type refused, or items that nobody can
            read; of the whole job.
        unknown: rows that may or may not have been carried out; of the whole job.
        skipped: rows that `map` or the user dropped, or items that came twice; of
            the whole job.
        requests: put on the wire by this run.
        rejected: refusals by rate met by this run.
        seconds: that this run took.
        quota_use: share of what the quota allowed between this run's first and
            last request, one full window at the start included; 0 where no
            quota is known.
        total: what the vendor says there is; pulls only.
        unverified: in words, what could not be proved of a pull; empty when the
            file is the vendor's list and the vendor's own count says so.
        failures: the file that holds the failed rows or items, None when there are none.
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
    """Where a run stands; given to `progress=` about once a second.

    Attributes:
        done: of the whole job so far, as are the three that follow.
        failed: see `Report`.
        unknown: see `Report`.
        skipped: see `Report`.
        rate: rows or items per second in this run.
        quota_use: see `Report`.
        eta: seconds to the end, None where it cannot be told.
        waiting: seconds for which the vendor has given no usable answer, else 0.
    """

    done: int
    failed: int
    unknown: int
    skipped: int
    rate: float
    quota_use: float
    eta: float | None
    waiting: float = 0.0


# Counts what one run puts on the wire, and what share of the quota that is.


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What was put on the wire.

    Attributes:
        requests: put on the wire.
        rejected: refusals by rate.
        quotas: those of each scope that was used, by its one-way name.
    """

    requests: int = 0
    rejected: int = 0
    quotas: dict[str, tuple[Quota, ...]] = {}

    def plus(self, other: RequestCounts) -> RequestCounts:
        """This and *other*."""
        return RequestCounts(
            requests=self.requests + other.requests,
            rejected=self.rejected + other.rejected,
            quotas={**self.quotas, **other.quotas},
        )

    def since(self, before: RequestCounts) -> RequestCounts:
        """What has come to this since it was *before*."""
        return RequestCounts(
            requests=self.requests - before.requests,
            rejected=self.rejected - before.rejected,
            quotas=self.quotas,
        )

    def quota_use(self, span: float) -> float:
        """Share of what was allowed in *span* seconds, one full window included; 0 if unknown."""
        allowed = [
            min(quota.limit * (1 + span / quota.period) for quota in quotas)
            for quotas in self.quotas.values()
            if quotas
        ]
        return self.requests / sum(allowed) if allowed else 0.0


class RequestCounter:
    """The requests of one run. It is a `Watch`, and the part of every other watch here."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._first_at = self._last_at = self._started_at
        self._scopes: dict[str, tuple[Quota, ...]] = {}
        self.requests = 0
        self.rejected = 0

    def before_send(self, request: OutgoingRequest) -> None:
        """One more goes out now."""
        self._last_at = self._loop.time()
        if not self.requests:
            self._first_at = self._last_at
        self.requests += 1
        self._scopes[request.scope] = request.quotas

    def on_rate_limited(self) -> None:
        """One was refused by rate."""
        self.rejected += 1

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._loop.time() - self._started_at

    @property
    def counts(self) -> RequestCounts:
        """What was put on the wire so far."""
        return RequestCounts(
            requests=self.requests, rejected=self.rejected, quotas={**self._scopes}
        )

    @property
    def quota_use(self) -> float:
        """Share of what was allowed between the first and the last request; 0 if unknown."""
        return self.counts.quota_use(self._last_at - self._first_at)


# Tells somebody, about once a second, how a run is going.

_EVERY = 1.0


@asynccontextmanager
async def reporting_progress(
    look: Callable[[], Progress], tell: Callable[[Progress], None] | None
) -> AsyncGenerator[None]:
    """Give *tell* what *look* sees, every second and at the end of the block."""
    if tell is None:
        yield
        return
    report = Callback(tell)
    ticker = asyncio.create_task(_tick(look, report))
    try:
        yield
    finally:
        ticker.cancel()
        report(look())


async def _tick(look: Callable[[], Progress], report: Callback[Progress]) -> None:
    while True:
        await asyncio.sleep(_EVERY)
        report(look())
