"""Counts of a run: `Report` at its end, `Progress` once a second, and its requests."""

from __future__ import annotations

import asyncio

import msgspec

from asyncclients.core.options import OutgoingRequest
from asyncclients.ratelimit.quota import ONE, Quota
from asyncclients.ratelimit.scheduler import Scheduler


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run.

    Attributes:
        done: rows delivered or items written, in the whole job.
        failed: rows rejected by the vendor or the row type, or items that cannot be
            decoded, in the whole job.
        unknown: rows that may or may not have been executed, in the whole job.
        skipped: rows dropped by `map` or by `unknown="drop"`, or repeated items, in the
            whole job.
        added: items that were not in the result before; of a refresh only, as the next three.
        changed: items whose content differs from that in the result before.
        removed: items that the vendor does not have any more.
        unchanged: all other items of the result.
        requests: HTTP requests sent by this run.
        rejected: requests of this run that were rate-limited.
        seconds: duration of this run.
        quota_use: requests divided by what the quota allowed between the first and the
            last request of this run, one full window at the start included; 0 if no
            quota is known.
        total: number of rows of the input, or of items according to the vendor; None if it
            is unknown.
        unverified: what could not be verified about a pull, in words; empty if the
            vendor's count confirms that the file is its complete list.
        complete: no row or item is left to be handled; False if the run stopped, or ended at a
            limit. Run it again to continue.
        failures: path of the file of failed rows or items; None without any.
    """

    done: int = 0
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    requests: int = 0
    rejected: int = 0
    seconds: float = 0.0
    quota_use: float = 0.0
    total: int | None = None
    unverified: tuple[str, ...] = ()
    complete: bool = True
    failures: str | None = None


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run of `sync`: the counts before `requests` are those of its input.

    Attributes:
        created: items created.
        updated: items updated.
        deleted: items deleted.
        unchanged: rows that needed no request, because the vendor has them as they are.
        missing: known items that the input lacks, and that were not deleted.
        failed: rows that are invalid or that the vendor rejected, in this run or, unchanged,
            in an earlier one.
        unknown: creates that may or may not have been executed, earlier ones included.
        skipped: rows dropped by `map` or by `unknown="drop"`, and empty rows.
        requests: HTTP requests sent by this run.
        rejected: requests of this run that were rate-limited.
        seconds: duration of this run.
        quota_use: as in `Report`.
        remaining: changes that are still to be sent, as after `limit`.
        warnings: what a person should look at, in words.
        failures: path of the file of failed rows; None without any.
    """

    created: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    missing: int = 0
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    requests: int = 0
    rejected: int = 0
    seconds: float = 0.0
    quota_use: float = 0.0
    remaining: int = 0
    warnings: tuple[str, ...] = ()
    failures: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a run in progress, passed to `progress=` about once a second.

    Attributes:
        done: as in `Report`, for the whole job.
        failed: as in `Report`.
        unknown: as in `Report`.
        skipped: as in `Report`.
        total: as in `Report`; the rows of a file are counted before the first is sent.
        remaining: rows or items without an outcome; None if the total is unknown.
        rate: rows or items per second in this run, over the last half minute, or over two
            periods of the longest quota if that is longer.
        quota_use: as in `Report`.
        eta: estimated seconds to the end of the run; None if unknown, or while the vendor is unavailable.
        waiting: seconds since the last usable response during an outage, else 0.
        limited_by_quota: calls wait, and nothing but the quota delays them.
        paused: seconds until calls may be sent again after the vendor's 429, or 503 with
            `Retry-After`, or until the pause of an operator ends; 0 without a pause.
        paused_by: the operator who has paused the calls; empty if it was the vendor.
        cause: why the last call failed, in words; empty if it succeeded.
    """

    done: int
    failed: int
    unknown: int
    skipped: int
    rate: float
    quota_use: float
    eta: float | None
    waiting: float = 0.0
    total: int | None = None
    remaining: int | None = None
    limited_by_quota: bool = False
    paused: float = 0.0
    paused_by: str = ""
    cause: str = ""


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
            min(quota.limit * (1 + span / quota.period) for quota in of_all_calls)
            for quotas in self.quotas.values()
            if (of_all_calls := [quota for quota in quotas if not quota.operations])
        ]
        return self.requests / sum(allowed) if allowed else 0.0


class ScopeUse:
    """The requests of one run in one scope.

    Attributes:
        scheduler: of the scope.
        requests: sent by this run.
        demand: what the latest of them took of the quotas.
    """

    __slots__ = ("demand", "requests", "scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.requests = 0
        self.demand = ONE


class RequestCounter:
    """Send hook that counts the requests of one run; other hooks of the run forward to it.

    Args:
        job: counts the requests as well, as of a job of which this run is a part.

    Attributes:
        scopes: the scopes in use, by their one-way names.
        requests: sent.
        rejected: rate-limited by the vendor.
    """

    def __init__(self, job: RequestCounter | None = None) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._first_at = self._last_at = self._started_at
        self.scopes: dict[str, ScopeUse] = {}
        self.requests = 0
        self.rejected = 0

    def before_send(self, request: OutgoingRequest) -> None:
        """Count *request*."""
        self._last_at = self._loop.time()
        if not self.requests:
            self._first_at = self._last_at
        self.requests += 1
        use = self.scopes.get(request.scope)
        if use is None:
            use = self.scopes[request.scope] = ScopeUse(request.scheduler)
        use.requests += 1
        use.demand = request.demand
        if self._job is not None:
            self._job.before_send(request)

    def on_rate_limited(self) -> None:
        """Count a rate-limited request."""
        self.rejected += 1
        if self._job is not None:
            self._job.on_rate_limited()

    @property
    def seconds(self) -> float:
        """Seconds since the run started."""
        return self._loop.time() - self._started_at

    @property
    def counts(self) -> RequestCounts:
        """The counts so far."""
        return RequestCounts(
            requests=self.requests,
            rejected=self.rejected,
            quotas={name: use.scheduler.limiter.quotas for name, use in self.scopes.items()},
        )

    @property
    def quota_use(self) -> float:
        """Share of the quota used between the first and the last request; 0 if unknown."""
        return self.counts.quota_use(self._last_at - self._first_at)
