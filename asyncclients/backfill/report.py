"""Counts of a run: `Report` at its end, `Progress` once a second, and its requests.

Two rates limit a run, and the slower one decides when it is expected to end:

* The quota. The scheduler of each scope knows when the remaining calls can be sent: it knows the
  windows, the pauses, other clients, and the calls of other jobs (`Scheduler.eta_of_flow`).
* Everything else, such as the vendor's latency or a slow source: the rate of the last two periods.

While calls of the run wait for nothing but the quota, a rate that was measured beside other jobs,
or shortly after a start, is not used: it is wrong as soon as they have ended.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from asyncclients.core.events import Callback
from asyncclients.core.options import OutgoingRequest
from asyncclients.ratelimit.quota import ONE, Demand, Quota
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
    skipped: int
    unknown: int = 0
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
    """Counts of requests, and the quotas of each scope that was used, by the scope's one-way name."""

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


class ScopeUse(msgspec.Struct, eq=False):
    """The requests of one run in one scope, and what the latest of them took of the quotas."""

    scheduler: Scheduler
    requests: int = 0
    demand: Demand = ONE


class RequestCounter:
    """Send hook that counts the requests of one run, and those of *job*, of which the run is a part."""

    def __init__(self, job: RequestCounter | None = None) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._first_at = self._last_at = self._started_at
        self.scopes: dict[str, ScopeUse] = {}
        self.requests = self.rejected = 0

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
    def counts(self) -> RequestCounts:
        """The counts so far."""
        return RequestCounts(
            requests=self.requests,
            rejected=self.rejected,
            quotas={name: use.scheduler.limiter.quotas for name, use in self.scopes.items()},
        )

    def totals(self) -> dict[str, Any]:
        """Return the fields of a report that describe the requests of its run."""
        return {
            "requests": self.requests,
            "rejected": self.rejected,
            "seconds": self._loop.time() - self._started_at,
            "quota_use": self.quota_use,
        }

    @property
    def quota_use(self) -> float:
        """Share of the quota used between the first and the last request; 0 if unknown."""
        return self.counts.quota_use(self._last_at - self._first_at)


# --- Progress -------------------------------------------------------------------------------------


_INTERVAL = 1.0
"""Seconds between two reports."""
_STEADY = 10.0
"""Minimum seconds over which the rate is measured while calls wait for the quota."""
_MIN_SPAN, _MAX_SPAN = 30.0, 600.0
"""Seconds over which the rate is measured: two periods of the longest quota, within these limits."""


class _Sample(NamedTuple):
    at: float
    settled: int
    limited: bool
    alone: bool  # no other flow waits for the same quota


