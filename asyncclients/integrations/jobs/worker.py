"""The durable steps of the jobs in a shared database, for any task queue.

The queue calls `deliver` for each batch of a push, and `fetch` repeatedly for a pull. After a
crash, any worker may call either again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from msgspec.structs import replace

from asyncclients.backfill.circuit_breaker import CircuitBreaker
from asyncclients.backfill.report import RequestCounter
from asyncclients.backfill.steps import PullCursor, PushTarget, pull_step, push_step
from asyncclients.errors import BackfillStoppedError, ConfigurationError
from asyncclients.integrations.jobs.database import Database
from asyncclients.integrations.jobs.job_store import (
    DbPageStore,
    DbRowLog,
    JobRecord,
    JobStore,
    Outage,
)
from asyncclients.paging import Paginator

T = TypeVar("T")
Resolve = Callable[[str], PushTarget | Paginator[Any]]

_MIN_ROWS = 50
"""The share of failed rows is only checked after this many rows."""


def flow_of(kind: str, job: str) -> str:
    """Return the flow of the calls of *job*."""
    return f"{kind} {job}"


class Worker:
    """Runs steps of the jobs in *database*; *resolve* returns the target or list of a job's spec.

    Attributes:
        counters: count the requests that this process sends for each job.
        running: the ids of the workflows that run in this process.
        batch_sizes: rows per call of each push that has run here.
    """

    def __init__(self, database: Database, resolve: Resolve) -> None:
        self._database, self._resolve = database, resolve
        self._jobs = JobStore(database)
        self._resolved: dict[str, PushTarget | Paginator[Any]] = {}
        self._steps: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._breakers: defaultdict[str, list[CircuitBreaker]] = defaultdict(list)
        self.counters: defaultdict[str, RequestCounter] = defaultdict(RequestCounter)
        self.running: set[str] = set()
        self.batch_sizes: dict[str, int] = {}

    async def aclose(self) -> None:
        """Cancel all steps: nothing more is sent, and attempts in flight get 30 s to finish."""
        self._closing = True
        for step in self._steps:
            step.cancel()
        await asyncio.gather(*self._steps, return_exceptions=True)

    def outages(self) -> dict[str, Outage]:
        """Return the outage of each job of which a step has got responses, 0 s long without one.

        A job has an outage while none of its steps gets a usable response.
        """
        found: dict[str, Outage] = {}
        for job, breakers in self._breakers.items():
            known = [each for each in breakers if each.successes or each.cause]
            if known:
                last = min(known, key=lambda each: each.outage_seconds)
                found[job] = Outage(seconds=last.outage_seconds, cause=last.cause)
        return found

    async def deliver(self, job: str, number: int, share: float | None = None) -> None:
        """Deliver batch *number* of *job*: one durable step. *share* replaces the target's."""
        rows = await self._jobs.rows(job, number)
        if not rows:
            return
        record, to = await self._resolve_job(job, PushTarget)
        if share is not None:
            to = replace(to, share=share)
        await self._check_failures(job, to.max_failed)
        log, flow = DbRowLog(self._database, job), flow_of(record.kind, job)
        self.batch_sizes[job] = max(1, to.batch_size)
        breaker, counter = CircuitBreaker(to.max_outage), self.counters[job]
        step = push_step(
            rows, to, log, flow=flow, coerce=record.coerce, counter=counter, breaker=breaker
        )
        await self._jobs.finish(job, number, await self._run(job, step, breaker))

    async def fetch(
        self, job: str, after: PullCursor | None, share: float | None = None
    ) -> PullCursor:
        """Fetch the pages of *job* after the cursor *after*: one durable step."""
        record, source = await self._resolve_job(job, Paginator)
        pages = DbPageStore(self._database, job)
        flow, counter, breaker = flow_of(record.kind, job), self.counters[job], CircuitBreaker()
        step = pull_step(
            source, pages, after=after, flow=flow, share=share, counter=counter, breaker=breaker
        )
        return await self._run(job, step, breaker)

    async def _resolve_job(self, job: str, kind: type[Any]) -> tuple[JobRecord, Any]:
        record = await self._jobs.find(job)
        assert record is not None, "a job is stored before its first step"
        if record.spec not in self._resolved:
            self._resolved[record.spec] = self._resolve(record.spec)
        found = self._resolved[record.spec]
        if not isinstance(found, kind):
            name = type(found).__name__
            raise ConfigurationError(
                f"the job {job!r} is a {record.kind}, but resolves to a {name}"
            )
        return record, found

    async def _check_failures(self, job: str, max_failed: float) -> None:
        report = await self._jobs.report(job)
        settled = report.done + report.failed + report.unknown + report.skipped
        if settled >= _MIN_ROWS and report.failed > max_failed * settled:
            raise BackfillStoppedError(
                f"{report.failed} of {settled} rows of {job!r} failed",
                advice="Check the failed rows, and correct the input or its mapping; or resume "
                "with a higher max_failed",
            )

    async def _run(self, job: str, step: Coroutine[Any, Any, T], breaker: CircuitBreaker) -> T:
        """Return the result of *step* of *job*, which sends by *breaker*; `aclose` cancels it."""
        task = asyncio.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        if self._closing:
            task.cancel()
        breakers = self._breakers[job]
        breakers.append(breaker)
        try:
            return await task
        finally:
            breakers.remove(breaker)
            if not breakers:
                self._breakers.pop(job, None)