class EtaEstimator:
    """Estimates the end of one run from its requests.

    Args:
        counter: counts the requests of the run.
        flow: of its calls.
        settled: rows or items with an outcome when the run starts.
        batch_size: rows per call; None if it is unknown until the first response.
        limit: rows after which the run ends; None for no limit.
        is_shared: other processes settle rows of the same job, so the rows per call cannot be
            measured: `batch_size` must be given, now or later.

    Attributes:
        batch_size: as above.
        processes: processes that share the rows that are left.
    """

    def __init__(
        self,
        counter: RequestCounter,
        flow: str,
        settled: int,
        batch_size: float | None = None,
        limit: int | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self._counter, self._flow = counter, flow
        self._settled_before, self._limit = settled, limit
        self.batch_size, self._is_shared = batch_size, is_shared
        self.processes = 1
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._samples = deque([_Sample(self._started_at, settled, limited=False, alone=True)])

    def progress(
        self, *, settled: int, total: int | None, waiting: float, cause: str, **counts: Any
    ) -> Progress:
        """Return the progress at this instant. Call it about once a second.

        The arguments are as in `Progress`; *settled* are the rows or items with an outcome.
        """
        schedulers = [use.scheduler for use in self._counter.scopes.values()]
        paused, paused_by = max(map(_pause, schedulers), default=(0.0, ""))
        limited = not paused and any(
            each.room() > 0 and each.background.waiting_of(self._flow) for each in schedulers
        )
        rate = self._measure(settled, limited=limited)
        if waiting:
            self._samples.clear()  # an outage is no slow period
        remaining = None if total is None else max(0, total - settled)
        eta, handled = None, settled - self._settled_before
        # Before the first outcome, a failed call may be the start of an outage.
        is_starting = not handled and cause and not paused
        if remaining is not None and not waiting and not is_starting:
            left = remaining if self._limit is None else min(remaining, self._limit - handled)
            eta = self._eta(max(0, left), rate, handled)
        return Progress(
            **counts,
            total=total,
            remaining=remaining,
            rate=rate,
            quota_use=self._counter.quota_use,
            eta=eta,
            waiting=waiting,
            limited_by_quota=limited,
            paused=paused,
            paused_by=paused_by,
            cause=cause,
        )

    def _eta(self, remaining: int, rate: float, settled: int) -> float | None:
        """Return the seconds until *remaining* rows are settled; *settled* is that of this run."""
        if not remaining:
            return 0.0
        by_quota = self._eta_by_quota(remaining, settled)
        waited = sum(sample.limited for sample in self._samples)
        scopes = self._counter.scopes.values()
        if any(use.scheduler.has_unexplained_rejections for use in scopes):
            by_quota = by_quota if rate else None  # other programs use an unknown part of it
        elif by_quota is not None and 2 * waited >= len(self._samples):
            rate = self._rate_within_quota(rate)
        by_rate = remaining / rate if rate else by_quota
        return by_rate if by_quota is None or by_rate is None else max(by_quota, by_rate)

    def _rate_within_quota(self, rate: float) -> float:
        """Return the measured rate of a run that waits for the quota; 0 if it proves nothing.

        It does not in the first period, which starts with the calls of earlier runs, nor while
        other jobs take turns. With interactive calls *rate* is right from the start: more slots
        are reserved for them than they use.
        """
        schedulers = [use.scheduler for use in self._counter.scopes.values()]
        if any(each.seconds_since_interactive < self._span for each in schedulers):
            return rate
        start = self._started_at + self._longest_period
        alone = [*takewhile(lambda sample: sample.alone, reversed(self._samples))]
        steady = [sample for sample in alone if sample.at >= start]
        if not steady or steady[0].at - steady[-1].at < max(2 * self._longest_period, _STEADY):
            return 0.0
        return (steady[0].settled - steady[-1].settled) / (steady[0].at - steady[-1].at)

    @property
    def _longest_period(self) -> float:
        scopes = self._counter.scopes.values()
        quotas = (quota for use in scopes for quota in use.scheduler.limiter.quotas)
        return max((quota.period for quota in quotas if not quota.unit), default=0.0)

    @property
    def _span(self) -> float:
        """Seconds over which the rate is measured."""
        return min(max(2 * self._longest_period, _MIN_SPAN), _MAX_SPAN)

    def close(self) -> None:
        """Withdraw the plans of this run from the schedulers."""
        for use in self._counter.scopes.values():
            use.scheduler.planned.pop(self._flow, None)

    def _measure(self, settled: int, *, limited: bool) -> float:
        """Add a sample; return the rows per second of the last two periods."""
        now, samples = self._loop.time(), self._samples
        if not self._counter.requests and settled == self._settled_before:
            samples.clear()  # no part of the rate: the run waits for its first call
        since = now - self._span
        alone = not any(
            use.scheduler.background.contending(self._flow, 1, {})
            for use in self._counter.scopes.values()
        )
        samples.append(_Sample(now, settled, limited, alone))
        while len(samples) > 2 and samples[1].at <= since:
            samples.popleft()
        # The time to the first response, with logins and connections, is no part of the rate.
        first = next((each for each in samples if each.settled > self._settled_before), samples[0])
        if first.at == now:
            first = samples[0]
        return max(0, settled - first.settled) / (now - first.at) if now > first.at else 0.0

    def _eta_by_quota(self, remaining: int, settled: int) -> float | None:
        """Return the seconds until *remaining* rows can be sent; *settled* is that of this run.

        None if no scope is known, as when the target does not use our clients.
        """
        eta: float | None = None
        for use in self._counter.scopes.values():
            in_flight = min(use.scheduler.in_flight, use.requests)
            if settled and use.requests > in_flight and not self._is_shared:
                # Rows that fail without a call are settled at once, those that need one wait: both
                # count, or a run with invalid rows would seem to need fewer calls.
                waiting = use.scheduler.background.waiting_of(self._flow)
                pending = (waiting + in_flight) * self.batch_size if self.batch_size else 0
                calls = use.requests + waiting if pending else use.requests - in_flight
                calls_per_row = calls / (settled + pending)
            elif self.batch_size:
                calls_per_row = 1 / self.batch_size
            else:
                continue
            own = math.ceil(remaining * calls_per_row / self.processes)
            calls = max(1, own - in_flight)
            use.scheduler.planned[self._flow] = calls
            eta = max(eta or 0.0, use.scheduler.eta_of_flow(self._flow, calls, use.demand))
        return eta


def _pause(scheduler: Scheduler) -> tuple[float, str]:
    """Return the seconds until *scheduler* may send again, and the operator who paused it, if any."""
    state = scheduler.limiter.snapshot(scheduler.loop.time())
    if state.control.pause is None or state.held_for <= state.paused_for:
        return state.paused_for, ""
    return state.held_for, state.control.pause.by


@asynccontextmanager
async def reporting_progress(
    progress: Callable[[], Progress],
    estimator: EtaEstimator,
    report: Callable[[Progress], None] | None,
) -> AsyncGenerator[None]:
    """Call *report* with the result of *progress* every second and at the end of the block.

    An exception of either is logged, and does not end the block.
    """
    if report is None:
        yield
        return

    @wraps(report)
    def report_progress(_: None) -> None:
        report(progress())

    callback = Callback(report_progress)
    task = asyncio.create_task(_repeat(callback))
    try:
        yield
    finally:
        task.cancel()
        callback(None)
        estimator.close()


async def _repeat(callback: Callback[None]) -> None:
    while True:
        await asyncio.sleep(_INTERVAL)
        callback(None)
